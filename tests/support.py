# SPDX-License-Identifier: GPL-2.0+
"""What the tests of the real command share.

`SampleCase` gives a test class a sample repository, toolchains and a
configuration file of its own; its methods run the command as a user does. The
command is `tools/buildman/buildman`, or what BUILDMAN names, so that the same
tests can be put to another implementation.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import difflib
import errno
import fcntl
import io
import os
import pathlib
import pty
import random
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
import unittest
from typing import (
    Any,
    Callable,
    ClassVar,
    Dict,
    Iterable,
    List,
    Mapping,
    NoReturn,
    Optional,
    Sequence,
    Tuple,
    Union,
)

TESTS = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(TESTS)
TOOLS = os.path.join(TOP, 'tools')
if TOOLS not in sys.path:
    sys.path.insert(0, TOOLS)

from buildman.demo import sample


def _folder(prefix: str) -> str:
    """Return a new folder, which goes when this process ends; one that is forked shares it"""
    folder = tempfile.mkdtemp(prefix=prefix)
    owner = os.getpid()
    atexit.register(lambda: os.getpid() == owner and shutil.rmtree(folder, ignore_errors=True))
    return folder


def _own_caches() -> None:
    """Let no command find what the builds of the user have left: lists of boards, objects"""
    os.environ['XDG_CACHE_HOME'] = _folder('buildman-test-caches-')


def _keep_compiled() -> None:
    """Let the hundreds of commands that tests run compile our modules but once"""
    if os.environ.pop('PYTHONDONTWRITEBYTECODE', '') or not os.access(TOOLS, os.W_OK):
        sys.dont_write_bytecode = True
        if 'PYTHONPYCACHEPREFIX' not in os.environ:
            folder = _folder('buildman-test-modules-')
            os.chmod(folder, 0o755)
            os.environ['PYTHONPYCACHEPREFIX'] = folder


_own_caches()
_keep_compiled()

# A shell starts what is to run in the background with Ctrl-C ignored, and buildman
# would keep to that
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Marks all that a test starts, whoever its parent becomes
MARK = 'SAMPLE_MARK'

# Longer than anything takes on a slow machine; only a hang meets it
TIMEOUT = 240

# What differs from machine to machine in the environment that a build notes
LOCAL_ENV = ('HOME', 'PATH', 'PWD', 'OLDPWD', 'SHLVL', '_', 'MAKEFLAGS', 'TMPDIR',
             'XDG_CACHE_HOME', MARK,
             # How tests steer the Makefiles of their trees
             'SAMPLE_KNOBS', 'BUILT', 'MEET', 'WAIT')


def command() -> List[str]:
    """Return the start of the command line that runs buildman."""
    name = os.environ.get('BUILDMAN')
    return name.split() if name else [os.path.join(TOOLS, 'buildman', 'buildman')]


def needs(*tools: str) -> None:
    """Skip the test, loudly, when a program is missing; with CI set, fail.

    Raises:
        unittest.SkipTest: one is missing
        AssertionError: one is missing and the environment has CI
    """
    missing = [tool for tool in tools if not shutil.which(tool)]
    if missing:
        skip(f"not installed: {', '.join(missing)}")


def skip(message: str) -> NoReturn:
    """Skip the test, loudly, as something is missing; with CI set, fail.

    Raises:
        unittest.SkipTest: the environment has no CI
        AssertionError: it has
    """
    if os.environ.get('CI'):
        raise AssertionError(f'{message} (CI is set, so this is no reason to skip)')
    sys.stderr.write(f'\n*** SKIPPED: {message}\n')
    raise unittest.SkipTest(message)


def wait_until(what: Callable[[], Any], seconds: float = 60, name: str = '') -> Any:
    """Wait until what() gives something true and return that.

    The one place in the tests that looks at the time: the bound is there to
    end a hang, not to measure.

    Raises:
        AssertionError: it did not come true within `seconds`
    """
    end = time.monotonic() + seconds
    while True:
        got = what()
        if got:
            return got
        if time.monotonic() > end:
            raise AssertionError(f'waited {seconds:g} s in vain for {name or what}')
        time.sleep(0.01)


def wait_for(path: str, seconds: float = 60) -> None:
    """Wait until `path` exists, e.g. what a `signal` knob makes.

    Raises:
        AssertionError: it does not exist after `seconds`
    """
    wait_until(lambda: os.path.exists(path), seconds, f"'{path}'")


def open_fifo(path: str, alive: Callable[[], bool]) -> io.FileIO:
    """Open a named pipe for reading, when something was written to it.

    Args:
        path: the pipe
        alive: tells whether who is to write is there still

    Raises:
        AssertionError: it has ended without a word, or says nothing
    """
    inf = io.FileIO(os.open(path, os.O_RDONLY | os.O_NONBLOCK))

    def look() -> Any:
        ends = not alive()
        return select.select([inf], [], [], 0)[0] or (ends and 'nobody')

    try:
        if wait_until(look, name=f"'{path}'") == 'nobody':
            raise AssertionError(f"who was to write to '{path}' has ended")
    except AssertionError:
        inf.close()
        raise
    os.set_blocking(inf.fileno(), True)
    return inf


@dataclasses.dataclass(frozen=True)
class Result:
    """How a command ended and what it printed.

    Attributes:
        argv: what was run
        returncode: exit status; negative for a signal
        stdout, stderr: as text; for a terminal, all is in stdout
        raw: stdout before it was decoded
    """

    argv: Tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str
    raw: bytes = b''

    def __str__(self) -> str:
        return (f"{' '.join(self.argv)}\nexit status {self.returncode}\n"
                f'--- stdout\n{self.stdout}--- stderr\n{self.stderr}---')

    def screen(self) -> List[str]:
        """Return the lines that a terminal shows after this was printed."""
        return render_screen(self.stdout)


def render_screen(text: str) -> List[str]:
    """Return what a (very long) terminal shows after `text` was printed to it.

    Knows carriage return, newline, backspace, erase-in-line and cursor up;
    colours are dropped.
    """
    lines: List[List[str]] = [[]]
    row = col = 0
    for token in re.findall(r'\x1b\[[0-9;?]*[A-Za-z]|[^\x1b]|\x1b', text):
        if token == '\n':
            row += 1
            col = 0
            if row == len(lines):
                lines.append([])
        elif token == '\r':
            col = 0
        elif token == '\b':
            col = max(0, col - 1)
        elif token.startswith('\x1b['):
            if token[-1] == 'K':
                del lines[row][0 if token == '\x1b[2K' else col:]
            elif token[-1] == 'A':
                row = max(0, row - int(token[2:-1] or 1))
        elif token != '\x1b':
            line = lines[row]
            line.extend(' ' * (col - len(line)))
            line[col:col + 1] = [token]
            col += 1
    return [''.join(line).rstrip() for line in lines]


def resize(fdes: int, rows: int, columns: int) -> None:
    """Give a terminal a size."""
    fcntl.ioctl(fdes, termios.TIOCSWINSZ, struct.pack('HHHH', rows, columns, 0, 0))


def run_on_terminal(argv: Sequence[str], cwd: Optional[str] = None,
                    env: Optional[Mapping[str, str]] = None,
                    answers: Iterable[Tuple[str, Union[bytes, Callable[[int, bytes], None]]]] = (),
                    size: Tuple[int, int] = (24, 80), timeout: float = TIMEOUT) -> Result:
    """Run a program on a terminal of its own and return all that it printed.

    Args:
        argv: program and arguments
        cwd: folder to run it in
        env: its environment; None for that of this process
        answers: (text to wait for, bytes to type then) in order; b'\\x03' is
            Ctrl-C. Or a function, that is called with the terminal and what came so far
        size: rows and columns
        timeout: seconds after which it is killed

    Raises:
        AssertionError: it did not end in time, or a text never came
    """
    pid, fd = pty.fork()
    if pid == 0:
        try:
            os.chdir(cwd or '.')
            os.execvpe(argv[0], list(argv), dict(env if env is not None else os.environ))
        finally:
            os._exit(127)
    resize(fd, *size)
    pending = list(answers)
    raw = b''
    seen = 0
    end = time.monotonic() + timeout
    try:
        while True:
            ready, _, _ = select.select([fd], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                os.kill(pid, signal.SIGKILL)
                raise AssertionError(f'{argv} did not end in {timeout} s:\n'
                                     + raw.decode('utf-8', 'replace'))
            try:
                data = os.read(fd, 65536)
            except OSError as exc:
                if exc.errno != errno.EIO:
                    raise
                data = b''
            if not data:
                break
            raw += data
            while pending and pending[0][0].encode() in raw[seen:]:
                text, typed = pending.pop(0)
                seen = raw.index(text.encode(), seen) + len(text.encode())
                if callable(typed):
                    typed(fd, raw)
                else:
                    os.write(fd, typed)
    finally:
        os.close(fd)
        _, status = os.waitpid(pid, 0)
    code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    text = raw.decode('utf-8', 'replace').replace('\r\n', '\n')
    if pending:
        raise AssertionError(f'{argv} never printed {pending[0][0]!r}:\n{text}')
    return Result(tuple(argv), code, text, '', raw)


def damage(rnd: random.Random, line: bytes) -> bytes:
    """Return the line as a bad peer or a bad network might deliver it."""
    out = bytearray(line)
    for _ in range(rnd.randrange(1, 4)):
        what = rnd.randrange(6)
        pos = rnd.randrange(len(out) + 1)
        if what == 0:
            del out[pos:]
        elif what == 1:
            del out[pos:pos + rnd.randrange(1, 20)]
        elif what == 2:
            out[pos:pos] = bytes(rnd.randrange(256) for _ in range(rnd.randrange(1, 10)))
        elif what == 3 and pos < len(out):
            out[pos] ^= 1 << rnd.randrange(8)
        elif what == 4:
            out[pos:pos] = rnd.choice((b'"', b'{', b'[', b'}', b']', b',', b':', b'\\',
                                        b'null', b'-1', b'1e9', b'"x":', b'\\ud800'))
        else:
            out[pos:pos] = out[pos:pos + rnd.randrange(200)]
    return bytes(out)


def full_disk(tmp: str, folder: str, when: str = '', error: str = 'ENOSPC') -> str:
    """Make a library that gives a program (LD_PRELOAD) a disk that fails below a folder.

    Args:
        tmp: folder for the library
        folder: full path
        when: it fails as long as this file exists; '' for always
        error: what it fails with

    Returns:
        path of the library
    """
    return compile_library(os.path.join(tmp, f'disk-{error}.so'), 'full_disk.c',
                           f'-DFOLDER="{folder}"', f'-DWHEN="{when}"', f'-DERROR={error}')


def overlay(tmp: str, beginning: str) -> str:
    """Make a library that gives a program (LD_PRELOAD) folders that cannot be renamed.

    Args:
        tmp: folder for the library
        beginning: of the paths of these folders

    Returns:
        path of the library
    """
    return compile_library(os.path.join(tmp, 'overlay.so'), 'overlay.c',
                           f'-DBEGINNING="{beginning}"')


def compile_library(path: str, source: str, *flags: str) -> str:
    """Make a library of one of our C files; return its path"""
    needs('gcc')
    subprocess.run(['gcc', '-shared', '-fPIC', '-O1', '-o', path, *flags,
                    os.path.join(TESTS, source), '-ldl'], check=True)
    return path


def marked_processes(marker: str) -> Dict[int, str]:
    """Return the processes that carry `marker`: pid to command line."""
    want = f'{MARK}={marker}'.encode()
    found = {}
    for name in os.listdir('/proc'):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            with open(f'/proc/{name}/environ', 'rb') as inf:
                env = inf.read().split(b'\0')
            with open(f'/proc/{name}/cmdline', 'rb') as inf:
                cmdline = inf.read().replace(b'\0', b' ').decode('utf-8', 'replace')
        except OSError:
            continue
        if want in env and cmdline:
            found[int(name)] = cmdline.strip()
    return found


def assert_no_processes(marker: str, within: float = 60) -> None:
    """Fail if a process that carries `marker` is alive `within` seconds later.

    What is found is killed, so that one failure does not spoil other tests.

    Raises:
        AssertionError: with the command lines of those that are left
    """
    end = time.monotonic() + within
    while True:
        left = marked_processes(marker)
        if not left:
            return
        if time.monotonic() > end:
            break
        time.sleep(0.02)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    raise AssertionError('left running:\n' + '\n'.join(
        f'  {pid} {text[:300]}' for pid, text in left.items()))


def read_tree(out_dir: str) -> Dict[str, bytes]:
    """Return the files of a result tree: path below `out_dir` to content.

    Leaves out the work area, the logs of the run and the board list; symbolic
    links are taken as what they point to.
    """
    files = {}
    for folder, dirs, names in os.walk(out_dir):
        dirs[:] = sorted(name for name in dirs if name not in ('.bm-work', 'build'))
        for name in names:
            if name in ('boards.cfg', '.boards.cfg.stamp', '.buildman.log', '.buildman.lock') or (
                    name.startswith('worker-') and name.endswith('.log')):
                continue
            path = os.path.join(folder, name)
            with open(path, 'rb') as inf:
                files[os.path.relpath(path, out_dir)] = inf.read()
    return files


def comparable(path: str, data: bytes) -> bytes:
    """Return `data` without what may differ between two machines."""
    name = os.path.basename(path)
    if name == 'out-env':
        # NAME="value" pairs, one after the other with nothing in between
        pairs = re.findall(r'([A-Za-z_]\w*)="(.*?)"(?=[A-Za-z_]\w*="|\Z)',
                           data.decode('utf-8', 'replace').replace('\0', ''), re.S)
        return '\n'.join(f'{name}={value}' for name, value in sorted(pairs)
                         if name not in LOCAL_ENV).encode() + b'\n'
    if name == 'toolchain':
        return data.replace(os.path.expanduser('~').encode(), b'~')
    return data


def tree_differences(left: str, right: str, ignore: Iterable[str] = ('host',)) -> List[str]:
    """Return how two result trees differ, one readable line or diff each.

    Args:
        left, right: folders, each `OUT/BRANCH`
        ignore: names of files that do not count
    """
    # The note that goes with boards.cfg tells times; it is there if Kconfig was read
    # What a build read counts other boards' notes where a file system tells no better
    skip = {*ignore, '.boards.cfg.stamp', 'trace'}
    trees = [{path: comparable(path, data) for path, data in read_tree(top).items()
              if os.path.basename(path) not in skip} for top in (left, right)]
    out = [f'only in {left}: {path}' for path in sorted(trees[0].keys() - trees[1].keys())]
    out += [f'only in {right}: {path}' for path in sorted(trees[1].keys() - trees[0].keys())]
    for path in sorted(trees[0].keys() & trees[1].keys()):
        one, two = trees[0][path], trees[1][path]
        if one == two:
            continue
        if b'\0' in one + two:
            out.append(f'{path} differs ({len(one)} and {len(two)} bytes)')
            continue
        old, new = (text.decode('utf-8', 'replace').splitlines() for text in (one, two))
        diff = list(difflib.unified_diff(old, new, f'{left}/{path}', f'{right}/{path}',
                                         lineterm='', n=1))
        out.append('\n'.join(diff[:40]) or f'{path} differs in line ends')
    return out


def assert_same_tree(left: str, right: str, ignore: Iterable[str] = ('host',)) -> None:
    """Fail unless two result trees are equal.

    Raises:
        AssertionError: with the first differences
    """
    found = tree_differences(left, right, ignore)
    if found:
        raise AssertionError(f'{len(found)} differences:\n' + '\n'.join(found[:20]))


class SampleCase(unittest.TestCase):
    """A test class with a sample repository to build.

    A subclass may set the arguments of `make_sample()`.
    """

    sample_args: ClassVar[Dict[str, Any]] = {}
    base: ClassVar[str]
    tree: ClassVar[sample.SampleTree]
    toolchains: ClassVar[str]
    config: ClassVar[str]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        needs('git', 'make', 'gcc')
        cls.base = tempfile.mkdtemp(prefix='buildman-test-')
        cls.addClassCleanup(shutil.rmtree, cls.base, ignore_errors=True)
        cls.tree = sample.make_sample(os.path.join(cls.base, 'sample'), **cls.sample_args)
        cls.toolchains = sample.make_toolchains(os.path.join(cls.base, 'cross'))
        cls.config = sample.write_config(os.path.join(cls.base, 'buildman.cfg'),
                                         cls.toolchains)

    def setUp(self) -> None:
        super().setUp()
        self.tmp = tempfile.mkdtemp(prefix='test-', dir=self.base)
        self.addCleanup(shutil.rmtree, self.tmp, ignore_errors=True)
        self.marker = os.path.basename(self.tmp) + f'-{os.getpid()}'

    def out(self, name: str = 'out') -> str:
        """Return the path of an output folder of this test."""
        return os.path.join(self.tmp, name)

    def env(self, extra: Optional[Mapping[str, str]] = None) -> Dict[str, str]:
        """Return the environment that commands get: marked, and the same for
        every user."""
        env = dict(os.environ, LC_ALL='C.UTF-8')
        env[MARK] = self.marker
        # No list of boards of another test, and none left in the user's own
        env['XDG_CACHE_HOME'] = f'{self.tmp}.cache'
        for name in ('MAKEFLAGS', 'MFLAGS', 'CROSS_COMPILE', 'SOURCE_DATE_EPOCH'):
            env.pop(name, None)
        env.update(extra or {})
        return env

    def argv(self, *args: str) -> List[str]:
        """Return the full command line for `args`, with our configuration."""
        config = [] if '-G' in args else ['-G', self.config]
        return [*command(), *config, *args]

    def run_buildman(self, *args: str, cwd: Optional[str] = None,
                     env: Optional[Mapping[str, str]] = None, stdin: Optional[str] = None,
                     timeout: float = TIMEOUT) -> Result:
        """Run the command in the sample, away from any terminal.

        Args:
            args: its arguments; `-G` is added
            cwd: folder to run it in, the sample's when None
            env: variables besides those of this process
            stdin: text for its standard input, nothing when None
            timeout: seconds after which it is killed

        Raises:
            AssertionError: it did not end in time
        """
        argv = self.argv(*args)
        proc = subprocess.Popen(argv, cwd=cwd or self.tree.path, env=self.env(env),
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, start_new_session=True)
        try:
            out, err = proc.communicate((stdin or '').encode(), timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(proc.pid, signal.SIGKILL)
            out, err = proc.communicate()
            raise AssertionError(f'{argv} did not end in {timeout} s:\n'
                                 + (out + err).decode('utf-8', 'replace')) from None
        return Result(tuple(argv), proc.returncode, out.decode('utf-8', 'replace'),
                      err.decode('utf-8', 'replace'), out)

    def start_buildman(self, *args: str, cwd: Optional[str] = None,
                       env: Optional[Mapping[str, str]] = None) -> 'subprocess.Popen[bytes]':
        """Start the command in a session of its own and return the process.

        What it prints goes to the files `stdout` and `stderr` in `self.tmp`.
        At the end of the test all that carries our mark is killed.
        """
        with open(self.out('stdout'), 'wb') as out, open(self.out('stderr'), 'wb') as err:
            proc = subprocess.Popen(self.argv(*args), cwd=cwd or self.tree.path,
                                    env=self.env(env), stdin=subprocess.DEVNULL, stdout=out,
                                    stderr=err, start_new_session=True)
        self.addCleanup(self._reap, proc)
        return proc

    def _reap(self, proc: 'subprocess.Popen[bytes]') -> None:
        if proc.poll() is None:
            os.killpg(proc.pid, signal.SIGKILL)
        proc.wait()
        for pid in marked_processes(self.marker):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def terminal_buildman(self, *args: str, answers: Iterable[
                              Tuple[str, Union[bytes, Callable[[int, bytes], None]]]] = (),
                          cwd: Optional[str] = None,
                          env: Optional[Mapping[str, str]] = None) -> Result:
        """Run the command on a terminal, see run_on_terminal()."""
        return run_on_terminal(self.argv(*args), cwd or self.tree.path,
                               self.env({'TERM': 'xterm', **(env or {})}), answers)

    def write_knobs(self, target: str, *lines: str) -> Dict[str, str]:
        """Give `target` knobs outside the tree.

        Returns:
            the environment that the command must get
        """
        folder = self.out('knobs')
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, target), 'w', encoding='utf-8') as outf:
            outf.write('\n'.join(lines) + '\n')
        return {'SAMPLE_KNOBS': folder}

    def switch_on(self, target: str, count: int) -> None:
        """Let a defconfig switch on so many options, in the working tree only."""
        path = os.path.join(self.tree.path, 'configs', f'{target}_defconfig')
        with open(path, encoding='utf-8') as inf:
            before = inf.read()
        self.addCleanup(pathlib.Path(path).write_text, before, encoding='utf-8')
        with open(path, 'a', encoding='utf-8') as outf:
            outf.writelines(f'CONFIG_NO_SUCH_{number}=y\n' for number in range(count))

    def verdicts(self, out_dir: str) -> Dict[Tuple[int, str], str]:
        """Return what a finished tree says: (index of commit, target) to ok,
        warn or fail; index by the number that the folder begins with."""
        found = {}
        for folder in sorted(os.listdir(out_dir)):
            match = re.match(r'(\d+)_g', folder)
            if not match:
                continue
            for target in os.listdir(os.path.join(out_dir, folder)):
                path = os.path.join(out_dir, folder, target)
                done = os.path.join(path, 'done')
                if not os.path.exists(done):
                    continue
                with open(done, encoding='utf-8') as inf:
                    status = int(inf.read())
                err = os.path.join(path, 'err')
                warned = os.path.exists(err) and os.path.getsize(err) > 0
                found[int(match.group(1)) - 1, target] = (
                    'fail' if status else 'warn' if warned else 'ok')
        return found

    def assert_no_processes(self, within: float = 60) -> None:
        """Fail if something that this test started is still running."""
        assert_no_processes(self.marker, within)
