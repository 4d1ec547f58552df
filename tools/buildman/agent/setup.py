# SPDX-License-Identifier: GPL-2.0+
"""What is done on a machine before a worker runs there, and after it.

Sent over as a program together with `lock`, see `remote.scripts`; it has only the
standard library there. What keeps the machine from being used is one line
`bm-problem KIND what` on stderr.

The work folder holds one git repository, `.git`, whose commits have no
parents: each commit that a boss pushes is a shallow root of its own (see
`source`). A push makes one ref below `refs/buildman/run`, to a commit whose
parents are the commits pushed; `init` turns it into one ref for each of them,
which a later push finds there and need not send again.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import shutil
import subprocess
import sys
from typing import Dict, List, NoReturn, Optional, Sequence, Set

from buildman.agent import account, lock
from buildman.core.files import clear_way
from buildman.process import limits

COMMIT_REFS = 'refs/buildman/c'     # one ref for each commit that is complete here
MAX_COMMIT_REFS = 4000              # from here on the repository is begun anew
MAX_PACKS = 50                      # from here on they are put together
MIN_DISK = 1 << 30                  # bytes free that a build needs at least

# For pushing into: any branch, new shallow commits, no background clean-up, no
# checks that an old commit of the user's might fail
CONFIG = {
    'receive.denyCurrentBranch': 'ignore',
    'receive.denyNonFastForwards': 'false',
    'receive.denyDeletes': 'false',
    'receive.shallowUpdate': 'true',
    'receive.autogc': 'false',
    'receive.fsckObjects': 'false',
    'receive.unpackLimit': '1',
    'transfer.fsckObjects': 'false',
    'gc.auto': '0',
    'maintenance.auto': 'false',
    'core.hooksPath': '/dev/null',
    'core.logAllRefUpdates': 'false',
    'advice.detachedHead': 'false',
}


class Problem(Exception):
    """Something that keeps a machine from being used.

    Attributes:
        kind: one of those of `ssh.RemoteError`
    """

    def __init__(self, kind: str, what: str) -> None:
        super().__init__(what)
        self.kind = kind


def git(git_dir: str, *args: str, stdin: str = '') -> str:
    """Run git in a repository, or in none for '', and return what it prints.

    Raises:
        Problem: it failed
    """
    where = [f'--git-dir={git_dir}'] if git_dir else []
    proc = subprocess.run(['git', *where, *args], input=stdin.encode(), capture_output=True,
                          env={**os.environ, 'LC_ALL': 'C'}, check=False)
    if proc.returncode:
        said = proc.stderr.decode('utf-8', 'replace').strip().splitlines()
        last = said[-1] if said else f'exit status {proc.returncode}'
        if any('No space left' in line or 'quota' in line for line in said):
            raise Problem('no-space', f'no space left on its disk: {last}')
        raise Problem('failed', f'git {args[0]} there failed: {last}')
    return proc.stdout.decode('utf-8', 'replace')


def check_programs() -> None:
    """Find what a build cannot do without.

    Raises:
        Problem: git or make is missing, or no room for processes
    """
    for name in ('git', 'make'):
        if not shutil.which(name):
            raise Problem(f'no-{name}', f'{name} is not installed there')
    slots, _, short = limits.fitting(1, 1)
    if not slots:
        raise Problem('no-processes', f'it cannot start what a build needs: {short}')


def make_folder(work_dir: str, min_disk: int) -> None:
    """Make the work folder and see that it can be written, runs programs and has room.

    Raises:
        Problem: it cannot, or has not
    """
    try:
        os.makedirs(work_dir, exist_ok=True)
        probe = os.path.join(work_dir, f'.try-{os.getpid()}')
        with open(probe, 'wb') as outf:
            outf.write(b'x' * 4096)
        os.remove(probe)
        refused = limits.why_no_program(work_dir)
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Problem('no-space', f"no space left for '{work_dir}'") from exc
        raise Problem('not-writable', f"'{work_dir}' there cannot be written: {exc.strerror}; "
                      'see work_dir in [machine:NAME]') from exc
    if refused:
        raise Problem('no-exec', f"programs in '{work_dir}' there cannot be run: {refused}; see "
                      'work_dir in [machine:NAME]')
    stat = os.statvfs(work_dir)
    free = stat.f_bavail * stat.f_frsize
    if free < min_disk:
        raise Problem('no-space', f"{free >> 20} MiB are free for '{work_dir}', a build needs "
                      f'{min_disk >> 20}')


def _usable(git_dir: str) -> bool:
    """Tell whether git takes a folder for a repository."""
    try:
        git(git_dir, 'rev-parse', '--git-dir')
    except Problem:
        return False
    return os.path.isdir(os.path.join(git_dir, 'objects'))


def prepare_repository(work_dir: str, fresh: bool = False) -> List[str]:
    """Make or mend the repository; call it with the lock held.

    Args:
        work_dir: folder
        fresh: begin anew, whatever is there

    Returns:
        hashes of the commits that it has complete
    Raises:
        Problem: git failed
    """
    git_dir = os.path.join(work_dir, '.git')
    if fresh or not _usable(git_dir):
        clear_way(git_dir)
    if not os.path.lexists(git_dir):
        git('', 'init', '-q', '--template=', work_dir)
    _clear_wreckage(git_dir)
    with open(os.path.join(git_dir, 'buildman-config'), 'w', encoding='utf-8') as outf:
        for key, val in CONFIG.items():
            section, _, name = key.partition('.')
            outf.write(f'[{section}]\n\t{name} = {val}\n')
    git(git_dir, 'config', 'include.path', 'buildman-config')
    commits = _promote(git_dir)
    if len(commits) > MAX_COMMIT_REFS:
        git(git_dir, 'update-ref', '--stdin',
            stdin=''.join(f'delete {COMMIT_REFS}/{name}\n' for name in commits))
        git(git_dir, 'gc', '-q', '--prune=now')
        return []
    packs = os.path.join(git_dir, 'objects', 'pack')
    if os.path.isdir(packs) and sum(
            name.endswith('.pack') for name in os.listdir(packs)) > MAX_PACKS:
        git(git_dir, 'repack', '-adq')
    return commits


def _promote(git_dir: str) -> List[str]:
    """Give each commit that was pushed a ref of its own.

    Returns:
        all commits that have one
    """
    refs = git(git_dir, 'for-each-ref', '--format=%(refname) %(objectname)', 'refs/buildman')
    have: List[str] = []
    carriers: Dict[str, str] = {}
    for line in refs.splitlines():
        name, _, value = line.partition(' ')
        if name.startswith(COMMIT_REFS + '/'):
            have.append(value)
        elif name.startswith(lock.RUN_REFS + '/'):
            carriers[name] = value
    if not carriers:
        return have
    orders = []
    known = set(have)
    for name, value in carriers.items():
        for line in git(git_dir, 'cat-file', 'commit', value).splitlines():
            if not line:
                break
            word, _, parent = line.partition(' ')
            if word == 'parent' and parent not in known:
                known.add(parent)
                have.append(parent)
                orders.append(f'update {COMMIT_REFS}/{parent} {parent}\n')
        orders.append(f'delete {name}\n')
    git(git_dir, 'update-ref', '--stdin', stdin=''.join(orders))
    git(git_dir, 'pack-refs', '--all')
    return have


def _clear_wreckage(git_dir: str) -> None:
    """Remove what a push that was cut has left; nobody else is at work here."""
    for name in ('shallow.lock', 'packed-refs.lock', 'config.lock', 'HEAD.lock', 'index.lock'):
        with contextlib.suppress(OSError):
            os.remove(os.path.join(git_dir, name))
    objects = os.path.join(git_dir, 'objects')
    for name in os.listdir(objects):
        if name.startswith(('tmp_objdir-', 'incoming-')):
            clear_way(os.path.join(objects, name))
    for folder, _, names in os.walk(os.path.join(git_dir, 'refs')):
        for name in names:
            if name.endswith('.lock'):
                with contextlib.suppress(OSError):
                    os.remove(os.path.join(folder, name))


def init(work_dir: str, owner_json: str, min_disk: str, fresh: bool, spec: str = '') -> int:
    """Take the machine for a boss and get its repository ready.

    Prints a line `have HASH` for each commit that is there, then the work
    folder; or `owner JSON` and `BUSY`.

    Args:
        work_dir: folder
        owner_json: the boss
        min_disk: bytes that have to be free
        fresh: begin the repository anew
        spec: JSON of what to tell of the machine before that, see
            survey.collect(), with `limits`; a machine that is not fit is
            not taken
    """
    if spec:
        from buildman.agent import survey
        wanted = json.loads(spec)
        info = survey.collect(wanted)
        survey.show(info)
        if survey.unfit(info, wanted['limits']):
            return 0
    owner = lock.Owner.from_json(owner_json)
    if owner is None:
        raise Problem('failed', 'bad owner')
    check_programs()
    make_folder(work_dir, int(min_disk))
    # Later names of a folder by the same path, whatever it is reached through
    work_dir = os.path.abspath(work_dir)
    try:
        lock.claim(work_dir, owner)
        try:
            have = [] if hung_up() else prepare_repository(work_dir, fresh)
            # Again, as that may have taken its time; but not when the boss has
            # given up the claim meanwhile
            if hung_up() or not lock.renew(work_dir, owner):
                release(work_dir, owner.run)
                raise Problem('failed', 'the boss has gone')
        except (Problem, OSError):
            release(work_dir, owner.run)
            raise
    except lock.LockBusy as exc:
        return busy(exc)
    for name in have:
        print(f'have {name}')
    print(work_dir)
    return 0


def hung_up() -> bool:
    """Return whether nobody reads what this prints: the boss, or its connection, has gone."""
    poll = select.poll()
    poll.register(1, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def busy(exc: lock.LockBusy) -> int:
    """Say who has the machine; return the exit status."""
    print(f'owner {exc.owner.to_json()}')
    print('BUSY')
    return 0


def release(work_dir: str, run: str) -> int:
    """Give up a claim, if it is of this run; return the exit status."""
    path = os.path.join(work_dir, lock.CLAIM)
    with contextlib.suppress(OSError), open(path, encoding='utf-8') as inf:
        owner = lock.Owner.from_json(inf.read())
        if owner is not None and owner.run == run:
            os.remove(path)
    return 0


def kill(work_dir: str, run: str) -> int:
    """End the worker of a work folder and free the lock; return the exit status."""
    print(lock.kill(work_dir, run=run))
    return 0


def clean(work_dir: str) -> int:
    """Remove a work folder that nobody uses; return the exit status."""
    try:
        print(lock.clean(work_dir))
    except lock.LockBusy as exc:
        return busy(exc)
    return 0


def adopt(work_dir: str) -> int:
    """Take what was pushed to the folders beside this one, so that it need not come again.

    They are those of other machines with the same file system. Packs are linked, so the
    others may remove theirs; refs and shallow roots are copied. Git on the other end is
    told of the refs, and sends what is missing.
    """
    own = os.path.join(work_dir, '.git')
    known = set(git(own, 'for-each-ref', '--format=%(refname)').splitlines())
    for name in sorted(os.listdir(os.path.dirname(work_dir))):
        other = os.path.join(os.path.dirname(work_dir), name, '.git')
        if other == own or not os.path.isdir(other):
            continue
        with contextlib.suppress(Problem, OSError):
            refs = [line.split() for line in git(
                other, 'for-each-ref', '--format=%(refname) %(objectname)',
                'refs/buildman').splitlines()]
            _link_packs(other, own)
            shallow = {path: _lines(os.path.join(path, 'shallow')) for path in (own, other)}
            with open(os.path.join(own, 'shallow'), 'w', encoding='ascii') as outf:
                outf.writelines(sorted(shallow[own] | shallow[other]))
            git(own, 'update-ref', '--stdin', stdin=''.join(
                f'create {ref} {value}\n' for ref, value in refs if ref not in known))
            known.update(ref for ref, _ in refs)
    return 0


def _link_packs(other: str, own: str) -> None:
    """Link the packs of another repository that this one lacks, with an index only if complete"""
    source, target = (os.path.join(path, 'objects', 'pack') for path in (other, own))
    os.makedirs(target, exist_ok=True)
    have = set(os.listdir(target))
    for name in os.listdir(source):
        if name.endswith('.idx') and name not in have:
            for part in (name[:-len('idx')] + 'pack', name):
                with contextlib.suppress(FileExistsError):
                    os.link(os.path.join(source, part), os.path.join(target, part))


def _lines(path: str) -> Set[str]:
    """Return the lines of a file that may not be there"""
    with contextlib.suppress(OSError), open(path, encoding='ascii') as inf:
        return set(inf)
    return set()


def fail(kind: str, what: str) -> NoReturn:
    """Say what keeps the machine from being used."""
    print(f'bm-problem {kind} ' + ' '.join(what.split()), file=sys.stderr)
    sys.exit(1)


def main(args: Optional[Sequence[str]] = None) -> int:
    """Do what the first argument names; the second is the work folder."""
    args = sys.argv[1:] if args is None else args
    account.leave()
    work_dir = os.path.expanduser(args[1])
    # What a login shell printed may lack the end of its line
    print()
    try:
        if args[0] == 'init':
            spec = [arg for arg in args[4:] if arg.startswith('{')]
            return init(work_dir, args[2], args[3], 'fresh' in args[4:], *spec)
        if args[0] == 'kill':
            return kill(work_dir, args[2] if len(args) > 2 else '')
        if args[0] == 'clean':
            return clean(work_dir)
        if args[0] == 'adopt':
            return adopt(work_dir)
    except Problem as exc:
        fail(exc.kind, str(exc))
    except lock.LockStuck as exc:
        fail('failed', str(exc))
    except OSError as exc:
        kind = 'no-space' if exc.errno in (errno.ENOSPC, errno.EDQUOT) else 'not-writable'
        fail(kind, f'{exc.strerror or exc}: {exc.filename or work_dir}')
    fail('failed', f'no such action {args[0]!r}')


if __name__ == '__main__':
    sys.exit(main())
