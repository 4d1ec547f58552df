# SPDX-License-Identifier: GPL-2.0+
"""The files of the sample tree, made from a description of it.

Nothing in here touches a disk except to read `data/`, the part of the
tree that is always the same. `render()` gives the whole tree at one commit as
a mapping of path to text; `sample.py` makes a repository of such mappings.
"""

from __future__ import annotations

import copy
import dataclasses
import os
from typing import Dict, List, Mapping, Sequence, Set, Tuple

# Where the unchanging files are
DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'data')


@dataclasses.dataclass(frozen=True)
class BoardSpec:
    """One board of the sample.

    Attributes:
        target: name of the defconfig without `_defconfig`
        arch: 'sandbox', 'arm', 'aarch64', 'riscv64', or any other name, for a
            board that no toolchain is made for
        board, vendor, soc, cpu: what Kconfig says of it; `board` is the target
            when empty; boards of the same vendor and board share their source
        spl: build a first-stage loader too
        dts: name of its device tree, '' for none
        base: target whose defconfig this one includes, '' for none
        blob: file that its images need and the tree does not have, '' for none
        status: 'Active' or 'Orphan'
        maintainers: 'Name <mail>' each
    """

    target: str
    arch: str
    board: str = ''
    vendor: str = ''
    soc: str = ''
    cpu: str = ''
    spl: bool = False
    dts: str = ''
    base: str = ''
    blob: str = ''
    status: str = 'Active'
    maintainers: Tuple[str, ...] = ('Ada Sample <ada@example.com>',)

    @property
    def board_name(self) -> str:
        """Value of CONFIG_SYS_BOARD."""
        return self.board or self.target

    @property
    def symbol(self) -> str:
        """The Kconfig symbol that selects the board."""
        return 'TARGET_' + self.board_name.upper().replace('-', '_')

    @property
    def folder(self) -> str:
        """Where its source is."""
        return '/'.join(part for part in ('board', self.vendor, self.board_name) if part)

    @property
    def kconfig_arch(self) -> str:
        """Value of CONFIG_SYS_ARCH, which knows nothing of word size."""
        return {'aarch64': 'arm', 'riscv64': 'riscv'}.get(self.arch, self.arch)

    @property
    def kconfig_cpu(self) -> str:
        """Value of CONFIG_SYS_CPU."""
        default = {'arm': 'armv7', 'aarch64': 'armv8', 'sandbox': 'sandbox'}
        return self.cpu or default.get(self.arch, 'generic')


# Arch values with a toolchain, besides sandbox, which takes the host's
CROSS_ARCHES = ('arm', 'aarch64', 'riscv64')

DEFAULT_BOARDS = (
    BoardSpec('sandbox', 'sandbox', board='sandbox', dts='sandbox',
              maintainers=('Ada Sample <ada@example.com>', 'Zoë Beispiel <zoe@example.com>')),
    BoardSpec('anvil', 'arm', vendor='acme', soc='coyote', spl=True, dts='anvil'),
    BoardSpec('rocket', 'aarch64', vendor='acme', soc='coyote', spl=True,
              maintainers=('Zoë Beispiel <zoe@example.com>',)),
    BoardSpec('hammock', 'riscv64', vendor='globex', dts='hammock'),
    BoardSpec('anvil_nor', 'arm', board='anvil', vendor='acme', soc='coyote', spl=True,
              dts='anvil', base='anvil'),
    BoardSpec('sandbox_spl', 'sandbox', board='sandbox', spl=True, dts='sandbox',
              base='sandbox'),
    BoardSpec('rocket_mini', 'aarch64', vendor='acme', soc='coyote'),
)
# Comes to the tree in the middle of the branch
LATE_BOARD = BoardSpec('pumpkin', 'riscv64', vendor='globex', spl=True)
# Needs firmware that is not in the tree: its images are made, and are of no use
BLOB_BOARD = BoardSpec('lantern', 'aarch64', vendor='globex', blob='bl31.bin')


