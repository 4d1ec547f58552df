# SPDX-License-Identifier: GPL-2.0+
"""The sample tree's configurator follows Kconfig, and its knobs do what its
README promises.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Dict

import support

from buildman.demo import sample
from tests.unit.demo.test_sample import MakeCase


class TestConfig(MakeCase):
    """The small configurator follows Kconfig."""

    def test_defconfig(self) -> None:
        """Settings, #include, choices, selects and defaults arrive in .config."""
        self.make('anvil_nor_defconfig')
        conf = self.read('.config')
        for line in ('CONFIG_ARM=y', 'CONFIG_TARGET_ANVIL=y', 'CONFIG_CPU_V7A=y',
                     '# CONFIG_SANDBOX is not set', 'CONFIG_SPL=y', 'CONFIG_SPL_MLO=y',
                     'CONFIG_SYS_CPU="armv7"', 'CONFIG_SYS_VENDOR="acme"',
                     'CONFIG_DEFAULT_DEVICE_TREE="anvil"', 'CONFIG_ENV_SIZE=0x2000'):
            self.assertIn(line + '\n', conf)
        self.assertNotIn('64BIT', conf)

    def test_fragment(self) -> None:
        """A fragment overrides the defconfig and tells what it redefines."""
        out = self.make('sandbox_defconfig', 'quiet.config')
        self.assertEqual(0, out.returncode, out.stderr)
        self.assertIn('Value of CONFIG_BOOTDELAY is redefined', out.stdout)
        conf = self.read('.config')
        self.assertIn('CONFIG_BOOTDELAY=0\n', conf)
        self.assertIn('# CONFIG_NET is not set\n', conf)
        self.assertNotIn('NETCONSOLE', conf)
        out = self.make('no-such.config')
        self.assertEqual(2, out.returncode)
        self.assertIn('No configuration exists', out.stderr)

    def test_merge_config(self) -> None:
        """The way that build tools adjust settings in U-Boot works here too."""
        frag = os.path.join(self.out, 'adjust')
        for out in (self.out, os.path.join(self.tree.path, 'build')):
            # As Kbuild does: a relative file may be named from the source folder
            rel = os.path.relpath(out, self.tree.path) if out != self.out else out
            with open(frag, 'w', encoding='utf-8') as outf:
                outf.write('CONFIG_LTO=y\n# CONFIG_NET is not set\nCONFIG_NETCONSOLE=y\n')
            argv = ['make', '-s', f'O={rel}']
            for args in (['anvil_defconfig'], [f'KCONFIG_CONFIG={rel}/.config', 'savedefconfig']):
                subprocess.run(argv + args, cwd=self.tree.path, check=True)
            done = subprocess.run(['scripts/kconfig/merge_config.sh', '-O', rel,
                                   f'{rel}/defconfig', frag], cwd=self.tree.path, check=True,
                                  capture_output=True, text=True)
            self.assertIn('Value requested for CONFIG_NETCONSOLE not in final', done.stdout)
            with open(os.path.join(out, '.config'), encoding='utf-8') as inf:
                conf = inf.read()
            for line in ('CONFIG_TARGET_ANVIL=y', 'CONFIG_LTO=y', '# CONFIG_NET is not set'):
                self.assertIn(line + '\n', conf)
        shutil.rmtree(out)

    def test_oldconfig(self) -> None:
        """Edited settings survive, and impossible ones are dropped."""
        self.make('sandbox_defconfig')
        with open(os.path.join(self.out, '.config'), 'a', encoding='utf-8') as outf:
            outf.write('CONFIG_BOOTDELAY=9\nCONFIG_ARM64=y\nCONFIG_NO_SUCH=y\n')
        self.assertEqual(0, self.make('oldconfig').returncode)
        conf = self.read('.config')
        self.assertIn('CONFIG_BOOTDELAY=9\n', conf)
        self.assertNotIn('ARM64', conf)
        self.assertNotIn('NO_SUCH', conf)

    def test_savedefconfig(self) -> None:
        """What is saved gives the same configuration again."""
        for target in self.tree.targets:
            self.make(f'{target}_defconfig')
            conf = self.read('.config')
            self.make('savedefconfig')
            name = f'saved_{target}'
            path = os.path.join(self.tree.path, 'configs', f'{name}_defconfig')
            shutil.copy(os.path.join(self.out, 'defconfig'), path)
            self.addCleanup(os.remove, path)
            self.make(f'{name}_defconfig')
            self.assertEqual(conf, self.read('.config'))

    def test_broken(self) -> None:
        """A missing or a broken defconfig or Kconfig says so."""
        out = self.make('none_defconfig')
        self.assertEqual(2, out.returncode)
        self.assertIn('Can\'t find default configuration "configs/none_defconfig"', out.stderr)
        path = os.path.join(self.tree.path, 'configs', 'odd_defconfig')
        with open(path, 'w', encoding='utf-8') as outf:
            outf.write('CONFIG_SANDBOX=y\nthis is not a setting\n')
        self.addCleanup(os.remove, path)
        out = self.make('odd_defconfig')
        self.assertEqual(0, out.returncode)
        self.assertIn('odd_defconfig:2:warning: unexpected data: this is', out.stderr)
        with open(os.path.join(self.tree.path, 'Kconfig'), 'a', encoding='utf-8') as outf:
            outf.write('source "no/such/file"\n')
        out = self.make('sandbox_defconfig')
        self.assertEqual(2, out.returncode)
        self.assertIn('can\'t open file "no/such/file"', out.stderr)

    def test_config_after_failure(self) -> None:
        """A folder whose configuration failed is as it was, not half written."""
        self.assertEqual(2, self.make().returncode)
        self.assertFalse(os.path.exists(os.path.join(self.out, '.config')))


