#!/bin/sh
# SPDX-License-Identifier: GPL-2.0+
#
# git -c core.hooksPath=/dev/null runs hooks, those that are in the configuration
#
# Common guess: with core.hooksPath at a place without hooks, no hook runs. Scripts and
# tools that work in repositories of others say so for years.
#
# What happens: since 2.54 a hook can be a command in any configuration file
# (hook.NAME.command, hook.NAME.event), and core.hooksPath has no say in those. A command
# in ~/.gitconfig then runs in each repository, and if it fails on reference-transaction,
# `git update-ref` does, or even `git init`. What switches such hooks off is
# hook.EVENT.enabled=false, for each event, or not to read that configuration.
#
# Seen with: git 2.55.0 of Debian sid (1:2.55.0-1), on amd64; 2.39.5 knows no such hooks.
# Source: git-hook(1) describes both ways, and not that one does not know of the other.
#
# Exit status 0: as described; 1: it behaves otherwise now; 2: cannot be tried here.

set -eu
version=${GIT_DEB_VERSION:-1:2.55.0-1}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
cannot() { cat err >&2; echo "cannot get git $version" >&2; exit 2; }
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' |
    head -n 1)
[ -n "$mirror" ] || { echo "apt has no mirror of Debian here (apt-get update?)" >&2; exit 2; }
mkdir -p apt/lists/partial apt/archives/partial
: > apt/status
echo "deb $mirror sid main" > apt/sources
cat > apt/config <<END
Dir::Etc::SourceList "$dir/apt/sources";
Dir::Etc::SourceParts "/dev/null";
Dir::State "$dir/apt";
Dir::State::Status "$dir/apt/status";
Dir::Cache "$dir/apt";
APT::Sandbox::User "";
Acquire::Languages "none";
END
export APT_CONFIG="$dir/apt/config"
apt-get -qq update 2>err || cannot
apt-get -qq download "git=$version" libc6 zlib1g libpcre2-8-0 2>err || cannot
for deb in *.deb; do dpkg -x "$deb" root; done
libs=$dir/root/usr/lib/x86_64-linux-gnu
# With its own C library
git() { "$libs/ld-linux-x86-64.so.2" --library-path "$libs" "$dir/root/usr/bin/git" "$@"; }
export GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL="$dir/gitconfig"
git --version

git init -q --template= repo
cd repo
tree=$(git hash-object -w -t tree --stdin </dev/null)
commit=$(git -c user.name=A -c user.email=a@example.com commit-tree -m one "$tree")
cat > "$GIT_CONFIG_GLOBAL" <<'END'
[hook "mine"]
	command = "echo 'a hook ran' >&2; false"
	event = reference-transaction
END
# try NAME OPTION...: makes a ref; says how that went
try() {
    name=$1
    shift
    if git "$@" update-ref "refs/heads/$name" "$commit" 2>../err; then
        echo "git $* update-ref: done"
        result="$result done"
    else
        echo "git $* update-ref: $(sed -n 1p ../err)"
        result="$result refused"
    fi
}
result=
try a -c core.hooksPath=/dev/null
try b -c core.hooksPath=/dev/null -c hook.reference-transaction.enabled=false
case $result in
' refused done') echo "as described" ;;
*) echo "it behaves otherwise now" >&2; exit 1 ;;
esac
