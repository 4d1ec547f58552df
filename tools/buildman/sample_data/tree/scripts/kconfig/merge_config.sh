#!/bin/sh
# SPDX-License-Identifier: GPL-2.0+
# Usage: merge_config.sh CONFIG FRAGMENT: let FRAGMENT's settings take the
# place of those in CONFIG, telling what is redefined.
set -e
config=$1
frag=$2
echo "Using $config as base"
echo "Merging $frag"
cp "$config" "$config.merge"
for sym in $(sed -n -e 's/^\(CONFIG_[A-Za-z0-9_]*\)=.*/\1/p' \
		-e 's/^# \(CONFIG_[A-Za-z0-9_]*\) is not set$/\1/p' "$frag"); do
	old=$(grep -w "$sym" "$config.merge" || true)
	new=$(grep -w "$sym" "$frag")
	if [ -n "$old" ] && [ "$old" != "$new" ]; then
		echo "Value of $sym is redefined by fragment $frag:"
		echo "Previous value: $old"
		echo "New value: $new"
		echo
	fi
	grep -vw "$sym" "$config.merge" > "$config.rest" || true
	mv "$config.rest" "$config.merge"
done
cat "$frag" >> "$config.merge"
mv "$config.merge" "$config"
