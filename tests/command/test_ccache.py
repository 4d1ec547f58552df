# SPDX-License-Identifier: GPL-2.0+
"""--ccache: objects are found again by other slots, folders and machines; nothing else changes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import unittest
from typing import Any, ClassVar, Dict, Tuple
from unittest import mock

import support
from dist_support import LOGS, DistCase, read

from buildman.build import ccache, siblings
from buildman.core.plan import Board, BoardJob, Plan, Settings, Toolchain
from buildman.demo import sample
from buildman.demo.sample_files import BoardSpec
from buildman.results.tree import ResultTree
from buildman.schedule.inbox import Inbox
from buildman.schedule.loop import Loop
from buildman.schedule.progress import Status
from buildman.wire import messages

# What says how the compiler was called
WORDS = ('out-cmd', 'out-env')

USE = re.compile(r'ccache had (\d+) of (\d+) objects')


class TestCcache(DistCase):
    """A build with ccache, here and on a machine"""

    names = ('alpha',)
    sample_args: ClassVar[Dict[str, Any]] = {'boards': 2, 'commits': 1}

    def setUp(self) -> None:
        super().setUp()
        support.needs('ccache')
        self.vars = {'CCACHE_DIR': self.out('cache')}

    def build(self, out: str, *args: str) -> Tuple[int, int, support.Result]:
        """Build everything; return what ccache had, of how many, and what was printed"""
        done = self.run_buildman('-b', 'feature', '-r', '-o', self.out(out), *args, env=self.vars)
        self.assertIn(done.returncode, (0, 100, 101), done)
        found = USE.search(done.stdout)
        self.assertTrue(found, done)
        assert found
        return int(found.group(1)), int(found.group(2)), done

    def test_shared(self) -> None:
        """Another folder finds all objects of the first, and a machine those of here"""
        plain = self.run_buildman('-b', 'feature', '-r', '-o', self.out('plain'), env=self.vars)
        self.assertNotIn('ccache', plain.stdout)
        hits, count, done = self.build('first', '--ccache')
        self.assertLess(hits, count)
        self.assertEqual(plain.returncode, done.returncode)
        hits, count, _ = self.build('second/deeper', '--ccache')
        self.assertEqual(hits, count)
        self.assertGreater(count, 0)
        for out in ('first', 'second/deeper'):
            support.assert_same_tree(self.out('plain/feature'), self.out(f'{out}/feature'),
                                     ignore=WORDS)
        done = self.run_buildman('-b', 'feature', '-r', '-o', self.out('far'), '--ccache', '--dist',
                                 '--no-local', env=self.vars)
        self.assertRegex(done.stdout, r'alpha: \d+ results, .*; ccache had (\d+) of \1 objects')
        support.assert_same_tree(self.out('plain/feature'), self.out('far/feature'),
                                 ignore=(*WORDS, *LOGS))

    def test_by_itself(self) -> None:
        """It is used for what it was used for before, where nobody decides"""
        self.plain('plain')
        self.build('first', '--ccache')
        # Most boards, in a new folder
        hits, count, _ = self.build('second')
        self.assertEqual(hits, count)
        support.assert_same_tree(self.out('plain/feature'), self.out('second/feature'),
                                 ignore=WORDS)
        self.plain('third', '--no-ccache')
        # As it was the last time, since otherwise all would be made again
        self.plain('third', '-f')
        self.plain('plain', '-f')
        # Machines may not have it
        self.assertNotIn('ccache had', self.run_buildman(
            '-b', 'feature', '-r', '-o', self.out('far'), '--dist', env=self.vars).stdout)
        with open(self.out('cache/buildman-boards'), 'wb') as outf:
            outf.write(b'anvil\n\xff')
        self.build('second', '-f')

    def test_broken(self) -> None:
        """Where it does not work, boards that nobody asked to go by it are built without"""
        self.plain('plain')
        self.build('first', '--ccache')
        self.build('first', '-f')
        with open(self.out('cache/ccache.conf'), 'w', encoding='utf-8') as outf:
            outf.write('nonsense\n')
        self.plain('first', '-f')
        self.plain('second')
        for out in ('first', 'second'):
            support.assert_same_tree(self.out('plain/feature'), self.out(f'{out}/feature'))

    def plain(self, out: str, *args: str) -> support.Result:
        """Build everything, without ccache"""
        done = self.run_buildman('-b', 'feature', '-r', '-o', self.out(out), *args, env=self.vars)
        self.assertIn(done.returncode, (0, 100, 101), done)
        self.assertNotIn('ccache', done.stdout)
        return done

    def test_linker(self) -> None:
        """A linker that complains does so by name, although ccache runs it by its path"""
        cross = 'arm-sample-linux-gnueabi-'
        # The usual ones are those of other classes as well
        self.toolchains = sample.make_toolchains(self.out('cross'))
        self.config = sample.write_config(self.out('config'), self.toolchains)
        linker = os.path.join(self.toolchains, 'bin', f'{cross}ld')
        os.rename(linker, linker + '.real')
        # A script does not learn by which name it was run
        with open(self.out('ld.c'), 'w', encoding='utf-8') as outf:
            outf.write('#include <stdio.h>\n#include <unistd.h>\n'
                       'int main(int argc, char **argv)\n{\n'
                       '\tfprintf(stderr, "%s: warning: odd\\n", argv[0]);\n'
                       f'\treturn execv("{linker}.real", argv);\n}}\n')
        subprocess.run(['gcc', '-o', linker, self.out('ld.c')], check=True)
        plain = self.run_buildman('-b', 'feature', '-r', '-o', self.out('plain'), '--boards',
                                  'anvil')
        self.assertEqual(plain.returncode, 101, plain)
        self.build('out', '--ccache', '--boards', 'anvil')
        found = [read(top, 'err') for top, _, names in os.walk(self.out('out')) if 'err' in names]
        self.assertTrue(found)
        for text in found:
            self.assertRegex(text, f'(?m)^{cross}ld: warning: odd$')
        support.assert_same_tree(self.out('plain/feature'), self.out('out/feature'), ignore=WORDS)

    def test_storage(self) -> None:
        """ccache's own shared storage is known to the machines, and to no result or log"""
        secret = 'http://user:secret@127.0.0.1:9/cache'
        os.makedirs(self.out('cache'))
        with open(self.out('cache/ccache.conf'), 'w', encoding='utf-8') as outf:
            outf.write(f'remote_storage = {secret}\nsecondary_storage = {secret}\n')
        program = self.out('bin/ccache')
        os.makedirs(self.out('bin'))
        with open(program, 'w', encoding='utf-8') as outf:
            outf.write('#!/bin/sh\n'
                       f'echo "$CCACHE_REMOTE_STORAGE $CCACHE_COMPILERCHECK" '
                       f'>> {self.out("told")}\n'
                       f'exec {shutil.which("ccache")} "$@"\n')
        os.chmod(program, 0o755)
        env = {**self.vars, 'PATH': self.out('bin') + os.pathsep + os.environ['PATH']}
        done = self.run_buildman('-b', 'feature', '-r', '-o', self.out('far'), '--ccache', '--dist',
                                 '--no-local', '--boards', 'sandbox', env=env)
        self.assertEqual(done.returncode, 0, done)
        self.assertIn(f'{secret} content\n', read(self.out('told')))
        for top, _, names in os.walk(self.out('far')):
            for name in names:
                self.assertNotIn('secret', read(top, name), name)

    def test_missing(self) -> None:
        """Without ccache the user is told what to install, before anything is built"""
        os.makedirs(self.out('bin'))
        for name in ('git', 'make', 'python3', 'gcc', 'env', 'sh'):
            os.symlink(str(shutil.which(name)), self.out(f'bin/{name}'))
        done = self.run_buildman('-b', 'feature', '-o', self.out(), '--ccache',
                                 env={'PATH': self.out('bin')})
        self.assertEqual(done.returncode, 2, done)
        self.assertIn('--ccache: ccache is not installed (apt-get install ccache)', done.stderr)
        self.assertFalse(os.path.exists(self.out('out/feature/.bm-work')))


