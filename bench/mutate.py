#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0+
"""Puts faults of one line into the modules that decide, and tells which no test notices.

The tree is copied; in the copy one line after the other is made wrong (a comparison
turned round, a condition always true, a number off by one, a call left out, None
returned, two arguments swapped, …), and the tests of that module alone are run, until
the first fails. A fault that none of them notices survives and is shown as a diff:
either a test is missing, or the line is of no use.

    nice bench/mutate.py [--seed 1] [--count 100] [--module results/tree] [--only 7]

Faults are drawn at random, of each module so many as fit its length. The same seed and
count draw the same faults of the same source; --only repeats one of them, by its number.
Ends with 1 when more than one in twenty survives.

Each run has processes and a home folder of its own (unshare(1)): a fault in what ends
processes ends no others.

What cannot change what is decided is left alone: texts, annotations, docstrings,
assertions, decorators, the exact value of bounds and times (numbers above nine, those
with a point or a shift, constants of a module; whether a moment itself is still before
it), names and kinds of threads, the order of a program's options, what is for mypy alone.
"""

from __future__ import annotations

import argparse
import ast
import concurrent.futures
import difflib
import functools
import os
import queue
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PACKAGE = os.path.join('tools', 'buildman')

MODULES = ('agent/lock', 'build/trace', 'results/tree', 'schedule/ledger', 'schedule/loop',
           'schedule/policy', 'wire/channel')

# The share of faults that may survive
ALLOWED = 1 / 20

COMPARISONS = {
    ast.Lt: ('<=', '>'), ast.LtE: ('<', '>='), ast.Gt: ('>=', '<'), ast.GtE: ('>', '<='),
    ast.Eq: ('!=',), ast.NotEq: ('==',), ast.Is: ('is not',), ast.IsNot: ('is',),
    ast.In: ('not in',), ast.NotIn: ('in',)}
OPERATORS = {ast.Add: ('+', '-'), ast.Sub: ('-', '+'), ast.BitAnd: ('&', '|'),
             ast.BitOr: ('|', '&')}

# Runs a command with processes of its own
ALONE = ('unshare', *(() if os.getuid() == 0 else ('--user', '--map-root-user')), '--pid',
         '--fork', '--mount-proc', '--kill-child', 'sh', '-c', '"$@"; exit $?', 'sh')

# Calls whose arguments may stand in any order, and what needs no second look
SYMMETRIC = frozenset(('max', 'min', 'suppress'))
CLOSE = r'file\.close\(\)$'       # Python closes one that nobody has any more
THREADS = frozenset(('daemon', 'name'))
CLOCK = r'\bmonotonic\(\)'


class Fault(NamedTuple):
    """What to replace in a module.

    Attributes:
        module: below the package, without `.py`
        start, end: offsets in the source
        text: what to put there
    """

    module: str
    start: int
    end: int
    text: str


