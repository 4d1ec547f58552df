#!/bin/sh
# SPDX-License-Identifier: GPL-2.0+
#
# sshd shuts an address out, keys that it knows included, after four logins with unknown ones
#
# Common guess: a login with a wrong key fails, and that is all; a script may try a key on
# each account of a host while others log in from the same address.
#
# What happens: from OpenSSH 9.8 on each such login adds five seconds to what its address
# is to be punished with, and past fifteen sshd drops all connections from there, before a
# word is said, as long as the sum runs: after the fourth login of a moment for some 19
# seconds. What ssh tells is "kex_exchange_identification: read: Connection reset by peer",
# the same as where MaxStartups is reached, which is over half a second later. A connection
# that says nothing (is the port open?) counts for a second; a login as a user that is
# locked or not there for none.
#
# Seen with: OpenSSH 10.0p1 of Debian 13 (1:10.0p1-7+deb13u4), on amd64; 9.2p1 of Debian 12
# does not do it.
# Source: PerSourcePenalties in sshd_config(5) has the numbers; not what the client sees.
#
# Exit status 0: as described; 1: it behaves otherwise now; 2: cannot be tried here.

set -eu
version=${SSH_DEB_VERSION:-1:10.0p1-7+deb13u4}
dir=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || kill $pid; rm -rf "$dir"' EXIT
cd "$dir"
cannot() { cat err >&2; echo "cannot get OpenSSH $version" >&2; exit 2; }
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' |
    head -n 1)
[ -n "$mirror" ] || { echo "apt has no mirror of Debian here (apt-get update?)" >&2; exit 2; }
mkdir -p apt/lists/partial apt/archives/partial
: > apt/status
echo "deb $mirror trixie main" > apt/sources
cat > apt/config <<END
Dir::Etc::SourceList "$dir/apt/sources";
Dir::Etc::SourceParts "/dev/null";
Dir::State "$dir/apt";
Dir::State::Status "$dir/apt/status";
Dir::Cache "$dir/apt";
APT::Sandbox::User "";
APT::Install-Recommends "0";
Acquire::Languages "none";
END
export APT_CONFIG="$dir/apt/config"
apt-get -qq update 2>err || cannot
# With all libraries, its own C library included
apt-get -qq --yes --download-only install "openssh-server=$version" "openssh-client=$version" \
    2>err || cannot
for deb in apt/archives/*.deb; do dpkg -x "$deb" root; done
libs=$dir/root/usr/lib/x86_64-linux-gnu
# program PATH OPTION...: makes a script that runs one of its programs
program() {
    name=$(basename "$1")
    printf '#!/bin/sh\nexec "%s" --library-path "%s" --argv0 "%s" "%s" "$@"\n' \
        "$libs/ld-linux-x86-64.so.2" "$libs" "$dir/$name" "$dir/root/usr/$1" > "$name"
    chmod +x "$name"
}
program sbin/sshd
program lib/openssh/sshd-session
program lib/openssh/sshd-auth
program bin/ssh
program bin/ssh-keygen
./ssh-keygen -q -t ed25519 -N '' -f host
./ssh-keygen -q -t ed25519 -N '' -f unknown
cat > try.py <<'END'
import os
import pwd
import socket
import subprocess
import sys
import time

here = os.getcwd()
user, other = os.getuid(), {}
if user == 0:
    # As root sshd wants a user and a folder of its own
    user = pwd.getpwnam('nobody').pw_uid
    other = {'user': user, 'extra_groups': []}
    os.chmod(here, 0o777)
    os.chown('host', user, -1)
with socket.socket() as sock:
    sock.bind(('127.0.0.1', 0))
    port = sock.getsockname()[1]
with open('config', 'w') as out:
    out.write(f'Port {port}\nListenAddress 127.0.0.1\nHostKey {here}/host\nPidFile none\n'
              f'SshdSessionPath {here}/sshd-session\nSshdAuthPath {here}/sshd-auth\n'
              'StrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n'
              # So that it looks at no password, and takes no account for locked
              'UsePAM yes\n')
sshd = subprocess.Popen([f'{here}/sshd', '-D', '-f', f'{here}/config', '-E', f'{here}/log'], **other)

def spoken_to():
    """Return whether sshd says a word to who connects"""
    with socket.create_connection(('127.0.0.1', port), 10) as sock:
        try:
            return sock.recv(4) == b'SSH-'
        except ConnectionResetError:
            return False

try:
    for _ in range(500):
        try:
            if spoken_to():
                break
        except OSError:
            time.sleep(0.02)
    else:
        sys.exit(2)
    # That one had said nothing: a second's penalty, which counts as well
    time.sleep(1.5)
    for logins in range(1, 10):
        subprocess.run(['./ssh', '-F', 'none', '-p', str(port), '-i', 'unknown', '-o',
                        'IdentitiesOnly=yes', '-o', 'StrictHostKeyChecking=no', '-o',
                        'UserKnownHostsFile=/dev/null', '-o', 'BatchMode=yes',
                        f'{pwd.getpwuid(user).pw_name}@127.0.0.1', 'true'],
                       stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.2)
        if logins >= 3 and not spoken_to():
            break
    begun = time.monotonic()
    while not spoken_to():
        time.sleep(0.5)
    print(logins, round(time.monotonic() - begun))
finally:
    sshd.kill()
END
said=$(timeout 120 python3 try.py) || { cat log >&2; echo "sshd does not run here" >&2; exit 2; }
./ssh -V
echo "logins with an unknown key until nobody is let in, and seconds until then: $said"
case $said in
'4 '1[5-9] | '4 '2[0-3]) echo "as described" ;;
*) echo "it behaves otherwise now" >&2; exit 1 ;;
esac
