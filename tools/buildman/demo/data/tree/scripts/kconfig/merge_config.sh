#!/bin/sh
# SPDX-License-Identifier: GPL-2.0+
#
# Usage: merge_config.sh [-m] [-O FOLDER] CONFIG FRAGMENT...
#
# Lets the settings of each FRAGMENT take the place of those in CONFIG, telling
# what is redefined. With -m the result becomes .config as it is; without, make
# adds the defaults and what did not survive that is told.
merge_only=
out=.
while :; do
	case $1 in
	-m)	merge_only=1
		shift ;;
	-O)	out=$2
		shift 2 ;;
	*)	break ;;
	esac
done
config=${KCONFIG_CONFIG:-$out/.config}
base=$1
shift
for file in "$base" "$@"; do
	if [ ! -r "$file" ]; then
		echo "The file '$file' does not exist.  Exit." >&2
		exit 1
	fi
done

# Names of the symbols that a file sets, turned off ones too
symbols() {
	sed -n -e 's/^\(CONFIG_[A-Za-z0-9_]*\)=.*/\1/p' \
		-e 's/^# \(CONFIG_[A-Za-z0-9_]*\) is not set$/\1/p' "$1"
}

tmp=$(mktemp ./.tmp.config.XXXXXXXXXX)
trap 'rm -f "$tmp" "$tmp.rest"' EXIT
echo "Using $base as base"
cat "$base" > "$tmp"
for frag in "$@"; do
	echo "Merging $frag"
	for sym in $(symbols "$frag"); do
		old=$(grep -w "$sym" "$tmp")
		new=$(grep -w "$sym" "$frag")
		if [ -n "$old" ] && [ "$old" != "$new" ]; then
			echo "Value of $sym is redefined by fragment $frag:"
			echo "Previous value: $old"
			echo "New value: $new"
			echo
		fi
		grep -vw "$sym" "$tmp" > "$tmp.rest"
		mv "$tmp.rest" "$tmp"
	done
	cat "$frag" >> "$tmp"
done

if [ -n "$merge_only" ]; then
	cp "$tmp" "$config"
	exit
fi
if [ "$out" = . ]; then
	make KCONFIG_ALLCONFIG="$tmp" alldefconfig || exit 1
else
	make KCONFIG_ALLCONFIG="$tmp" O="$out" alldefconfig || exit 1
fi
for sym in $(symbols "$tmp"); do
	want=$(grep -w "$sym" "$tmp")
	got=$(grep -w "$sym" "$config")
	if [ "$want" != "$got" ]; then
		echo "Value requested for $sym not in final .config"
		echo "Requested value:  $want"
		echo "Actual value:     $got"
		echo
	fi
done
