# SPDX-License-Identifier: GPL-2.0+
"""FAULT 31: machines that may not start what a build needs give no verdict on the source."""

from __future__ import annotations

import os
import pwd
import shlex
from typing import Any, ClassVar, Dict

import support
from dist_support import DistCase, joblog, read


def threads_of(user: int) -> int:
    """Return how many threads a user has"""
    count = 0
    for name in os.listdir('/proc'):
        try:
            if name.isdigit() and os.stat(f'/proc/{name}').st_uid == user:
                count += len(os.listdir(f'/proc/{name}/task'))
        except OSError:
            continue
    return count


class TestProcesses(DistCase):
    """Few processes: `ulimit -u`, for a user that is not root"""

    sample_args: ClassVar[Dict[str, Any]] = {'boards': 2, 'commits': 1}

    def limit(self, name: str, most: int) -> None:
        """Let a machine have that many processes"""
        support.needs('prlimit', 'setpriv')
        words = ['prlimit', f'--nproc={most}:{most}', 'sh', '-c']
        if os.getuid():
            words[1] = f'--nproc={most + threads_of(os.getuid())}'
        else:
            # root has no limit
            user = pwd.getpwnam('nobody')
            for path in (self.base, self.tmp, self.toolchains,
                         os.path.join(self.toolchains, 'bin'), os.path.dirname(self.work_dir('x'))):
                os.chmod(path, 0o755)
            home = self.work_dir(name)
            os.makedirs(home, exist_ok=True)
            os.chown(home, user.pw_uid, user.pw_gid)
            words = ['setpriv', '--reuid=nobody', f'--regid={user.pw_gid}', '--clear-groups', 'env',
                     f'HOME={home}', f"PATH=/usr/local/bin:/usr/bin:/bin:{os.environ['PATH']}",
                     *words]
        self.ways[name] = shlex.join(words)

    def test_none(self) -> None:
        """Where no build can run, the machine is not used, and told why"""
        self.limit('beta', 12)
        self.machines('alpha', 'beta')
        ref, status = self.local()
        done = self.dist('--no-local')
        self.assertEqual(status, done.returncode, done)
        self.assert_same(ref)
        self.assertEqual({'alpha'}, set(self.hosts().values()))
        self.assertRegex(read(self.results(), 'worker-beta.log'),
                         r'it cannot start what a build needs: \d+ more processes can be started, '
                         r'as ulimit -u is \d+')

    def test_few(self) -> None:
        """Where only some can run, no more do, and what comes out is right"""
        self.limit('beta', 29)
        self.machines('beta', beta='max_boards = 4')
        ref, status = self.local()
        done = self.dist('--no-local')
        self.assertEqual(status, done.returncode, done)
        self.assert_same(ref)
        self.assertRegex(done.stdout, r'(?m)^\[beta\] .*boards are built [12] at a time: \d+ more '
                                      r'processes can be started, as ulimit -u is \d+$')


class TestStarved(DistCase):
    """Processes that run out in the middle of a build"""

    sample_args: ClassVar[Dict[str, Any]] = {'boards': 4, 'commits': 1}

    def test_not_named_at_the_end(self) -> None:
        """A shell cannot fork when a board is configured; the error that comes of it names nothing
        """
        self.wrap_make('beta', 'case "$*" in *_defconfig*) echo "/bin/sh: 1: Cannot fork" >&2;; '
                               '*O=*) echo "awk: cannot open \\"x.h\\"" >&2; exit 2;; esac')
        # The good one builds when the other one has failed
        log = os.path.join(self.results(), 'joblog')
        self.wrap_make('alpha', f'case "$*" in *O=*) until grep -q beta.*infra {log}; do '
                                'sleep 0.05; done;; esac')
        self.machines('alpha', 'beta')
        ref, status = self.local()
        done = self.dist('--no-local')
        self.assertEqual(status, done.returncode, done)
        self.assert_same(ref)
        self.assertEqual({'alpha'}, set(self.hosts().values()))
        self.assertRegex(done.stdout, r"(?m)^\[beta\] '\w+' failed as no more processes can be "
                                      r'started; tried again$')
        self.assertEqual({'infra'}, {job['status'] for job in joblog(self.results())
                                     if job['machine'] == 'beta'})
