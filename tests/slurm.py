# SPDX-License-Identifier: GPL-2.0+
"""A real Slurm on this machine, with several nodes that are all this one, for tests.

Run as a program it prints a configuration for buildman and keeps Slurm until its input
ends; SLURM_CONF has to be set as it says:

    tests/slurm.py > /tmp/config      (Ctrl-D ends it)
"""

import atexit
import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import support

START_SECONDS = 30      # for all nodes to be idle

CONFIG = '''ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/munge
AuthInfo=socket={dir}/munge
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={dir}/state
SlurmdSpoolDir={dir}/spool-%n
SlurmctldPidFile={dir}/slurmctld.pid
SlurmdPidFile={dir}/slurmd-%n.pid
SlurmctldLogFile={dir}/slurmctld.log
SlurmdLogFile={dir}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
# Nodes may have more processors than there are
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=2
UnkillableStepTimeout=60
MinJobAge=5
'''


def missing():
    """Return what is missing for a real Slurm, '' when it can be had."""
    for name, package in (('slurmctld', 'slurmctld'), ('slurmd', 'slurmd'), ('munged', 'munge'),
                          ('srun', 'slurm-client')):
        if not find(name):
            return f'{name} is not installed (package {package})'
    return ''


def find(name):
    """Return the path of a program, None when it is not installed."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def require():
    """Skip a test loudly where there is no Slurm; fail it where CI is set."""
    why = missing()
    if why:
        support.skip(f'not tested with a real Slurm: {why}')


class Slurm:
    """slurmctld, munged and the nodes; use it as a context manager.

    Attributes:
        conf: for SLURM_CONF
        env: this process's environment, with it
    """

    def __init__(self, nodes=3, cpus=4):
        """Set up; start() does the rest.

        Args:
            nodes: number of them: n1, n2, …
            cpus: processors that each says to have
        """
        self.count = nodes
        self.cpus = cpus
        self.dir = ''
        self.conf = ''
        self.env = {}
        self._procs = {}

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *args):
        self.stop()

    def start(self):
        """Start all; returns when all nodes are idle."""
        self.dir = tempfile.mkdtemp(prefix='bm-slurm-')
        os.chmod(self.dir, 0o755)
        atexit.register(self.stop)
        host = socket.gethostname().partition('.')[0]
        with contextlib.ExitStack() as stack:
            socks = [stack.enter_context(socket.socket()) for _ in range(self.count + 1)]
            for sock in socks:
                sock.bind(('127.0.0.1', 0))
            ports = [sock.getsockname()[1] for sock in socks]
        text = CONFIG.format(dir=self.dir, host=host, ports=ports, user=getpass.getuser())
        for num, port in enumerate(ports[1:], 1):
            text += (f'NodeName=n{num} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} '
                     f'CPUs={self.cpus} RealMemory=1000 State=UNKNOWN\n')
        text += 'PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP\n'
        self.conf = os.path.join(self.dir, 'slurm.conf')
        with open(self.conf, 'w', encoding='utf-8') as out:
            out.write(text)
        self.env = {**os.environ, 'SLURM_CONF': self.conf}
        key = os.path.join(self.dir, 'munge.key')
        with open(os.open(key, os.O_CREAT | os.O_WRONLY, 0o600), 'wb') as out:
            out.write(os.urandom(128))
        self._start('munged', '--foreground', '--force', f'--key-file={key}',
                    f'--socket={self.dir}/munge', f'--pid-file={self.dir}/munge.pid',
                    f'--log-file={self.dir}/munge.log', f'--seed-file={self.dir}/munge.seed')
        self._wait(lambda: os.path.exists(f'{self.dir}/munge'))
        self.start_controller()
        for num in range(1, self.count + 1):
            self._start('slurmd', '-D', '-N', f'n{num}')
        self._wait(lambda: self.run('sinfo', '-h', '-o', '%D %T').strip() == f'{self.count} idle')

    def start_controller(self):
        """Start slurmctld."""
        self._start('slurmctld', '-D')

    def stop_controller(self):
        """End slurmctld."""
        proc = self._procs.pop(('slurmctld', '-D'))
        proc.terminate()
        proc.wait()

    def _start(self, name, *args):
        self._procs[(name, *args)] = subprocess.Popen(
            [find(name), *args], env=self.env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True)

    def _wait(self, what):
        end = time.monotonic() + START_SECONDS
        while not what():
            if time.monotonic() > end or any(proc.poll() is not None
                                             for proc in self._procs.values()):
                raise RuntimeError(f'Slurm does not start: {self.log()}')
            time.sleep(.05)

    def log(self):
        """Return what the daemons wrote to their logs."""
        out = ''
        for name in sorted(os.listdir(self.dir)):
            if name.endswith('.log'):
                with open(os.path.join(self.dir, name), encoding='utf-8', errors='replace') as inf:
                    out += f'{name}:\n{inf.read()}'
        return out

    def run(self, *words):
        """Return what a command of Slurm's prints, '' when it fails."""
        return subprocess.run(words, env=self.env, stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, check=False).stdout

    def queue(self):
        """Return number, name, state and node of each job that is not through."""
        return [line.split('|') for line in
                self.run('squeue', '-h', '-o', '%i|%j|%T|%N').splitlines()]

    def config(self, **extra):
        """Return the sections of buildman's configuration, with a supply called `farm`.

        Args:
            extra: further keys of it
        """
        lines = ['[machines]', 'farm', '[machine:farm]', 'supply = slurm', f'cpus = {self.cpus}']
        return '\n'.join([*lines, *(f'{key} = {val}' for key, val in extra.items())]) + '\n'

    def stop(self):
        """End all; harmless the second time."""
        atexit.unregister(self.stop)
        if self._procs:
            self.run('scancel', '--user', getpass.getuser())
        # Nodes last: they end what runs there
        for _, proc in sorted(self._procs.items(), key=lambda item: item[0][0] == 'slurmd'):
            proc.terminate()
        for proc in self._procs.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                proc.wait(10)
            with contextlib.suppress(OSError):
                os.killpg(proc.pid, signal.SIGKILL)
            proc.wait()
        self._procs = {}
        if self.dir:
            shutil.rmtree(self.dir, ignore_errors=True)


def main():
    """Serve until the end of input."""
    why = missing()
    if why:
        sys.exit(f'slurm.py: {why}')
    with Slurm() as server:
        print(f'# export SLURM_CONF={server.conf}\n{server.config(count=server.count)}', end='',
              flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            sys.stdin.read()


if __name__ == '__main__':
    main()
