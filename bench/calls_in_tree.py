# SPDX-License-Identifier: GPL-2.0+
"""Finds the calls of buildman in a U-Boot tree, for real_calls.py.

They are in CI files, Makefiles, shell scripts, Python programs (lists that begin with
buildman) and in literal or quoted text of the documentation. Variables are filled in
from the file: assignments, and the groups of variables that CI jobs have.
"""

from __future__ import annotations

import ast
import dataclasses
import itertools
import os
import re
import subprocess
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

# Upstream's own program and manual, which real_calls.py must neither run nor read: what they
# say about themselves is no call of a user's
SKIPPED = ('tools/buildman/', 'doc/build/buildman.rst', 'tools/u_boot_pylib/')

# Values of variables that a file does not set itself
DEFAULTS = {
    'UBOOT_TRAVIS_BUILD_DIR': '/tmp/build', 'WORK_DIR': '/u', 'board_type': 'sandbox',
    'board': 'sandbox', 'build_dir': '/tmp/build', 'tmpdir': '/tmp/build',
    'TEST_PY_BD': 'sandbox', 'PIP_ARGS': '-n', 'skip': '',
    # Filled by earlier calls with the names of the boards of the tree
    'built': '@BOARDS@',
}

_WORD = re.compile(r'\bbuildman\b')
# buildman as a command: by its path, or by name
_COMMAND = re.compile(r'(?<![\w.@-])(?:(?:[\w.~-]|\$\{?\w+\}?)*/)*buildman(?=[\s;|&)`"\']|$)')
_ASSIGNED = re.compile(r'(?:^|[\s;])(?:export\s+)?([A-Za-z_]\w*)=("[^"`]*"|\'[^\']*\'|[^\s;"\'`]+)')
_YAML = re.compile(r'^(\s*)([A-Za-z_]\w*):\s+("[^"]*"|\'[^\']*\'|[^"\'\s&*<>|][^#]*?)\s*$')
_VARIABLE = re.compile(r'\$\{(\w+)(?::[^}]*)?\}|\$\((\w+)\)|\$(\w+)')
_QUOTED = re.compile(r'(``|`|\'|")((?:[\w./~-]*/)?buildman(?: +[^`\'"]+))\1')


@dataclasses.dataclass(frozen=True)
class Call:
    """A call, as it is run.

    Attributes:
        path, line: where it is
        text: as it is written there
        args: words after the command, variables filled in
        kind: 'run'; 'import' (args: module and names that are used of it), 'file' (args: path
            that must exist), 'config' (args: text of a configuration file),
            'package' (scripts/make_pip.sh)
    """

    path: str
    line: int
    text: str
    args: Tuple[str, ...]
    kind: str = 'run'

    @property
    def where(self) -> str:
        """Return file and line."""
        return f'{self.path}:{self.line}'


class Mention(NamedTuple):
    """A line that names buildman and calls nothing."""

    path: str
    line: int
    text: str


def tree_files(tree: str) -> List[str]:
    """Return the text files of a tree that name buildman."""
    done = subprocess.run(['git', 'grep', '-lIw', 'buildman'], cwd=tree, capture_output=True,
                          text=True, check=False)
    if done.returncode > 1:
        raise SystemExit(f'{tree}: {done.stderr.strip()}')
    return [name for name in done.stdout.splitlines() if not name.startswith(SKIPPED)]


def find_calls(tree: str) -> Tuple[List[Call], List[Mention]]:
    """Return all calls in a tree, and what just names buildman."""
    calls: List[Call] = []
    mentions: List[Mention] = []
    for path in tree_files(tree):
        with open(os.path.join(tree, path), encoding='utf-8', errors='replace') as inf:
            text = inf.read()
        found = list(_in_python(path, text) if is_python(path, text) else _in_text(path, text))
        calls += found
        lines = text.splitlines()
        covered = {call.line for call in found}
        mentions += [Mention(path, num, line.strip()) for num, line in enumerate(lines, 1)
                     if _WORD.search(line) and num not in covered]
    return calls, mentions


def is_python(path: str, text: str) -> bool:
    """Return whether a file is a Python program."""
    return path.endswith('.py') or text.startswith('#!/usr/bin/env python')


# -- words -----------------------------------------------------------------


def _command_words(text: str) -> Tuple[List[str], int]:
    """Return the words of a command up to where the shell would end it, and that place."""
    words: List[str] = []
    word: Optional[str] = None
    pos, quote = 0, ''
    while pos < len(text):
        char = text[pos]
        if char == '\\' and pos + 1 < len(text) and quote != "'":
            word = (word or '') + text[pos + 1]
            pos += 2
            continue
        if quote:
            if char == quote:
                quote = ''
            else:
                word = (word or '') + char
        elif char in '"\'':
            quote, word = char, word or ''
        elif text.startswith('$(', pos) and re.match(r'\$\(\w+\)', text[pos:]):
            # A variable, as Azure's pipelines have it
            end = text.index(')', pos) + 1
            word = (word or '') + text[pos:end]
            pos = end
            continue
        elif char in ';|&)`\n<>' or (char == '#' and word is None):
            break
        elif char.isspace():
            if word is not None:
                words.append(word)
            word = None
        else:
            word = (word or '') + char
        pos += 1
    if word is not None:
        words.append(word)
    return words, pos


