#!/bin/sh
# SPDX-License-Identifier: GPL-2.0+
# Usage: link.sh IMAGE OBJECT...: link when an object is newer than IMAGE
out=$1
shift
lds=$srctree/scripts/u-boot.lds
for file in "$@" "$lds"; do
	if [ ! -e "$out" ] || [ "$file" -nt "$out" ]; then
		# A wrapper such as ccache makes LD two words
		# shellcheck disable=SC2086
		set -- $LD -nostdlib -static -z noexecstack -T "$lds" -Map "$out.map" \
			-o "$out" "$@"
		[ "$KBUILD_VERBOSE" != 1 ] || echo "$@"
		exec "$@"
	fi
done
