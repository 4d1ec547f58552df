# SPDX-License-Identifier: GPL-2.0+
"""Makes git repositories and result trees to try summaries on.

The repository holds just enough for a list of boards; its commits are empty.
The results are made up from a seed, so that a tree can be made again.
"""

import os
import random
import re
import subprocess

ARCHS = ('aarch64', 'arm', 'm68k', 'mips', 'nios2', 'powerpc', 'riscv', 'sandbox', 'sh', 'x86')

BOX = ('===================== WARNING ======================\n'
       'This board does not use CONFIG_DM{n}. CONFIG_DM{n} will be\n'
       'compulsory starting with the v2020.01 release.\n'
       '====================================================\n')

MESSAGES = (
    "drivers/a{n}.c: In function 'probe{n}':\n",
    'drivers/a{n}.c:{n}:9: warning: unused variable [-Wunused-variable]\n',
    'drivers/a{n}.c:{n}:9: error: unknown type name\n',
    'drivers/a{n}.c:{n}:9: note: this is the location of the previous definition\n',
    'drivers/a{n}.c:{n}:9: note: in expansion of macro\n',
    '  {n}00 |   int x{n};   \n',
    '      |       ^~\n',
    '\n',
    'In file included from include/a{n}.h:{n}:\n',
    '                 from include/b.h:7:\n',
    'arch/arm/dts/a{n}.dtb: Warning (reg_format): /soc\n',
    'arch/arm/dts/a{n}.dts:1.2-3.4: Warning (unit_address_vs_reg): é \u2018x\u2019\n',
    "Image 'main-section' is missing external blobs and is non-functional: b{n}\n",
    "Image 'u-boot{n}.rom' has faked external blobs and is non-functional: c\n",
    'Some images are invalid\n',
    'ld.bfd: warning: u-boot has a LOAD segment with RWX permissions\n',
    "ld.bfd: a{n}.o: in function `f': undefined reference to `g{n}'\n",
    'make[1]: *** [Makefile:{n}: all] Error 2\n',
    BOX)

SUBJECTS = ('board: Do a thing', 'drivers: net/phy: Mend it', 'a: b/c d', 'x', 'configs: été 50%',
            "Revert \"arm: Don't\"", 'dm: A rather long subject that goes on and on for ever')


