# SPDX-License-Identifier: GPL-2.0+
"""Our evaluation of Kconfig against that of kconfiglib, on random trees.

It needs kconfiglib, as test_scan.py tells.
"""

from __future__ import annotations

import importlib.util
import os
import random
import re
import tempfile
import unittest
from typing import Any, Dict, List, Optional

from buildman.boards import evaluate, scan
from buildman.boards.evaluate import Evaluator
from tests.unit.boards.test_scan import kconfiglib_path


class Forest:
    """Random Kconfig trees. Symbols depend on earlier ones and select later ones."""

    def __init__(self, seed: int) -> None:
        self.rnd = random.Random(seed)
        self.count = self.rnd.randrange(5, 40)
        self.kinds = [self.rnd.choice(('bool', 'bool', 'bool', 'tristate', 'string',
                                       'int', 'hex')) for _ in range(self.count)]
        self.lines = ['config MODULES', '\tdef_bool y' if seed % 3 else '\tbool "mod"',
                      '\toption modules']
        num = 0
        while num < self.count:
            if self.rnd.random() < 0.25:
                num = self.choice(num)
            elif self.rnd.random() < 0.2 and num:
                self.lines.append(f'if {self.expr(num)}')
                self.symbol(num)
                self.lines.append('endif')
                num += 1
            else:
                self.symbol(num)
                num += 1

    def atom(self, below: int) -> str:
        num = self.rnd.randrange(below)
        kind = self.kinds[num]
        if kind in ('bool', 'tristate'):
            if self.rnd.random() < 0.8:
                return f'S{num}'
            return f'S{num} {self.rnd.choice(("=", "!="))} {self.rnd.choice("nmy")}'
        rel = self.rnd.choice(('=', '!=', '<', '<=', '>', '>='))
        other = self.rnd.choice(('"a"', '"b"', '""', '5', '0x10',
                                 f'S{self.rnd.randrange(below)}', 'UNDEFINED'))
        return f'S{num} {rel} {other}'

    def expr(self, below: int) -> str:
        if not below:
            return self.rnd.choice('yn')
        text = self.atom(below)
        for _ in range(self.rnd.choice((0, 0, 1, 2, 6))):
            text += self.rnd.choice((' && ', ' || ')) + self.atom(below)
        if self.rnd.random() < 0.15:
            text = f'!({text})'
        return text

    def cond(self, below: int) -> str:
        return f' if {self.expr(below)}' if self.rnd.random() < 0.7 else ''

    def value(self, kind: str) -> str:
        if kind == 'bool':
            return self.rnd.choice('yn')
        if kind == 'tristate':
            return self.rnd.choice('ymn')
        if kind == 'string':
            return self.rnd.choice(('"a"', '"b"', '"c d"', '""'))
        num = self.rnd.randrange(20)
        return str(num) if kind == 'int' else hex(num)

    def symbol(self, num: int, prompt: Optional[bool] = None) -> None:
        kind = self.kinds[num]
        out = self.lines
        out.append(f'config S{num}')
        shown = self.rnd.random() < 0.7 if prompt is None else prompt
        text = f' "s{num}"{self.cond(num)}' if shown else ''
        out.append(f'\t{kind}{text}')
        if prompt:
            if self.rnd.random() < 0.4:
                out.append(f'\tdepends on {self.expr(num)}')
            return
        if self.rnd.random() < 0.3:
            out.append(f'\tdepends on {self.expr(num)}')
        for _ in range(self.rnd.choice((0, 1, 1, 3, 8))):
            out.append(f'\tdefault {self.value(kind)}{self.cond(num)}')
        if kind in ('int', 'hex') and self.rnd.random() < 0.5:
            low, high = sorted(self.rnd.randrange(20) for _ in range(2))
            fmt = str if kind == 'int' else hex
            out.append(f'\trange {fmt(low)} {fmt(high)}{self.cond(num)}')
        if kind in ('bool', 'tristate'):
            for _ in range(self.rnd.choice((0, 0, 1, 2))):
                later = [pos for pos in range(num + 1, self.count)
                         if self.kinds[pos] in ('bool', 'tristate')]
                if later:
                    word = self.rnd.choice(('select', 'select', 'imply'))
                    out.append(f'\t{word} S{self.rnd.choice(later)}{self.cond(num)}')

    def choice(self, num: int) -> int:
        kind = self.rnd.choice(('bool', 'bool', 'tristate'))
        end = min(self.count, num + self.rnd.randrange(1, 9))
        self.lines += ['choice', f'\t{kind} "c{num}"{self.cond(num)}']
        if self.rnd.random() < 0.3:
            self.lines.append('\toptional')
        if self.rnd.random() < 0.4:
            self.lines.append(f'\tdepends on {self.expr(num)}')
        if self.rnd.random() < 0.5:
            member = self.rnd.randrange(num, end)
            self.lines.append(f'\tdefault S{member}{self.cond(num)}')
        for pos in range(num, end):
            self.kinds[pos] = self.rnd.choice((kind, kind, 'bool'))
        start = len(self.lines)
        for pos in range(num, end):
            self.symbol(pos, True)
        # Members depend on what is before the choice only
        member_re = re.compile(r'S(\d+)')
        for pos in range(start, len(self.lines)):
            line = self.lines[pos]
            if not line.startswith('config'):
                self.lines[pos] = member_re.sub(
                    lambda match: match.group() if int(match.group(1)) < num else 'y', line)
        self.lines.append('endchoice')
        return end

    def defconfig(self) -> List[str]:
        out = []
        for _ in range(self.rnd.randrange(self.count * 2)):
            num = self.rnd.randrange(self.count)
            value = self.value(self.kinds[num])
            if self.rnd.random() < 0.05:
                value = self.rnd.choice(('', '"', 'x', '-1', '0x', '"a\\"\\\\b"', '"a" b'))
            if value == 'n' and self.rnd.random() < 0.5:
                out.append(f'# CONFIG_S{num} is not set')
            else:
                out.append(f'CONFIG_S{num}={value}')
        if self.rnd.random() < 0.3:
            out.append('CONFIG_MODULES=y')
        return out


