# SPDX-License-Identifier: GPL-2.0+
"""Writes a summary for programs: JSON (`--json`) and JUnit (`--junit`).

Both files are written under a temporary name, commit by commit, and get their
own name when they are complete.

The JSON file, version 1 (a later version that only adds members keeps the
number)::

    {
      "schema": "buildman-summary",
      "version": 1,
      "folder": "…/BRANCH",          result folder
      "boards": [{"target": "…", "arch": "…"}],       all that are selected
      "commits": [{
        "number": 1,                 as in the text, counted from 1
        "hash": "…", "subject": "…", both null for the current source
        "against": "…",              with --against: folder that it is compared with
        "counts": {"ok": 0, "warning": 0, "error": 0, "not-built": 0},
        "boards": {"TARGET": {       boards that have a result
          "outcome": "ok" | "warning" | "error",
          "blob_only": true | false, an error or a warning, but only for want of
                                     binaries
          "before": outcome at the commit before, "not-built" included;
                    null at the first commit; with --against, the other outcome
          "errors": ["…"], "warnings": ["…"],   lines, each once
          "blobs": ["…"],            lines about missing binaries, in neither
          "sizes": {"IMAGE": {"all": n, "text": n, "data": n, "bss": n,
                              "rodata": n}},    bytes; 'all' leaves rodata
                                                inside the text that it sums
          "deltas": {"REGION": n},   bytes, only what changed; a region of
                                     another image than u-boot is 'IMAGE:REGION'
          "functions": {"IMAGE": [["NAME", before, after]]},  with -B, null:
                                                              was or is not there
          "machine": "…" | null,     null: built on the local machine
          "seconds": n | null        null: not known, or nothing was built, as
                                     the commit does not affect the board
        }},
        "fixed": […], "broken": […], "warned": […],   targets that have become
                                     good, failing or good with warnings
        "not_built": […],            targets without a result
        "not_built_why": {"TARGET": "…"},  of these, what the run that wrote this
                                     (-z) could not build, and why
        "inferred": {"TARGET": OUTCOME},   of these, what --hunt takes them for
        "added": [{"line": "…", "kind": "error" | "warning" | "blob",
                   "boards": […]}],  lines that no board had before
        "removed": […],              the same; 'blob' does not occur
        "sizes": [{"arch": "…", "sized": n, "total": n,
                   "deltas": {"REGION": n}}],         summed up, not averaged
        "config": [{"boards": […], "files": {"FILE": CHANGES}}],       with -K
        "environment": {"TARGET": CHANGES}                             with -U
      }],
      "likely_flakes": ["…"],        failed, then recovered
      "problems": [{"path": "…", "problem": "…"}],    damage in the tree
      "hunt": {                      with --hunt
        "known": n, "total": n,      results that are there, and of all commits
        "changes": [{
          "board": "…", "number": n, "hash": "…", "subject": "…",   first commit
          "since": n,                last one that is known to be as before
          "before": OUTCOME, "after": OUTCOME,
          "added": ["…"], "removed": ["…"], "sizes": {"IMAGE": bytes}
        }]}
    }

    CHANGES: {"plus": {name: value}, "minus": {name: value},
              "change": {name: [before, after]}}

The JUnit file has a suite for each commit and a case for each board, with
class `buildman.ARCH`. A board that failed is a failure with its stderr, of type
'build' or, if it lacks binaries only, 'missing-blobs', or 'no-toolchain'. One
that the run which wrote this (-z) could not build is an error of type
'not-built'; another one without a result is skipped, with type 'inferred' if --hunt
knows what it is. Warnings are in system-err. What does not count (--new-only, --known)
is skipped, with the reason. Tries that failed before (--retry) are in a flakyFailure
each if the board was good then, else in a rerunFailure, as Maven's Surefire has it; a
property `tries` tells how many there were. What --hunt has found is a suite of its own,
the last one: a case for each board that changes, with the text in system-out.
"""

from __future__ import annotations

import functools
import json
import os
import re
from typing import Any, Dict, FrozenSet, Iterable, List, Mapping, Optional, Sequence, TextIO
from xml.sax.saxutils import escape, quoteattr

from buildman.core.errors import SetupError, UsageError
from buildman.core.outcome import is_no_compiler, read_tries
from buildman.core.plan import Board
from buildman.results.compare import Changes, Messages, about_blobs, is_blob
from buildman.results.hunted import Found
from buildman.results.reader import ERROR, STATUS_NAMES, UNKNOWN, WARNING, Problem
from buildman.results.summary import CommitSummary, Line, sort_names

