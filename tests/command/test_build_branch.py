# SPDX-License-Identifier: GPL-2.0+
"""A branch is built as it should be: whole, again, after a stop, in any order."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from typing import Any, ClassVar, Dict, List, Optional

import support

from buildman.build.folder import STATE_FILE
from buildman.demo import sample, sample_files

# What a board that is built leaves, without those of SPL
BUILT = {'.config', 'autoconf.h', 'autoconf.mk', 'done', 'log', 'out-cmd', 'out-env',
         'settings', 'sizes', 'toolchain', 'u-boot.cfg', 'u-boot.objdump', 'u-boot.sizes',
         'uboot.env'}
SPL = {'autoconf-spl.mk', 'u-boot-spl.cfg', 'spl-u-boot-spl.objdump', 'spl-u-boot-spl.sizes'}
CONFIG_FAILED = {'done', 'err', 'log', 'out-cmd', 'out-env', 'settings', 'toolchain'}


def stamps(out_dir: str) -> Dict[str, int]:
    """Return when each result was written: path of `done` to nanoseconds."""
    found = {}
    for folder, _, names in os.walk(out_dir):
        if 'done' in names:
            found[os.path.relpath(folder, out_dir)] = os.stat(
                os.path.join(folder, 'done')).st_mtime_ns
    return found


def read(*parts: str) -> str:
    """Return the text of a file."""
    with open(os.path.join(*parts), encoding='utf-8', errors='replace') as inf:
        return inf.read()


class BranchCase(support.SampleCase):
    """Has the tree of one undisturbed run to compare with."""

    ref: ClassVar[str]
    first: ClassVar[support.Result]
    ref_args: ClassVar[List[str]] = []

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        out = os.path.join(cls.base, 'ref')
        argv = [*support.command(), '-G', cls.config, '-b', 'feature', '-r', '-o', out,
                *cls.ref_args]
        done = subprocess.run(argv, cwd=cls.tree.path, capture_output=True, text=True,
                              check=False, timeout=support.TIMEOUT)
        cls.first = support.Result(tuple(argv), done.returncode, done.stdout, done.stderr)
        cls.ref = os.path.join(out, 'feature')

    def folder(self, upto: int, top: str = '') -> str:
        """Return the folder of a commit."""
        top = top or self.ref
        return next(os.path.join(top, name) for name in os.listdir(top)
                    if name.startswith(f'{upto + 1:02}_g'))

    def part_of_ref(self, *targets: str) -> str:
        """Return a copy of the reference tree with just these boards."""
        part = self.out('-'.join(targets))
        for commit in os.listdir(self.ref):
            for target in targets:
                path = os.path.join(self.ref, commit, target)
                if os.path.isdir(path):
                    shutil.copytree(path, os.path.join(part, commit, target))
        return part


class TestWhole(BranchCase):
    """The default sample: nine commits, eight boards"""

    def test_forecast(self) -> None:
        """A board shown good that is broken, or the reverse: the tool is worthless.

        The forecast is that of builds from nothing, so a warning is seen at
        each commit that has it, not only where its file happens to be compiled.
        """
        self.assertEqual(self.verdicts(self.ref), dict(self.tree.expected))
        self.assertEqual((self.first.returncode, self.first.stderr), (100, ''), self.first)
        self.assertIn('Building 9 commits for 8 boards (', self.first.stdout)
        self.assertRegex(self.first.stdout,
                         r'\nCompleted: 72 total built \(72 newly, \d+ reconfig\), '
                         r'duration 0:\d\d:\d\d, rate \d+\.\d\d\n\Z')

    def test_names(self) -> None:
        """Other tools find results by these names"""
        want = ['01_g{}_Base-of-the-sample', '02_g{}_common--Add-a-table-',
                '03_g{}_acme--anvil--Break-t', '04_g{}_rocket-gpio--Größe--',
                '05_g{}_acme--anvil--Mend-th', '06_g{}_globex--Add-the-pump',
                '07_g{}_configs--Change-defa', '08_g{}_env--Change-the-defa',
                '09_g{}_dts--hammock--Forget']
        found = [name for name in sorted(os.listdir(self.ref)) if name[0].isdigit()]
        self.assertEqual(found, [name.format(commit)
                                 for name, commit in zip(want, self.tree.commits)])

    def test_files(self) -> None:
        """What summary and other tools read is there, and nothing of another board"""
        for upto in range(9):
            for board in self.tree.boards:
                names = set(os.listdir(os.path.join(self.folder(upto), board.target)))
                with self.subTest(upto=upto, board=board.target):
                    want = set(BUILT) | (SPL if board.spl else set())
                    if board.target == 'pumpkin' and upto < 5:
                        want = CONFIG_FAILED
                    elif self.tree.expected[upto, board.target] == 'fail':
                        # It does not compile: there is no image
                        want = {name for name in want | {'err'} if name != 'sizes'
                                and not name.endswith(('.sizes', '.objdump'))}
                    elif self.tree.expected[upto, board.target] == 'warn':
                        want |= {'err'}
                    self.assertEqual(names, want)

    def test_contents(self) -> None:
        """The text of the files, as tools parse it"""
        anvil = os.path.join(self.folder(1), 'anvil')
        self.assertEqual(read(anvil, 'done'), '0')
        self.assertEqual(read(anvil, 'toolchain'), (
            f'gcc {self.toolchains}/bin/arm-sample-linux-gnueabi-gcc\n'
            f'path {self.toolchains}/bin\ncross arm-sample-linux-gnueabi-\narch arm\n0'))
        self.assertRegex(read(anvil, 'sizes'), r'\A *\d+\t *\d+\t *\d+\t *\d+\t *[0-9a-f]+\tu-boot '
                         r'[0-9a-f]{8}\n.*\tspl/u-boot-spl [0-9a-f]{8}\n\Z')
        self.assertIn('baudrate=115200\0', read(anvil, 'uboot.env'))
        self.assertRegex(read(anvil, 'u-boot.sizes'), r'\n[0-9a-f]+ T _start\n')
        self.assertTrue(read(anvil, 'u-boot.sizes').endswith('\n '))
        self.assertIn('.rodata', read(anvil, 'u-boot.objdump'))
        self.assertIn('CROSS_COMPILE="arm-sample-linux-gnueabi-"', read(anvil, 'out-env'))
        self.assertEqual(read(self.folder(0), 'pumpkin', 'done'), '2')
        self.assertIn("Can't find default configuration", read(self.folder(0), 'pumpkin', 'err'))
        self.assertTrue(read(self.folder(2), 'anvil', 'toolchain').endswith('\n2'))

    def test_paths(self) -> None:
        """Messages of the same error must be equal from any slot and machine"""
        texts = []
        for folder, _, names in os.walk(self.ref):
            if '.bm-work' in folder:
                continue
            for name in set(names) & {'err', 'log', 'out-cmd'}:
                text = read(folder, name)
                texts.append(text)
                for bad in (self.base, '.bm-work', ' ../', '\n../', '[../'):
                    self.assertNotIn(bad, text, os.path.join(folder, name))
        self.assertIn("board/acme/anvil/anvil.c:11:9: error: expected ';' before 'return'",
                      read(self.folder(2), 'anvil', 'err'))
        # The warning is the same at each commit that has it
        warnings = {read(self.folder(upto), 'rocket', 'err') for upto in range(3, 7)}
        self.assertEqual(len(warnings), 1, warnings)

    def test_out_cmd(self) -> None:
        """The commands that give this result from nothing, whatever was run"""
        for upto in (0, 3, 8):
            self.assertEqual(read(self.folder(upto), 'rocket', 'out-cmd'),
                             'make O=build -s NPROC=1 SOURCE_DATE_EPOCH=0 rocket_defconfig\n'
                             'make O=build -s NPROC=1 SOURCE_DATE_EPOCH=0\n')

    def test_second_run(self) -> None:
        """What was built is not built again"""
        before = stamps(self.ref)
        self.assertEqual(len(before), 72)
        again = self.run_buildman('-b', 'feature', '-r', '-o', os.path.dirname(self.ref))
        self.assertEqual(again.returncode, 100, again)
        self.assertTrue(again.stdout.endswith('\nCompleted: 72 total built (72 previously)\n'),
                        again)
        self.assertEqual(stamps(self.ref), before)

    def test_threads(self) -> None:
        """How many are built at once, and what a slot built before, changes nothing"""
        for threads, *targets in (('1', 'anvil', 'pumpkin'),
                                  ('4', 'anvil', 'hammock', 'pumpkin', 'rocket')):
            out = self.out(f'out{threads}')
            got = self.run_buildman('-b', 'feature', '-r', '-T', threads, '-o', out, '--boards',
                                    ','.join(targets))
            self.assertEqual(got.returncode, 100, got)
            support.assert_same_tree(self.part_of_ref(*targets), os.path.join(out, 'feature'))

    def test_own_objects(self) -> None:
        """A board is built where its objects are, though another one was there since"""
        out, work = self.out(), self.out('out/feature/.bm-work')
        words = ('-b', 'feature', '-c', '1', '-r', '-o', out, '--boards')

        self.run_buildman(*words, 'rocket')
        with open(os.path.join(work, '00/build/common/mark'), 'wb'):
            pass
        self.run_buildman(*words, 'hammock')
        os.unlink(os.path.join(work, '00/build/common/mark'))
        # In another slot than the one that comes first
        os.rename(os.path.join(work, '00'), os.path.join(work, '05'))
        self.run_buildman(*words, 'rocket', '-f')
        self.assertIn('mark', os.listdir(os.path.join(work, '05/build/common')))
        self.assertNotIn('00', os.listdir(work))
        for board in ('hammock', 'rocket'):
            support.assert_same_tree(os.path.join(self.folder(8), board), os.path.join(
                self.folder(0, os.path.join(out, 'feature')), board))
        # With a folder for each board, the slot whose source it was made of
        self.run_buildman(*words, 'rocket', '-f', '-P')
        state = os.path.join(work, 'rocket', STATE_FILE)
        self.assertIn('"slot": 5', read(state))
        with open(state.replace(STATE_FILE, 'common/mark'), 'wb'):
            pass
        self.run_buildman(*words, 'rocket', '-f', '-P')
        self.assertIn('mark', os.listdir(os.path.join(work, 'rocket/common')))
        self.assertNotIn('00', os.listdir(work))


class TestStop(BranchCase):
    """A run that is stopped, by whatever, and started again"""

    gate: ClassVar[str]
    ref_args: ClassVar[List[str]] = ['-k']

    @classmethod
    def setUpClass(cls) -> None:
        cls.gate = tempfile.mkdtemp(prefix='buildman-gate-')
        cls.addClassCleanup(shutil.rmtree, cls.gate, ignore_errors=True)
        boards = [board for board in sample_files.DEFAULT_BOARDS
                  if board.target in ('anvil', 'hammock', 'rocket')]
        cls.sample_args = {'boards': boards, 'commits': 4, 'knobs': {
            (2, 'rocket'): [f'signal {cls.gate}/here', f'wait {cls.gate}/go'],
            (3, 'rocket'): []}}
        with open(os.path.join(cls.gate, 'go'), 'w', encoding='ascii'):
            pass
        super().setUpClass()

    def setUp(self) -> None:
        super().setUp()
        for name in ('go', 'here'):
            if os.path.exists(os.path.join(self.gate, name)):
                os.unlink(os.path.join(self.gate, name))

    def wait_here(self, proc: 'subprocess.Popen[bytes]') -> None:
        """Wait until the build has come to the gate"""
        support.wait_until(lambda: os.path.exists(os.path.join(self.gate, 'here'))
                           or proc.poll() is not None)
        self.assertIsNone(proc.poll(), read(self.out('stderr')))

    def check_resume(self, out: str) -> None:
        """Start again and compare with an undisturbed run"""
        top = os.path.join(out, 'feature')
        before = stamps(top)
        self.assertTrue(any('rocket' in path for path in before))
        self.assertLess(len(before), 15)
        with open(os.path.join(self.gate, 'go'), 'w', encoding='ascii'):
            pass
        got = self.run_buildman('-b', 'feature', '-r', '-k', '-o', out)
        self.assertEqual(got.returncode, 100, got)
        self.assertIn(f'({len(before)} previously, {15 - len(before)} newly', got.stdout)
        after = stamps(top)
        self.assertEqual({path: after[path] for path in before}, before)
        support.assert_same_tree(self.ref, top)
        self.assertEqual([name for name in os.listdir(os.path.join(top, '.bm-work'))
                          if 'stage' in name], [])

    def stop_by(self, num: int) -> int:
        """Stop a run in the middle with a signal, go on, return its exit status"""
        out = self.out()
        proc = self.start_buildman('-b', 'feature', '-r', '-k', '-o', out)
        self.wait_here(proc)
        os.kill(proc.pid, num)
        status = proc.wait(60)
        self.assert_no_processes()
        self.check_resume(out)
        return status

    def test_interrupt(self) -> None:
        """Ctrl-C: nothing goes on behind the user's back, and nothing is lost"""
        self.assertEqual(self.stop_by(signal.SIGINT), 130)
        self.assertIn('interrupted', read(self.out('stderr')))
        self.assertNotIn('Traceback', read(self.out('stderr')))

    def test_terminate(self) -> None:
        """SIGTERM, as a CI server stops a job"""
        self.assertEqual(self.stop_by(signal.SIGTERM), 143)
        self.assertNotIn('Traceback', read(self.out('stderr')))

    def test_kill(self) -> None:
        """SIGKILL: even then no compiler stays behind"""
        self.assertEqual(self.stop_by(signal.SIGKILL), -9)

    def test_deaf(self) -> None:
        """A build that hangs and does not listen ends with Ctrl-C too"""
        env = self.write_knobs('anvil', f'signal {self.gate}/here', 'hang deaf')
        proc = self.start_buildman('-b', 'feature', '-o', self.out(), '--boards', 'anvil',
                                   env=env)
        self.wait_here(proc)
        os.kill(proc.pid, signal.SIGINT)
        self.assertEqual(proc.wait(60), 130)
        self.assert_no_processes()
        self.assertEqual(stamps(self.out()), {})

    def test_impatient(self) -> None:
        """A second Ctrl-C does not leave processes behind"""
        env = self.write_knobs('anvil', f'signal {self.gate}/here', 'hang deaf')
        proc = self.start_buildman('-b', 'feature', '-o', self.out(), '--boards', 'anvil',
                                   env=env)
        self.wait_here(proc)
        for _ in range(20):
            proc.send_signal(signal.SIGINT)
        self.assertEqual(proc.wait(60), 130)
        self.assert_no_processes()