@dataclasses.dataclass
class TreeState:
    """What the tree is like at one commit.

    Attributes:
        boards: the boards that exist
        tables: number of extra tables of constants in the common code
        broken: folders of boards that do not compile
        unused: folders of boards that compile with a warning
        bad_dts: device trees that make the device tree compiler complain
        bootdelay: default that Kconfig gives to CONFIG_BOOTDELAY
        netconsole: default that Kconfig gives to CONFIG_NETCONSOLE
        defconfig: extra lines, by target
        env: variables of the default environment
        knobs: lines of `knobs/TARGET`, by target
        note: text in README, which no build depends on
        instant: a Makefile that only copies prebuilt files
        twelve: the version script is that of newer trees: it writes twelve digits
            of the commit, and only the tag of the version counts
    """

    boards: List[BoardSpec]
    tables: int = 0
    broken: Set[str] = dataclasses.field(default_factory=set)
    unused: Set[str] = dataclasses.field(default_factory=set)
    bad_dts: Set[str] = dataclasses.field(default_factory=set)
    bootdelay: int = 2
    netconsole: bool = False
    defconfig: Dict[str, List[str]] = dataclasses.field(default_factory=dict)
    env: Dict[str, str] = dataclasses.field(default_factory=lambda: {
        'bootcmd': 'run distro', 'baudrate': '115200', 'ipaddr': '192.0.2.1'})
    knobs: Dict[str, List[str]] = dataclasses.field(default_factory=dict)
    note: str = ''
    instant: bool = False
    twelve: bool = False

    def copy(self) -> 'TreeState':
        """Return a state that can be changed without changing this one."""
        return copy.deepcopy(self)

    def _verbs(self, board: BoardSpec) -> Set[str]:
        """Return the knobs that are turned for a board."""
        words = [line.split() for line in self.knobs.get(board.target, []) if line.strip()]
        return {line[1] if line[0] in ('config', 'link', 'image') else line[0] for line in words}

    def always_warns(self, board: BoardSpec) -> bool:
        """Return True for what complains in each build, also in an incremental one."""
        return board.dts in self.bad_dts or bool(board.blob) or bool(
            self._verbs(board) & {'warn', 'noise'})

    def outcome(self, board: BoardSpec) -> str:
        """Return what building `board` from nothing gives: ok, warn or fail."""
        if board not in self.boards:
            return 'fail'
        if self.instant:
            return 'ok'
        if board.folder in self.broken or self._verbs(board) & {'fail', 'kill', 'killmake'}:
            return 'fail'
        if board.folder in self.unused or self.always_warns(board):
            return 'warn'
        return 'ok'

    def source_inputs(self, board: BoardSpec) -> Tuple[object, ...]:
        """Return all that the board's object file is made of; when it differs,
        the file is compiled again."""
        return (board.folder in self.broken, board.folder in self.unused, self.bootdelay,
                self.netconsole, self.defconfig.get(board.target),
                self.defconfig.get(board.base))


def _static_files() -> Dict[str, str]:
    """Return the files of `data/tree`, path to text."""
    top = os.path.join(DATA, 'tree')
    files = {}
    for folder, _, names in os.walk(top):
        for name in names:
            path = os.path.join(folder, name)
            with open(path, encoding='utf-8') as inf:
                files[os.path.relpath(path, top).replace(os.sep, '/')] = inf.read()
    return files


def _data(name: str) -> str:
    with open(os.path.join(DATA, name), encoding='utf-8') as inf:
        return inf.read()


SPDX = '# SPDX-License-Identifier: GPL-2.0+\n'
SPDX_C = '/* SPDX-License-Identifier: GPL-2.0+ */\n'


def _top_kconfig(state: TreeState) -> str:
    text = _data('Kconfig.in').replace('@BOOTDELAY@', str(state.bootdelay))
    return text.replace('@NETCONSOLE@', 'y' if state.netconsole else 'n')


