# SPDX-License-Identifier: GPL-2.0+
"""A small tree whose builds note what they read, as those of U-Boot do.

What a build makes of each file shows in its result: `log` has a checksum of all that
went into it. As Kbuild does, it compiles what is older than something that was noted for it,
but all where the file that `made` names in the environment has one `.anew` beside it. Each
build adds a line `BOARD: SUBJECT` to the first.
"""

import os
import random
import subprocess

MAKEFILE = '''\
VERSION = 1
ifneq ($(made),)
export made
endif
all:
\t@mkdir -p $(O)/common $(O)/board/acme $(O)/tools $(O)/dts
\t@cd $(O) && sh ../scripts/build.sh $(wildcard board/acme/*.c)
%_defconfig:
\t@mkdir -p $(O)/include/generated $(O)/include/config
\t@$(CROSS_COMPILE)gcc -E -P -undef -nostdinc -x assembler-with-cpp configs/$@ > $(O)/.config
\t@echo 'CONFIG_SYS_ARCH="sandbox"' >> $(O)/.config
\t@echo $* > $(O)/include/board
\t@touch $(O)/include/generated/autoconf.h
olddefconfig savedefconfig cfg mrproper:
\t@true
'''

BUILD = '''\
set -e
note() {
    { echo "cmd_$1 := cc"; echo; echo "source_$1 := $2"; echo
      sed "s|^[^:]*:|deps_$1 :=|; s|include/generated/autoconf.h|include/config/all|" x.d
    } > "$(dirname "$1")/.$(basename "$1").cmd"
}
stale() {
    note="$(dirname "$1")/.$(basename "$1").cmd"
    [ -e "$1" ] && [ -e "$note" ] && [ ! -e "$made.anew" ] || return 0
    files=$(sed -n '3,$ { s/^[^ ]* := *//; s/\\\\$//; p }' "$note")
    [ -n "$(find -L $files -newer "$1" 2>&1)" ]
}
put() {
    cat > x
    cmp -s x "$1" || mv x "$1"
}
inc="-Iinclude -I../board/acme/include -I../include -I../arch/sandbox/include"
[ ! -L include/asm ] || rm include/asm
ln -s ../../arch/sandbox/include/asm include/asm
if stale tools/gen; then
    gcc -MD -MF x.d -I../include -o tools/gen ../tools/gen.c
    note tools/gen ../tools/gen.c
fi
tools/gen | put include/generated/gen.h
if [ -x ../scripts/extra.sh ]; then ../scripts/extra.sh; fi | put include/generated/extra.h
grep -h '^CONFIG_.*=y' .config | sed 's/^/#define /; s/=y/ 1/' > include/generated/autoconf.h
put include/config/all < include/generated/autoconf.h
objs=
for src in common/main.c "$@"; do
    obj="${src%.c}.o"
    if stale "$obj"; then
        gcc -c -Wall -MD -MF x.d $inc -include generated/autoconf.h -o "$obj" "../$src"
        note "$obj" "../$src"
        gcc -E -P $inc -include generated/autoconf.h "../$src" > "$obj.i"
    fi
    cksum < "$obj.i"
    objs="$objs $obj"
done
if stale dts/a.dtb; then
    gcc -E -P -nostdinc -undef -x assembler-with-cpp -MD -MF x.d -MT x -I../arch/sandbox/dts \\
        -o dts/a.dtb ../arch/sandbox/dts/a.dts
    note dts/a.dtb ../arch/sandbox/dts/a.dts
fi
cat dts/a.dtb .config include/generated/extra.h | cksum
gcc -nostdlib -nostartfiles -Wl,-e,main -Wl,--build-id=none -o u-boot $objs
[ -z "$made" ] || echo "$(cat include/board): $(git -C .. log -1 --format=%s)" >> "$made"
'''

