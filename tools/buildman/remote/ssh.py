# SPDX-License-Identifier: GPL-2.0+
"""How a shell command gets to a machine: ssh, a shell here, or any other command.

The only file that spells `ssh`. A `Transport` knows the argv of a remote
command and what git needs for a push; `Transport.run()` carries one out, with
a deadline, and says in one line what went wrong.
"""

from __future__ import annotations

import base64
import functools
import itertools
import os
import random
import re
import shlex
import subprocess
import zlib
from typing import Callable, Dict, List, Optional, Sequence, Tuple

from buildman.core.errors import BuildmanError, UsageError
from buildman.process import commands
from buildman.process.registry import Stopped
from buildman.wire import fields

CONNECT_TIMEOUT = 10            # seconds, ssh's own
# BatchMode: never ask; a key that is new is taken, one that changed is not.
# ServerAlive: a cut network is noticed after 45 seconds. Nothing is forwarded,
# whatever the user's ssh_config says: a machine could use the agent for itself.
SSH_OPTS = ['-o', f'ConnectTimeout={CONNECT_TIMEOUT}', '-o', 'BatchMode=yes',
            '-o', 'StrictHostKeyChecking=accept-new', '-o', 'ServerAliveInterval=15',
            '-o', 'ServerAliveCountMax=3', '-o', 'ClearAllForwardings=yes',
            '-o', 'ForwardAgent=no', '-o', 'ForwardX11=no', '-o', 'RequestTTY=no']

# Seconds before each new try of a connection that sshd turned away
RETRY_DELAYS = (0.3, 0.6, 1.2, 2.5, 5.0, 8.0, 12.0)
# And after these, where it has refused logins: sshd (from OpenSSH 9.8 on) then drops
# all connections from this address, 5 seconds for each login, from 15 seconds on
PENALTY_DELAYS = (15.0, 15.0, 15.0, 15.0)

# What a far-side script of ours writes to stderr: `bm-problem KIND what`
PROBLEM = 'bm-problem'
# Between what a login shell prints and git's own words
PUSH_MARK = 'BUILDMAN-PUSH'

_HOST = re.compile(r'(?:[A-Za-z0-9_][A-Za-z0-9_.+-]*@)?[A-Za-z0-9_:\[][A-Za-z0-9_.:%\[\]-]*\Z')
_NAME = re.compile(r'[A-Za-z0-9_][A-Za-z0-9_.@:+-]{0,99}\Z')

# What ssh and the programs there say, what kind of failure it is, and how we
# put it. The first that matches counts.
_SAYINGS: Tuple[Tuple[str, str, str], ...] = (
    (r'REMOTE HOST IDENTIFICATION HAS CHANGED', 'host-key',
     'its host key has changed; if that is right, run: ssh-keygen -R {bare}'),
    (r'Host key verification failed|host key is known', 'host-key',
     'its host key is not known; run: ssh {host} true'),
    (r'Could not resolve hostname|Name or service not known|nodename nor servname', 'unknown-host',
     'no such host; see [machines] in the configuration'),
    (r'connect to .*Connection refused', 'refused',
     'connection refused; is sshd running there?'),
    (r'connect to .*(?:timed out|No route to host|unreachable|Host is down)|banner exchange.*time',
     'unreachable', 'not reachable; is it up and connected?'),
    (r'kex_exchange_identification|ssh_exchange_identification|Connection reset by .* port \d+'
     r'|Connection closed by .* port \d+|banner exchange|connect to .*reset by peer', 'turned-away',
     'its sshd turned the connection away (MaxStartups?)'),
    (r'Permission denied \([a-z,-]+\)|Too many authentication failures', 'denied',
     'permission denied; put your public key into its ~/.ssh/authorized_keys'),
    (r'Bad configuration option|unknown option|Bad owner or permissions|command-line line \d+:',
     'options', 'ssh does not take its options: {line}'),
    (r'closed by remote host|not responding|Broken pipe|client_loop', 'cut',
     'the connection was cut'),
    (r'No space left on device|Disk quota exceeded', 'no-space', 'no space left on its disk'),
    (r'python3?: (?:command )?not found|python3: No such file', 'no-python',
     'python3 is not installed there; buildman needs 3.9 or later'),
    (r'git(?:-receive-pack)?: (?:command )?not found|git(?:-receive-pack)?\W?: No such file',
     'no-git', 'git is not installed there'),
    (r'Read-only file system', 'not-writable', 'its home folder is not writable: {line}'),
)
_SAYINGS_RE = tuple((re.compile(regex), kind, text) for regex, kind, text in _SAYINGS)