class EvaluatorTest(unittest.TestCase):
    """A board evaluated otherwise than kconfiglib would is built for a wrong arch."""

    def test_random(self) -> None:
        """All values in random trees are those that kconfiglib computes."""
        spec = importlib.util.spec_from_file_location('lib_under_test', kconfiglib_path())
        assert spec and spec.loader
        lib: Any = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(lib)
        self.addCleanup(setattr, evaluate, 'SHORT', evaluate.SHORT)
        looped = compared = 0
        with tempfile.TemporaryDirectory() as tmp:
            kconfig = os.path.join(tmp, 'Kconfig')
            config = os.path.join(tmp, 'defconfig')
            for seed in range(500):
                forest = Forest(seed)
                with open(kconfig, 'w', encoding='utf-8') as outf:
                    outf.write('\n'.join(forest.lines) + '\n')
                try:
                    kconf = lib.Kconfig(kconfig, warn=False)
                except lib.KconfigError as exc:
                    self.assertIn('loop', str(exc))
                    looped += 1
                    continue
                # Short lists are not indexed, but here half of them are to be
                evaluate.SHORT = seed % 2 * 4
                evaluator = Evaluator(lib, kconf)
                for _ in range(4):
                    text = '\n'.join(forest.defconfig()) + '\n'
                    with open(config, 'w', encoding='utf-8') as outf:
                        outf.write(text)
                    # load_config() leaves a choice's selection from before
                    # when the new file sets only its mode
                    kconf.unset_values()
                    kconf.load_config(config)
                    names = [sym.name for sym in kconf.unique_defined_syms]
                    expect: Dict[str, str] = {
                        name: kconf.syms[name].str_value for name in names}
                    lines: Dict[str, str] = {
                        name: kconf.syms[name].config_string.partition('=')[2].rstrip()
                        for name in names}
                    forest.rnd.shuffle(names)
                    # Quotes that do not close are an error before it comes to this
                    evaluator.assign([
                        setting for line in text.splitlines()
                        for setting in ([] if line.endswith('="')
                                        else scan.settings_in('x', line, 0))])
                    found = {name: evaluator.text(name) for name in names}
                    wrong = {name: (found[name], expect[name])
                             for name in names if found[name] != expect[name]}
                    # U-Boot's conf keeps a string as it was written, and what follows it too
                    wrong.update({name: (got, lines[name]) for name in names
                                  for got in (evaluator.setting(name),)
                                  if got != lines[name] and '\\' not in lines[name]
                                  and '" b' not in got})
                    if wrong:
                        self.fail('\n'.join([f'seed {seed}: {wrong}', text, *forest.lines]))
                    compared += len(names)
        self.assertGreater(compared, 20000)
        self.assertLess(looped, 200)