SCHEMA = 'buildman-summary'
VERSION = 1

# Characters that XML 1.0 has no way to hold
_NOT_XML = re.compile('[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]')


def _stays(path: str) -> bool:
    """Return whether a path is not to be replaced: a link, or no file, such as /dev/stdout"""
    return os.path.islink(path) or (os.path.exists(path) and not os.path.isfile(path))


def _identity(path: str) -> object:
    """Return what is the same for two names of one file"""
    try:
        info = os.stat(path)
    except OSError:
        return os.path.realpath(path)
    return info.st_dev, info.st_ino


def check_paths(outputs: Mapping[str, str], inputs: Mapping[str, str]) -> None:
    """See to it, before hours of work, that files can be written, and none over another one.

    Args:
        outputs: flag to the file that it has written
        inputs: flag to the file that it has read

    Raises:
        UsageError: one cannot be written, or two are the same file
    """
    known: Dict[object, str] = {}
    for flag, path in [*inputs.items(), *outputs.items()]:
        if os.path.realpath(path) == os.devnull:
            continue
        other = known.setdefault(_identity(path), flag)
        if other != flag and flag in outputs:
            raise UsageError(f"{other} and {flag} both name '{path}': give each a file of its own")
    for flag, path in outputs.items():
        folder = os.path.dirname(path) or '.'
        place = path if _stays(path) and os.path.exists(path) else folder
        why = ('there is no such folder' if not os.path.isdir(folder) else
               'it is a folder' if os.path.isdir(path) else
               '' if os.access(place, os.W_OK) else 'you may not write there')
        if why:
            raise UsageError(f"{flag}: cannot write '{path}': {why}: name another file")


class Report:
    """A file that appears under its name once it is complete.

    A link, or what is no file (/dev/stdout), stays what it is, and is written to.
    """

    def __init__(self, path: str, boards: Sequence[Board], folder: str,
                 hunt: Optional[Found] = None):
        self._path = path
        self._temp = path if _stays(path) else f'{path}.{os.getpid()}.tmp'
        self._boards = boards
        self._folder = folder
        self._hunt = hunt
        self._out: Optional[TextIO] = None
        try:
            self._out = open(self._temp, 'w', encoding='utf-8')  # noqa: SIM115
        except OSError as exc:
            raise SetupError(self._trouble(exc)) from exc

    def _trouble(self, exc: OSError) -> str:
        return (f"cannot write report '{self._path}': {exc.strerror}: name another file or"
                ' make room there')

    def _write(self, text: str) -> None:
        assert self._out
        try:
            self._out.write(text)
        except OSError as exc:
            raise SetupError(self._trouble(exc)) from exc

    def _finish(self) -> None:
        assert self._out
        try:
            self._out.close()
            if self._temp != self._path:
                os.replace(self._temp, self._path)
        except OSError as exc:
            raise SetupError(self._trouble(exc)) from exc
        self._out = None

    def commit(self, summary: CommitSummary) -> None:
        """Add one commit."""
        raise NotImplementedError

    def end(self, flakes: Iterable[int], problems: Sequence[Problem]) -> None:
        """Complete the file."""
        raise NotImplementedError

    def close(self) -> None:
        """Leave nothing behind if the report was not completed."""
        if self._out:
            self._out.close()
            if self._temp != self._path:
                os.unlink(self._temp)
            self._out = None