class Finder(ast.NodeVisitor):
    """Finds all faults that can be put into a module."""

    def __init__(self, module: str, source: str) -> None:
        self.module = module
        self.source = source
        self.faults: List[Fault] = []
        self._lines = [0]
        for line in source.splitlines(keepends=True):
            self._lines.append(self._lines[-1] + len(line))
        self._text = source.splitlines()
        self._returns: List[str] = []
        self.visit(ast.parse(source))

    def _at(self, line: int, column: int) -> int:
        """Return the offset of a place; the parser counts bytes of a line"""
        text = self._text[line - 1].encode()[:column].decode()
        return self._lines[line - 1] + len(text)

    def _span(self, node: ast.AST) -> Tuple[int, int]:
        """Return where a node begins and ends"""
        assert isinstance(node, (ast.expr, ast.stmt)) and node.end_lineno is not None
        assert node.end_col_offset is not None
        return (self._at(node.lineno, node.col_offset),
                self._at(node.end_lineno, node.end_col_offset))

    def _of(self, node: ast.AST) -> str:
        """Return the text of a node"""
        start, end = self._span(node)
        return self.source[start:end]

    def _put(self, node: ast.AST, *texts: str) -> None:
        """Note that a node could be replaced by each of some texts"""
        start, end = self._span(node)
        self.faults += [Fault(self.module, start, end, text) for text in texts]

    def _between(self, left: ast.AST, right: ast.AST, old: str, *texts: str) -> None:
        """Note that the operator between two nodes could be another one"""
        start, end = self._span(left)[1], self._span(right)[0]
        found = re.search(r'(?<![\w<>=!])' + re.escape(old).replace(r'\ ', r'\s+')
                          + r'(?![\w<>=])', self.source[start:end])
        if found:
            self.faults += [Fault(self.module, start + found.start(), start + found.end(), text)
                            for text in texts]

    # -- what is left alone

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """A text; older versions of Python do not tell where its parts are"""

    def visit_Assert(self, node: ast.Assert) -> None:
        """Says what is so, to the reader and to mypy"""

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_arguments(self, node: ast.arguments) -> None:
        for value in (*node.defaults, *node.kw_defaults):
            if value is not None:
                self.visit(value)

    def visit_keyword(self, node: ast.keyword) -> None:
        if node.arg not in THREADS:
            self.visit(node.value)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for child in node.body:
            self.visit(child)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.visit(node.args)
        self._returns.append(ast.unparse(node.returns) if node.returns else '')
        for child in node.body:
            self.visit(child)
        self._returns.pop()

    def visit_Raise(self, node: ast.Raise) -> None:
        """To go on is a fault; what the text says is not looked at"""
        self._put(node, 'pass')

    # -- statements

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call) and not re.search(
                CLOSE, ast.unparse(node.value)):
            self._put(node, 'pass')
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._put(node, 'pass')
        self.visit(node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        if not self._returns:
            return      # A constant of the module
        if all(isinstance(target, (ast.Attribute, ast.Subscript)) for target in node.targets):
            self._put(node, 'pass')
        self.generic_visit(node)

    def visit_Delete(self, node: ast.Delete) -> None:
        self._put(node, 'pass')

    def visit_Continue(self, node: ast.Continue) -> None:
        self._put(node, 'pass', 'break')

    def visit_Break(self, node: ast.Break) -> None:
        self._put(node, 'pass', 'continue')

    def visit_Return(self, node: ast.Return) -> None:
        value = node.value
        if value is None:
            self._put(node, 'pass')
        elif isinstance(value, ast.Constant) and value.value is None:
            pass
        elif self._returns[-1] == 'bool':
            if not isinstance(value, ast.Constant):
                self._put(value, f'not ({self._of(value)})')
        else:
            self._put(value, 'None')
        self.generic_visit(node)

    def _condition(self, test: ast.expr) -> None:
        """Note that a condition could be always true, or never"""
        if not isinstance(test, ast.Constant) and self._of(test) != 'TYPE_CHECKING':
            self._put(test, 'True', 'False')

    def visit_If(self, node: ast.If) -> None:
        self._condition(node.test)
        self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        self._condition(node.test)
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._condition(node.test)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for test in node.ifs:
            self._put(test, 'True')
        self.generic_visit(node)

    # -- expressions

    def visit_Compare(self, node: ast.Compare) -> None:
        left = node.left
        clock = re.search(CLOCK, ast.unparse(node))
        for kind, right in zip(node.ops, node.comparators):
            for old, texts in COMPARISONS.items():
                if isinstance(kind, old):
                    symbol = {ast.Lt: '<', ast.LtE: '<=', ast.Gt: '>', ast.GtE: '>=',
                              ast.Eq: '==', ast.NotEq: '!=', ast.Is: 'is', ast.IsNot: 'is not',
                              ast.In: 'in', ast.NotIn: 'not in'}[old]
                    self._between(left, right, symbol, *(texts[1:] if clock else texts))
            left = right
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        old, new = ('and', 'or') if isinstance(node.op, ast.And) else ('or', 'and')
        for left, right in zip(node.values, node.values[1:]):
            self._between(left, right, old, new)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if type(node.op) in OPERATORS:
            self._between(node.left, node.right, *OPERATORS[type(node.op)])
        if not isinstance(node.op, (ast.LShift, ast.RShift)):
            self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, (ast.Not, ast.USub)):
            start, end = self._span(node)[0], self._span(node.operand)[0]
            kept = self.source[start:end].replace('not', '', 1).replace('-', '', 1).lstrip()
            self.faults.append(Fault(self.module, start, end, kept))
        self.visit(node.operand)

    def visit_Constant(self, node: ast.Constant) -> None:
        text = self._of(node)
        if isinstance(node.value, bool):
            self._put(node, str(not node.value))
        elif isinstance(node.value, int) and len(text) == 1:
            self._put(node, str(node.value + 1))
            if node.value:
                self._put(node, str(node.value - 1))

    def visit_Call(self, node: ast.Call) -> None:
        func = node.func
        name = (func.id if isinstance(func, ast.Name)
                else func.attr if isinstance(func, ast.Attribute) else '')
        if name not in SYMMETRIC and not any(isinstance(arg, ast.Starred) for arg in node.args):
            for left, right in zip(node.args, node.args[1:]):
                words = [str(arg.value) if isinstance(arg, ast.Constant) else ''
                         for arg in (left, right)]
                if (all(word.startswith('-') for word in words)
                        or any(re.match('--.', word) for word in words)):
                    continue    # Options of a program may stand in any order
                if self._of(left) == self._of(right):
                    continue
                start, end = self._span(left)[0], self._span(right)[1]
                gap = self.source[self._span(left)[1]:self._span(right)[0]]
                self.faults.append(Fault(self.module, start, end,
                                         self._of(right) + gap + self._of(left)))
        self.generic_visit(node)