class RemoteError(BuildmanError):
    """A command on a machine failed; the message names the machine and the way out.

    Attributes:
        host: the machine
        kind: 'refused', 'unreachable', 'unknown-host', 'host-key', 'denied',
            'turned-away', 'penalized', 'options', 'cut', 'no-python', 'old-python', 'no-git',
            'no-make', 'no-space', 'not-writable', 'no-exec', 'no-processes',
            'timeout', 'stopped', 'no-command' or 'failed'
        stdout: what it printed
    """

    def __init__(self, host: str, kind: str, text: str, stdout: str = '') -> None:
        super().__init__(f'{host}: {text}')
        self.host = host
        self.kind = kind
        self.text = text
        self.stdout = stdout


def check_hostname(hostname: str) -> str:
    """Return a host name, or `user@host`, that is fit for a command line.

    Raises:
        UsageError: it is empty, begins with '-', or has blanks or characters
            that mean something to a shell
    """
    if not _HOST.match(hostname):
        raise UsageError(f'{hostname!r} in [machines] is not a host name; use letters, digits '
                         "and '.-_:', with 'user@' before if need be")
    return hostname


def check_name(name: str) -> str:
    """Return a machine's name, which becomes part of file names.

    Raises:
        UsageError: it is empty or has other characters than a name may have
    """
    if not _NAME.match(name):
        raise UsageError(f"{name!r} in [machines] is not a name; use letters, digits and '.-_'")
    return name


@functools.lru_cache(maxsize=8)
def _packed(source: bytes) -> str:
    """Return a program in the form in which it travels; the same for all machines."""
    return base64.b64encode(zlib.compress(source, 9)).decode()


def python_command(source: bytes, args: Sequence[str] = ()) -> str:
    """Return a remote command that runs Python source without installing it.

    The command works under any login shell. It fails with a `bm-problem` line
    when python3 is missing or too old. What is installed beside the standard
    library is not looked for, as that may take longer than all the rest.

    Args:
        source: program of standard library only; sees `args` in sys.argv[1:]
        args: its arguments
    """
    text = _packed(source)
    # Readable by any Python 3, so that an old one can say so
    boot = (f"import sys;v=sys.version_info[:2];v<(3,9) and sys.exit('{PROBLEM} old-python "
            "python3 there is %d.%d; buildman needs 3.9 or later'%v);import base64,zlib;"
            f"exec(compile(zlib.decompress(base64.b64decode('{text}')),'buildman','exec'))")
    words = ' '.join(shlex.quote(word) for word in ['-c', boot, *args])
    script = (f'command -v python3 >/dev/null 2>&1 || {{ echo "{PROBLEM} no-python python3 is not '
              f'installed there; buildman needs 3.9 or later" >&2; exit 1; }}; '
              f'exec python3 -I -S {words}')
    return 'exec sh -c ' + shlex.quote(script)


def explain(host: str, answer: commands.Answer, doing: str = '') -> RemoteError:
    """Return the error that says in one line why a command failed.

    Args:
        host: the machine
        answer: what the process said
        doing: what the command was for, e.g. 'git push'
    """
    lines = [fields.harmless(line.strip(), 500) for line in answer.stderr.splitlines()
             if line.strip()]
    for line in lines:
        if line.startswith(PROBLEM + ' '):
            words = line.split(' ', 2)
            if len(words) == 3:
                return RemoteError(host, words[1], words[2], answer.stdout)
    last = lines[-1][:300] if lines else ''
    # Of the machine, not of the account, in `user@host`
    bare = host.rpartition('@')[2]
    for regex, kind, text in _SAYINGS_RE:
        for line in lines:
            if regex.search(line):
                if kind == 'turned-away' and answer.stdout:
                    # It had begun: not for sure safe to do again
                    kind, text = 'cut', 'the connection was cut'
                said = text.format(host=host, bare=bare, line=line[:300])
                return RemoteError(host, kind, said, answer.stdout)
    what = doing or 'the command there'
    # nologin(8) says there why it does not let anybody in
    printed = [fields.harmless(line.strip(), 100) for line in answer.stdout.splitlines()
               if line.strip()]
    said = last or (f"it printed {repr(printed[-1]) if printed else 'nothing'}, "
                    f'exit status {answer.returncode}')
    return RemoteError(host, 'failed', f'{what} failed: {said}', answer.stdout)


