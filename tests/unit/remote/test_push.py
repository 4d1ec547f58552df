# SPDX-License-Identifier: GPL-2.0+
"""The source of a build on its way to a machine: real git, real pushes."""

import hashlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import unittest
from unittest import mock

from support import TOOLS

from buildman.core.errors import GitError
from buildman.remote import push, scripts, ssh

WAIT = 60       # seconds; only a failing test ever waits for so long


class SourceCase(unittest.TestCase):
    """A test with a repository here and a work folder "there"."""

    def setUp(self):
        tmp = tempfile.TemporaryDirectory(prefix='bm source ')
        self.addCleanup(tmp.cleanup)
        self.dir = tmp.name
        old = dict(os.environ)
        self.addCleanup(lambda: (os.environ.clear(), os.environ.update(old)))
        os.environ.update({
            'HOME': self.dir, 'GIT_CONFIG_NOSYSTEM': '1', 'TMPDIR': self.dir,
            'GIT_AUTHOR_NAME': 'T', 'GIT_AUTHOR_EMAIL': 't@t', 'GIT_COMMITTER_NAME': 'T',
            'GIT_COMMITTER_EMAIL': 't@t', 'GIT_AUTHOR_DATE': '1700000000 +0000',
            'GIT_COMMITTER_DATE': '1700000000 +0000'})
        tempfile.tempdir = None
        self.addCleanup(setattr, tempfile, 'tempdir', None)
        self.src = os.path.join(self.dir, 'it\'s "mine": a b')
        self.git('init', '-q', '-b', 'master', self.src, cwd=self.dir)
        self.work = os.path.join(self.dir, 'far work')
        self.transport = ssh.make_transport('here', 'local')

    def git(self, *args, cwd=None, fails=False):
        """Run git; return what it prints."""
        proc = subprocess.run(['git', *args], cwd=cwd or self.src, capture_output=True,
                              check=False)
        if not fails:
            self.assertEqual(proc.returncode, 0, proc.stderr.decode())
        return proc.stdout.decode('utf-8', 'surrogateescape').rstrip('\n')

    def write(self, name, text, cwd=None):
        """Write a file of the source."""
        path = os.path.join(cwd or self.src, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, 'w', encoding='utf-8') as outf:
            outf.write(text)

    def commit(self, subject, cwd=None):
        """Commit all; return the hash."""
        self.git('add', '-A', cwd=cwd)
        self.git('commit', '-qm', subject, '--allow-empty', cwd=cwd)
        return self.git('rev-parse', 'HEAD', cwd=cwd)

    def history(self, count, rnd=None):
        """Make commits; return their hashes, oldest first."""
        rnd = rnd or random.Random(count)
        out = []
        for num in range(count):
            for _ in range(2):
                self.write(f'dir{rnd.randrange(4)}/file{rnd.randrange(9)}',
                           f'{num}\n' + ''.join(f'{rnd.random()}\n' for _ in range(40)))
            out.append(self.commit(f'Commit {num}'))
        return out

    def init(self, **kwargs):
        """Get the work folder ready; return the answer."""
        cmd = scripts.init_script(self.work, scripts.new_owner('test-run'), min_disk=0, **kwargs)
        answer = scripts.parse_init(self.transport.run(cmd, WAIT))
        self.assertEqual(answer.work_dir, self.work)
        return answer

    def push(self, commits, run='run', folder=None, **kwargs):
        """Push a build's source; return (plan's commits, where the folder stands)."""
        with push.prepare_push(folder or self.src, commits, run, **kwargs) as plan:
            push.push(plan, 'm', self.transport, os.path.join(self.work, '.git'),
                        self.init().have)
            return plan.commits, plan.standing

    def check(self, commits):
        """See that the commits can be checked out there, as they are here."""
        for name in commits:
            self.git('checkout', '-q', '-f', '--detach', name, cwd=self.work)
            self.assertEqual(self.git('status', '--porcelain', '-uno', cwd=self.work), '')
            self.assertEqual(self.git('write-tree', cwd=self.work),
                             self.git('rev-parse', f'{name}^{{tree}}'))

    def has(self, name):
        """Tell whether an object is there."""
        return self.git('cat-file', '-t', name, cwd=self.work, fails=True) != ''

    def state(self):
        """Return all of the user's repository that must not change."""
        out = {}
        for folder, dirs, names in os.walk(self.src):
            dirs.sort()
            for name in names:
                path = os.path.join(folder, name)
                if os.path.islink(path):
                    continue
                with open(path, 'rb') as inf:
                    out[path] = hashlib.sha256(inf.read()).hexdigest()
        return out


