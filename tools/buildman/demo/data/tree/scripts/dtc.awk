# SPDX-License-Identifier: GPL-2.0+
# Stands in for the device tree compiler: copies the source without comments
# and complains, in dtc's words, of a node with an address but no 'reg'.
{ sub(/\/\/.*/, "") }
/\{[ \t]*$/ {
	name = $1
	depth++
	path[depth] = name == "/" ? "" : path[depth - 1] "/" name
	start[depth] = FNR "." (match($0, /[^ \t]/))
	reg[depth] = 0
}
/^[ \t]*reg[ \t]*=/ { reg[depth] = 1 }
/^[ \t]*\};/ {
	if (path[depth] ~ /@[^\/]*$/ && !reg[depth])
		printf "%s:%s-%d.%d: Warning (unit_address_vs_reg): %s: node has a unit name, but no reg or ranges property\n", \
			FILENAME, start[depth], FNR, length($0), path[depth] > "/dev/stderr"
	depth--
}
NF { print }