def _unescaped(path: str, text: str) -> str:
    """Return the text of a script; Azure's write some of them with cat << EOF."""
    return text.replace('\\$', '$').replace('\\`', '`') if path.endswith('.yml') else text


def _groups(text: str) -> List[Dict[str, str]]:
    """Return the groups of variables of CI jobs: neighbouring lines of equal indentation."""
    groups: List[Dict[str, str]] = []
    last = ('', -2)
    for num, line in enumerate(text.splitlines()):
        match = _YAML.match(line)
        if match and match.group(2).upper() == match.group(2):
            if last != (match.group(1), num - 1):
                groups.append({})
            groups[-1][match.group(2)] = match.group(3).strip('"\'')
            last = (match.group(1), num)
        elif line.strip().startswith('#'):
            last = (last[0], num)
    return groups


def _settings(path: str, text: str) -> Dict[str, List[str]]:
    """Return the values that a file gives to variables for all of it"""
    values: Dict[str, List[str]] = {}
    for match in _ASSIGNED.finditer(text):
        value = match.group(2).strip('"\'')
        if f'${{{match.group(1)}}}' not in value and '$(tools' not in value:
            values.setdefault(match.group(1), []).append(value)
    if path.endswith(('.yml', '.yaml')):
        for line in text.splitlines():
            found = _YAML.match(line)
            if found and found.group(2).lower() == found.group(2):
                values.setdefault(found.group(2), []).append(found.group(3).strip('"\''))
    return values


class _Filler:
    """Fills variables in."""

    def __init__(self, path: str, text: str) -> None:
        self._groups = _groups(text) if path.endswith(('.yml', '.yaml')) else []
        self._values = _settings(path, text)

    def variants(self, words: Sequence[str]) -> Iterator[Tuple[str, ...]]:
        """Yield the words as the jobs of the file would have them, each variant once."""
        names = set(_names(words))
        seen = set()
        # The first that jobs set is what they are about, e.g. the board; others modify it
        subject = next((name for name in _names(words)
                        if any(name in group for group in self._groups)), '')
        groups = [group for group in self._groups if subject in group] or [{}]
        # A script may or may not set what it passes on
        optional = [name for name in sorted(names) if name not in DEFAULTS
                    and not any(name in group for group in self._groups)]
        for group in groups:
            choices = [self._values.get(name, ['']) for name in optional]
            if 'skip' in names:
                choices.append(['', *self._values.get('skip', [])])
                optional_names = [*optional, 'skip']
            else:
                optional_names = optional
            for chosen in itertools.product(*choices):
                filled = self._fill(words, {**group, **dict(zip(optional_names, chosen))})
                if filled not in seen:
                    seen.add(filled)
                    yield filled

    def _fill(self, words: Sequence[str], group: Dict[str, str]) -> Tuple[str, ...]:
        def value(match: 're.Match[str]') -> str:
            name = next(filter(None, match.groups()))
            if name in group:
                return group[name]
            return DEFAULTS.get(name, next(iter(self._values.get(name, [])), ''))
        out: List[str] = []
        for word in words:
            text = word
            for _ in range(4):
                text = _VARIABLE.sub(value, text)
            # The shell splits what it has put in
            out += text.split() if text != word else [text]
        return tuple(out)


def _names(words: Sequence[str]) -> List[str]:
    return [name for word in words for match in _VARIABLE.finditer(word)
            for name in match.groups() if name]


# -- text ------------------------------------------------------------------


def _in_text(path: str, text: str) -> Iterator[Call]:
    """Yield the calls in a script, CI file, Makefile or document"""
    prose = path.endswith('.rst') or os.path.basename(path).startswith('README')
    filler = _Filler(path, _unescaped(path, text))
    lines = text.splitlines()
    config: List[str] = []
    config_line = 0
    for num, line in enumerate(lines, 1):
        if not prose and line.strip().startswith('#'):
            continue
        # What another command makes of it
        requirements = re.search(r'pip install -r (\S*buildman\S*\.txt)', line)
        if requirements:
            yield Call(path, num, line.strip(), (requirements.group(1),), 'file')
        elif re.search(r'make_pip\.sh buildman\b', line):
            yield Call(path, num, line.strip(), (), 'package')
        elif re.search(r'test\.py .*--buildman\b|^\s*[^\'"]*--build --buildman\b', line):
            board = re.search(r'--bd[ =](\S+)', line)
            name = board.group(1) if board else 'sandbox'
            yield Call(path, num, line.strip(), ('--board', name, '-o', '/tmp/build', '-w'))
        echo = re.search(r'echo -e "(.*)" >>? ?~/\.buildman', line)
        if echo:
            config.append(echo.group(1).replace('\\n', '\n'))
            config_line = config_line or num
        yield from (_prose_calls if prose else _script_calls)(path, lines, num, filler)
    if config:
        yield Call(path, config_line, '~/.buildman', ('\n'.join(config) + '\n',), 'config')