class TestMessages(support.SampleCase):
    """What compilers say, of boards that fail and warn"""

    sample_args: ClassVar[Dict[str, Any]] = {'boards': 3, 'commits': 4}

    def check(self, *args: str) -> None:
        """Build with and without ccache; check that nothing differs"""
        support.needs('ccache')
        for out, how in (('plain', '--no-ccache'), ('by', '--ccache'), ('again', '--ccache')):
            done = self.run_buildman('-b', 'feature', '-r', '-o', self.out(out), how, *args,
                                     env={'CCACHE_DIR': self.out('cache')})
            self.assertEqual(100, done.returncode, done)
            support.assert_same_tree(self.out('plain/feature'), self.out(f'{out}/feature'),
                                     ignore=WORDS)
        self.assertLess(2, len([name for _, _, names in os.walk(self.out('plain/feature'))
                                for name in names if name == 'err']))

    def test_folders(self) -> None:
        """With a folder for each board, the slot of the source is in no message"""
        self.check('-P', '-T', '2')

    def test_preprocessed(self) -> None:
        """Who has ccache preprocess once has the compiler's messages all the same"""
        os.mkdir(self.out('cache'))
        with open(self.out('cache/ccache.conf'), 'w', encoding='utf-8') as outf:
            outf.write('run_second_cpp = false\n')
        self.check()