# Host -> way to it by which a login was refused in this run -> what was said
_REFUSED: Dict[str, Dict[Tuple[str, ...], RemoteError]] = {}


class Transport:
    """The way to one machine. This base class is ssh.

    Attributes:
        hostname: host or `user@host`
        options: extra words for ssh
    """

    kind = 'ssh'

    def __init__(self, hostname: str, options: Sequence[str] = ()) -> None:
        self.hostname = check_hostname(hostname)
        self.options = list(options)

    def __repr__(self) -> str:
        return f'<{self.kind} {self.hostname}>'

    def same_way(self, other: 'Transport') -> bool:
        """Return whether another one leads to the same place."""
        return self.argv('') == other.argv('')

    def argv(self, remote_cmd: str) -> List[str]:
        """Return the command that has the machine's shell run `remote_cmd`."""
        return ['ssh', *SSH_OPTS, *self.options, self.hostname, '--', remote_cmd]

    def _shell_argv(self) -> str:
        """Return shell text that runs `$2` on the machine, for git."""
        words = ['ssh', *SSH_OPTS, *self.options]
        return ' '.join(shlex.quote(word) for word in words) + ' "$1" "$2"'

    def push_url(self, git_dir: str) -> str:
        """Return what `git push` calls the repository."""
        user, at, host = self.hostname.rpartition('@')
        if ':' in host and not host.startswith('['):
            host = f'[{host}]'
        return f'{user}{at}{host}:{git_dir}'

    def git_ssh_command(self) -> str:
        """Return what git is to run instead of ssh (variant `simple`).

        Whatever a login shell prints by itself is taken out: git would take it
        for the answer of the other git.
        """
        run = self._shell_argv().replace('"$2"', f'"echo; echo {PUSH_MARK}; $2"')
        script = (f'{run} | {{ while IFS= read -r l; do [ "$l" = {PUSH_MARK} ] && exec cat; '
                  'done; exit 1; }')
        return f'sh -c {shlex.quote(script)} buildman-push'

    def git_env(self) -> Dict[str, str]:
        """Return the variables with which a push takes this way, whatever way the user has."""
        return {'GIT_SSH_COMMAND': self.git_ssh_command(), 'GIT_SSH_VARIANT': 'simple'}

    @property
    def _way(self) -> Tuple[str, ...]:
        """What leads to the same place by the same key"""
        return tuple(self.argv(''))

    @property
    def _bare(self) -> str:
        """The machine, of `user@host`"""
        return self.hostname.rpartition('@')[2]

    def explain(self, answer: commands.Answer, doing: str = '') -> RemoteError:
        """Return what explain() does, with what is known of that machine's sshd.

        A login that it refused is not tried again in this run.
        """
        exc = explain(self.hostname, answer, doing)
        if exc.kind == 'denied':
            _REFUSED.setdefault(self._bare, {})[self._way] = exc
        elif exc.kind == 'turned-away' and self._bare in _REFUSED:
            hosts = sorted({other.host for other in _REFUSED[self._bare].values()})
            return RemoteError(
                self.hostname, 'penalized', 'its sshd turned the connection away, as it may do for '
                'a while with all from this address (PerSourcePenalties) since it has refused the '
                f"key for {', '.join(hosts)}")
        return exc

    def run(self, remote_cmd: str, timeout: float, stdin: bytes = b'', doing: str = '',
            delays: Sequence[float] = RETRY_DELAYS) -> str:
        """Run a shell command on the machine and return what it prints.

        Args:
            remote_cmd: for the shell there
            timeout: seconds for each try
            stdin: what it reads
            doing: what it is for, in messages
            delays: seconds before each new try when sshd turns us away
        Raises:
            RemoteError: it failed
        """
        def attempt() -> str:
            if self._way in _REFUSED.get(self._bare, {}):
                # Each login with a key that it does not know counts against all from here
                raise _REFUSED[self._bare][self._way]
            try:
                answer = commands.run(self.argv(remote_cmd), timeout, stdin,
                                      account=commands.MACHINES)
            except subprocess.TimeoutExpired:
                raise RemoteError(self.hostname, 'timeout', f'{doing or "the command there"} '
                                  f'did not end within {timeout:g} seconds') from None
            except OSError as exc:
                raise RemoteError(self.hostname, 'no-command',
                                  f'{self.argv("")[0]} cannot be run: {exc.strerror}') from exc
            except Stopped:
                raise RemoteError(self.hostname, 'stopped', 'stopped') from None
            if commands.stopped():
                raise RemoteError(self.hostname, 'stopped', 'stopped')
            if answer.returncode:
                raise self.explain(answer, doing)
            return answer.stdout
        return with_retries(attempt, delays)