def _whole(lines: Sequence[str], num: int) -> str:
    """Return a line with those that go on with it: after a backslash, or more options"""
    text = lines[num - 1]
    for following in lines[num:]:
        if text.endswith('\\'):
            text = text[:-1] + following
        elif re.match(r'\s+--?\w', following) and not text.rstrip().endswith((';', '|', '&')):
            text += ' ' + following.strip()
        else:
            break
    return text


def _script_calls(path: str, lines: Sequence[str], num: int, filler: _Filler) -> Iterator[Call]:
    """Yield the calls in a line of a script"""
    text = _unescaped(path, _whole(lines, num))
    for match in _COMMAND.finditer(text):
        if match.start() > len(lines[num - 1]):
            continue    # in what follows
        name = match.group()
        words, _ = _command_words(text[match.end():])
        before = text[:match.start()].rstrip()
        by_name = '/' not in name
        if by_name and not (words and words[0].startswith('-')
                            and (not before or before.endswith(('-', ';', '|', '&', '(', '`')))):
            continue
        for args in filler.variants(words):
            yield Call(path, num, (name + ' ' + ' '.join(words)).strip(), args)


def _prose_calls(path: str, lines: Sequence[str], num: int, filler: _Filler) -> Iterator[Call]:
    """Yield the calls in a line of a document: literal blocks and quoted text"""
    line = lines[num - 1]
    literal = re.match(r'\s+(?:\$ +)?((?:[\w.~-]*/)*buildman)(?:\s|$)', line)
    if literal and ('/' in literal.group(1) or ' -' in line):
        words, _ = _command_words(_whole(lines, num)[literal.end():])
        for args in filler.variants(words):
            yield Call(path, num, line.strip(), args)
        return
    for match in _QUOTED.finditer(line):
        words, _ = _command_words(match.group(2).split('buildman', 1)[1])
        if words and words[0].startswith('-'):
            yield Call(path, num, match.group(2), tuple(words))


# -- Python ----------------------------------------------------------------


def _in_python(path: str, text: str) -> Iterator[Call]:
    """Yield the calls in a Python program, and the modules of buildman that it imports"""
    module = ast.parse(text)
    lines = text.splitlines()
    used: Dict[str, List[str]] = {}
    for node in ast.walk(module):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            used.setdefault(node.value.id, []).append(node.attr)
    for node in ast.walk(module):
        if isinstance(node, ast.ImportFrom) and (node.module or '').split('.')[0] == 'buildman':
            for alias in node.names:
                names = sorted(set(used.get(alias.asname or alias.name, [])))
                yield Call(path, node.lineno, lines[node.lineno - 1].strip(),
                           (alias.name, *names), 'import')
    done = set()
    for scope in [*(node for node in ast.walk(module) if isinstance(node, ast.FunctionDef)),
                  module]:
        for node in ast.walk(scope):
            if isinstance(node, ast.List) and node.lineno not in done and _begins(node):
                done.add(node.lineno)
                whole = next((other for other in ast.walk(scope)
                              if isinstance(other, ast.BinOp) and other.left is node), node)
                shown = ' '.join(ast.unparse(whole).split())
                for words in _values(whole, scope, module):
                    yield Call(path, node.lineno, shown, tuple(words[1:]))


def _begins(node: ast.List) -> bool:
    """Return whether a list begins with the command"""
    return bool(node.elts) and isinstance(node.elts[0], ast.Constant) and isinstance(
        node.elts[0].value, str) and node.elts[0].value.split('/')[-1] == 'buildman'


def _values(node: ast.expr, scope: ast.AST, module: ast.Module) -> List[List[str]]:
    """Return the words that an expression may stand for, all variants"""
    if isinstance(node, ast.Constant):
        return [[str(node.value)]]
    if isinstance(node, ast.Starred):
        return _values(node.value, scope, module)
    if isinstance(node, ast.IfExp):
        return [*_values(node.body, scope, module), *_values(node.orelse, scope, module)]
    if isinstance(node, (ast.List, ast.BinOp)):
        parts = node.elts if isinstance(node, ast.List) else [node.left, node.right]
        return [list(itertools.chain(*chosen)) for chosen in itertools.product(
            *(_values(part, scope, module) for part in parts))]
    if isinstance(node, ast.Name):
        for items in (ast.walk(scope), iter(module.body)):
            found = [_values(item.value, scope, module) for item in items
                     if isinstance(item, ast.Assign) and any(
                         isinstance(target, ast.Name) and target.id == node.id
                         for target in item.targets)]
            if found:
                return list(itertools.chain(*found))
        return [[DEFAULTS.get(node.id, node.id)]]
    return [[ast.unparse(node)]]