FILES = {
    'Makefile': MAKEFILE, 'scripts/build.sh': BUILD, 'scripts/extra.sh': '#!/bin/sh\necho "// 1"\n',
    'configs/a_defconfig': 'CONFIG_A=y\n', 'configs/b_defconfig': '#include "a_defconfig"\n',
    'configs/c_defconfig': 'CONFIG_C=y\n', 'common/Kconfig': 'config A\n',
    'include/common.h': '#include <val.h>\n#include <asm/io.h>\n#include "link.h"\n#define X 1\n',
    'include/val.h': '#define VAL 3\n', 'include/real.h': '#define REAL 1\n',
    'include/real2.h': '#define REAL 2\n', 'include/link.h': '->real.h',
    'include/unused.h': '#define U 1\n', 'include/tool.h': '#define TOOL 1\n',
    'arch/sandbox/include/asm/io.h': '#define IO 1\n',
    'arch/sandbox/dts/a.dts': '#include "b.dtsi"\n',
    'arch/sandbox/dts/b.dtsi': 'a = <1>;\n', 'arch/sandbox/dts/c.dtsi': 'c = <1>;\n',
    'arch/arm/Makefile': '# arm\n', 'arch/arm/lib/a.c': 'int a;\n',
    'arch/arm/include/asm/dma.h': '#define DMA\n',
    'board/acme/acme.c': '#include <common.h>\nchar acme[X];\n', 'board/acme/include/README': 'x\n',
    'common/main.c': '#include <common.h>\n#include <generated/gen.h>\n#include '
                     '<generated/extra.h>\nchar big[VAL + IO + GEN + REAL];\n'
                     'int main(void) { return 0; }\n',
    'common/other.c': 'int other(void) { return 1; }\n',
    'tools/gen.c': '#include <stdio.h>\n#include <tool.h>\nint main(void)\n{\n'
                   '\tprintf("#define GEN %d\\n", TOOL);\n\treturn 0;\n}\n',
    'boards.cfg': ''.join(f'Active  sandbox  -  -  -  -  {b}  {b}  A <a@b>\n' for b in 'abc')}

# A change: subject -> files; '' removes one, '->' makes a link, '+x' and '-x' set the mode
CHANGES = {
    'used source': {'common/main.c': FILES['common/main.c'] + 'int one;\n'},
    'unused source': {'common/other.c': 'int other(void) { return 2; }\n'},
    'warning': {'board/acme/acme.c': '#include <common.h>\nstatic int acme;\n'},
    'used header': {'include/val.h': '#define VAL 9\n'},
    'unused header': {'include/unused.h': '#define U 2\n'},
    'header that only a host tool reads': {'include/tool.h': '#define TOOL 7\n'},
    'header that hides one': {'board/acme/include/val.h': '#define VAL 20\n'},
    'header that hides one no more': {'board/acme/include/val.h': ''},
    'header of another arch': {'arch/arm/include/asm/dma.h': '#define DMA 2\n'},
    'new header of another arch': {'arch/arm/include/asm/new.h': '#define NEW\n'},
    'Makefile of another arch': {'arch/arm/Makefile': '# arm 2\n'},
    'header behind a link': {'arch/sandbox/include/asm/io.h': '#define IO 5\n'},
    'link': {'include/link.h': '->real2.h'}, 'link back': {'include/link.h': '->real.h'},
    'what a link leads to now': {'include/real2.h': '#define REAL 5\n'},
    'what a link led to': {'include/real.h': '#define REAL 4\n'},
    'file found by wildcard': {'board/acme/more.c': 'char more[33];\n'},
    'file found no more': {'board/acme/more.c': ''},
    'file under another name': {'board/acme/acme.c': '', 'board/acme/acme2.c':
                                '#include <common.h>\nchar acme[X];\n'},
    'name taken back': {'board/acme/acme2.c': '', 'board/acme/acme.c': FILES['board/acme/acme.c']},
    'documents': {'doc/new.rst': 'Text\n', 'board/acme/MAINTAINERS': 'M: x\n'},
    'own defconfig': {'configs/a_defconfig': 'CONFIG_A=y\nCONFIG_MORE=y\n'},
    'defconfig back': {'configs/a_defconfig': 'CONFIG_A=y\n'},
    'defconfig of c': {'configs/c_defconfig': 'CONFIG_C=y\nCONFIG_D=y\n'},
    'new defconfig': {'configs/d_defconfig': 'CONFIG_D=y\n'},
    'Kconfig': {'common/Kconfig': 'config A\nconfig B\n'},
    'Kconfig back': {'common/Kconfig': 'config A\n'},
    'script': {'scripts/extra.sh': '#!/bin/sh\necho "// 2"\n'},
    'script that cannot be run': {'scripts/extra.sh': '-x'},
    'script that can be run': {'scripts/extra.sh': '+x'},
    'script that cannot be run again': {'scripts/extra.sh': '-x'},
    'device tree': {'arch/sandbox/dts/b.dtsi': 'a = <2>;\n'},
    'other device tree': {'arch/sandbox/dts/c.dtsi': 'c = <2>;\n'},
}