def with_retries(func: Callable[[], str], delays: Sequence[float] = RETRY_DELAYS) -> str:
    """Call a function again, later and later, while sshd turns connections away.

    sshd does so when more than MaxStartups clients connect at once; nothing
    has been run then. The delays are spread at random, so that the clients do
    not meet again.

    Raises:
        RemoteError: as `func` does
    """
    for tries in itertools.count():
        try:
            return func()
        except RemoteError as exc:
            delay = delay_before(exc.kind, tries, delays)
            if delay is None:
                raise
        if commands.wait_stopped(delay):
            break
    return func()


def delay_before(kind: str, tries: int,
                 delays: Sequence[float] = RETRY_DELAYS) -> Optional[float]:
    """Return the seconds before the next try of a connection, None when there is to be none.

    Args:
        kind: of the error
        tries: how many there were before the one that gave it
        delays: before each try
    """
    if kind == 'penalized' and delays:
        delays = (*delays, *PENALTY_DELAYS)
    elif kind != 'turned-away':
        return None
    return delays[tries] * (.5 + random.random()) if tries < len(delays) else None


class LocalTransport(Transport):
    """This machine, through a shell: for trying things without sshd."""

    kind = 'local'

    def argv(self, remote_cmd: str) -> List[str]:
        """Return the command that runs `remote_cmd` here."""
        return ['sh', '-c', remote_cmd]

    def _shell_argv(self) -> str:
        return 'sh -c "$2"'


class CommandTransport(Transport):
    """A command that takes a shell command as its last argument.

    For containers and batch systems: `docker exec -i NAME sh -c`.
    """

    kind = 'command'

    def __init__(self, hostname: str, command: str) -> None:
        super().__init__(hostname)
        try:
            self.command = shlex.split(command)
        except ValueError as exc:
            raise UsageError(f'transport of machine {hostname}: {exc}') from exc
        if not self.command:
            raise UsageError(f'transport of machine {hostname} is empty')

    def argv(self, remote_cmd: str) -> List[str]:
        """Return the configured command with `remote_cmd` at its end."""
        return [*self.command, remote_cmd]

    def _shell_argv(self) -> str:
        return ' '.join(shlex.quote(word) for word in self.command) + ' "$2"'


def make_transport(hostname: str, transport: str = '', ssh_options: str = '') -> Transport:
    """Return the way to a machine, from its section of the configuration.

    Args:
        hostname: host or `user@host`
        transport: 'ssh' or '' for ssh, 'local', or a command line
        ssh_options: words for ssh, as in a shell
    Raises:
        UsageError: one of them cannot be
    """
    if transport == 'local':
        return LocalTransport(hostname)
    if transport not in ('', 'ssh'):
        return CommandTransport(hostname, transport)
    try:
        words = shlex.split(ssh_options)
    except ValueError as exc:
        raise UsageError(f'ssh_options of machine {hostname}: {exc}') from exc
    if words and not words[0].startswith('-'):
        raise UsageError(f"ssh_options of machine {hostname} begin with '{words[0]}', "
                         "which is no option; they look like '-p 2222'")
    return Transport(hostname, [os.path.expanduser(word) for word in words])


_BY_NAME: Dict[str, Transport] = {}


def register(transport: Transport, name: str = '') -> None:
    """Make this the way to a machine for all who know no more than its name or host.

    Args:
        transport: the way
        name: name of the machine; its host is always registered, too
    """
    _BY_NAME[transport.hostname] = transport
    if name:
        _BY_NAME[name] = transport


def transport_for(hostname: str, name: str = '') -> Transport:
    """Return the way to a machine: as registered by name, by host, else plain ssh.

    Raises:
        UsageError: `hostname` is not a host name
    """
    found = _BY_NAME.get(name) if name else None
    if found is None or found.hostname != hostname:
        found = _BY_NAME.get(hostname)
    return found or Transport(hostname)


def forget_refused() -> None:
    """Begin a run: logins that were refused may be tried again."""
    _REFUSED.clear()


def run_once(hostname: str, remote_cmd: str, timeout: float, stdin: bytes = b'') -> str:
    """Run a shell command on a host; see Transport.run()."""
    return transport_for(hostname).run(remote_cmd, timeout, stdin)