def _arch_names(state: TreeState) -> List[str]:
    """Return the CONFIG_SYS_ARCH values in use, sandbox first."""
    names = {board.kconfig_arch for board in state.boards}
    return sorted(names, key=lambda name: (name != 'sandbox', name))


def _arch_files(state: TreeState) -> Dict[str, str]:
    """Return arch/Kconfig and each arch's Kconfig."""
    names = _arch_names(state)
    text = SPDX + '''config 64BIT
	bool

config CPU_V7A
	bool

choice
	prompt "Architecture select"

'''
    for name in names:
        text += f'config {name.upper()}\n\tbool "{name} architecture"\n\n'
    text += 'endchoice\n\n'
    for sym, what in (('ARCH', 'architecture'), ('CPU', 'CPU'), ('SOC', 'SoC'),
                      ('VENDOR', 'vendor'), ('BOARD', 'board'),
                      ('CONFIG_NAME', 'configuration header')):
        text += f'config SYS_{sym}\n\tstring\n\thelp\n\t  Name of the {what}\n\n'
    text += ''.join(f'source "arch/{name}/Kconfig"\n' for name in names)
    files = {'arch/Kconfig': text}
    for name in names:
        files[f'arch/{name}/Kconfig'] = _one_arch(state, name)
    return files


def _one_arch(state: TreeState, name: str) -> str:
    text = SPDX + f'if {name.upper()}\n\nconfig SYS_ARCH\n\tdefault "{name}"\n\n'
    if name == 'arm':
        text += 'config ARM64\n\tbool\n\tselect 64BIT\n\n'
        text += 'config SYS_CPU\n\tdefault "armv7" if CPU_V7A\n\tdefault "armv8" if ARM64\n\n'
    if name == 'riscv':
        text += 'config ARCH_RV64I\n\tbool\n\tselect 64BIT\n\n'
    selects = {'arm': 'CPU_V7A', 'aarch64': 'ARM64', 'riscv64': 'ARCH_RV64I'}
    text += 'choice\n\tprompt "Target select"\n\n'
    sources = {}
    for board in state.boards:
        if board.kconfig_arch != name or board.symbol in sources:
            continue
        sources[board.symbol] = board.folder
        text += f'config {board.symbol}\n\tbool "Support {board.board_name}"\n'
        if board.arch in selects:
            text += f'\tselect {selects[board.arch]}\n'
        text += '\tselect SUPPORT_SPL\n\n'
    text += 'endchoice\n\n'
    text += ''.join(f'source "{folder}/Kconfig"\n' for folder in sources.values())
    return text + '\nendif\n'


def _board_files(state: TreeState) -> Dict[str, str]:
    """Return each board's Kconfig, Makefile, source and MAINTAINERS."""
    files: Dict[str, str] = {}
    groups: Dict[str, List[BoardSpec]] = {}
    for board in state.boards:
        groups.setdefault(board.folder, []).append(board)
    for folder, boards in groups.items():
        first = boards[0]
        values = [('BOARD', first.board_name), ('VENDOR', first.vendor), ('SOC', first.soc),
                  ('CONFIG_NAME', first.board_name)]
        if first.kconfig_arch != 'arm':
            values.append(('CPU', first.kconfig_cpu))
        files[f'{folder}/Kconfig'] = SPDX + f'if {first.symbol}\n\n' + ''.join(
            f'config SYS_{sym}\n\tdefault "{value}"\n\n'
            for sym, value in values if value) + 'endif\n'
        files[f'{folder}/MAINTAINERS'] = '\n'.join(_maintainers(board) for board in boards)
        name = first.board_name
        files[f'{folder}/Makefile'] = SPDX + f'obj-y := {name}.o\n'
        files[f'{folder}/{name}.c'] = _board_source(
            first, folder in state.broken, folder in state.unused)
        files[f'include/configs/{name}.h'] = SPDX_C + (
            f'#define CONFIG_SYS_BAUDRATE_TABLE {{ 9600, 115200 }}\n'
            f'#define CONFIG_MACH_ID {len(name) * 7}\n')
    return files