@functools.lru_cache(None)
def read(module: str) -> str:
    """Return the source of a module."""
    with open(os.path.join(TOP, PACKAGE, f'{module}.py'), encoding='utf-8') as inf:
        return inf.read()


def mutant(fault: Fault) -> str:
    """Return the source of a module with a fault in it."""
    source = read(fault.module)
    return source[:fault.start] + fault.text + source[fault.end:]


def draw(modules: Sequence[str], count: int, seed: int) -> List[Fault]:
    """Draw faults, of each module in proportion to how many there can be."""
    found = [fault for module in modules for fault in Finder(module, read(module)).faults]
    if count >= len(found):
        return found
    rng = random.Random(seed)
    # One out of each stretch of the list: each module and function has its share
    edges = [len(found) * num // count for num in range(count + 1)]
    return [found[rng.randrange(start, end)] for start, end in zip(edges, edges[1:])]


def diff(fault: Fault) -> str:
    """Return a fault as a diff with the name of the function."""
    old, new = read(fault.module), mutant(fault)
    name = os.path.join(PACKAGE, f'{fault.module}.py')
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), name, name, n=0, lineterm='')
    heads = re.findall(r'^ *(?:def|class) (\w+)', old[:fault.start], re.M)
    return '\n'.join(f'{line} {heads[-1] if heads else ""}' if line.startswith('@@') else line
                     for line in lines)


