#!/bin/sh
# SPDX-License-Identifier: GPL-2.0+
#
# objdump -h and readelf -S tell different sizes of a compressed section
#
# Common guess: both print the size that the section header has, and that is what the
# section takes in the file. So the sum of what objdump -h tells, or the distance
# from one offset to the next, is the size of the file's contents.
#
# What happens: for a section with SHF_COMPRESSED readelf -S prints what the file has, and
# objdump -h the size after it was expanded, with no sign of that before binutils 2.44
# (which adds COMPRESSED to its flags). Offsets are those of the file in both, so in objdump's
# table a section reaches into the next ones.
#
# Seen with: binutils 2.40 of Debian 12 (2.40-2), on amd64.
# Source: objdump(1) and readelf(1) say nothing of it; found by comparing both on an image
# with compressed debug information.
#
# Exit status 0: as described; 1: it behaves otherwise now; 2: cannot be tried here.

set -eu
version=${BINUTILS_DEB_VERSION:-2.40-2}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
apt-get -qq download "binutils-x86-64-linux-gnu=$version" "libbinutils=$version" \
    "libctf0=$version" "libctf-nobfd0=$version" "libgprofng0=$version" 2>err || {
    cat err >&2; echo "cannot get binutils $version" >&2; exit 2; }
for deb in *.deb; do dpkg -x "$deb" root; done
export LD_LIBRARY_PATH="$dir/root/usr/lib/x86_64-linux-gnu"
tools=$dir/root/usr/bin/x86_64-linux-gnu
$tools-objdump --version | sed -n 1p
printf '.section .debug_str,"",@progbits\n.space 4096\n' > a.s
$tools-as --compress-debug-sections=zlib -o a.o a.s
shown=$($tools-objdump -h a.o | awk '$2 == ".debug_str" { print $3 }')
stored=$($tools-readelf -SW a.o | awk '{ sub(/.*\] /, "") } $1 == ".debug_str" { print $5 }')
flags=$($tools-objdump -h a.o | grep -A1 ' .debug_str ' | tail -n 1)
echo "objdump -h: $((0x$shown)) bytes,$(echo "$flags" | tr -s ' ')"
echo "readelf -S: $((0x$stored)) bytes"
echo "the file: $(wc -c < a.o) bytes"
case "$((0x$shown)):$flags" in
4096:*COMPRESSED*) echo "objdump tells of it now" >&2; exit 1 ;;
4096:*) [ $((0x$stored)) -lt 100 ] && { echo "as described"; exit 0; } ;;
esac
echo "it behaves otherwise now" >&2
exit 1
