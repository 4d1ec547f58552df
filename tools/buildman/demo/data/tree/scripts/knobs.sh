#!/bin/sh
# SPDX-License-Identifier: GPL-2.0+
#
# Usage: knobs.sh config|build|link|image [FILE...]
#
# Makes a build misbehave as the files say, one knob a line; a line that
# begins with 'config' is for the configuration step, one with 'link' or 'image' for
# before and after u-boot is linked, others are for the build.
# README lists the knobs.

stage=$1
shift
target=$(cat .target)

if [ -e .stale ] || [ -e .stale-mrproper ]; then
	if [ "$stage" = build ]; then
		echo "stale.h:1:2: error: #error left by the build before" >&2
		exit 1
	fi
fi

# One line of dots for each KiB
noise() {
	awk -v kib="$1" -v who="$target" 'BEGIN {
		line = who ": "
		while (length(line) < 1023)
			line = line "."
		for (i = 0; i < kib; i++)
			print line
	}'
}

turn() {
	knob=$1
	arg=$2
	case $knob in
	say)	echo "${arg:-$target: hello}" ;;
	show)	eval "echo \"$arg=\$$arg\"" ;;
	warn)	echo "knobs.c:1:1: warning: ${arg:-$target: knob}" >&2 ;;
	fail)	echo "knobs.c:1:1: error: ${arg:-$target: knob}" >&2
		exit 1 ;;
	need)	if [ ! -e "$arg" ]; then
			echo "knobs.c:1:10: fatal error: $arg: No such file or directory" >&2
			exit 1
		fi ;;
	flaky)	if [ ! -e "$arg" ]; then
			: > "$arg"
			echo "knobs.c:1:1: error: $target: first try" >&2
			exit 1
		fi ;;
	sleep)	sleep "$arg" ;;
	noise)	noise "$arg"
		noise "$arg" >&2 ;;
	signal)	echo $$ > "$arg.$$"
		mv "$arg.$$" "$arg" ;;
	wait)	while [ ! -e "$arg" ]; do
			sleep 0.05
		done ;;
	other)	case " $MAKEFLAGS" in
		*" -j1 "*) ;;
		*--jobserver-*)
			while [ ! -e "$arg" ]; do
				sleep 0.05
			done ;;
		esac ;;
	hang)	case $arg in
		deaf)	trap '' TERM INT HUP ;;
		esac
		sleep 1000000 &
		sleep 1000000
		while :; do sleep 1000000; done ;;
	orphan)	sleep "${arg:-1000000}" & ;;
	escape)	setsid sleep "${arg:-1000000}" & ;;
	kill)	kill -s "$arg" $$
		sleep 5 ;;
	killmake) kill -s "$arg" $PPID
		sleep 5 ;;
	stale)	: > ".stale${arg:+-$arg}" ;;
	*)	echo "knobs: unknown knob '$knob'" >&2
		exit 1 ;;
	esac
}

cat "$@" /dev/null | grep -v '^#' > .knobs.$$
exec 3< .knobs.$$
rm -f .knobs.$$
while read -r word rest <&3; do
	case $word in
	'')	continue ;;
	config|link|image)
		when=$word
		word=${rest%% *}
		case $rest in
		*\ *)	rest=${rest#* } ;;
		*)	rest= ;;
		esac ;;
	*)	when=build ;;
	esac
	if [ "$when" = "$stage" ]; then
		turn "$word" "$rest" 3<&-
	fi
done
