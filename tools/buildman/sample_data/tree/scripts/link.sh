#!/bin/sh
# SPDX-License-Identifier: GPL-2.0+
# Usage: link.sh IMAGE ARCHIVE...: link when an archive is newer than IMAGE
out=$1
shift
lds=$srctree/scripts/u-boot.lds
for file in "$@" "$lds"; do
	if [ ! -e "$out" ] || [ "$file" -nt "$out" ]; then
		[ "$KBUILD_VERBOSE" = 1 ] && set -x
		exec "${LD}" -nostdlib -static -z noexecstack -T "$lds" -Map "$out.map" \
			-o "$out" --whole-archive "$@"
	fi
done
