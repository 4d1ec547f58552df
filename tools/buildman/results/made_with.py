# SPDX-License-Identifier: GPL-2.0+
"""The settings that made a result, as it has them beside `done`, and what follows from them.

The file `settings` is one line of JSON: the fields of `plan.Settings` below that are not
as by default, `compiler` (what it says of its version) and `make` (words of
[make-flags]). They are those of the one who asked for the build, on whichever machine
it was; so there is nothing in it that depends on the machine. It has the time of
`done`: with another one it is of an earlier result.
"""

from __future__ import annotations

import functools
import json
from typing import Any, Dict, List, Mapping, Sequence, Set, Tuple

from buildman.core.plan import BoardJob, Plan, Settings, Toolchain

# With another value, something else comes out: field -> its flag
_DECIDES = {
    'config_only': '--config-only', 'target': '--target', 'warnings_as_errors': '-E',
    'adjust_cfg': '-a', 'fragments': '--fragments', 'reproducible_builds': '-r', 'no_lto': '-L',
    'allow_missing': '-M', 'dtc_skip': '--dtc-skip'}

# A result may be wrong with them, not without
_RISKS = {'kconfig_check': '-Z', 'quick': '-Q'}

# More is kept with them
_ADDS = {'keep_outputs': '-k', 'lines': '--lines', 'verbose_build': '-V'}

# Names that a line has room for
_SHOWN = 5


def text(settings: Settings, job: BoardJob) -> str:
    """Return the content of the file for the results of a board."""
    return _text(settings, job.toolchain, job.make_args)


@functools.lru_cache(maxsize=64)
def _text(settings: Settings, tool: Toolchain, words: Tuple[str, ...]) -> str:
    """Return the same; most boards share it"""
    plain, default = settings.to_dict(), Settings().to_dict()
    out = {name: plain[name] for name in (*_DECIDES, *_RISKS, *_ADDS)
           if plain[name] != default[name]}
    compiler = ': '.join(filter(None, (tool.override, tool.version)))
    out.update({name: val for name, val in (('compiler', compiler),
                                            ('make', list(words))) if val})
    return json.dumps(out, sort_keys=True) + '\n'


def compare(had: Mapping[str, Any], now: Mapping[str, Any]) -> Tuple[List[str], List[str]]:
    """Compare settings.

    Args:
        had: those of a result
        now: those of this run

    Returns:
        (what differs so that the result is not one of this run, which of the flags
        it lacks that would only have added to it)
    """
    other = [flag for name, flag in _DECIDES.items() if had.get(name) != now.get(name)]
    other += [flag for name, flag in _RISKS.items() if name in had and name not in now]
    if had.get('make') != now.get('make'):
        other.append('[make-flags]')
    # Whoever has no compiler, but machines that do, does not know which it is
    if had.get('compiler') and now.get('compiler') and had['compiler'] != now['compiler']:
        other.append('another compiler')
    return other, [flag for name, flag in _ADDS.items() if name in now and name not in had]


def differences(had: str, now: str) -> List[str]:
    """Return the flags by which two texts are of different settings."""
    return compare(_parse(had), _parse(now))[0]


class Earlier:
    """What a run finds of results that other settings made.

    Attributes:
        outdated: boards with the indexes of the commits that are to be built again
    """

    def __init__(self, plan: Plan) -> None:
        self._texts = {job.board.target: text(plan.settings, job) for job in plan.jobs}
        self._known: Dict[Tuple[str, str], Tuple[List[str], List[str]]] = {}
        self._why: Set[str] = set()
        self._lacking: Dict[str, Set[str]] = {}
        self._silent = 0
        self.outdated: Set[Tuple[str, int]] = set()

    def text(self, target: str) -> str:
        """Return what the results of a board are to tell."""
        return self._texts[target]

    def is_outdated(self, target: str, upto: int, had: str) -> bool:
        """Note which settings made a result; return whether it is to be built again.

        Args:
            target: board
            upto: index of the commit
            had: what the result tells of its settings, '' for nothing
        """
        now = self._texts[target]
        if now == had:
            return False
        if (now, had) not in self._known:
            self._known[now, had] = compare(_parse(had), _parse(now)) if had else ([], [])
        other, lacks = self._known[now, had]
        if other:
            self._why.update(other)
            self.outdated.add((target, upto))
            return True
        self._silent += not had
        for flag in lacks:
            self._lacking.setdefault(flag, set()).add(target)
        return False

    def lines(self, fate: str = 'built again') -> List[str]:
        """Return what people are to know of it, a line each.

        Args:
            fate: of results that other settings made
        """
        out = []
        if self.outdated:
            out.append(f'{_count(len(self.outdated), "result")} of other settings '
                       f"({', '.join(sorted(self._why))}): {fate}")
        for flag, targets in self._lacking.items():
            out.append(f'{_count(len(targets), "board")} built without {flag} '
                       f'({_some(sorted(targets))}): kept so; -f builds all again')
        if self._silent:
            out.append(f'{_count(self._silent, "result")} of unknown settings (of another '
                       'buildman, or a copy): taken for those of this run; -f builds all again')
        return out


def _parse(line: str) -> Mapping[str, Any]:
    """Return what a file tells; one that is damaged tells of other settings"""
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {'target': False}


def _count(num: int, what: str) -> str:
    """Return a number with its noun"""
    return f"{num} {what}{'s' if num != 1 else ''}"


def _some(names: Sequence[str]) -> str:
    """Return the first of some names"""
    return ' '.join(names[:_SHOWN]) + (' …' if len(names) > _SHOWN else '')