class TracedTree:
    """A repository with such a tree, on a branch `topic` of one commit more than `master`.

    Attributes:
        path: its folder
    """

    def __init__(self, path):
        """Make it"""
        self.path = path
        os.mkdir(path)
        self.git('init', '-q', '-b', 'master')
        self.git('config', 'user.name', 'T')
        self.git('config', 'user.email', 't@example.com')
        self.commit('base', FILES)
        self.commit('base 2', {'scripts/extra.sh': '+x'})
        self.git('checkout', '-q', '-b', 'topic', '--track', 'master')

    def git(self, *args, stdin=''):
        """Run git; return what it says"""
        return subprocess.run(['git', *args], cwd=self.path, check=True, capture_output=True,
                              text=True, input=stdin).stdout.strip()

    def commit(self, subject, files):
        """Commit a change, an empty one if nothing differs"""
        for name, text in files.items():
            path = os.path.join(self.path, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            if text in ('+x', '-x'):
                os.chmod(path, 0o755 if text == '+x' else 0o644)
                continue
            mode = os.stat(path).st_mode if os.path.isfile(path) else 0
            if os.path.lexists(path):
                os.unlink(path)
            if text.startswith('->'):
                os.symlink(text[2:], path)
            elif text:
                with open(path, 'w', encoding='utf-8') as outf:
                    outf.write(text)
                if mode & 0o100:
                    os.chmod(path, 0o755)
        self.git('add', '-A')
        self.git('commit', '-q', '--allow-empty', '-m', subject)

    def change(self, *subjects):
        """Commit some of CHANGES"""
        for subject in subjects:
            self.commit(subject, CHANGES[subject])

    def trees(self):
        """Return the trees of the commits of the branch, oldest first"""
        return self.git('log', '--reverse', '--format=%T', 'master..topic').split()

    def rewrite(self, trees, message, base='master', branch='topic'):
        """Have these trees as the commits of a branch, with other messages"""
        parent = self.git('rev-parse', base)
        for num, tree in enumerate(trees):
            parent = self.git('commit-tree', tree, '-p', parent, '-m', f'{message} {num}')
        self.git('checkout', '-q', '-B', branch, parent)
        self.git('branch', '-q', '--set-upstream-to', base)

    def can(self, subject):
        """Return whether a change is one that can be made"""
        return all(text not in ('', '+x', '-x') or os.path.lexists(os.path.join(self.path, name))
                   for name, text in CHANGES[subject].items())

    def random_changes(self, rnd: random.Random, count):
        """Commit changes by chance; return their subjects"""
        done = []
        while len(done) < count:
            subject = rnd.choice(sorted(CHANGES))
            if self.can(subject):
                self.change(subject)
                done.append(subject)
        return done
