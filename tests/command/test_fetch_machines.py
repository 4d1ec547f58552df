# SPDX-License-Identifier: GPL-2.0+
"""--machines-fetch-arch: compilers arrive on machines that have nothing of ours."""

import os
import platform
import shutil
import subprocess
import tempfile
import unittest

from support import command

from buildman import bsettings, machine
from buildman.remote import fleet, ssh
from tests.unit.toolchains.test_download import Mirror


class TestFetchMachines(unittest.TestCase):
    """A machine with a home folder of its own, and a mirror in a folder"""

    def setUp(self):
        temp = tempfile.TemporaryDirectory()
        self.addCleanup(temp.cleanup)
        self.addCleanup(bsettings.setup, None)
        self.home = os.path.join(temp.name, 'home')
        self.mirror = Mirror(os.path.join(temp.name, 'mirror'))
        for folder in (self.home, self.mirror.folder):
            os.mkdir(folder)
        self.host = platform.machine()
        if self.host not in ('x86_64', 'aarch64'):
            self.skipTest(f'kernel.org has no compilers that run on {self.host}')
        self.tree = 'x86_64' if self.host == 'x86_64' else 'arm64'
        bsettings.setup(None)
        bsettings.add_file(
            f'[toolchain-fetch]\nurl = {self.mirror.file_url}\n'
            '[machines]\nbox = box.example\n[machine:box]\n'
            f'transport = {shutil.which("env")} HOME={self.home} sh -c\n')
        self.machine = machine.MachinePool().machines[0]

    def fetch(self, *archs):
        """Have compilers fetched on the machine"""
        fleet.fetch_there(self.machine, list(archs))

    def test_fetch(self):
        """The compiler is unpacked below the home folder there, and then found"""
        self.mirror.add('13.2.0', 'xtensa-linux', host=self.tree)
        self.fetch('xtensa')
        gcc = os.path.join(self.home, '.buildman-toolchains/gcc-13.2.0-nolibc/xtensa-linux/bin',
                           'xtensa-linux-gcc')
        self.assertTrue(os.access(gcc, os.X_OK))
        # Nothing else is left there, no configuration above all
        self.assertEqual(os.listdir(self.home), ['.buildman-toolchains'])
        missing = self.machine.find_toolchains(*machine.compiler_spec(['xtensa'], {}))
        self.assertEqual(missing, set())
        self.assertEqual(self.machine.toolchains['xtensa'], gcc)

    def test_missing(self):
        """An arch that the mirror lacks is named, with the machine"""
        self.mirror.add('13.2.0', 'xtensa-linux', host=self.tree)
        with self.assertRaisesRegex(ssh.RemoteError, "box.example: .*'?nosuch"):
            self.fetch('nosuch')
        self.assertEqual(os.listdir(self.home), [])

    def test_command(self):
        """--fetch-arch of the command itself: here, and written to the configuration"""
        self.mirror.add('13.2.0', 'xtensa-linux', host=self.tree)
        config = os.path.join(self.home, 'config')
        with open(config, 'w', encoding='utf-8') as outf:
            outf.write(f'[toolchain-fetch]\nurl = {self.mirror.file_url}\n')
        for words, text in ((['list'], 'xtensa'), (['xtensa'], 'Downloading')):
            done = subprocess.run(
                [*command(), '-G', config, '--fetch-arch', *words], capture_output=True,
                text=True, check=False, env={**os.environ, 'HOME': self.home})
            self.assertEqual((done.returncode, done.stderr), (0, ''), done.stdout)
            self.assertIn(text, done.stdout)
        with open(config, encoding='utf-8') as inf:
            self.assertIn('.buildman-toolchains', inf.read())
