# SPDX-License-Identifier: GPL-2.0+
"""The one-shot commands that a boss has a machine carry out, and their answers.

Each is a shell command for `ssh.run_once()`. The programs in them are our own
modules `agent.procfs`, `lock`, `agent.setup` and `agent.survey`, sent along, so that nothing
has to be installed there and there is one source for both ends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import getpass
import json
import os
import pkgutil
import re
import shlex
import socket
import time
import uuid
from typing import Dict, Mapping, Optional, Sequence, Tuple

from buildman.agent import lock, procfs, setup, survey
from buildman.remote import ssh

DEFAULT_WORK_DIR = '~/dev/.bm-worker'

# Finds the modules of the sources in MODULES, then runs the one named MAIN as a program
_LOADER = '''
import importlib, sys

class Shipped:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name in MODULES:
            package = any(other.startswith(name + '.') for other in MODULES)
            return type(sys.__spec__)(name, Shipped, is_package=package)

    @staticmethod
    def create_module(spec):
        return None

    @staticmethod
    def exec_module(module):
        name = module.__name__
        exec(compile(MODULES[name], name.replace('.', '/') + '.py', 'exec'), module.__dict__)

sys.meta_path.insert(0, Shipped)
sys.exit(importlib.import_module(MAIN).main())
'''

# The imports of our own modules, wherever in a source
_IMPORT = re.compile(r'^ *from (buildman(?:\.\w+)*) import (\([^)]*\)|[^(\n]*)', re.MULTILINE)

# A docstring in our own sources: alone on its lines
_DOCSTRING = re.compile(r'^( *)"""(?:(?!""")[\s\S])*"""$', re.MULTILINE)


# A comment that has its line to itself
_COMMENT = re.compile(r'^ *# .*$', re.MULTILINE)


def without_words(text: str) -> str:
    """Return the source of a module of ours without docstrings and comments, not read there.

    Each line keeps its number, for what a traceback says. A docstring is not quite empty:
    for a dataclass without one, Python makes one up, which takes long.
    """
    text = _DOCSTRING.sub(lambda found: f"{found.group(1)}'.'" + '\n' * found.group().count('\n'),
                          text)
    return _COMMENT.sub('', text)


def _source(name: str) -> Optional[str]:
    """Return what is sent of a module or package, None where there is none of that name"""
    path = '/'.join(name.split('.')[1:])
    for file in (f'{path}.py', f'{path}/__init__.py' if path else '__init__.py'):
        with contextlib.suppress(OSError):
            data = pkgutil.get_data('buildman', file)
            if data is not None:
                return without_words(data.decode('utf-8'))
    return None


@functools.cache
def modules_of(name: str) -> Mapping[str, str]:
    """Return a module and all of ours that it imports, full name to source.

    What is imported in a function counts, so that nothing is missed on a machine.

    Args:
        name: below `buildman`
    """
    found: Dict[str, str] = {}
    todo = [f'buildman.{name}']
    while todo:
        name = todo.pop()
        if name in found:
            continue
        text = _source(name)
        if text is None:
            continue  # a name of what a module holds
        found[name] = text
        todo += [name.rpartition('.')[0]] if '.' in name else []
        for match in _IMPORT.finditer(text):
            todo.append(match[1])
            todo += [f'{match[1]}.{word}' for word in re.findall(r'(\w+)(?: as \w+)?', match[2])]
    return found


def module_command(name: str, args: Sequence[str]) -> str:
    """Return a remote command that calls main() of a module of ours.

    Args:
        name: below `buildman`; what it imports goes along
        args: arguments that the program sees in sys.argv[1:]
    """
    return program_command(modules_of(name), f'buildman.{name}', args)


def program_command(modules: Mapping[str, str], name: str, args: Sequence[str]) -> str:
    """Return a remote command that calls main() of one of some modules.

    Args:
        modules: full name to source, see modules_of()
        name: full name of the one
        args: arguments that the program sees in sys.argv[1:]
    """
    texts = ', '.join(f'{module!r}: {literal(text)}' for module, text in modules.items())
    return ssh.python_command(f'MODULES = {{{texts}}}\nMAIN = {name!r}\n{_LOADER}'.encode(), args)


def literal(text: str) -> str:
    """Return a text as Python source writes it, which gets smaller than what repr() gives."""
    quotes, stand_in = "'''", '\1'
    if not text.endswith('\n') or stand_in in text or '\r' in text or '\0' in text:
        return repr(text)
    more = f'.replace({stand_in!r}, {quotes!r})' if quotes in text else ''
    return f'r{quotes}{text.replace(quotes, stand_in)}{quotes}{more}'


def new_owner(run: str = '') -> lock.Owner:
    """Return this process as the owner of machines, with a run identifier of its own."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return lock.Owner(user=user, host=socket.gethostname(), pid=os.getpid(),
                      run=run or uuid.uuid4().hex, since=time.time(),
                      boss_home=identity(), boss_start=procfs.start_time(os.getpid()))


def init_script(work_dir: str, owner: lock.Owner, min_disk: int = setup.MIN_DISK,
                fresh: bool = False) -> str:
    """Return the command that claims a machine and makes or mends its repository.

    See parse_init() for the answer. Doing it again with the same owner renews
    the claim.

    Args:
        work_dir: folder there; a leading `~` is its home folder
        owner: of the claim
        min_disk: bytes that have to be free
        fresh: begin the repository anew: for one into which git cannot push
    """
    return module_command('agent.setup',
                          ['init', work_dir, owner.to_json(), str(min_disk),
                           *(['fresh'] if fresh else [])])


def survey_script(work_dir: str, owner: lock.Owner, spec: Mapping[str, object],
                  limits: Mapping[str, float]) -> str:
    """Return the command that does what probe_script() and init_script() do, in one.

    A machine that is not fit by the limits is told of, and not claimed.

    Args:
        work_dir: folder there; a leading `~` is its home folder
        owner: of the claim
        spec: what it is asked
        limits: see survey.unfit()
    """
    return module_command('agent.setup',
                          ['init', work_dir, owner.to_json(), str(setup.MIN_DISK),
                           json.dumps({**spec, 'limits': dict(limits)})])


def worker_script(work_dir: str, run: str, heartbeat: float = 0.0) -> str:
    """Return the command that starts a worker in a folder that init has made.

    Args:
        work_dir: full path of the folder there
        run: run that has claimed the machine
        heartbeat: seconds between its heartbeats, 0 for the usual
    """
    return module_command('agent.serve', ['--worker', work_dir, run,
                                           *([f'{heartbeat:g}'] if heartbeat else [])])


def remove_lock_script(work_dir: str, run: str = '') -> str:
    """Return the command that gives up a claim; another run's claim stays.

    A worker's own hold ends with the worker, whatever is removed.
    """
    claim = _tilde(work_dir) + '/' + lock.CLAIM
    if not run:
        return f'rm -f {claim}'
    mark = shlex.quote(json.dumps({'run': run})[1:-1])
    return f'if grep -qsF {mark} {claim}; then rm -f {claim}; fi'


def kill_script(work_dir: str, run: str = '') -> str:
    """Return the command that ends what is left of a worker; prints one line.

    Args:
        work_dir: folder there
        run: leave the worker of any other run alone; '' for whatever run
    """
    return module_command('agent.setup', ['kill', work_dir, *([run] if run else [])])


def clean_script(work_dir: str) -> str:
    """Return the command that removes a work folder nobody uses; prints one line.

    Like `init` it answers `BUSY` on the last line when somebody does.
    """
    return module_command('agent.setup', ['clean', work_dir])


def adopt_script(work_dir: str) -> str:
    """Return the command that takes the source which folders beside a work folder have."""
    return module_command('agent.setup', ['adopt', work_dir])


def probe_script(spec: Mapping[str, object]) -> str:
    """Return the command that describes a machine; see `agent.survey`."""
    return module_command('agent.survey', [json.dumps(spec)])


def _tilde(path: str) -> str:
    """Quote a path for a shell, but for a `~` at its beginning."""
    if path == '~':
        return '~'
    if path.startswith('~/'):
        return '~/' + shlex.quote(path[2:])
    return shlex.quote(path)


@dataclasses.dataclass(frozen=True)
class InitAnswer:
    """What `init` said.

    Attributes:
        work_dir: full path of the folder; '' when there is no answer or the
            machine is busy
        busy: somebody else has the machine
        owner: who that is, as far as that is known
        have: hashes of the commits that its repository has complete
    """

    work_dir: str = ''
    busy: bool = False
    owner: Optional[lock.Owner] = None
    have: Tuple[str, ...] = ()


def parse_init(text: str) -> InitAnswer:
    """Return what an answer to init_script() (or clean_script()) says.

    The last line counts; what a login shell prints before is ignored, and so is
    what survey_script() tells of the machine.
    """
    lines = [line.strip() for line in text.splitlines()
             if line.strip() and not line.startswith(survey.MARK)]
    if not lines:
        return InitAnswer()
    if lines[-1] == 'BUSY':
        owner = None
        if len(lines) > 1 and lines[-2].startswith('owner '):
            owner = lock.Owner.from_json(lines[-2][len('owner '):])
        return InitAnswer(busy=True, owner=owner)
    have = [line[5:] for line in lines[:-1]
            if line.startswith('have ') and len(line) in (45, 69)
            and not set(line[5:]) - set('0123456789abcdef')]
    return InitAnswer(work_dir=lines[-1], have=tuple(have))


def identity() -> str:
    """Return where this process, the boss of a run, lives: boot of the kernel, space of numbers.

    A boss that was killed may leave a machine claimed, or a worker that cannot end by
    itself since it was stopped. The machine cannot know; a boss on the same computer can.

    Host names are not unique, and a number means nothing in another container.
    '' where the system does not tell.
    """
    try:
        with open('/proc/sys/kernel/random/boot_id', encoding='ascii') as inf:
            return f"{inf.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ''


def is_dead(owner: Optional[lock.Owner]) -> bool:
    """Tell whether the boss that holds a machine has died for sure.

    Args:
        owner: what the machine says of it; None: nothing
    """
    if owner is None or not owner.run or owner.pid <= 0 or not owner.boss_start:
        return False
    if not owner.boss_home or owner.boss_home != identity():
        return False
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        # It is another user's, so it is there
        pass
    # '' also for one that may not be looked at
    start = procfs.start_time(owner.pid)
    return bool(start) and (start != owner.boss_start or owner.pid not in procfs.parents())