class TestSiblings(support.SampleCase):
    """Boards of a SoC, in a tree that is large enough"""

    sample_args: ClassVar[Dict[str, Any]] = {'commits': 1, 'boards': [
        BoardSpec(name, 'arm', vendor='acme', soc='coyote') for name in ('a', 'b', 'c', 'd')]}

    def test_many(self) -> None:
        """It is used for as many as share it, whatever slot builds them; nothing differs"""
        support.needs('ccache')
        source = self.tree.path
        os.mkdir(os.path.join(source, 'many'))
        for number in range(siblings.LARGE):
            with open(os.path.join(source, 'many', str(number)), 'wb'):
                pass
        for words in (('add', '.'), ('commit', '-q', '-m', 'Many files')):
            subprocess.run(['git', *words], cwd=source, check=True)

        def build(out: str, *args: str) -> str:
            done = self.run_buildman('-b', 'feature', '-r', '-o', self.out(out), *args,
                                     env={'CCACHE_DIR': self.out('cache')})
            self.assertEqual(0, done.returncode, done)
            return done.stdout

        self.assertNotIn('ccache', build('plain', '-T', '1', '--no-ccache'))
        self.assertNotIn('ccache', build('two', '--boards', 'a,b'))
        # Hardly anything is shared where each has a path of its own
        self.assertNotIn('ccache', build('each', '-P', '-T', '3'))
        self.assertRegex(build('all', '-T', '3'), USE)
        support.assert_same_tree(self.out('plain/feature'), self.out('all/feature'), ignore=WORDS)
        # Without it, too, one has what another one has built
        self.assertNotIn('ccache', build('copied', '-T', '3', '--no-ccache'))
        support.assert_same_tree(self.out('plain/feature'), self.out('copied/feature'))


