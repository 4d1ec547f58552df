#!/bin/sh
# SPDX-License-Identifier: GPL-2.0+
#
# Usage: binman.sh ALLOW_MISSING BLOB [FOLDER...]
#
# Puts u-boot.bin and a blob together, and behaves as U-Boot's binman does when it
# is called with --allow-missing --fake-ext-blobs: a blob that is nowhere is made up
# and told of; if ALLOW_MISSING is '' (no --ignore-missing), the exit status is 103.
allow=$1
blob=$2
shift 2
found=
for file in ${BL31:+"$BL31"} "$blob" "$srctree/$blob" "$@"; do
	[ ! -d "$file" ] || file=$file/$blob
	if [ -f "$file" ]; then
		found=$file
		break
	fi
done
cat u-boot.bin ${found:+"$found"} > u-boot-with-blob.bin
[ -z "$found" ] || exit 0

cat >&2 << EOF
Image 'u-boot-with-blob' is missing external blobs and is non-functional: atf-bl31

/binman/u-boot-with-blob/fit/images/atf/atf-bl31 ($blob):
   The sample's boards have firmware of their own, which nobody has ever seen.
   Take any file, and build with BL31=/path/to/$blob

Image 'u-boot-with-blob' has faked external blobs and is non-functional: $blob

Some images are invalid
EOF
[ -n "$allow" ] || exit 103