def _maintainers(board: BoardSpec) -> str:
    status = 'Orphan' if board.status == 'Orphan' else 'Maintained'
    return f'{board.target.upper()} BOARD\n' + ''.join(
        f'M:\t{who}\n' for who in board.maintainers) + (
        f'S:\t{status}\nF:\t{board.folder}/\nF:\tconfigs/{board.target}_defconfig\n')


def _board_source(board: BoardSpec, broken: bool, unused: bool) -> str:
    name = board.board_name.replace('-', '_')
    text = SPDX_C + '#include <common.h>\n\n'
    text += f'const char board_name[] = "{board.board_name}";\n'
    text += f'static int {name}_state = {len(name)};\n\n'
    if unused:
        text += f'static int {name}_helper(int pin)\n{{\n\treturn pin + 1;\n}}\n\n'
    text += 'int board_init(void)\n{\n'
    end = '' if broken else ';'
    text += f'\t{name}_state += CONFIG_MACH_ID{end}\n\n\treturn {name}_state + board_name[0];\n}}\n'
    return text


def _common_source(state: TreeState) -> str:
    text = SPDX_C + '''#include <common.h>

#ifdef LTO_ENABLE
const char built_with[] = " LTO";
#endif

#ifdef CONFIG_SAMPLE_WARN
#warning "CONFIG_SAMPLE_WARN is set"
#endif
#ifdef CONFIG_SAMPLE_FAIL
#error "CONFIG_SAMPLE_FAIL is set"
#endif

int boot_delay = CONFIG_BOOTDELAY;
int boot_count;
'''
    for number in range(state.tables):
        values = ', '.join(str((number * 31 + i * i) % 1009) for i in range(16))
        text += f'''
int lookup_{number}(int at);

static const int table_{number}[] = {{ {values} }};

int lookup_{number}(int at)
{{
	int sum = 0;

	while (at > 0)
		sum += table_{number}[at-- & 15];

	return sum;
}}
'''
    text += '\nvoid _start(void);\n\nvoid _start(void)\n{\n\tboot_count += board_init();\n'
    text += '''#ifndef CONFIG_SPL_BUILD
	boot_count += env_get_default()[boot_delay];
#endif
'''
    for number in range(state.tables):
        text += f'\tboot_count += lookup_{number}(boot_count);\n'
    return text + '\tfor (;;)\n\t\t;\n}\n'


def _env_source(state: TreeState) -> str:
    text = SPDX_C + '#include <common.h>\n\n#define STR(x) #x\n#define XSTR(x) STR(x)\n\n'
    text += 'const char default_environment[] = {\n'
    for name, value in state.env.items():
        if name == 'bootcmd':
            text += '\t"bootcmd=" CONFIG_BOOTCOMMAND "\\0"\n'
        else:
            text += f'\t"{name}={value}\\0"\n'
    text += '\t"bootdelay=" XSTR(CONFIG_BOOTDELAY) "\\0"\n\t"\\0"\n};\n\n'
    return text + ('const char *env_get_default(void)\n{\n'
                   '\treturn default_environment;\n}\n')


def _defconfig(state: TreeState, board: BoardSpec) -> str:
    lines = []
    if board.base:
        lines.append(f'#include <configs/{board.base}_defconfig>')
    else:
        lines.append(f'CONFIG_{board.kconfig_arch.upper()}=y')
        lines.append(f'CONFIG_{board.symbol}=y')
    if board.dts and not board.base:
        lines.append(f'CONFIG_DEFAULT_DEVICE_TREE="{board.dts}"')
    if board.spl:
        lines.append('CONFIG_SPL=y')
    if board.blob:
        lines.append(f'CONFIG_SAMPLE_BLOB="{board.blob}"')
    return '\n'.join(lines + state.defconfig.get(board.target, [])) + '\n'


