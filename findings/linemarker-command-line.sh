#!/bin/sh
# SPDX-License-Identifier: GPL-2.0+
#
# A file of the command line has another name in preprocessed text than in the list of files
#
# Common guess: the files that a compiler lists for make (-MD) are those that its
# preprocessed text (-E) says it entered, by the same names; so one can be checked
# against the other.
#
# What happens: of a file that -include names by a relative path, the list has that path,
# and the text has `./` before it. Files that are included by the source have the same
# name in both, relative or not. gcc and clang agree in that. Linux and U-Boot have each
# source include one that way (-include ../include/linux/kconfig.h), so none of their
# texts has the files of its list.
#
# Seen with: gcc 12.2.0 (cpp-12 12.2.0-14+deb12u1 of Debian 12) and clang 18.1 (wheel
# ziglang 0.13.0 of PyPI), on amd64.
# Source: found by comparing the two for all objects of a board.
#
# Exit status 0: as described; 1: it behaves otherwise now; 2: cannot be tried here.

set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
cannot() { cat err >&2; echo "cannot get $1" >&2; exit 2; }
apt-get -qq download "cpp-12=${CPP_DEB_VERSION:-12.2.0-14+deb12u1}" 2>err || cannot 'cpp-12'
dpkg -x cpp-12_*.deb .
python3 -m pip download -q --no-deps ziglang==0.13.0 >/dev/null 2>err || cannot 'ziglang 0.13.0'
python3 -m zipfile -e ziglang-*.whl zig
chmod +x zig/ziglang/zig
gcc() { "$dir/usr/bin/x86_64-linux-gnu-cpp-12" -B "$dir/usr/lib/gcc/x86_64-linux-gnu/12" "$@"; }
clang() { HOME=$dir "$dir/zig/ziglang/zig" clang -E "$@"; }

echo 'int option;' > option.h
echo 'int other;' > other.h
echo '#include "other.h"' > source.c
mkdir build
cd build
for compiler in gcc clang; do
    $compiler -nostdinc -include ../option.h -MD -MF list -MT x ../source.c > text
    listed=$(grep -o '[./]*option.h' list) entered=$(grep -o '[./]*option.h' text | sort -u)
    echo "$compiler: listed as $listed, entered as $entered"
    test "$listed $entered" = '../option.h ./../option.h' &&
        test "$(grep -o '[./]*other.h' list text | sort -u)" = 'list:../other.h
text:../other.h' || { echo "it behaves otherwise now" >&2; exit 1; }
done
echo "as described"
