# SPDX-License-Identifier: GPL-2.0+
"""--mach, and a push that the environment tries to lead elsewhere."""

from typing import Any, ClassVar, Dict

from dist_support import DistCase


class TestMach(DistCase):
    """What a user sees of the machines before building on them"""

    names = ('alpha', 'beta')
    sample_args: ClassVar[Dict[str, Any]] = {'boards': 3, 'commits': 1}

    def test_table(self) -> None:
        """A row for each machine, its tools and compilers; the status says that all are good"""
        self.machines('alpha', 'beta')
        done = self.run_buildman('--mach')
        self.assertEqual((0, ''), (done.returncode, done.stderr), done)
        for name in self.names:
            self.assertRegex(done.stdout, rf'(?m)^ *{name} .* OK ')
            self.assertRegex(done.stdout, rf'(?m)^ *{name}: tools: .*python3 \d.*git \d.*make \d')
            self.assertRegex(done.stdout, rf'(?m)^ *{name}: work folder: .*MiB')
            self.assertRegex(done.stdout, rf'(?m)^ *{name}: toolchain sandbox: /')

    def test_bad_machine(self) -> None:
        """One that cannot be used is shown with the reason, and the status says so"""
        self.ways['beta'] = 'false'
        self.machines('alpha', 'beta')
        done = self.run_buildman('--mach')
        self.assertEqual(1, done.returncode, done)
        self.assertRegex(done.stdout, r'(?m)^ *alpha .* OK ')
        self.assertNotRegex(done.stdout, r'(?m)^ *beta .* OK ')
        done = self.run_buildman('--kill-workers')
        self.assertEqual(1, done.returncode, done)
        self.assertRegex(done.stdout, r'\Aalpha: no workers\nbeta: .*beta')

    def test_no_machines(self) -> None:
        """Without machines, one line that says how to name some"""
        self.machines()
        for flags in (['--mach'], ['--kill-workers'], ['-b', 'feature', '--dist']):
            done = self.run_buildman(*flags)
            self.assertEqual(2, done.returncode, done)
            self.assertRegex(done.stderr, r'\Abuildman: .*\[machines\].*\n\Z')

    def test_git_variables(self) -> None:
        """Called from a git hook, or with another ssh for git, the push still arrives"""
        self.machines('alpha')
        env = {'GIT_DIR': '/nonexistent', 'GIT_INDEX_FILE': '/nonexistent/index',
               'GIT_SSH_COMMAND': 'false', 'GIT_SSH': 'false'}
        done = self.dist('--no-local', '--boards', 'anvil', env=env)
        self.assertEqual(0, done.returncode, done)
        self.assertEqual({'alpha'}, set(self.hosts().values()))