def _dts(name: str, bad: bool) -> str:
    reg = '' if bad else '\t\t\treg = <0x1000>;\n'
    return f'''// SPDX-License-Identifier: GPL-2.0+
/dts-v1/;

/ {{
	model = "{name}";

	soc {{
		serial@1000 {{
			compatible = "ns16550";
{reg}		}};
	}};
}};
'''


def boards_cfg(boards: Sequence[BoardSpec]) -> str:
    """Return the list of boards as `boards.cfg` has it.

    The columns are status, arch, cpu, soc, vendor, board, target, config
    header and maintainers, padded to one width; '-' stands for nothing.
    """
    rows = sorted((board.status, board.arch, board.kconfig_cpu, board.soc or '-',
                   board.vendor or '-', board.board_name, board.target, board.board_name,
                   ':'.join(board.maintainers)) for board in boards)
    widths = [max((len(row[col]) for row in rows), default=0) for col in range(9)]
    text = ('#\n# List of boards\n#   Part of the sample tree\n#\n'
            '# Status, Arch, CPU, SoC, Vendor, Board, Target, Config, Maintainers\n\n')
    for row in rows:
        text += '  '.join(val.ljust(width) for val, width in zip(row, widths)).rstrip() + '\n'
    return text


# How the Makefile calls the version script, which printed less once
OLD_RELEASE = 'echo "$(UBOOTVERSION)$$(sh $(srctree)/scripts/setlocalversion $(srctree))"'
NEW_RELEASE = 'KERNELVERSION=$(UBOOTVERSION) sh $(srctree)/scripts/setlocalversion $(srctree)'

GITIGNORE = '''*.o
*.a
*.d
/.binman_stamp
/.config*
/.target
/.stale*
/MLO
/System.map
/build/
/defconfig
/dts/dt.dtb
/include/autoconf.mk
/include/config.h
/include/config/
/include/generated/
/source
/spl/
/u-boot*
'''


def render(state: TreeState, prebuilt: Mapping[str, bytes]) -> Dict[str, bytes]:
    """Return the whole tree, path to content.

    Args:
        state: what the tree is like
        prebuilt: files that an instant build copies; path to content
    """
    files = _static_files()
    if state.instant:
        files = {'Makefile': _data('Makefile.instant'),
                 'scripts/show-gnu-make': files['scripts/show-gnu-make']}
    elif state.twelve:
        files['scripts/setlocalversion'] = _data('setlocalversion.twelve')
        files['Makefile'] = files['Makefile'].replace(OLD_RELEASE, NEW_RELEASE)
    files['Kconfig'] = _top_kconfig(state)
    files.update(_arch_files(state))
    files.update(_board_files(state))
    files['common/main.c'] = _common_source(state)
    files['env/common.c'] = _env_source(state)
    for board in state.boards:
        files[f'configs/{board.target}_defconfig'] = _defconfig(state, board)
    files['configs/quiet.config'] = 'CONFIG_BOOTDELAY=0\n# CONFIG_NET is not set\n'
    for name in sorted({board.dts for board in state.boards if board.dts}):
        files[f'dts/{name}.dts'] = _dts(name, name in state.bad_dts)
    for target, lines in state.knobs.items():
        if lines:
            files[f'knobs/{target}'] = '\n'.join(lines) + '\n'
    files['boards.cfg'] = boards_cfg(state.boards)
    files['MAINTAINERS'] = ('Maintainers of the sample\n\nCOMMON CODE\n'
                            'M:\tAda Sample <ada@example.com>\nS:\tMaintained\nF:\tcommon/\n')
    files['.gitignore'] = GITIGNORE
    files['README'] = _data('README.in') + (f'\n{state.note}\n' if state.note else '')
    out = {path: text.encode('utf-8') for path, text in files.items()}
    out.update({f'prebuilt/{path}': data for path, data in prebuilt.items()})
    return out