class TestCommits(SourceCase):
    """The commits of a branch."""

    def test_only_what_is_built(self):
        """Not the history, which is many times larger."""
        hashes = self.history(12)
        before = self.state()
        commits, _ = self.push(hashes[5:8])
        self.assertEqual(self.state(), before)
        self.assertEqual(list(commits), hashes[5:8])
        self.check(hashes[5:8])
        for name in hashes[:5] + hashes[8:]:
            self.assertFalse(self.has(name))
        self.assertEqual([name for name in os.listdir(self.dir) if 'buildman-push' in name], [])

    def packed(self):
        """Return the bytes of all packs there."""
        folder = os.path.join(self.work, '.git', 'objects', 'pack')
        return sum(os.path.getsize(os.path.join(folder, name)) for name in os.listdir(folder)
                   if name.endswith('.pack')) if os.path.isdir(folder) else 0

    def test_second_push_is_small(self):
        """What is there is not sent again, also by another run."""
        hashes = self.history(30)
        self.push(hashes[10:20])
        first = self.packed()
        self.push(hashes[10:20], 'run-2')
        self.assertLess(self.packed() - first, 1000)
        first = self.packed()
        self.push(hashes[11:21], 'run-3')
        self.assertLess(self.packed() - first, first / 4)
        self.check(hashes[10:21])

    def test_older_base_later(self):
        """The trap of shallow repositories: same tip, an older base."""
        hashes = self.history(20)
        self.push(hashes[15:])
        self.check(hashes[15:])
        # Same tip, then an older tip, then older ones alone, then newer ones
        for turn, part in enumerate((hashes[8:], hashes[5:12], hashes[2:4], hashes[:3], hashes)):
            self.push(part, f'run-{turn}')
            self.check(part)
        self.git('fsck', '--connectivity-only', cwd=self.work)

    def test_random_histories(self):
        """Whatever ranges of a history with merges are built in whatever order."""
        rnd = random.Random(11)
        hashes = self.history(10, rnd)
        for side in range(3):
            self.git('checkout', '-q', '-b', f'side{side}', rnd.choice(hashes))
            self.write(f'side{side}', 'x')
            hashes.append(self.commit(f'Side {side}'))
            self.git('checkout', '-q', 'master')
            self.git('merge', '-q', '--no-edit', f'side{side}')
            hashes.append(self.git('rev-parse', 'HEAD'))
        for turn in range(12):
            part = rnd.sample(hashes, rnd.randrange(1, len(hashes)))
            self.push(part, f'run-{turn}')
            self.check(part)
        self.git('fsck', '--connectivity-only', cwd=self.work)

    def test_older_buildman_used_the_folder(self):
        """It pushes whole branches; both can share a folder in turn."""
        hashes = self.history(16)
        self.init()
        far = os.path.join(self.work, '.git')
        self.git('push', '-q', far, f'{hashes[8]}:refs/heads/work')
        self.push(hashes[4:12])
        self.check(hashes[4:12])
        self.git('push', '-q', far, f'{hashes[14]}:refs/heads/work')
        self.push([hashes[2], hashes[15]], 'run-2')
        self.check(hashes)

    def test_it_after_us(self):
        """A full push into a repository that has shallow commits of ours, then ours again."""
        hashes = self.history(16)
        self.push(hashes[8:10])
        self.init()
        self.git('push', '-q', os.path.join(self.work, '.git'), f'{hashes[12]}:refs/heads/work')
        self.check([hashes[12]])
        self.push(hashes[5:14], 'run-2')
        self.check(hashes[5:14])
        self.push(hashes[:3], 'run-3')
        self.check(hashes[:3])

    def test_many_machines(self):
        """Each gets the same, whatever it has."""
        hashes = self.history(10)
        with push.prepare_push(self.src, hashes[4:], 'run') as plan:
            for num, have in enumerate(((), (), hashes[:1])):
                self.work = os.path.join(self.dir, f'far{num}')
                self.init()
                if have:
                    self.push(hashes[:1])
                push.push(plan, f'm{num}', self.transport,
                            os.path.join(self.work, '.git'), self.init().have)
                self.check(hashes[4:])

    def test_cut_push(self):
        """After a push that was cut at any byte the next one works."""
        hashes = self.history(6)
        size = 0
        for size in (0, 1, 100, 500, 2000, 5000):
            cut = ssh.make_transport('cut', f'{sys.executable} {self.cutter(size)}')
            with push.prepare_push(self.src, hashes, 'run') as plan:
                with self.assertRaises(ssh.RemoteError) as caught:
                    push.push(plan, 'm', cut, os.path.join(self.work, '.git'),
                                self.init().have, delays=())
                self.assertIn('cut', str(caught.exception))
            self.assertNotIn('\n', str(caught.exception))
        self.push(hashes)
        self.check(hashes)

    def cutter(self, size):
        """Return a transport that ends after so many bytes to the far side."""
        path = os.path.join(self.dir, f'cut-{size}.py')
        with open(path, 'w', encoding='utf-8') as outf:
            outf.write(f'''
import os, subprocess, sys
proc = subprocess.Popen(['sh', '-c', sys.argv[-1]], stdin=subprocess.PIPE)
left = {size}
while left > 0:
    data = os.read(0, min(left, 4096))
    if not data:
        break
    proc.stdin.write(data)
    proc.stdin.flush()
    left -= len(data)
proc.kill()
proc.wait()
''')
        # As a word of a command line
        return path.replace(' ', '\\ ')

    def test_refused_then_fresh(self):
        """A repository there that is beyond repair is made anew."""
        hashes = self.history(6)
        self.push(hashes[:3])
        packs = os.path.join(self.work, '.git', 'objects', 'pack')
        for name in os.listdir(packs):
            os.chmod(os.path.join(packs, name), 0o600)
            os.remove(os.path.join(packs, name))
        with push.prepare_push(self.src, hashes[2:], 'run') as plan:
            far = os.path.join(self.work, '.git')
            try:
                push.push(plan, 'm', self.transport, far, self.init().have)
                broken = not self.has(hashes[2])
            except ssh.RemoteError:
                broken = True
            self.assertTrue(broken)
            answer = self.init(fresh=True)
            self.assertEqual(answer.have, ())
            push.push(plan, 'm', self.transport, far, answer.have)
        self.check(hashes[2:])

    def test_too_many_commits(self):
        """A machine used for years does not list all it ever saw; it starts again."""
        from buildman.agent import setup
        hashes = self.history(5)
        self.push(hashes)
        self.assertEqual(set(self.init().have), set(hashes))
        old, setup.MAX_COMMIT_REFS = setup.MAX_COMMIT_REFS, 3
        try:
            self.assertEqual(setup.prepare_repository(self.work), [])
        finally:
            setup.MAX_COMMIT_REFS = old
        self.assertFalse(self.has(hashes[0]))
        self.push(hashes[1:3])
        self.check(hashes[1:3])

    def test_packs_are_put_together(self):
        from buildman.agent import setup
        hashes = self.history(4)
        for name in hashes:
            self.push([name], f'run-{name}')
        self.init()
        old, setup.MAX_PACKS = setup.MAX_PACKS, 2
        try:
            setup.prepare_repository(self.work)
        finally:
            setup.MAX_PACKS = old
        packs = os.listdir(os.path.join(self.work, '.git', 'objects', 'pack'))
        self.assertEqual(len([name for name in packs if name.endswith('.pack')]), 1)
        self.check(hashes)

    def test_kinds_of_repository(self):
        """A worktree, a detached HEAD, a shallow clone, a bare one: all can be built from."""
        hashes = self.history(8)
        clone = os.path.join(self.dir, 'shallow')
        self.git('clone', '-q', '--depth=3', f'file://{self.src}', clone, cwd=self.dir)
        self.push(hashes[5:], 'a', folder=clone)
        tree = os.path.join(self.dir, 'tree')
        self.git('worktree', 'add', '-q', '--detach', tree, hashes[3])
        self.push(hashes[4:6], 'b', folder=tree)
        self.push(hashes[3:5], 'c', folder=os.path.join(self.src, '.git'))
        bare = os.path.join(self.dir, 'bare')
        self.git('clone', '-q', '--bare', '--shared', self.src, bare, cwd=self.dir)
        self.push(hashes[:3], 'd', folder=bare)
        self.check(hashes)

    def test_habits_of_the_user(self):
        """Hooks and settings of the user's do not get into the way."""
        hashes = self.history(2)
        hook = os.path.join(self.dir, 'hooks', 'pre-push')
        self.write(hook, '#!/bin/sh\nexit 1\n')
        os.chmod(hook, 0o755)
        for key, val in (('core.hooksPath', os.path.dirname(hook)), ('push.gpgSign', 'true'),
                         ('push.followTags', 'true'), ('transfer.fsckObjects', 'true'),
                         ('push.recurseSubmodules', 'check'), ('protocol.version', '2')):
            self.git('config', '--global', key, val)
        os.environ['GIT_DIR'] = os.path.join(self.dir, 'nowhere')
        try:
            plan = push.prepare_push(self.src, hashes, 'run')
        finally:
            del os.environ['GIT_DIR']
        with plan:
            push.push(plan, 'm', self.transport, os.path.join(self.work, '.git'),
                        self.init().have)
        self.check(hashes)

    def test_errors(self):
        self.history(1)
        for folder, commits in ((self.src, ['1' * 40]), (self.dir, ['1' * 40]),
                                (os.path.join(self.dir, 'nowhere'), ['1' * 40]),
                                (os.path.join(self.dir, 'nowhere'), None)):
            with self.assertRaises(GitError) as caught:
                push.prepare_push(folder, commits, 'run')
            self.assertNotIn('\n', str(caught.exception))
        self.assertEqual([name for name in os.listdir(self.dir) if 'buildman-push' in name], [])


