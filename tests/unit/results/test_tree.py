# SPDX-License-Identifier: GPL-2.0+
"""The writer of the result tree: complete or not there, whatever happens."""

import contextlib
import errno
import os
import sys
import tempfile
import unittest

from buildman.core.errors import SetupError
from buildman.core.files import put_file
from buildman.core.outcome import Outcome, without_compiler
from buildman.core.plan import Commit
from buildman.results.known import Glance
from buildman.results.tree import (
    WORK_DIR,
    OutputLock,
    ResultTree,
    commit_dir_name,
    commit_folders,
    find_commit_dirs,
    put_done,
    settings_of,
)

A, B, C = (Commit(letter * 40, f'subject {letter}') for letter in 'abc')


class Cut(BaseException):
    """The power goes."""


class Steps:
    """Sees each step that this process takes on the disk, and can stop it before one."""

    # Files that are opened, removed or renamed, see sys.audit(); the last argument but
    # for a folder's descriptor is what is there afterwards
    KINDS = ('open', 'os.mkdir', 'os.remove', 'os.rename', 'os.rmdir', 'shutil.rmtree')
    now = None

    def __init__(self, raising=None):
        """Set up.

        Args:
            raising: called with each step and the name; returns what to raise instead
        """
        self.raising = raising or (lambda kind, name: None)
        self.seen = []

    @classmethod
    def hook(cls, kind, args):
        """Take a step; Python keeps a hook for ever, so there is one for all"""
        if cls.now is not None and kind in cls.KINDS:
            name = os.path.basename(args[1 if kind == 'os.rename' else 0])
            exc = cls.now.raising(kind, name)
            cls.now.seen.append((kind, name))
            if exc is not None:
                raise exc

    @contextlib.contextmanager
    def watch(self):
        """See what is done inside"""
        Steps.now = self
        try:
            yield self.seen
        finally:
            Steps.now = None


sys.addaudithook(Steps.hook)