class Copy:
    """A copy of the tree, in which one fault after the other is tried."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._stamp = 0
        shutil.copytree(TOP, folder, symlinks=True, ignore=shutil.ignore_patterns(
            '.git', '__pycache__', '.*_cache', '*.pyc'))

    def write(self, module: str, source: str) -> None:
        """Write a module; a compiled one of an earlier fault is not taken for it"""
        path = os.path.join(self.folder, PACKAGE, f'{module}.py')
        with open(path, 'w', encoding='utf-8') as outf:
            outf.write(source)
        self._stamp += 1
        os.utime(path, (self._stamp, self._stamp))

    def test(self, module: str, timeout: float) -> Optional[bool]:
        """Run the tests of a module.

        Returns:
            True when they are good, False when not, None when they do not end
        """
        room, _, name = module.rpartition('/')
        names = [f'tests.unit.{room}.test_{name}']
        temp = self.folder + '.tmp'
        os.makedirs(temp, exist_ok=True)
        with subprocess.Popen(
                [*ALONE, sys.executable, '-m', 'unittest', '-f', *names], cwd=self.folder,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                env={**os.environ, 'TMPDIR': temp, 'HOME': temp}) as proc:
            try:
                return proc.wait(timeout) == 0
            except subprocess.TimeoutExpired:
                return None
            finally:
                # All that it has started goes with it
                proc.kill()
                shutil.rmtree(temp, ignore_errors=True)


def run(faults: Dict[int, Fault], folder: str, jobs: int) -> Iterator[Tuple[int, str, float]]:
    """Try faults.

    Args:
        faults: by number
        folder: for the copies of the tree
        jobs: how many at a time

    Yields:
        number, 'survived', 'caught' or 'hung', seconds
    """
    copies: 'queue.SimpleQueue[Copy]' = queue.SimpleQueue()
    for num in range(jobs):
        copies.put(Copy(os.path.join(folder, f'tree{num}')))
    limits = {}
    for module in dict.fromkeys(fault.module for fault in faults.values()):
        copy = copies.get()
        start = time.monotonic()
        if not copy.test(module, 600):
            sys.exit(f'the tests of {module} fail without any fault')
        limits[module] = 5 + 5 * (time.monotonic() - start)
        copies.put(copy)

    def one(number: int) -> Tuple[int, str, float]:
        fault = faults[number]
        copy = copies.get()
        start = time.monotonic()
        try:
            copy.write(fault.module, mutant(fault))
            good = copy.test(fault.module, limits[fault.module])
            copy.write(fault.module, read(fault.module))
        finally:
            copies.put(copy)
        word = 'hung' if good is None else 'survived' if good else 'caught'
        return number, word, time.monotonic() - start

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(one, faults)


def main() -> int:
    """Draw faults, try them, and list what survives."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--seed', type=int, default=1, help='which faults are drawn')
    parser.add_argument('--count', type=int, default=100, help='how many')
    parser.add_argument('--module', action='append', metavar='ROOM/NAME',
                        help=f"only this one of: {', '.join(MODULES)}")
    parser.add_argument('--only', type=int, metavar='N', help='try the fault of this number')
    parser.add_argument('--jobs', type=int, default=os.cpu_count() or 1, help='at a time')
    args = parser.parse_args()
    if subprocess.run([*ALONE, 'true'], check=False).returncode:
        sys.exit('unshare is not there or not allowed: a fault might end processes of others')
    faults = dict(enumerate(draw(args.module or MODULES, args.count, args.seed)))
    if args.only is not None:
        faults = {args.only: faults[args.only]}
    table: Dict[str, List[str]] = {}
    # So that the folder goes
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(prefix='buildman-mutate-') as folder:
        for number, word, seconds in run(faults, folder, args.jobs):
            fault = faults[number]
            table.setdefault(fault.module, []).append(word)
            if word == 'survived' or args.only is not None:
                print(f'\n{number}: {word} ({seconds:.1f} s)\n{diff(fault)}', flush=True)
    print(f"\n{'module':20} faults  survived  hung")
    for module, words in table.items():
        print(f"{module:20} {len(words):6} {words.count('survived'):9} {words.count('hung'):5}")
    survived = sum(words.count('survived') for words in table.values())
    print(f"{'all':20} {len(faults):6} {survived:9}   (seed {args.seed})")
    return int(survived > ALLOWED * len(faults))


if __name__ == '__main__':
    sys.exit(main())