class TestParts(unittest.TestCase):
    """What ccache is told and asked"""

    def test_environment(self) -> None:
        """What the user has set stays; compilers are told apart by content where it matters"""
        once = {'CCACHE_NOCPP2': '1'}
        self.assertEqual(ccache.environment({}, False), {'CCACHE_CPP2': '1'})
        self.assertEqual(ccache.environment(once, False), {})
        self.assertEqual(ccache.environment(once, True), {'CCACHE_NOHASHDIR': '1'})
        for name in ccache.STORAGE:
            self.assertEqual(ccache.environment({**once, name: 'redis://h'}, False),
                             {'CCACHE_COMPILERCHECK': 'content'})
        self.assertEqual(ccache.environment({
            **once, 'CCACHE_REMOTE_STORAGE': 'redis://h', 'CCACHE_COMPILERCHECK': 'mtime'},
            False), {})

    def test_storage(self) -> None:
        """Storage that only this machine can reach is not passed on"""
        with tempfile.TemporaryDirectory() as top:
            def told(text: str, **env: str) -> Dict[str, str]:
                path = os.path.join(top, 'ccache')
                with open(path, 'w', encoding='utf-8') as outf:
                    outf.write(f'#!/bin/sh\n{text}\n')
                os.chmod(path, 0o755)
                return ccache.shared_storage({'PATH': f'{top}:/bin:/usr/bin', **env})
            self.assertEqual(told('[ $2 = secondary_storage ] && echo redis://h'),
                             dict.fromkeys(ccache.STORAGE, 'redis://h'))
            self.assertEqual(told('echo file:/var/cache'), {})
            self.assertEqual(told('exit 1'), {})
            self.assertEqual(told('echo http://h', CCACHE_REMOTE_STORAGE='http://x'), {})
        self.assertEqual(ccache.shared_storage({'PATH': '/nonexistent'}), {})
        self.assertIsNone(ccache.Meter({'PATH': '/nonexistent'}).use())

    def test_warm(self) -> None:
        """Whether a cache has had most boards, which it keeps for itself"""
        with tempfile.TemporaryDirectory() as top:
            program, names = (os.path.join(top, name) for name in ('ccache', 'buildman-boards'))
            with open(program, 'w', encoding='utf-8') as outf:
                outf.write(f'#!/bin/sh\n[ "$*" = "--get-config cache_dir" ] && echo {top}\n')
            os.chmod(program, 0o755)
            env = {'PATH': f'{top}:/bin:/usr/bin'}
            self.assertFalse(ccache.is_warm(['a'], env))
            ccache.note_boards([], env)
            self.assertFalse(os.path.exists(names))
            ccache.note_boards(['b', 'a'], env)
            ccache.note_boards(['c'], env)
            with open(names, encoding='utf-8') as inf:
                self.assertEqual(inf.read(), 'a\nb\nc\n')
            for boards, warm in (('a', True), ('ax', False), ('abx', True), ('', False)):
                self.assertEqual(warm, ccache.is_warm(boards, env), boards)
            for name in ('CCACHE_DISABLE', 'CCACHE_READONLY'):
                self.assertFalse(ccache.is_warm(['a'], {**env, name: '1'}))
            with open(names, 'wb') as out:
                out.write(b'a\n\xff')
            self.assertFalse(ccache.is_warm(['a'], env))
            ccache.note_boards(['a'], env)
            self.assertTrue(ccache.is_warm(['a'], env))
            os.remove(program)
            self.assertFalse(ccache.is_warm(['a'], {'PATH': top}))
            # Nothing is written where there is no cache
            ccache.note_boards(['d'], {'PATH': top})
            self.assertFalse(ccache.is_warm(['d'], env))

    def test_pays(self) -> None:
        """Boards that have siblings fill a cache, if there can be one"""
        boards = [Board(str(number), 'arm', soc='abc'[number % 3]) for number in range(9)]
        for count, pays in ((9, True), (8, False), (3, False), (1, False), (0, False)):
            self.assertEqual(pays, ccache.pays(boards[:count]), count)
        self.assertTrue(ccache.pays(boards[:1] * 3))
        with tempfile.TemporaryDirectory() as top:
            self.assertFalse(ccache.is_usable({'PATH': top}))
            program = os.path.join(top, 'ccache')
            with open(program, 'wb'):
                pass
            os.chmod(program, 0o755)
            self.assertTrue(ccache.is_usable({'PATH': top}))
            for name in ('CCACHE_DISABLE', 'CCACHE_READONLY', 'CCACHE_NOCPP2'):
                self.assertFalse(ccache.is_usable({'PATH': top, name: '1'}))

    def test_works(self) -> None:
        """One that fails, says something, hangs or is not there is left alone"""
        support.needs('gcc')
        with tempfile.TemporaryDirectory() as top:
            path = os.path.join(top, 'ccache')
            env = {'PATH': f'{top}:/bin:/usr/bin'}
            for text, works in (('exec "$@"', True), ('exit 1', False), (':', False),
                                ('echo odd >&2; exec "$@"', False), ('exec sleep 60', False)):
                with open(path, 'w', encoding='utf-8') as outf:
                    outf.write(f'#!/bin/sh\n{text}\n')
                os.chmod(path, 0o755)
                with mock.patch.object(ccache, 'TIMEOUT', 20 if works else 0.5):
                    self.assertEqual(works, ccache.works(env), text)
            self.assertFalse(ccache.works({'PATH': top}))
        self.assertFalse(ccache.works({'PATH': '/nonexistent'}))

    def test_used(self) -> None:
        """How builds in a work area went"""
        with tempfile.TemporaryDirectory() as top:
            self.assertIsNone(ccache.was_used(os.path.join(top, 'x')))
            ccache.note_use(top, True)
            self.assertIsNone(ccache.was_used(top))
            os.mkdir(os.path.join(top, '03'))
            self.assertIs(ccache.was_used(top), True)
            for _ in range(2):
                ccache.note_use(top, False)
                self.assertIs(ccache.was_used(top), False)

    def test_order(self) -> None:
        """Boards of one SoC follow each other, unless each has a folder of its own"""
        jobs = tuple(BoardJob(Board(name, 'arm', soc=soc), (0,), Toolchain('arm', '', '', ''))
                     for name, soc in (('a', 'zynq'), ('b', 'rk'), ('c', 'zynq'), ('d', 'rk'),
                                        ('e', 'rk')))
        for alone, order in ((False, 'acbde'), (True, 'abcde')):
            settings = Settings(per_board_out_dir=alone, force_build=True)
            with tempfile.TemporaryDirectory() as top, open(os.devnull, 'w',
                                                            encoding='utf-8') as null:
                loop = Loop(Plan(jobs, None, settings), ResultTree(top, None), Status(null),
                                  Inbox())
            loop.ledger.add_worker('w', 1, ahead=9)
            got = [loop.scheduler.next_for('w') for _ in jobs]
            self.assertEqual(''.join(handout.target for handout in got if handout), order)

    def test_message(self) -> None:
        """The figures cross in the last message, which older peers can read"""
        message = messages.QuitAck(3, 4)
        line = messages.encode(message)
        self.assertIn(b'"cache_hits"', line)
        self.assertEqual(str(ccache.Use(3, 1)), 'ccache had 3 of 4 objects (75%)')
        self.assertEqual(str(ccache.Use(0, 0)), 'ccache had 0 of 0 objects')
