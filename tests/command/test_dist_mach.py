# SPDX-License-Identifier: GPL-2.0+
"""--mach, and a push that the environment tries to lead elsewhere."""

from typing import Any, ClassVar, Dict

from dist_support import DistCase, read


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
               'GIT_QUARANTINE_PATH': '/nonexistent/objects', 'GIT_LITERAL_PATHSPECS': '1',
               'GIT_SSH_COMMAND': 'false', 'GIT_SSH': 'false',
               # And from a make
               'KBUILD_SRC': '/nonexistent', 'KBUILD_OUTPUT': '/nonexistent'}
        done = self.dist('--no-local', '--boards', 'anvil', env=env)
        self.assertEqual(0, done.returncode, done)
        self.assertEqual({'alpha'}, set(self.hosts().values()))
        ref, _ = self.local('--boards', 'anvil')
        self.assert_same(ref)
        here = self.run_buildman('-b', 'feature', '-o', self.out('here'), '--boards', 'anvil',
                                 env=env)
        self.assertEqual(0, here.returncode, here)
        self.assert_same(ref, self.out('here/feature'))

    def test_more_than_any_machine(self) -> None:
        """A number without sense in the configuration is bounded before anything is made of it"""
        self.machines('alpha', alpha='max_boards = 100000000')
        done = self.dist('--no-local', '--boards', 'anvil', '-c', '1')
        self.assertEqual(0, done.returncode, done)
        self.assertRegex(done.stdout, r'(?m)^\[alpha\] builds \d+ boards at a time, not 100000000$')
        self.assertIn('"num_threads": 1}', read(self.results(), 'worker-alpha.log'))
