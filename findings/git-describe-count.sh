#!/bin/sh
# SPDX-License-Identifier: GPL-2.0+
#
# git describe counts a commit that its tag contains, when dates are out of order
#
# Common guess: the N of `git describe` (TAG-N-gHASH) is the number of commits that HEAD
# has and the tag has not, what `git rev-list --count TAG..HEAD` prints. Version texts
# of U-Boot and Linux (scripts/setlocalversion) are made of it.
#
# What happens: it walks by commit dates. A commit that is dated later than its child,
# as after a rebase, an import or on a machine with a wrong clock, is met before it is
# known to be in the tag, and counted. In the four commits below, where the root is
# newer than the tagged commit on top of it, describe says 3 and rev-list 2. So the
# number depends on what else is in the repository: the same commits in a shorter
# history (shallow, or without the older branches) may get another one.
#
# Seen with: git 2.39.5 of Debian 12 (1:2.39.5-0+deb12u3), on amd64.
# Source: git-describe(1) only says "number of additional commits on top of the tagged
# object"; found by comparing both commands on random histories.
#
# Exit status 0: as described; 1: it behaves otherwise now; 2: cannot be tried here.

set -eu
version=${GIT_DEB_VERSION:-1:2.39.5-0+deb12u3}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
apt-get -qq download "git=$version" 2>err || { cat err >&2; echo "cannot get git $version" >&2; exit 2; }
dpkg -x git_*.deb root
export PATH="$dir/root/usr/bin:$PATH" GIT_EXEC_PATH="$dir/root/usr/lib/git-core"
export GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null
git --version
git init -q --template= repo
cd repo

# commit NUMBER SECONDS [PARENT…]
commit() {
    num=$1 date=$((1600000000 + $2))
    shift 2
    echo "commit refs/heads/c$num"
    echo "mark :$num"
    echo "committer A <a@example.com> $date +0000"
    printf 'data 1\nx\n'
    word=from
    for up in "$@"; do
        echo "$word :$up"
        word=merge
    done
}
{
    commit 1 800                # the root, dated after the next two
    commit 2 200 1              # has the tag
    commit 3 700 2
    commit 4 1300 1 3           # HEAD: merges the root's line and the tag's
} | git fast-import --quiet
git -c user.name=A -c user.email=a@example.com tag -a -m release v1 c2

described=$(git describe c4)
counted=$(git rev-list --count v1..c4)
echo "git describe: $described"
echo "git rev-list --count v1..: $counted"
case "$described:$counted" in
v1-3-g*:2) echo "as described: one commit too many" ;;
*) echo "it behaves otherwise now" >&2; exit 1 ;;
esac