class TestChanged(support.SampleCase):
    """Results of an earlier state of the branch"""

    sample_args: ClassVar[Dict[str, Any]] = {'boards': 3, 'commits': 3}

    def rewrite(self, subject: Optional[str] = None) -> None:
        """Amend the last commit but one"""
        def git(*args: str) -> str:
            return subprocess.run(['git', '-C', self.tree.path, *args], check=True, text=True,
                                  capture_output=True).stdout.strip()
        tip = git('rev-parse', 'feature')
        git('reset', '-q', '--hard', 'feature~1')
        if subject:
            git('commit', '-q', '--amend', '-m', subject)
        else:
            sample.amend(self.tree, 'README', 'amended\n')
        git('cherry-pick', tip)

    def test_amend(self) -> None:
        """Only the amended commit and its followers are built; old results go"""
        out = self.out()
        args = ('-b', 'feature', '-o', out, '--boards', 'sandbox,rocket')
        self.run_buildman(*args)
        top = os.path.join(out, 'feature')
        before = stamps(top)
        os.mkdir(os.path.join(top, 'notes'))
        self.rewrite()
        got = self.run_buildman(*args)
        self.assertIn('Removing 2 old build directories...\n', got.stdout)
        self.assertRegex(got.stdout, r'Completed: 8 total built \(4 previously, 4 newly[,)]')
        after = stamps(top)
        kept = before.keys() & after.keys()
        self.assertEqual((len(kept), len(after)), (4, 8))
        self.assertEqual({path: after[path] for path in kept},
                         {path: before[path] for path in kept})
        self.assertTrue(os.path.isdir(os.path.join(top, 'notes')), 'not ours to remove')

    def test_other_boards(self) -> None:
        """Boards that are added later do not touch the others' results"""
        out = self.out()
        self.run_buildman('-b', 'feature', '-c', '2', '-o', out, '--boards', 'sandbox')
        before = stamps(out)
        got = self.run_buildman('-b', 'feature', '-c', '2', '-o', out, '--boards',
                                'sandbox,rocket')
        self.assertRegex(got.stdout, r'\(2 previously, 2 newly')
        after = stamps(out)
        self.assertEqual({path: after[path] for path in before}, before)

    def test_half_written(self) -> None:
        """A result without `done`, or with a damaged one, does not count"""
        out = self.out()
        args = ('-b', 'feature', '-c', '2', '-r', '-o', out, '--boards', 'sandbox')
        self.run_buildman(*args)
        shutil.copytree(os.path.join(out, 'feature'), self.out('whole'), symlinks=True)
        done = sorted(stamps(out))
        os.unlink(os.path.join(out, done[0], 'done'))
        with open(os.path.join(out, done[1], 'done'), 'w', encoding='ascii'):
            pass
        with open(os.path.join(out, done[1], 'junk'), 'w', encoding='ascii'):
            pass
        got = self.run_buildman(*args)
        self.assertTrue(re.search(r'Completed: 2 total built(, |\n)', got.stdout), got)
        support.assert_same_tree(self.out('whole'), os.path.join(out, 'feature'))