class TestFolder(SourceCase):
    """The current source, as it is in the folder."""

    def files(self, folder):
        """Return all files below a folder: name to content, link or mode."""
        out = {}
        for base, dirs, names in os.walk(folder):
            if '.git' in dirs:
                dirs.remove('.git')
            for name in [*names, *dirs]:
                path = os.path.join(base, name)
                rel = os.path.relpath(path, folder)
                if os.path.islink(path):
                    out[rel] = os.readlink(path)
                elif os.path.isfile(path) and name != '.git':
                    with open(path, 'rb') as inf:
                        out[rel] = (inf.read(), os.stat(path).st_mode & 0o111 != 0)
        return out

    def far_files(self, commit):
        """Return the files of a commit there."""
        self.git('checkout', '-q', '-f', '--detach', commit, cwd=self.work)
        return {name: val for name, val in self.files(self.work).items()
                if not name.startswith('.lock')}

    def test_all_kinds_of_changes(self):
        """What the user has not committed is built; nothing of it is touched."""
        self.history(3)
        self.write('.gitignore', '*.o\n/out/\n')
        self.write('gone', 'x')
        self.write('staged', 'x')
        self.write('moded', 'x')
        self.commit('Base')
        self.write('dir0/changed', 'new\n')
        os.remove(os.path.join(self.src, 'gone'))
        self.write('staged', 'y')
        self.git('add', 'staged')
        self.write('staged', 'z')
        os.chmod(os.path.join(self.src, 'moded'), 0o755)
        self.write('new/a b "c" \u00e4\n\'d\'', 'new')
        os.symlink('../nowhere', os.path.join(self.src, 'new', 'link'))
        want = self.files(self.src)
        self.write('x.o', 'ignored')
        self.write('out/y', 'ignored')
        self.write('result/z', 'excluded')
        self.git('stash', 'list')
        # git brings its index up to date by itself when asked for the state
        self.git('status')
        before = self.state()
        (commit,), _ = self.push(None, exclude=[os.path.join(self.src, 'result'), '/nowhere'])
        self.assertEqual(self.state(), before)
        self.assertEqual(self.far_files(commit), want)
        # The same content is the same commit: nothing is sent the second time
        self.assertEqual(self.push(None, exclude=[os.path.join(self.src, 'result')])[0], (commit,))
        self.write('new/more', 'x')
        (second,), _ = self.push(None, 'run-2', exclude=[os.path.join(self.src, 'result')])
        self.assertNotEqual(second, commit)
        self.assertIn('new/more', self.far_files(second))
        self.far_files(commit)

    def test_submodules(self):
        """A submodule's content comes along; an unrelated repository inside does not."""
        sub = os.path.join(self.dir, 'sub')
        self.git('init', '-q', sub, cwd=self.dir)
        self.write('s', 'sub', cwd=sub)
        self.commit('Sub', cwd=sub)
        self.history(1)
        self.git('-c', 'protocol.file.allow=always', 'submodule', '--quiet', 'add', sub, 'lib/sub')
        self.git('-c', 'protocol.file.allow=always', 'submodule', '--quiet', 'add', sub, 'other')
        self.commit('Submodules')
        self.git('submodule', '--quiet', 'deinit', 'other')
        self.write('lib/sub/changed', 'here')
        self.write('stray/x', 'stray')
        self.git('init', '-q', os.path.join(self.src, 'stray'))
        self.git('add', '-A', cwd=os.path.join(self.src, 'stray'))
        self.git('commit', '-qm', 'Stray', cwd=os.path.join(self.src, 'stray'))
        want = {name: val for name, val in self.files(self.src).items()
                if not name.startswith('stray')}
        self.git('status')
        before = self.state()
        (commit,), _ = self.push(None)
        self.assertEqual(self.state(), before)
        got = self.far_files(commit)
        self.assertIn('lib/sub/s', got)
        self.assertEqual(got, want)

    def test_places(self):
        """A worktree, a folder within a project, no repository at all, no commit yet."""
        self.write('a', 'a')
        (commit,), standing = self.push(None)
        self.assertEqual(self.far_files(commit), self.files(self.src))
        self.assertEqual((standing.inside, standing.head), (True, ''))
        self.write('sub/dir/b', 'b')
        self.commit('Base')
        inner = os.path.join(self.src, 'sub')
        (commit,), standing = self.push(None, folder=inner)
        self.assertEqual(self.far_files(commit), self.files(inner))
        self.assertFalse(standing.inside)
        tree = os.path.join(self.dir, 'tree')
        self.git('worktree', 'add', '-q', '--detach', tree)
        self.write('c', 'c', cwd=tree)
        (commit,), _ = self.push(None, folder=tree)
        self.assertEqual(self.far_files(commit), self.files(tree))
        plain = os.path.join(self.dir, 'plain')
        shutil.copytree(inner, plain)
        (commit,), standing = self.push(None, folder=plain)
        self.assertEqual(self.far_files(commit), self.files(plain))
        self.assertFalse(standing.inside)
        self.assertFalse(os.path.exists(os.path.join(plain, '.git')))

    def test_in_the_middle_of_a_merge(self):
        """Conflicts in the index: what is in the folder counts."""
        self.write('a', '1')
        self.commit('One')
        self.git('checkout', '-q', '-b', 'side')
        self.write('a', '2')
        self.commit('Two')
        self.git('checkout', '-q', 'master')
        self.write('a', '3')
        self.commit('Three')
        self.git('merge', '-q', 'side', fails=True)
        before = self.state()
        (commit,), _ = self.push(None)
        self.assertEqual(self.state(), before)
        self.assertIn(b'<<<<<<<', self.far_files(commit)['a'][0])


