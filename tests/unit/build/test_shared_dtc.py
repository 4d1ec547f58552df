# SPDX-License-Identifier: GPL-2.0+
"""--shared-dtc: one dtc for all boards, and the same results."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
import time
import unittest
from typing import Dict, List

from dist_support import LOGS
from support import assert_same_tree, command, needs

from buildman.build.shared_dtc import DtcStore, SharedDtc, remove_unfit
from buildman.source import git

# As U-Boot's: dtc is built unless DTC names one, then libfdt has to be there for
# the boards that want it. BUILT gets a line for each dtc that is built.
MAKEFILE = '''\
DTC_INTREE := $(O)/scripts/dtc/dtc
DTC ?= $(DTC_INTREE)
-include $(O)/.config
all: scripts_dtc
\t@echo '#define DT "'"$$($(DTC) $(CONFIG_BOARD))"'"' > $(O)/dt.h
\t@if [ -n "$(CONFIG_PYLIBFDT)" ]; then cd $(O) && \\
\t  PYTHONPATH=scripts/dtc/pylibfdt python3 -c 'import libfdt; print(libfdt.SIZE)' >> lib.txt && \\
\t  echo '#define LIB "'"$$(tail -n 1 lib.txt)"'"' >> dt.h; fi
\t@cd $(O) && gcc -include dt.h -nostdlib -nostartfiles -Wl,-e,main -Wl,--build-id=none \\
\t  -o u-boot ../main.c 2>/dev/null || gcc -include dt.h -nostdlib -nostartfiles -Wl,-e,main \\
\t  -Wl,--build-id=none -o u-boot $(CURDIR)/main.c
scripts_dtc:
\t@if [ "$(DTC)" = "$(DTC_INTREE)" ]; then mkdir -p $(O)/scripts/dtc/pylibfdt && \\
\t  sh scripts/dtc/build.sh $(O)/scripts/dtc "$(CONFIG_PYLIBFDT)" && echo x >> $(BUILT); \\
\telif [ -n "$(CONFIG_PYLIBFDT)" ]; then python3 -c 'import libfdt'; fi
%_defconfig:
\t@mkdir -p $(O)/include/generated $(O)/include/config && cp configs/$@ $(O)/.config && \\
\ttouch $(O)/include/generated/autoconf.h
'''

# Builds it: $1 is the folder; the modules for those that want pylibfdt
BUILD = '''\
printf '#!/bin/sh\\necho "%s $1"\\n' {version} > $1/dtc && chmod +x $1/dtc
if [ -n "$2" ]; then : > $1/pylibfdt/_libfdt.so; echo SIZE={version} > $1/pylibfdt/libfdt.py; fi
'''

MAIN = ('#ifndef LIB\n#define LIB "none"\n#endif\nconst char dt[] = DT, lib[] = LIB;\n'
        'int main(void) { return 0; }\n')


class TestBuild(unittest.TestCase):
    """Builds with and without"""

    def setUp(self) -> None:
        needs('git', 'make', 'gcc')
        temp = tempfile.TemporaryDirectory()
        self.addCleanup(temp.cleanup)
        self.dir = temp.name
        self.repo = os.path.join(self.dir, 'repo')

    def make_series(self, steps: List[Dict[str, str]]) -> None:
        """Make a branch with these changes, one commit each; the first is upstream"""
        os.makedirs(self.repo)
        git.run(self.repo, 'init', '-q', '-b', 'master')
        git.run(self.repo, 'config', 'user.name', 'A')
        git.run(self.repo, 'config', 'user.email', 'a@example.com')
        boards = ('aa', 'b', 'c')
        files = {'Makefile': MAKEFILE, 'main.c': MAIN, **{
            f'configs/{name}_defconfig': f'CONFIG_BOARD={name}\n' + (
                '' if name == 'b' else 'CONFIG_PYLIBFDT=y\n') for name in boards},
            'boards.cfg': ''.join(f'Active  sandbox  -  -  -  -  {name}  {name}  A <a@b>\n'
                                  for name in boards)}
        for number, step in enumerate(steps):
            for name, text in {**(files if not number else {}), **step}.items():
                path = os.path.join(self.repo, name)
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with open(path, 'w', encoding='utf-8') as outf:
                    outf.write(text)
            git.run(self.repo, 'add', '-A')
            git.run(self.repo, 'commit', '-q', '-m', f'Step {number}')
            if not number:
                git.run(self.repo, 'checkout', '-q', '-b', 'topic', '--track', 'master')

    def build(self, out: str, *args: str, status: int = 0) -> int:
        """Build all; return how often dtc was built"""
        built = os.path.join(self.dir, f'{out}-built')
        done = subprocess.run(
            [*command(), '-b', 'topic', '-o', os.path.join(self.dir, out), '-T', '2', '-k', '-r',
             *args], capture_output=True, text=True, check=False, cwd=self.repo,
            env={**os.environ, 'HOME': self.dir, 'BUILT': built})
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        if not os.path.exists(built):
            return 0
        with open(built, encoding='utf-8') as inf:
            return len(inf.readlines())

    def same(self) -> None:
        """Compare the trees with and without"""
        assert_same_tree(os.path.join(self.dir, 'on', 'topic'),
                         os.path.join(self.dir, 'off', 'topic'))

    def test_once(self) -> None:
        """It is built once, again when its source changes, and no result differs"""
        self.make_series([{'scripts/dtc/build.sh': BUILD.format(version=1)},
                          {'main.c': MAIN + 'int more;\n'},
                          {'scripts/dtc/build.sh': BUILD.format(version=22)}])
        self.assertGreater(self.build('off'), 3)
        self.assertEqual(self.build('on', '--shared-dtc'), 2)
        self.same()
        # The next run finds it, as long as the work area is there
        self.assertEqual(self.build('on', '--shared-dtc', '-f'), 2)
        self.same()
        # So it is on a machine
        config = os.path.join(self.dir, 'config')
        with open(config, 'w', encoding='utf-8') as outf:
            outf.write(f'[machines]\nalpha\n[machine:alpha]\ntransport = local\nwork_dir = '
                       f'{self.dir}/far\n[worker-env]\nBUILT\n')
        self.assertEqual(
            self.build('dist', '--shared-dtc', '--dist', '--no-local', '-G', config), 2)
        assert_same_tree(os.path.join(self.dir, 'dist', 'topic'),
                         os.path.join(self.dir, 'off', 'topic'),
                         ignore=(*LOGS, 'toolchain', 'out-env'))
        # And without the flag all is as before
        self.build('on', '-f')
        self.same()

    def test_cannot(self) -> None:
        """A dtc that cannot be built alone, or that compilers complain of, is left to the boards"""
        self.make_series([{'scripts/dtc/build.sh': 'echo careful >&2\n' + BUILD.format(version=1)},
                          {'scripts/dtc/build.sh': 'exit 3\n'}])
        self.build('off', status=100)
        self.build('on', '--shared-dtc', status=100)
        self.same()

class TestLeftovers(unittest.TestCase):
    """What earlier runs have left in a work area"""

    def test_unfit(self) -> None:
        """What is half built goes, and what would be newer than all that is made with it"""
        with tempfile.TemporaryDirectory() as top:
            for name in ('dtc-1', 'dtc-2', 'dtc-3.half', '00'):
                os.mkdir(os.path.join(top, name))
                with open(os.path.join(top, name, 'dtc'), 'wb'):
                    pass
            when = time.time() + 60
            for name in ('dtc-2', '00'):
                os.utime(os.path.join(top, name, 'dtc'), (when, when))
            remove_unfit(top)
            self.assertEqual(sorted(os.listdir(top)), ['00', 'dtc-1'])


class TestStore(unittest.TestCase):
    """What is built is built by one, and found by all"""

    def setUp(self) -> None:
        temp = tempfile.TemporaryDirectory()
        self.addCleanup(temp.cleanup)
        self.dir = temp.name
        self.source = os.path.join(self.dir, 'source')
        os.makedirs(os.path.join(self.source, 'scripts', 'dtc'))
        self.write('one')
        self.built: List[str] = []

    def write(self, text: str) -> None:
        """Change the source"""
        with open(os.path.join(self.source, 'scripts', 'dtc', 'dtc.c'), 'w',
                  encoding='utf-8') as outf:
            outf.write(text)

    def build(self, folder: str) -> int:
        """Stand in for make"""
        self.built.append(folder)
        os.makedirs(os.path.join(folder, 'scripts', 'dtc'))
        path = os.path.join(folder, 'scripts', 'dtc', 'dtc')
        with open(path, 'w', encoding='utf-8'):
            os.chmod(path, 0o755)
        return 0

    def test_threads(self) -> None:
        """Slots that want it at the same time wait for the one that builds it"""
        store = DtcStore(self.dir)
        got: List[object] = []

        def get() -> None:
            got.append(store.get(self.source, 'c1', [], self.build))
        threads = [threading.Thread(target=get) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual((len(self.built), len(set(got)), None in got), (1, 1, False))

    def test_key(self) -> None:
        """Another source or another way to compile is another dtc"""
        folders = set()
        for commit, text, words in (('c1', 'one', ['HOSTCC=gcc']), ('c2', 'two', ['HOSTCC=gcc']),
                                    ('c2', 'two', ['HOSTCC=clang']), ('', 'three', [])):
            self.write(text)
            found = DtcStore(self.dir).get(self.source, commit, words, self.build)
            assert found
            folders.add(found.folder)
        self.assertEqual(len(folders), 4)
        self.write('one')
        found = DtcStore(self.dir).get(self.source, 'c9', ['HOSTCC=gcc'], self.build)
        assert found
        self.assertIn(found.folder, folders)
        self.assertEqual(len(self.built), 4)

    def test_fails(self) -> None:
        """A failure is not tried again by each board; one that was ended is"""
        store = DtcStore(self.dir)
        for code, tries in ((-1, 2), (2, 1)):
            self.built.clear()
            for _ in range(2):
                self.assertIsNone(store.get(self.source, f'c{code}', [str(code)],
                                            lambda folder, c=code: self.build(folder) or c))
            self.assertEqual(len(self.built), tries)
        self.assertEqual(os.listdir(self.dir), ['source'])

    def test_environment(self) -> None:
        """A board that wants pylibfdt does not get a dtc that comes without"""
        shared = SharedDtc(self.dir)
        env = {'PYTHONPATH': '/mine'}
        self.assertEqual(shared.environment(env, self.dir), env)
        with open(os.path.join(self.dir, '.config'), 'w', encoding='utf-8') as outf:
            outf.write('CONFIG_A=y\n')
        self.assertEqual(shared.environment(env, self.dir),
                         {'DTC': f'{self.dir}/dtc', 'PYTHONPATH': f'{self.dir}:/mine'})
        with open(os.path.join(self.dir, '.config'), 'a', encoding='utf-8') as outf:
            outf.write('CONFIG_PYLIBFDT=y\n')
        self.assertEqual(shared.environment(env, self.dir), env)