class JsonReport(Report):
    """A listener that writes the JSON file, see the module's docstring."""

    def __init__(self, path: str, boards: Sequence[Board], folder: str,
                 hunt: Optional[Found] = None):
        """
        Args:
            path: file to write
            boards: all the selected boards
            folder: result folder, for the reader to know
            hunt: what a hunt has found

        Raises:
            SetupError: the file cannot be written
        """
        super().__init__(path, boards, folder, hunt)
        self._count = 0
        head = json.dumps({'schema': SCHEMA, 'version': VERSION, 'folder': folder,
                           'boards': [{'target': brd.target, 'arch': brd.arch}
                                      for brd in boards]})
        self._write(head[:-1] + ',\n"commits": [')

    def commit(self, summary: CommitSummary) -> None:
        """Add one commit."""
        self._write((',' if self._count else '') + '\n')
        self._write(json.dumps(self._commit(summary)))
        self._count += 1

    def end(self, flakes: Iterable[int], problems: Sequence[Problem]) -> None:
        """Complete the file."""
        last: Dict[str, Any] = {'likely_flakes': sort_names(self._boards, flakes),
                                'problems': [{'path': prob.path, 'problem': prob.kind}
                                             for prob in dict.fromkeys(problems)]}
        if self._hunt:
            last['hunt'] = {'known': self._hunt.known, 'total': self._hunt.total,
                            'changes': [change.to_dict() for change in self._hunt.changes]}
        tail = json.dumps(last)
        self._write('\n],\n' + tail[1:] + '\n')
        self._finish()

    def _names(self, nums: Iterable[int]) -> List[str]:
        return [self._boards[num].target for num in nums]

    def _commit(self, summary: CommitSummary) -> Dict[str, Any]:
        now = summary.facts.statuses
        groups = [[num for lists in summary.groups.values() for num in lists[which]]
                  for which in range(3)]
        # In the text a board that fails after it was not built is among the
        # good ones
        broken = sorted(groups[2] + [num for num in groups[0] if now[num] == ERROR])
        out: Dict[str, Any] = {
            'number': summary.upto + 1,
            'hash': summary.commit.hash if summary.commit else None,
            'subject': summary.commit.subject if summary.commit else None,
            'counts': {name: now.count(status) for status, name in enumerate(STATUS_NAMES)},
            'boards': {brd.target: self._board(num, summary)
                       for num, brd in enumerate(self._boards) if now[num] != UNKNOWN},
            'fixed': self._names(num for num in groups[0] if now[num] != ERROR),
            'warned': self._names(groups[1]),
            'broken': self._names(broken),
            'not_built': self._names(summary.not_built),
            'not_built_why': {self._boards[num].target: why
                          for num, why in summary.failures.items()},
            'added': [self._line(line, is_blob(line.text) or (bool(line.boards) and all(
                line.text in _blob_lines(summary.messages[num]) for num in line.boards)))
                      for line in summary.added + summary.blobs],
            'removed': [self._line(line, False) for line in summary.removed],
            'sizes': [{'arch': item.arch, 'sized': item.sized, 'total': item.total,
                       'deltas': item.deltas} for item in summary.sizes],
        }
        if summary.against:
            out['against'] = summary.against
        if summary.inferred:
            out['inferred'] = {self._boards[num].target: what
                               for num, what in summary.inferred.items()}
        if summary.config_boards:
            out['config'] = [
                {'boards': self._names(nums),
                 'files': {name: _changes(item) for name, item in files.items()}}
                for nums, files in summary.config_boards]
        if summary.facts.env:
            out['environment'] = {self._boards[num].target: _changes(item)
                                  for num, item in sorted(summary.facts.env.items())}
        return out

    def _board(self, num: int, summary: CommitSummary) -> Dict[str, Any]:
        facts = summary.facts
        errors, warnings = summary.messages[num]
        blobs = _blob_lines(summary.messages[num])
        out: Dict[str, Any] = {
            'outcome': STATUS_NAMES[facts.statuses[num]],
            'blob_only': num in facts.blob_only,
            'before': (STATUS_NAMES[summary.was[num]] if self._count or summary.against
                       else None),
            'errors': [line for line in errors if line not in blobs],
            'warnings': [line for line in warnings if line not in blobs],
            'blobs': [line for line in errors + warnings if line in blobs],
            'sizes': facts.sizes.get(num, {}),
            'deltas': facts.size_deltas.get(num, {}),
            'machine': facts.host.get(num),
            'seconds': summary.seconds.get(self._boards[num].target),
        }
        if num in facts.functions:
            out['functions'] = facts.functions[num]
        return out

    def _line(self, line: Line, blob: bool) -> Dict[str, Any]:
        kind = 'blob' if blob else 'warning' if line.warning else 'error'
        return {'line': line.text, 'kind': kind, 'boards': self._names(line.boards)}


@functools.lru_cache(maxsize=256)
def _blob_lines(messages: Messages) -> FrozenSet[str]:
    """Return what a board says about binaries that it lacks"""
    return frozenset(line for lines in messages
                     for line, about in zip(lines, about_blobs(lines)) if about)


def _changes(changes: Changes) -> Dict[str, Any]:
    return {'plus': changes.plus, 'minus': changes.minus, 'change': changes.change}