class TestResults(unittest.TestCase):
    """What lands on the disk"""

    def setUp(self):
        temp = tempfile.TemporaryDirectory()
        self.addCleanup(temp.cleanup)
        self.base = os.path.join(temp.name, 'out')

    def names(self, *parts):
        """Return what is in a folder"""
        return sorted(os.listdir(os.path.join(self.base, *parts)))

    def test_folder_names(self):
        """The names that upstream's -s looks for: with others, results seem lost"""
        self.assertEqual(
            commit_dir_name(0, Commit('1' * 40, 'zynq: Break/mend the build')),
            f"01_g{'1' * 40}_zynq--Break-mend-the")
        self.assertEqual(commit_dir_name(99, Commit('1' * 40, '')), f"100_g{'1' * 40}_")

    def test_write(self):
        """All files are there, no temporary one, and done says make's status"""
        tree = ResultTree(self.base, (A,))
        tree.write(Outcome('b', 0, 2, stdout='out', stderr='oops\n', sizes='1 2\n',
                           files={'.config': b'X=y\n'}))
        self.assertEqual(self.names(commit_dir_name(0, A), 'b'),
                         ['.config', 'done', 'err', 'log', 'sizes'])
        self.assertEqual(tree.read_done(0, 'b'), (2, True))
        # A second result replaces all of the first one
        tree.write(Outcome('b', 0, 0))
        self.assertEqual(self.names(commit_dir_name(0, A), 'b'), ['done', 'log'])
        self.assertEqual(tree.complete(0, ['b', 'c']), {'b': Glance(0, False, False, '')})

    def test_settings(self):
        """They are those of this result, not of one that was written over by others"""
        tree = ResultTree(self.base, (A,))
        tree.write(Outcome('b', 0, 0, files={'settings': b'x'}))
        self.assertEqual(settings_of(tree.board_dir(0, 'b')), 'x')
        os.utime(tree.done_file(0, 'b'), ns=(0, 0))
        self.assertEqual(settings_of(tree.board_dir(0, 'b')), '')
        tree.write(Outcome('b', 0, 0))
        self.assertEqual(settings_of(tree.board_dir(0, 'b')), '')
        # However slow the disk is, both are of the same time
        folder = tree.board_dir(0, 'b')
        for stamp, text in ((True, 'y'), (False, '')):
            put_file(os.path.join(folder, 'settings'), b'y')
            os.utime(os.path.join(folder, 'settings'), ns=(0, 0))
            put_done(folder, 0, stamp)
            self.assertEqual(settings_of(folder), text)

    def test_images_move(self):
        """Kept images end up in the tree and the staging folder goes"""
        tree = ResultTree(self.base, (A,))
        stage = os.path.join(tree.work_dir, 'stage')
        os.makedirs(stage)
        staged = os.path.join(stage, 'u-boot.bin')
        with open(staged, 'wb') as outf:
            outf.write(b'image')
        tree.write(Outcome('b', 0, 0, images={'u-boot.bin': staged}))
        with open(os.path.join(tree.board_dir(0, 'b'), 'u-boot.bin'), 'rb') as inf:
            self.assertEqual(inf.read(), b'image')
        self.assertFalse(os.path.exists(stage))

    def test_cut_short(self):
        """A result without done, or with a damaged one, is built again"""
        tree = ResultTree(self.base, (A,))
        tree.write(Outcome('b', 0, 0))
        done = tree.done_file(0, 'b')
        for text in ('', 'x', '1.5', '\0'):
            with open(done, 'w', encoding='ascii') as outf:
                outf.write(text)
            self.assertEqual(tree.complete(0, ['b']), {}, repr(text))
        os.unlink(done)
        self.assertEqual(tree.complete(0, ['b']), {})

    def content(self, folder):
        """Return all files below a folder, with what is in them"""
        out = {}
        for top, _, names in os.walk(folder):
            for name in names:
                with open(os.path.join(top, name), 'rb') as inf:
                    out[os.path.relpath(os.path.join(top, name), folder)] = inf.read()
        return out

    def outcome(self, tree, tag):
        """Return a result with everything, marked by a letter"""
        stage = tempfile.mkdtemp(prefix='stage-', dir=os.path.dirname(self.base))
        for name in ('u-boot.bin', 'spl.bin'):
            put_file(os.path.join(stage, name), tag.encode())
        return Outcome('b', 0, ord(tag), stdout='out' + tag, stderr='err' + tag,
                       sizes='size' + tag, files={'.config': tag.encode(), tag: b''},
                       images={'u-boot.bin': os.path.join(stage, 'u-boot.bin'),
                               'spl/spl.bin': os.path.join(stage, 'spl.bin')})

    def test_in_the_way(self):
        """What lies where a folder of ours should be goes; other folders of a build stay"""
        tree = ResultTree(self.base, (A,))
        os.makedirs(self.base)
        for path, target in ((tree.commit_dir(0), 'b'), (tree.board_dir(0, 'c'), 'c')):
            put_file(path, b'')
            tree.write(Outcome(target, 0, 0))
            self.assertEqual(tree.read_done(0, target), (0, False))
        flat = ResultTree(os.path.join(self.base, 'flat'), None, flat=True)
        for name in ('done', 'lines'):
            os.makedirs(os.path.join(flat.base_dir, name, 'x'))
        flat.write(Outcome('b', 0, 0))
        self.assertEqual(self.names('flat'), ['done', 'lines', 'log'])
        # What is not of a build is not ours to remove
        for path in ('log/x', 'log'):
            flat = ResultTree(os.path.join(self.base, 'flat', path), None, flat=True)
            with self.assertRaises(SetupError):
                flat.write(Outcome('b', 0, 0))
            self.assertTrue(os.path.isfile(os.path.join(self.base, 'flat', 'log')))

    def test_cut_anywhere(self):
        """Wherever buildman is killed, a result with `done` is complete, the old or the new"""
        tree = ResultTree(self.base, (A,))
        folder = tree.board_dir(0, 'b')
        whole = {}
        for tag in 'xy':
            tree.write(self.outcome(tree, tag))
            whole[ord(tag)] = self.content(folder)
        self.assertEqual(whole[ord('y')], {
            '.config': b'y', 'y': b'', 'log': b'outy', 'err': b'erry', 'sizes': b'sizey',
            'u-boot.bin': b'y', 'spl/spl.bin': b'y', 'done': b'121'})
        seen = set()
        for number in range(100):
            again = ResultTree(os.path.join(self.base, str(number)), (A,))
            folder = again.board_dir(0, 'b')
            again.write(self.outcome(tree, 'x'))
            # A disk may list the latest first, which need not be `done`
            err = os.path.join(folder, 'err')
            os.unlink(err)
            put_file(err, b'errx')
            new = self.outcome(tree, 'y')
            left = iter(range(number, -1, -1))
            steps = Steps(lambda kind, name: None if next(left) else Cut())  # noqa: B023
            try:
                with steps.watch():
                    again.write(new)
            except Cut:
                done = again.read_done(0, 'b')
                seen.add(done)
                if done is not None:
                    self.assertEqual(self.content(folder), whole[done[0]], steps.seen)
            else:
                break
        # The last step of all puts `done` in place, and nobody reads half of it
        self.assertEqual(steps.seen[-1], ('os.rename', 'done'))
        self.assertNotIn(('open', 'done'), steps.seen)
        self.assertEqual(seen, {(ord('x'), True), None})
        self.assertGreater(number, 10)

    def test_empty(self):
        """Nothing of an earlier result stays, and nothing elsewhere goes"""
        tree = ResultTree(self.base, (A,))
        tree.write(self.outcome(tree, 'x'))
        folder = tree.board_dir(0, 'b')
        os.symlink(self.base, os.path.join(folder, 'link'))
        tree.write(Outcome('b', 0, 0))
        self.assertEqual(sorted(os.listdir(folder)), ['done', 'log'])

    def test_write_fails(self):
        """A full disk is an error that names the board, and nothing seems done"""
        tree = ResultTree(self.base, (A,))
        tree.write(Outcome('b', 0, 0))
        full = Steps(lambda kind, name: OSError(errno.ENOSPC, 'No space left')
                     if (kind, name) == ('open', 'x') else None)
        with full.watch(), self.assertRaisesRegex(SetupError, "'b'.*No space"):
            tree.write(Outcome('b', 0, 0, files={'x': b'data'}))
        self.assertIsNone(tree.read_done(0, 'b'))
        # An image that was taken away is no reason to look at another disk
        with self.assertRaisesRegex(SetupError, "'b'.*No such file"):
            tree.write(Outcome('b', 0, 0, images={'u-boot': '/nowhere/u-boot'}))

    def test_other_disk(self):
        """Images come from a work area on another disk"""
        tree = ResultTree(self.base, (A,))
        new = self.outcome(tree, 'x')
        other = Steps(lambda kind, name: OSError(errno.EXDEV, 'Other disk')
                      if kind == 'os.rename' and name.endswith('.bin') else None)
        with other.watch():
            tree.write(new)
        self.assertEqual(self.content(tree.board_dir(0, 'b'))['spl/spl.bin'], b'x')
        self.assertEqual(os.listdir(os.path.dirname(self.base)), ['out'])

    def test_put_file(self):
        """All of it is written, nothing of what was there is left, and no descriptor stays"""
        before = set(os.listdir('/proc/self/fd'))
        path = os.path.join(os.path.dirname(self.base), 'file')
        for data in (b'longer', b'x', b''):
            put_file(path, data)
            with open(path, 'rb') as inf:
                self.assertEqual(inf.read(), data)
        self.assertEqual(os.stat(path).st_mode & 0o600, 0o600)
        tree = ResultTree(self.base, (A,))
        tree.write(Outcome('b', 0, 0))
        self.assertEqual((0, False), tree.read_done(0, 'b'))
        self.assertLessEqual(set(os.listdir('/proc/self/fd')), before)

    def test_odd_text(self):
        """What make says is kept byte by byte"""
        tree = ResultTree(self.base, (A,))
        tree.write(Outcome('b', 0, 0, stdout='\udcff', stderr='\udcfe'))
        files = self.content(tree.board_dir(0, 'b'))
        self.assertEqual((files['log'], files['err']), (b'\xff', b'\xfe'))

    def test_read_done(self):
        """Warned is who wrote to stderr"""
        tree = ResultTree(self.base, (A,))
        tree.write(Outcome('b', 0, 0, stderr='x'))
        self.assertEqual(tree.read_done(0, 'b'), (0, True))
        put_file(os.path.join(tree.board_dir(0, 'b'), 'err'), b'')
        self.assertEqual(tree.read_done(0, 'b'), (0, False))
        self.assertEqual(tree.complete(0, ['a', 'b']), {'b': Glance(0, False, False, '')})
        self.assertEqual(ResultTree('/nowhere', (A,)).complete(0, ['b']), {})

    def test_forget(self):
        """What was to be built anew and was not is no result any more"""
        tree = ResultTree(self.base, (A,))
        tree.forget(0, 'b')
        tree.write(Outcome('b', 0, 0))
        tree.forget(0, 'b')
        self.assertIsNone(tree.read_done(0, 'b'))
        os.mkdir(tree.done_file(0, 'b'))
        with self.assertRaisesRegex(SetupError, "cannot remove '.*/b/done'"):
            tree.forget(0, 'b')
        put_file(os.path.join(tree.commit_dir(0), 'file'), b'')
        tree.forget(0, 'file')

    def test_lacks_compiler(self):
        """Such a result stands for nothing once there is a compiler; others stand"""
        tree = ResultTree(self.base, (A,))
        self.assertFalse(tree.lacks_compiler(0, 'b'))
        lacking = without_compiler('b', 'arm', 0)
        tree.write(lacking)
        self.assertTrue(tree.lacks_compiler(0, 'b'))
        lacking.stdout = 'CC x.o'
        tree.write(lacking)
        self.assertFalse(tree.lacks_compiler(0, 'b'))
        tree.write(Outcome('b', 0, 0))
        self.assertFalse(tree.lacks_compiler(0, 'b'))
        for stderr in ('', 'error: x'):
            tree.write(Outcome('b', 0, 2, stderr=stderr))
            self.assertFalse(tree.lacks_compiler(0, 'b'))
        self.assertFalse(tree.lacks_compiler(0, 'b'))

    def test_find_commit_dirs(self):
        """-s finds a commit whatever its number was when it was built"""
        self.assertEqual(find_commit_dirs(self.base, (A, B)),
                         [commit_dir_name(0, A), commit_dir_name(1, B)])
        for upto, commit in ((3, B), (0, C), (1, C)):
            os.makedirs(os.path.join(self.base, commit_dir_name(upto, commit)))
        for name in ('mine', '7_gabcdef_x', 'x01_g1234567_x'):
            os.mkdir(os.path.join(self.base, name))
        self.assertEqual(commit_folders(self.base), {
            commit_dir_name(3, B): (4, B.hash), commit_dir_name(0, C): (1, C.hash),
            commit_dir_name(1, C): (2, C.hash)})
        self.assertEqual(find_commit_dirs(self.base, (C, A, B)),
                         [commit_dir_name(0, C), commit_dir_name(1, A), commit_dir_name(3, B)])
        self.assertEqual(find_commit_dirs(self.base, (A, C)),
                         [commit_dir_name(0, A), commit_dir_name(1, C)])

    def test_built_commits(self):
        """What was built tells what may still be asked for"""
        tree = ResultTree(self.base, (A, B))
        self.assertEqual(tree.built_commits(), [])
        tree.write(Outcome('b', 1, 0))
        self.assertEqual(tree.built_commits(), [(2, B.hash)])
        self.assertEqual(ResultTree(self.base, (A,), flat=True).built_commits(), [])
        self.assertEqual(ResultTree(self.base, None).built_commits(), [])
        put_file(os.path.join(self.base, 'file'), b'')
        with self.assertRaisesRegex(SetupError, "cannot read '.*file': Not a directory"):
            ResultTree(os.path.join(self.base, 'file'), (A,)).built_commits()

    def test_stale(self):
        """Commits that are gone lose their results; those that moved keep them"""
        tree = ResultTree(self.base, (A, B, C))
        for upto in range(3):
            tree.write(Outcome('b', upto, upto))
        os.makedirs(os.path.join(self.base, 'mine'))
        # A is dropped, so B and C have other numbers
        new = ResultTree(self.base, (B, C))
        gone = new.settle()
        self.assertEqual(gone, [commit_dir_name(0, A)])
        # What they have may be of use until then
        self.assertIn(commit_dir_name(0, A), self.names())
        new.remove(gone)
        self.assertEqual(new.read_done(0, 'b'), (1, False))
        self.assertEqual(new.read_done(1, 'b'), (2, False))
        self.assertEqual(self.names(), [commit_dir_name(0, B), commit_dir_name(1, C), 'mine'])
        self.assertEqual(ResultTree(self.base, (B, C)).settle(), [])

    def test_left_out(self):
        """Results of commits that -c leaves out are kept: they are still in the branch"""
        tree = ResultTree(self.base, (A, B, C))
        for upto in range(3):
            tree.write(Outcome('b', upto, upto))
        new = ResultTree(self.base, (C,))
        new.remove(new.settle({A.hash, C.hash}))
        self.assertEqual(new.read_done(0, 'b'), (2, False))
        self.assertEqual(self.names(), [commit_dir_name(0, A), commit_dir_name(0, C)])

    def test_stale_odd(self):
        """Links, files and folders of a commit that are there twice"""
        for upto, commit in ((1, A), (2, A), (0, B), (4, B)):
            os.makedirs(os.path.join(self.base, commit_dir_name(upto, commit)))
        os.symlink('elsewhere', os.path.join(self.base, commit_dir_name(7, C)))
        os.symlink(self.base, os.path.join(self.base, commit_dir_name(9, C)))
        put_file(os.path.join(self.base, commit_dir_name(8, C)), b'')
        tree = ResultTree(self.base, (B, A))
        # A is where it should be, the other two folders are of no use
        gone = [commit_dir_name(2, A), commit_dir_name(4, B)]
        self.assertEqual(tree.settle(), gone)
        self.assertEqual(tree.settle({A.hash, B.hash}), gone)
        tree = ResultTree(self.base, (C, B, A))
        # The first of B's takes the place; of A's the wanted one stays
        self.assertEqual(tree.settle(), [commit_dir_name(1, A), commit_dir_name(4, B)])
        tree.remove(tree.settle())
        self.assertEqual(self.names(), sorted([
            commit_dir_name(1, B), commit_dir_name(2, A), commit_dir_name(7, C),
            commit_dir_name(8, C), commit_dir_name(9, C)]))
        self.assertEqual(ResultTree(self.base, (A,), flat=True).settle(), [])
        self.assertEqual(ResultTree(self.base, None).settle(), [])

    def test_stale_fails(self):
        """A folder that cannot be moved is named"""
        ResultTree(self.base, (B, A)).write(Outcome('b', 0, 0))
        steps = Steps(lambda kind, name: OSError(errno.EACCES, 'Denied', name)
                      if kind == 'os.rename' else None)
        with steps.watch(), self.assertRaisesRegex(SetupError, 'cannot tidy .*Denied.*02_gbbb'):
            ResultTree(self.base, (A, B)).settle()

    def test_swapped(self):
        """Two commits in another order keep their results"""
        tree = ResultTree(self.base, (A, B))
        for upto in range(2):
            tree.write(Outcome('b', upto, upto))
        new = ResultTree(self.base, (B, A))
        new.settle()
        self.assertEqual([new.read_done(i, 'b') for i in range(2)], [(1, False), (0, False)])

    def test_lock(self):
        """Two runs in one folder would write over each other"""
        lock = OutputLock(self.base)
        with self.assertRaisesRegex(SetupError, f'process {os.getpid()}.*-o'):
            OutputLock(self.base)
        lock.close()
        path = os.path.join(self.base, WORK_DIR, 'lock')
        put_file(path, b'a process with a long number')
        lock = OutputLock(self.base)
        self.assertEqual(self.content(os.path.dirname(path)), {'lock': b'%d\n' % os.getpid()})
        put_file(path, b'')
        with self.assertRaisesRegex(SetupError, 'process unknown'):
            OutputLock(self.base)
        lock.close()
        lock.close()
        OutputLock(self.base).close()

    def test_lock_fails(self):
        """A folder that cannot be had is named, with the way out"""
        put_file(self.base, b'')
        with self.assertRaisesRegex(SetupError, "cannot write .*/out': Not a directory.*-o"):
            OutputLock(self.base)
        os.unlink(self.base)
        work = os.path.join(self.base, WORK_DIR)
        os.mkdir(self.base)
        put_file(work, b'')
        OutputLock(self.base).close()
        os.unlink(os.path.join(work, 'lock'))
        os.makedirs(os.path.join(work, 'lock', 'x'))
        OutputLock(self.base).close()
        os.unlink(os.path.join(work, 'lock'))
        os.symlink('/dev/full', os.path.join(work, 'lock'))
        with self.assertRaisesRegex(SetupError, "cannot write .*/out'"):
            OutputLock(self.base)

    def test_layouts(self):
        """Where results go without a branch, with -N and with -w"""
        self.assertEqual(ResultTree('/o', None).board_dir(0, 'b'), '/o/current/b')
        self.assertEqual(ResultTree('/o', None).work_dir, f'/o/{WORK_DIR}')
        self.assertEqual(ResultTree('/o', None, subdirs=False).board_dir(0, 'b'), '/o/b')
        self.assertEqual(ResultTree('/o', None, flat=True).board_dir(0, 'b'), '/o')
        self.assertEqual(ResultTree('/o', (A,), flat=True).board_dir(0, 'b'), '/o')
        self.assertEqual(ResultTree('/o', (A,)).board_dir(0, 'b'), f'/o/{commit_dir_name(0, A)}/b')

    def test_flat_keeps_build(self):
        """With -w the build lies beside the results: it must survive a new result"""
        tree = ResultTree(self.base, None, flat=True)
        os.makedirs(self.base)
        obj = os.path.join(self.base, 'main.o')
        with open(obj, 'wb') as outf:
            outf.write(b'o')
        tree.write(Outcome('b', 0, 2, stderr='x', sizes='1', files={'spl.sizes': b''}))
        self.assertEqual(tree.complete(0, ['b']), {'b': Glance(2, True, False, '')})
        os.mkdir(os.path.join(self.base, 'common'))
        tree.write(Outcome('b', 0, 0))
        self.assertEqual(self.names(), ['common', 'done', 'log', 'main.o'])