def _git(repo, *args):
    env = dict(os.environ, GIT_AUTHOR_NAME='A', GIT_AUTHOR_EMAIL='a@b', GIT_COMMITTER_NAME='A',
               GIT_COMMITTER_EMAIL='a@b', GIT_AUTHOR_DATE='2023-01-01T00:00:00Z',
               GIT_COMMITTER_DATE='2023-01-01T00:00:00Z', GIT_CONFIG_GLOBAL='/dev/null')
    return subprocess.run(['git', *args], cwd=repo, env=env, check=True, encoding='utf-8',
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout


def _write(path, text):
    with open(path, 'wb') as outf:
        outf.write(text if isinstance(text, bytes) else text.encode())


def plain_home(root):
    """Give what is run from now on a home folder that has a configuration and no more."""
    home = os.path.join(root, 'home')
    os.mkdir(home)
    _write(os.path.join(home, '.buildman'), '[toolchain]\nroot = /usr\n')
    os.environ['HOME'] = home


class Tree:
    """A repository with a branch `work` and an output folder for it.

    Attributes:
        repo: the repository
        out: the output folder
        boards: (target, arch) each
        folders: the commits' result folders
    """

    def __init__(self, root, boards, commits, seed=0):
        self.repo = os.path.join(root, 'repo')
        self.out = os.path.join(root, 'out')
        self.boards = boards
        os.makedirs(os.path.join(self.repo, 'configs'))
        # The list of boards is in the tree, as in old ones: no Kconfig, no scan
        self.write_board_list(self.repo)
        _write(os.path.join(self.repo, 'Makefile'), 'all:\n')
        script = os.path.join(self.repo, 'scripts', 'show-gnu-make')
        os.makedirs(os.path.dirname(script))
        _write(script, '#!/bin/sh\necho make\n')
        os.chmod(script, 0o755)
        for target, _ in boards:
            _write(os.path.join(self.repo, 'configs', target + '_defconfig'), '')
        _git(self.repo, 'init', '-q', '-b', 'main')
        _git(self.repo, 'add', '-A')
        _git(self.repo, 'commit', '-q', '-m', 'start')
        self.folders = []
        for num in range(commits):
            subject = SUBJECTS[(num + seed) % len(SUBJECTS)]
            _git(self.repo, 'commit', '-q', '--allow-empty', '-m', subject)
            name = re.sub('[/: ]', '-', subject)[:20]
            commit = _git(self.repo, 'rev-parse', 'HEAD').strip()
            self.folders.append(os.path.join(self.out, 'work', f'{num + 1:02d}_g{commit}_{name}'))
            if not num:
                _git(self.repo, 'checkout', '-q', '-b', 'work')
                _git(self.repo, 'branch', '-q', '-u', 'main', 'work')
        for folder in self.folders:
            os.makedirs(folder)
        self.write_board_list(os.path.join(self.out, 'work'))

    def write_board_list(self, folder):
        """Write the list of boards into a folder of results."""
        lines = ['#', '# List of boards', '#   Automatically generated: do not edit', '#',
                 '# Status, Arch, CPU, SoC, Vendor, Board, Target, Config, Maintainers', '']
        lines += [f'Active  {arch}  cpu  -  -  board  {target}  {target}  A <a@b>'
                  for target, arch in sorted(self.boards, key=lambda brd: (brd[1], brd[0]))]
        _write(os.path.join(folder, 'boards.cfg'), '\n'.join(lines) + '\n')

    def put(self, num, target, code, files):
        """Write one result; an empty `err` is left out."""
        folder = os.path.join(self.folders[num], target)
        os.makedirs(folder, exist_ok=True)
        for name, text in files.items():
            if text or name != 'err':
                _write(os.path.join(folder, name), text)
        if code is not None:
            _write(os.path.join(folder, 'done'), f'{code}')


def make_boards(count, rng=None):
    """Return boards of several archs, in the order of a board list."""
    boards = [(f'brd{num:04d}_{"abc"[num % 3] * (num % 19)}', ARCHS[num * num % len(ARCHS)])
              for num in range(count)]
    if rng:
        rng.shuffle(boards)
        return boards
    return sorted(boards, key=lambda item: item[1])


class RandomBoard:
    """A board that changes a little from commit to commit."""

    def __init__(self, rng):
        self.rng = rng
        self.messages = []
        self.code = 0
        self.images = ['u-boot']
        if rng.random() < .4:
            self.images.append('spl/u-boot-spl')
        if rng.random() < .1:
            self.images.append('tpl/u-boot-tpl')
        self.symbols = {image: self._symbols() for image in self.images}
        self.base = {image: [rng.randrange(10000) for _ in range(4)] for image in self.images}
        self.options = {f'CONFIG_OPT{num}': self._value() for num in range(rng.randrange(12))}
        self.env = {f'var{num}': f'run x{num}; y=z' for num in range(rng.randrange(6))}
        self.has_env = rng.random() < .6

    def _symbols(self):
        rng = self.rng
        return [(rng.randrange(1, 500), rng.choice('tTdDbBrRWVA?'),
                 rng.choice(('fn%d', 'fn%d', 'fn%d.part.0', 'data%d', 'x.%d', '.L%d', 'static.%d'))
                 % rng.randrange(8)) for _ in range(rng.randrange(25))]

    def _value(self):
        return self.rng.choice(('y', 'y', '', '1', '0x10', '"a b"', 'm', '(1 << 3)', '"y"',
                                str(self.rng.randrange(9))))

    def mutate(self):
        """Change something, or nothing."""
        rng = self.rng
        if rng.random() < .4:
            self.messages = [text.format(n=rng.randrange(3))
                             for text in rng.choices(MESSAGES, k=rng.choice((0, 0, 1, 2, 4, 9)))]
        if rng.random() < .4:
            self.code = rng.choice((0, 0, 0, 0, 2, 2, 1, 101))
        for image in self.images:
            if rng.random() < .4:
                self.base[image][rng.randrange(4)] += rng.choice((-8, -1, 1, 4, 100))
            if rng.random() < .5:
                symbols = self.symbols[image]
                for _ in range(rng.choice((1, 1, 2, 8))):
                    symbols[rng.randrange(len(symbols) + 1):][:1] = []
                    new = self._symbols()[:1]
                    pos = rng.randrange(len(symbols) + 1)
                    symbols[pos:pos + rng.randrange(2)] = new
        if rng.random() < .3:
            name = f'CONFIG_OPT{rng.randrange(14)}'
            if self.options.pop(name, None) is None or rng.random() < .5:
                self.options[name] = self._value()
        if rng.random() < .3:
            name = f'var{rng.randrange(8)}'
            if self.env.pop(name, None) is None or rng.random() < .5:
                self.env[name] = rng.choice(('1', '', 'a=b', 'x y z'))

    def files(self):
        """Return the files of a result."""
        rng = self.rng
        err = ''.join(self.messages)
        if err and rng.random() < .1:
            err = err.rstrip('\n')
        out = {'err': err, 'log': ''}
        if self.code and rng.random() < .5:
            return out
        defines = ''.join(f'#define {name} {val}\n' for name, val in self.options.items())
        settings = ''.join(f'{name}={val}\n' for name, val in self.options.items())
        out['u-boot.cfg'] = '#define OTHER 1\n' + defines
        out['.config'] = '#\n# Automatically generated\n# CONFIG_NOT is not set\n' + settings
        out['autoconf.mk'] = settings
        out['autoconf.h'] = '/*\n * Automatically generated\n */\n' + defines
        sizes = ''
        for image in self.images:
            text, data, bss, rodata = self.base[image]
            text += rodata
            total = text + data + bss
            sizes += (f'{text:7d}\t{data:7d}\t{bss:7d}\t{total:7d}\t{total:7x}\t{image} '
                      f'{rodata:08x}\n')
            out[image.replace('/', '-') + '.sizes'] = ''.join(
                f'{size:08x} {kind} {name}\n' for size, kind, name in self.symbols[image])
            if image != 'u-boot':
                phase = image[:3]
                out[f'u-boot-{phase}.cfg'] = defines + '#define CONFIG_PHASE 1\n'
                out[f'autoconf-{phase}.mk'] = settings
        if rng.random() < .97:
            out['sizes'] = sizes
        if self.has_env:
            out['uboot.env'] = ''.join(f'{name}={val}\0' for name, val in self.env.items()) + '\0'
        return out


def random_tree(root, seed, boards=30, commits=6):
    """Return a tree of random outcomes."""
    rng = random.Random(seed)
    tree = Tree(root, make_boards(boards, rng if seed % 2 else None), commits, seed)
    quiet = seed % 5 == 4
    for target, _ in tree.boards:
        board = RandomBoard(rng)
        absent = rng.random() < .05
        for num in range(commits):
            if not quiet or rng.random() < .1:
                board.mutate()
            if quiet:
                board.code, board.messages = 0, []
            if absent or (rng.random() < .1 and not quiet):
                # not built, or still being built
                if rng.random() < .3:
                    tree.put(num, target, None, {'err': 'partial\n'})
                continue
            tree.put(num, target, board.code, board.files())
    return tree


def small_tree(root, boards, commits):
    """Return a tree of many results that hold little."""
    tree = Tree(root, make_boards(boards), commits)
    rng = random.Random(1)
    for index, (target, _) in enumerate(tree.boards):
        for num in range(commits):
            files = {'log': '', 'toolchain': 'gcc /usr/bin/gcc\n', 'sizes':
                     f'{1000 + index + num // 3:7d}\t    200\t    300\t   1500\t    5dc\tu-boot'
                     ' 00000010\n'}
            code = 0
            if rng.random() < .1:
                files['err'] = MESSAGES[1].format(n=index % 7)
            elif rng.random() < .03:
                code, files['err'] = 2, MESSAGES[2].format(n=num) + MESSAGES[17].format(n=1)
            tree.put(num, target, code, files)
    return tree


def _full_history(rng, commits, change):
    """Yield the files of a board at each commit; the same object where nothing changed."""
    symbols = {image: sorted((rng.randrange(4, 2000), rng.choice('tTTTtrRdDbB'),
                              f'{rng.choice(("dm", "spi", "mmc", "cmd"))}_function_{num}'
                              + rng.choice(('', '', '', '.0', '.part.1')))
                             for num in range(count))
               for image, count in (('u-boot', 1400), ('spl-u-boot-spl', 400))}
    options = {f'CONFIG_SOME_OPTION_{num}': rng.choice(('y', '1', '0x1000', '"text"'))
               for num in range(600)}
    env = {f'variable{num}': 'run something; load mmc 0:1 ${addr} file' for num in range(60)}
    text, err = 400000, MESSAGES[15]
    files = None
    for num in range(commits):
        if num and rng.random() >= change:
            yield files
            continue
        if num:
            text += 16
            for rows in symbols.values():
                for _ in range(5):
                    pos = rng.randrange(len(rows))
                    size, kind, name = rows.pop(pos)
                    rows.append((size + 4, kind, name))
                rows.sort()
            options[f'CONFIG_SOME_OPTION_{rng.randrange(620)}'] = str(num)
            env[f'variable{rng.randrange(70)}'] = f'new {num}'
            err = MESSAGES[15] + ''.join(
                line.format(n=num) for line in rng.sample(MESSAGES, 3))
        defines = ''.join(f'#define {key} {val}\n' for key, val in options.items())
        settings = ''.join(f'{key}={val}\n' for key, val in options.items())
        nm = {f'{image}.sizes': ''.join(f'{size:08x} {kind} {name}\n'
                                        for size, kind, name in rows)
              for image, rows in symbols.items()}
        files = {
            'err': err, 'log': '', 'toolchain': 'gcc\n', 'out-env': 'PATH=x\n',
            'sizes': f'{text}\t200\t300\t{text + 500}\t5dc\tu-boot 00000010\n'
                     f'{text // 8}\t20\t30\t{text // 8 + 50}\t5dc\tspl/u-boot-spl 00000010\n',
            'u-boot.cfg': defines, 'u-boot-spl.cfg': defines, '.config': settings,
            'autoconf.mk': settings, 'autoconf.h': defines,
            'uboot.env': ''.join(f'{key}={val}\0' for key, val in env.items()) + '\0', **nm}
        yield files


def full_tree(root, boards, commits, change=.3, different=90):
    """Return a tree whose files are as long as those of real boards.

    Args:
        root: folder to make it in
        boards, commits: how many
        change: share of the boards that a commit changes
        different: boards with contents of their own; all others have the files
            of one of these (hard links), so that a large tree fits on a disk
    """
    tree = Tree(root, make_boards(boards), commits)
    rng = random.Random(2)
    for index, (target, _) in enumerate(tree.boards):
        if index >= different:
            twin = tree.boards[index % different][0]
            for folder in tree.folders:
                _link(os.path.join(folder, twin), os.path.join(folder, target))
            continue
        last = None
        for num, files in enumerate(_full_history(rng, commits, change)):
            if files is last:
                _link(os.path.join(tree.folders[num - 1], target),
                      os.path.join(tree.folders[num], target))
            else:
                tree.put(num, target, 0, files)
            last = files
    return tree


def _link(old, new):
    """Make a folder that has the files of another one."""
    os.mkdir(new)
    for name in os.listdir(old):
        os.link(os.path.join(old, name), os.path.join(new, name))


def page_tree(root, boards, commits):
    """Return a tree as a page of --html shows it: machines, commands, sizes, much that fails.

    A third of the boards has some other size at each commit; a sixth has warnings, some of
    them of its own; one commit in twelve breaks an arch until the third one after it, and one
    board in thirty breaks by itself for a while. Texts are as long as those of real boards.
    """
    tree = Tree(root, make_boards(boards), commits)
    rng = random.Random(3)
    context = ''.join(MESSAGES[num] for num in (8, 9, 5, 6, 3, 5, 6, 7))
    broken = {num: (rng.choice(ARCHS), num) for first in range(3, commits, 12)
              for num in range(first, min(commits, first + 3))}
    times, jobs = [], ['board\tcommit\tmachine\tstart\tseconds\tbytes\tstatus\tattempt\n']
    clock = [1.7e9] * 20
    for index, (target, arch) in enumerate(tree.boards):
        machine = min(range(len(clock)), key=clock.__getitem__)
        text, old = 300_000 + 997 * index % 200_000, ''
        if rng.random() < 1 / 6:
            old = (f'arch/{arch}/dts/{target}.dtb: Warning (reg_format): /soc/{index}\n'
                   if rng.random() < .3 else '') + (
                MESSAGES[1].format(n=index % 40) + context.format(n=index % 40)) * rng.randrange(4)
        ill = range(0)
        if rng.random() < 1 / 30:
            first = rng.randrange(commits)
            ill = range(first, first + rng.randrange(1, 9))
        for num in range(commits):
            text += rng.choice((0, 0, 16, -8, 120, 0)) if num else 0
            code, err = 0, old
            if num in ill:
                code, err = 2, old + MESSAGES[2].format(n=index) + context.format(n=index)
            elif broken.get(num, ('',))[0] == arch:
                code, err = 2, old + ''.join(
                    f'{line.format(n=broken[num][1])}' for line in MESSAGES[:3]) * 5 + (
                    f'make[2]: *** [Makefile:{index}: {target}.o] Error 1\n')
            sizes = '' if code else (
                f'{text}\t{text // 30}\t{text // 9}\t{text * 2}\t5dc\tu-boot {text // 7:08x}\n'
                + (f'{text // 8}\t20\t30\t{text // 4}\t5dc\tspl/u-boot-spl {text // 99:08x}\n'
                   if index % 3 else ''))
            seconds = rng.uniform(2, 40) if not num else rng.choice((0, rng.uniform(.5, 9)))
            files = {'err': err, 'log': '', 'toolchain': 'gcc\n', 'out-env': 'PATH=x\n',
                     'host': f'machine{machine}\n', 'settings': 'kind=default\n',
                     'out-cmd': f'make O=build CROSS_COMPILE={arch}-linux- ARCH={arch} -s NPROC=1 '
                                + (f'{target}_defconfig\nmake O=build -s NPROC=1\n' if not num
                                   else 'all\n')}
            tree.put(num, target, code, {**files, 'sizes': sizes} if sizes else files)
            commit = re.search('_g([0-9a-f]+)', tree.folders[num]).group(1)
            times.append(f'{commit}\t{target}\t{seconds:.3f}\tfull\tmachine{machine}\t1\n')
            jobs.append(f'{target}\t{num}\tmachine{machine}\t{clock[machine]:.3f}\t{seconds:.3f}'
                        f'\t9000\t{code}\t1\n')
            clock[machine] += seconds
    base = os.path.dirname(tree.folders[0])
    os.makedirs(os.path.join(base, '.bm-work'))
    _write(os.path.join(base, '.bm-work', '.durations'), ''.join(times))
    _write(os.path.join(base, 'joblog'), ''.join(jobs))
    return tree