class TestTempdirs(unittest.TestCase):
    """Real processes"""

    def setUp(self) -> None:
        temp = tempfile.TemporaryDirectory()
        self.addCleanup(temp.cleanup)
        patch = mock.patch.object(tempfile, 'tempdir', temp.name)
        patch.start()
        self.addCleanup(patch.stop)
        self.dir = temp.name

    def maker(self) -> 'subprocess.Popen[str]':
        """Start a process that has a folder until its input ends; its first line is the path"""
        proc = subprocess.Popen(
            [sys.executable, '-c', 'import sys; from buildman.remote import push; '
             'print(push.make_temp(), flush=True); sys.stdin.read()'], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env=dict(os.environ, TMPDIR=self.dir, PYTHONPATH=TOOLS))
        self.addCleanup(proc.communicate)
        self.addCleanup(proc.kill)
        return proc

    def test_stale(self) -> None:
        """That of a dead process is removed by the next one, those in use are not"""
        one, two = self.maker(), self.maker()
        assert one.stdout and two.stdout
        paths = [proc.stdout.readline().strip() for proc in (one, two) if proc.stdout]
        other = os.path.join(self.dir, push.TEMP_PREFIX + 'unfinished')
        os.mkdir(other)
        one.kill()
        one.wait()
        mine = push.make_temp()
        self.assertEqual([False, True, True, True],
                         [os.path.exists(path) for path in (*paths, other, mine)])
        os.utime(other, (1, 1))
        push.remove_temp(mine)
        push.remove_temp(mine)
        self.assertFalse(os.path.exists(mine))
        push.remove_temp(push.make_temp())
        self.assertEqual([os.path.basename(paths[1])], os.listdir(self.dir))