class JunitReport(Report):
    """A listener that writes the JUnit file, see the module's docstring."""

    def __init__(self, path: str, boards: Sequence[Board], folder: str,
                 hunt: Optional[Found] = None):
        """
        Args:
            path: file to write
            boards: all the selected boards
            folder: result folder, for the name of the run
            hunt: what a hunt has found

        Raises:
            SetupError: the file cannot be written
        """
        super().__init__(path, boards, folder, hunt)
        self._write('<?xml version="1.0" encoding="UTF-8"?>\n'
                    f'<testsuites name={_attr("buildman " + folder)}>\n')

    def commit(self, summary: CommitSummary) -> None:
        """Add a suite for one commit."""
        now = summary.facts.statuses
        name = 'current source'
        if summary.commit:
            name = f'{summary.upto + 1:02d}: {summary.commit.subject}'
        passed_over = sum(now[num] == ERROR for num in summary.tolerated)
        skipped = now.count(UNKNOWN) - len(summary.failures) + len(summary.tolerated)
        self._write(f'<testsuite name={_attr(name)} tests="{len(now)}" '
                    f'failures="{now.count(ERROR) - passed_over}" '
                    f'errors="{len(summary.failures)}" skipped="{skipped}">\n')
        if summary.commit:
            self._write(f'<properties><property name="commit" value={_attr(summary.commit.hash)}/>'
                        '</properties>\n')
        for num, brd in enumerate(self._boards):
            self._write(self._case(num, brd, summary))
        self._write('</testsuite>\n')

    def end(self, flakes: Iterable[int], problems: Sequence[Problem]) -> None:
        """Complete the file; JUnit has no place for flakes and problems."""
        if self._hunt:
            boards: Dict[str, List[str]] = {}
            for change in self._hunt.changes:
                boards.setdefault(change.target, []).append(change.text())
            archs = {brd.target: brd.arch for brd in self._boards}
            self._write(f'<testsuite name="hunt" tests="{len(boards)}">\n' + ''.join(
                f'<testcase classname={_attr("buildman." + archs[target])} name={_attr(target)}>'
                f'<system-out>{_xml(chr(10).join(lines))}</system-out></testcase>\n'
                for target, lines in boards.items()) + '</testsuite>\n')
        self._write('</testsuites>\n')
        self._finish()

    def _case(self, num: int, brd: Board, summary: CommitSummary) -> str:
        status = summary.facts.statuses[num]
        text = _xml(summary.facts.stderr.get(num, ''))
        seconds = summary.seconds.get(brd.target)
        time = '' if seconds is None else f' time="{seconds:.3f}"'
        tries = read_tries(summary.facts.tries.get(num, ''))
        head = f'<testcase classname={_attr("buildman." + brd.arch)} name={_attr(brd.target)}{time}'
        tail = '</testcase>\n'
        if tries:
            head += f'><properties><property name="tries" value="{len(tries) + 1}"/></properties'
            kind = 'rerunFailure' if status == ERROR else 'flakyFailure'
            tail = ''.join(
                f'<{kind} type="build" message="exit status {code}"><stackTrace>{_xml(said)}'
                f'</stackTrace></{kind}>' for code, said in tries) + tail
        if num in summary.failures:
            why = summary.failures[num]
            return (f'{head}><error type="not-built" message={_attr("not built: " + why)}/>'
                    '</testcase>\n')
        if status == UNKNOWN:
            if num in summary.inferred:
                return (f'{head}><skipped type="inferred" message="not built: taken for '
                        f'{summary.inferred[num]}, as before and after it"/></testcase>\n')
            return f'{head}><skipped message="not built"/></testcase>\n'
        if num in summary.tolerated:
            return (f'{head}><skipped message={_attr(summary.tolerated[num])}/>'
                    f'<system-err>{text}</system-err>{tail}')
        if status == ERROR:
            lines, blobs = summary.messages[num][0], _blob_lines(summary.messages[num])
            errors = [line for line in lines if line not in blobs] or lines
            first = next((line for line in errors if 'error' in line.lower()),
                         errors[0] if errors else 'build failed')
            kind = ('missing-blobs' if num in summary.facts.blob_only else
                    'no-toolchain' if is_no_compiler(summary.facts.stderr.get(num, '')) else
                    'build')
            return (f'{head}><failure type="{kind}" message={_attr(first)}>{text}</failure>'
                    f'{tail}')
        if status == WARNING:
            return f'{head}><system-err>{text}</system-err>{tail}'
        return f'{head}>{tail}' if tries else f'{head}/>\n'


def _xml(text: str) -> str:
    return escape(_NOT_XML.sub('\ufffd', text))


def _attr(text: str) -> str:
    return quoteattr(_NOT_XML.sub('\ufffd', text))