class TestKnobs(MakeCase):
    """Each way to misbehave does what README promises."""

    def knob(self, *lines: str) -> Dict[str, str]:
        """Write knobs for sandbox outside the tree; return the environment."""
        folder = os.path.join(self.out, 'knobs')
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, 'sandbox'), 'w', encoding='utf-8') as outf:
            outf.write('\n'.join(lines) + '\n')
        return {'SAMPLE_KNOBS': folder}

    def run_knob(self, *lines: str) -> 'subprocess.CompletedProcess[str]':
        """Build sandbox with these knobs."""
        env = self.knob(*lines)
        out = self.make('sandbox_defconfig', env=env)
        return out if out.returncode else self.make(env=env)

    def test_text(self) -> None:
        """fail, warn, say and show print where they should."""
        out = self.run_knob('say hello you', 'show SAMPLE_KNOBS', 'warn careful')
        self.assertEqual(0, out.returncode)
        self.assertEqual(f'hello you\nSAMPLE_KNOBS={self.out}/knobs\n', out.stdout)
        self.assertEqual('knobs.c:1:1: warning: careful\n', out.stderr)
        out = self.run_knob('fail no good')
        self.assertEqual(2, out.returncode)
        self.assertIn('error: no good', out.stderr)

    def test_config_stage(self) -> None:
        """A knob for the configuration leaves the build alone."""
        out = self.run_knob('config fail not today')
        self.assertEqual(2, out.returncode)
        self.assertRegex(out.stderr, r'\[.*: sandbox_defconfig\] Error 1')

    def test_noise(self) -> None:
        """noise fills both pipes with as much as asked."""
        out = self.run_knob('noise 300')
        self.assertEqual([300 * 1024] * 2, [len(out.stdout), len(out.stderr)])

    def test_files(self) -> None:
        """need, flaky and signal look at files and make them."""
        path = os.path.join(self.out, 'mark')
        self.assertEqual(2, self.run_knob(f'need {path}').returncode)
        self.assertEqual(2, self.run_knob(f'flaky {path}').returncode)
        self.assertEqual(0, self.run_knob(f'flaky {path}', f'need {path}').returncode)
        self.assertEqual(0, self.run_knob(f'signal {path}.two').returncode)
        self.assertTrue(os.path.exists(path + '.two'))

    def test_wait(self) -> None:
        """A build can be held at a point and let go."""
        one, two = (os.path.join(self.out, name) for name in ('here', 'go'))
        env = self.knob(f'signal {one}', f'wait {two}')
        self.make('sandbox_defconfig', env=env)
        with subprocess.Popen(['make', '-s', f'O={self.out}'], cwd=self.tree.path,
                              env=dict(os.environ, **env)) as proc:
            support.wait_for(one)
            self.assertIsNone(proc.poll())
            with open(two, 'w', encoding='utf-8'):
                pass
            self.assertEqual(0, proc.wait(support.TIMEOUT))

    def test_hang(self) -> None:
        """A hang holds the pipes by a grandchild, as real ones do; the deaf
        kind needs SIGKILL."""
        for kind in ('', ' deaf'):
            here = os.path.join(self.out, 'here' + kind.strip())
            env = self.knob(f'signal {here}', f'hang{kind}')
            env[support.MARK] = f'hang-{os.getpid()}'
            self.make('sandbox_defconfig', env=env)
            with subprocess.Popen(['make', '-s', f'O={self.out}'], cwd=self.tree.path,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                  env=dict(os.environ, **env),
                                  start_new_session=True) as proc:
                support.wait_for(here)
                self.wait_for_sleep(env[support.MARK])
                self.assertIsNone(proc.poll())
                os.killpg(proc.pid, 15 if not kind else 9)
                proc.wait(support.TIMEOUT)
            support.assert_no_processes(env[support.MARK])

    def wait_for_sleep(self, marker: str) -> None:
        """Wait until the child that holds the pipes is there."""
        support.wait_until(lambda: any(text.startswith('sleep 1000000') for text in
                                       support.marked_processes(marker).values()))

    def test_leftover(self) -> None:
        """orphan ends the build and leaves a child; assert_no_processes finds it
        and ends it."""
        for knob in ('orphan', 'escape'):
            env = self.knob(knob)
            env[support.MARK] = f'orphan-{os.getpid()}'
            self.make('sandbox_defconfig', env=env)
            proc = subprocess.run(['make', '-s', f'O={self.out}'], cwd=self.tree.path,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                  env=dict(os.environ, **env), timeout=support.TIMEOUT,
                                  check=False)
            self.assertEqual(0, proc.returncode)
            with self.assertRaisesRegex(AssertionError, 'sleep 1000000'):
                support.assert_no_processes(env[support.MARK], within=0)
            support.assert_no_processes(env[support.MARK])

    def test_kill(self) -> None:
        """kill ends a step, killmake the make above it, by a signal."""
        out = self.run_knob('kill KILL')
        self.assertEqual(2, out.returncode)
        self.assertRegex(out.stderr, r'knobs\] Killed')
        out = self.run_knob('killmake KILL')
        self.assertEqual(2, out.returncode)
        self.assertRegex(out.stderr, r'sub-make\] Killed')

    def test_stale(self) -> None:
        """An output folder can be left so that only a new configuration, or
        only cleaning, helps."""
        self.assertEqual(0, self.run_knob('stale').returncode)
        out = self.make()
        self.assertEqual(2, out.returncode)
        self.assertIn('left by the build before', out.stderr)
        self.assertEqual('ok', self.build(self.board('sandbox')))
        self.assertEqual(0, self.run_knob('stale mrproper').returncode)
        self.assertEqual('fail', self.build(self.board('sandbox')))
        self.make('mrproper')
        self.assertEqual('ok', self.build(self.board('sandbox')))

    def test_in_the_tree(self) -> None:
        """Knobs that are committed travel to other machines."""
        tree = sample.make_sample(os.path.join(self.out, 'tree'), boards=1, commits=2,
                                  knobs={(1, 'sandbox'): ['fail'], (2, 'sandbox'): []})
        self.assertEqual(['ok', 'fail', 'ok'],
                         [tree.expected[index, 'sandbox'] for index in range(3)])
        for index, commit in enumerate(tree.commits):
            self.checkout(commit, tree)
            self.assertEqual(tree.expected[index, 'sandbox'],
                             self.build(tree.boards[0], tree=tree))
