#!/bin/sh
# SPDX-License-Identifier: GPL-2.0+
# Usage: filechk.sh FILE: replace FILE by what stdin holds, unless it is the
# same already, so that what depends on it is not built again.
set -e
dir=${1%/*}
[ -d "$dir" ] || mkdir -p "$dir"
cat > "$1.tmp"
if cmp -s "$1" "$1.tmp"; then
	rm -f "$1.tmp"
else
	mv -f "$1.tmp" "$1"
fi
