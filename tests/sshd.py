# SPDX-License-Identifier: GPL-2.0+
"""A real sshd on 127.0.0.1 with several machines behind it, for tests.

As root: each machine is a system user of its own, made for the test and removed
after it. As anybody else: each machine is a key whose forced command has a
home folder of its own. Run as a program it prints a configuration for buildman
and keeps the server until its input ends:

    tests/sshd.py > /tmp/config      (Ctrl-D ends it)
"""

import atexit
import contextlib
import getpass
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import support

START_SECONDS = 20      # for sshd to listen
_USER = re.compile(r'bmt(\d+)x\d+\Z')

# Carries out what the client asks for, in another home folder
_FORCED = ('#!/bin/sh\nHOME={home}\nexport HOME\ncd\n'
           'exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"\n')


def missing():
    """Return what is missing for a real sshd, '' when it can be had."""
    if not find_sshd():
        return 'sshd is not installed (package openssh-server)'
    for name in ('ssh', 'ssh-keygen'):
        if not shutil.which(name):
            return f'{name} is not installed (package openssh-client)'
    if os.getuid() == 0 and not shutil.which('useradd'):
        return 'useradd is not installed (package passwd)'
    return ''


def find_sshd():
    """Return the full path of sshd, which insists on being called by it."""
    return shutil.which('sshd', path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def penalizes():
    """Return whether sshd punishes addresses (PerSourcePenalties): from OpenSSH 9.8 on."""
    # It reads its options before it looks at the rest
    said = subprocess.run([find_sshd(), '-T', '-f', '/dev/null', '-o', 'PerSourcePenalties=yes'],
                          check=False, capture_output=True, text=True, errors='replace').stderr
    return 'Bad configuration option' not in said


def require():
    """Skip a test loudly where there is no sshd; fail it where CI is set."""
    why = missing()
    if why:
        support.skip(f'not tested over a real sshd: {why}')


class Sshd:
    """The server and its machines; use it as a context manager.

    Attributes:
        port: that it listens on
        names: of the machines: m1, m2, …
        users: user of each
        homes: home folder of each
    """

    def __init__(self, machines=3, max_startups='100', banner='', login_noise='',
                 key_options='', forwarding='no', settings=()):
        """Set up; start() does the rest.

        Args:
            machines: number of them
            max_startups: MaxStartups of sshd_config
            banner: text shown before each login, by sshd
            login_noise: what the login shell prints on each command (root only)
            key_options: what stands before each key in authorized_keys
            forwarding: AllowTcpForwarding of sshd_config
            settings: further lines of it
        """
        self.count = machines
        self.max_startups = max_startups
        self.banner = banner
        self.login_noise = login_noise
        self.key_options = key_options
        self.forwarding = forwarding
        self.settings = settings
        self.port = 0
        self.names = [f'm{num + 1}' for num in range(machines)]
        self.users = []
        self.homes = []
        self.dir = ''
        self._proc = None
        self._made = []

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *args):
        self.stop()

    # -- set-up ------------------------------------------------------------

    def start(self):
        """Make the users and keys, and start the server."""
        self.dir = tempfile.mkdtemp(prefix='bm-sshd-')
        atexit.register(self.stop)
        try:
            os.chmod(self.dir, 0o755)
            for name in ['host', *self.names]:
                subprocess.run(['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-C', name,
                                '-f', self.path(name)], check=True, stdin=subprocess.DEVNULL)
            if os.getuid() == 0:
                self._remove_stale_users()
                os.makedirs('/run/sshd', mode=0o755, exist_ok=True)
            for num, name in enumerate(self.names):
                self._add_machine(num, name)
            self._serve()
        except BaseException:
            self.stop()
            raise

    def path(self, *names):
        """Return a path in the server's folder."""
        return os.path.join(self.dir, *names)

    def _public(self, name):
        with open(self.path(f'{name}.pub'), encoding='utf-8') as inf:
            return inf.read()

    def _add_machine(self, num, name):
        home = self.path('homes', name)
        os.makedirs(home)
        self.homes.append(home)
        if os.getuid() == 0:
            user = f'bmt{os.getpid() % 1000000}x{num + 1}'
            shell = '/bin/sh'
            if self.login_noise:
                shell = self.path('noisy-shell')
                with open(shell, 'w', encoding='utf-8') as outf:
                    outf.write(f'#!/bin/sh\necho "{self.login_noise}"\nexec /bin/sh "$@"\n')
                os.chmod(shell, 0o755)
            # '*' as password: none fits, but the account is not locked
            subprocess.run(['useradd', '-M', '-d', home, '-s', shell, '-p', '*', user],
                           check=True, capture_output=True)
            self._made.append(user)
            os.chown(home, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)
            line = f'{self.key_options} {self._public(name)}'.lstrip()
        else:
            user = getpass.getuser()
            script = self.path(f'{name}.sh')
            with open(script, 'w', encoding='utf-8') as outf:
                outf.write(_FORCED.format(home=home))
            os.chmod(script, 0o755)
            restrict = 'restrict,' if 'restrict' in self.key_options else ''
            line = f'{restrict}command="{script}" {self._public(name)}'
        self.users.append(user)
        with open(self.path(f'keys-{user}'), 'a', encoding='utf-8') as outf:
            outf.write(line)

    def _remove_stale_users(self):
        """Remove users of earlier runs that were killed."""
        for entry in pwd.getpwall():
            found = _USER.match(entry.pw_name)
            if found and not os.path.isdir(f'/proc/{found.group(1)}'):
                self._remove_user(entry.pw_name)

    def _serve(self):
        with socket.socket() as sock:
            sock.bind(('127.0.0.1', 0))
            self.port = sock.getsockname()[1]
        config = [f'Port {self.port}', 'ListenAddress 127.0.0.1', f'HostKey {self.path("host")}',
                  'PidFile none', 'StrictModes no', 'UsePAM no', 'PasswordAuthentication no',
                  'KbdInteractiveAuthentication no', f'AuthorizedKeysFile {self.path("keys-%u")}',
                  f'MaxStartups {self.max_startups}', 'MaxSessions 100', 'PrintMotd no',
                  'LogLevel VERBOSE', 'UseDNS no', f'AllowTcpForwarding {self.forwarding}',
                  *self.settings]
        if self.banner:
            with open(self.path('banner'), 'w', encoding='utf-8') as outf:
                outf.write(self.banner)
            config.append(f'Banner {self.path("banner")}')
        with open(self.path('sshd_config'), 'w', encoding='utf-8') as outf:
            outf.write('\n'.join(config) + '\n')
        self._proc = subprocess.Popen(
            [find_sshd(), '-D', '-f', self.path('sshd_config'), '-E', self.path('sshd.log')],
            stdin=subprocess.DEVNULL, start_new_session=True)
        end = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(OSError), \
                    socket.create_connection(('127.0.0.1', self.port), timeout=5):
                return
            if self._proc.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f'sshd does not start: {self.log()}')
            time.sleep(.02)

    def log(self):
        """Return what sshd wrote to its log."""
        try:
            with open(self.path('sshd.log'), encoding='utf-8', errors='replace') as inf:
                return inf.read()
        except OSError:
            return ''

    # -- what tests use ----------------------------------------------------

    def hostname(self, num):
        """Return `user@host` of a machine, counted from 0."""
        return f'{self.users[num]}@127.0.0.1'

    def options(self, num):
        """Return the ssh options for a machine as words for a shell."""
        return (f'-F none -p {self.port} -i {self.path(self.names[num])} -o IdentitiesOnly=yes '
                f'-o UserKnownHostsFile={self.path("known_hosts")}')

    def config(self, **extra):
        """Return the sections of buildman's configuration for the machines.

        Args:
            extra: keys for each machine, e.g. max_boards=2
        """
        extra = {'max_load': 0, **extra}
        lines = ['[machines]']
        lines += [f'{name} = {self.hostname(num)}' for num, name in enumerate(self.names)]
        for num, name in enumerate(self.names):
            lines += [f'[machine:{name}]', f'ssh_options = {self.options(num)}']
            lines += [f'{key} = {val}' for key, val in extra.items()]
        return '\n'.join(lines) + '\n'

    def processes(self, num):
        """Return the pids of a machine: of its user, or with its home folder."""
        out = []
        root = os.getuid() == 0
        uid = pwd.getpwnam(self.users[num]).pw_uid
        home = f'HOME={self.homes[num]}'.encode()
        for name in os.listdir('/proc'):
            with contextlib.suppress(OSError):
                if not name.isdigit() or os.stat(f'/proc/{name}').st_uid != uid:
                    continue
                if not root:
                    with open(f'/proc/{name}/environ', 'rb') as inf:
                        if home not in inf.read().split(b'\0'):
                            continue
                out.append(int(name))
        return out

    # -- the end -----------------------------------------------------------

    def stop(self):
        """End the server, its connections and its users; harmless the second time."""
        atexit.unregister(self.stop)
        if self._proc is not None:
            # Its children have sessions of their own
            below = _descendants(self._proc.pid)
            for pid in [self._proc.pid, *below]:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            self._proc.wait()
            self._proc = None
        for user in self._made:
            self._remove_user(user)
        self._made = []
        if self.dir:
            shutil.rmtree(self.dir, ignore_errors=True)

    @staticmethod
    def _remove_user(user):
        """Remove a user that a test made, with all of its processes."""
        uid = pwd.getpwnam(user).pw_uid
        for _ in range(100):
            left = False
            for name in os.listdir('/proc'):
                with contextlib.suppress(OSError):
                    if name.isdigit() and os.stat(f'/proc/{name}').st_uid == uid:
                        os.kill(int(name), signal.SIGKILL)
                        left = True
            if not left:
                break
            time.sleep(.02)
        subprocess.run(['userdel', user], check=False, capture_output=True)


def _descendants(root):
    """Return all processes below one."""
    parents = {}
    for name in os.listdir('/proc'):
        if name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError), \
                    open(f'/proc/{name}/stat', encoding='utf-8', errors='replace') as inf:
                parents[int(name)] = int(inf.read().rpartition(')')[2].split()[1])
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found[1:]


def main():
    """Serve until the end of input."""
    why = missing()
    if why:
        sys.exit(f'sshd.py: {why}')
    with Sshd() as server:
        print(server.config(), end='', flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            sys.stdin.read()


if __name__ == '__main__':
    main()
