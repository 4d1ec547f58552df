#!/bin/sh
# SPDX-License-Identifier: GPL-2.0+
#
# nm that is told the format of an LTO object lists none of its symbols, with status 0
#
# Common guess: `nm --target=elf64-x86-64 FILE` is `nm FILE` for a file of that format,
# only that nm need not find the format out. And nm fails where it cannot do its work.
#
# What happens: objects of gcc -flto have their symbols in a form that only gcc's plugin
# can read. nm tries its plugins as if they were formats; so with --target it tries none,
# lists __gnu_lto_slim and nothing else, says so on stderr at most, and exits with 0.
#
# Seen with: binutils 2.40 of Debian 12 (2.40-2), with gcc 12.2.0, on amd64.
# Source: nm(1) says of --target no more than that it is the format.
#
# Exit status 0: as described; 1: it behaves otherwise now; 2: cannot be tried here.

set -eu
version=${BINUTILS_DEB_VERSION:-2.40-2}
plugin=$(gcc -print-file-name=liblto_plugin.so 2>/dev/null) && [ -e "$plugin" ] || {
    echo "needs gcc with its plugin" >&2; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
apt-get -qq download "binutils-x86-64-linux-gnu=$version" "libbinutils=$version" \
    "libctf0=$version" "libctf-nobfd0=$version" "libgprofng0=$version" 2>err || {
    cat err >&2; echo "cannot get binutils $version" >&2; exit 2; }
for deb in *.deb; do dpkg -x "$deb" root; done
mkdir -p root/usr/lib/bfd-plugins
ln -s "$plugin" root/usr/lib/bfd-plugins/
export LD_LIBRARY_PATH="$dir/root/usr/lib/x86_64-linux-gnu"
nm=$dir/root/usr/bin/x86_64-linux-gnu-nm
$nm --version | sed -n 1p
echo 'int f(int x) { return x; }' | gcc -O2 -flto -x c -c -o a.o -
echo "nm:"
$nm a.o | tee plain
echo "nm --target=elf64-x86-64:"
$nm --target=elf64-x86-64 a.o 2>&1 | tee told
$nm --target=elf64-x86-64 a.o >/dev/null 2>&1 && status=0 || status=$?
echo "exit status $status"
if grep -q ' T f$' plain && ! grep -q ' T f$' told && [ $status = 0 ]; then
    echo "as described"
else
    echo "it behaves otherwise now" >&2
    exit 1
fi
