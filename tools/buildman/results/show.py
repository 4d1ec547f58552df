# SPDX-License-Identifier: GPL-2.0+
"""`buildman -s`: reads the result tree and tells listeners what changed."""

from __future__ import annotations

import dataclasses
import gc
import io
import os
import sys
from typing import (
    TYPE_CHECKING,
    Dict,
    FrozenSet,
    Iterable,
    Iterator,
    List,
    Mapping,
    Optional,
    Sequence,
    TextIO,
    Tuple,
)

from buildman.core.errors import EXIT_ERRORS, EXIT_OK
from buildman.core.outcome import Outcome
from buildman.core.plan import Board, Commit
from buildman.results import durations
from buildman.results.against import Other
from buildman.results.compare import NO_MESSAGES, classify
from buildman.results.hunted import Found
from buildman.results.reader import (
    CONFIG_FILES,
    ERROR,
    KCONFIG_FILES,
    OK,
    STATUS_NAMES,
    WARNING,
    Problem,
    check_branch_folder,
    decode,
    err_lines,
)
from buildman.results.scan import History, Wanted, process_count, read_commits
from buildman.results.summary import BoardFacts, CommitSummary, Differ
from buildman.results.text import TextPrinter
from buildman.results.tree import commit_dir_name, find_commit_dirs

if TYPE_CHECKING:
    from buildman.results.annotate import Collector
    from buildman.results.budget import Budget
    from buildman.results.gate import Gate
    from buildman.results.report import Report

# Paths that are named for one kind of problem
_MAX_PATHS = 10


@dataclasses.dataclass(frozen=True)
class SummaryRequest:
    """All that decides what a summary shows.

    Attributes:
        folder: OUT/BRANCH; without a branch the folder that holds the boards,
            OUT/current
        commits: all the commits of the branch, the one to compare with first;
            None for the current source
        boards: the boards that are selected, in the order of the board list
        known: hashes of commits that belong to the branch too; results of others
            are told if some that should be there are not
        threads: builder threads, for the heading only
        jobs_per_thread: jobs of each, for the heading only
        show_errors: -e
        list_error_boards: -l
        show_sizes: -S
        detail: -d
        bloat: -B
        show_config: -K
        show_environment: -U
        show_lines: --lines
        lines_code: --lines-code
        repo: repository that has the commits, for `show_lines`
        show_unknown: -u
        filter_dtb_warnings: -y
        filter_migration_warnings: -Y
        preserve_config_y: --preserve-config-y
        show_not_built: --show-not-built
        ide: -I
        step: --step: each n-th commit, 0 for the first and the last
        json: --json: file to write, or None
        junit: --junit: file to write, or None
        html: --html: file to write, or None
        text: print the summary; else the reports are written only
        gate: finds out what counts, None if all does
        annotate: --annotate github
        step_summary: file to which that adds a table, '' for none
        codequality: --codequality: file to write, or None
        budget: compares sizes, or None
        budget_update: --budget-update
        status: exit status that the build before this has
        colour: print in colour
        processes: most processes to read with, 0 for one per processor
        times_folder: folder that has how long builds took; '' for `folder`
        missing: board -> commits (indexes) that the build before this summary
            could not build, and why
        found: what a hunt has found
        against: index of a commit to the one that it is compared with, for just the
            commits to show; None: with the commit before
    """

    folder: str
    commits: Optional[Tuple[Commit, ...]]
    boards: Tuple[Board, ...]
    known: FrozenSet[str] = frozenset()
    threads: int = 1
    jobs_per_thread: int = 1
    show_errors: bool = False
    list_error_boards: bool = False
    show_sizes: bool = False
    detail: bool = False
    bloat: bool = False
    show_config: bool = False
    show_environment: bool = False
    show_lines: bool = False
    lines_code: bool = False
    repo: str = ''
    show_unknown: bool = False
    filter_dtb_warnings: bool = False
    filter_migration_warnings: bool = False
    preserve_config_y: bool = False
    show_not_built: bool = False
    ide: bool = False
    step: int = 1
    json: Optional[str] = None
    junit: Optional[str] = None
    html: Optional[str] = None
    text: bool = True
    gate: Optional[Gate] = None
    annotate: bool = False
    step_summary: str = ''
    codequality: Optional[str] = None
    budget: Optional[Budget] = None
    budget_update: bool = False
    status: int = EXIT_OK
    colour: bool = False
    processes: int = 0
    times_folder: str = ''
    missing: Mapping[str, Tuple[Tuple[int, ...], str]] = dataclasses.field(default_factory=dict)
    found: Optional[Found] = None
    against: Optional[Mapping[int, Other]] = None

    def selected(self) -> List[Tuple[int, Optional[Commit], str]]:
        """Return index, commit and folder of each commit to show."""
        if self.commits is None:
            return [(0, None, self.folder)]
        try:
            names = find_commit_dirs(self.folder, self.commits)
        except OSError:
            # It is told as a problem of the tree
            names = [commit_dir_name(*item) for item in enumerate(self.commits)]
        last = len(self.commits) - 1
        wanted = (range(0, last + 1, self.step) if self.step
                  else sorted({0, last}))
        return [(upto, self.commits[upto],
                 os.path.join(self.folder, names[upto]))
                for upto in wanted if self.against is None or upto in self.against]

    def why_not_built(self, upto: int, nums: Iterable[int]) -> Dict[int, str]:
        """Return which boards could not be built at a commit, and why.

        Args:
            upto: index of the commit
            nums: boards without a result there
        """
        out = {}
        for num in nums if self.missing else ():
            commits, why = self.missing.get(self.boards[num].target, ((), ''))
            if upto in commits:
                out[num] = why or 'not finished'
        return out

    def inferred(self, upto: int, nums: Iterable[int]) -> Dict[int, str]:
        """Return what boards without a result at a commit are taken for."""
        known = self.found.inferred if self.found else {}
        return {num: STATUS_NAMES[known[target][upto]] for num, target in (
            (num, self.boards[num].target) for num in nums) if upto in known.get(target, ())}

    def wanted(self) -> Wanted:
        """Return what is to be read for this."""
        report = bool(self.json or self.junit or self.html)
        # With --against, those before are of another tree, and not in the page
        sizes = bool(self.json or self.budget or (self.html and self.against is not None))
        config: Tuple[str, ...] = ()
        if self.show_config:
            config = CONFIG_FILES + (KCONFIG_FILES if self.preserve_config_y else ())
        return Wanted(
            messages=report or (self.show_errors and not self.ide),
            stderr=bool(self.junit or self.html or self.gate or self.annotate
                        or self.codequality) or self.ide,
            sizes=bool(sizes or self.html) or self.show_sizes, new_sizes=bool(self.html),
            all_sizes=sizes,
            files=self.budget.files if self.budget else (),
            functions=self.bloat and self.show_sizes,
            config=config, config_as_is=self.preserve_config_y,
            env=self.show_environment,
            lines=self.show_lines, lines_code=self.lines_code,
            host=report, tries=report,
            no_dtb=self.filter_dtb_warnings, no_migration=self.filter_migration_warnings)


def show_summary(request: SummaryRequest, out: TextIO, err: Optional[TextIO] = None) -> int:
    """Print a summary and write the reports that are asked for.

    Args:
        request: what to show
        out: stream for the text
        err: stream for what is wrong with the tree and, with `ide`, for what
            the compiler said; sys.stderr if None

    Returns:
        exit status: that of the request, since a summary of boards that fail is a good
        summary; unless something else is asked for that decides

    Raises:
        SetupError: a report cannot be written, or memory ran out
    """
    err = err or sys.stderr
    commits = request.selected()
    printer = TextPrinter(request.boards, request, out if request.text else io.StringIO(), err)
    collector = _collector(request, len(commits))
    reports: List[Report] = []
    problems: List[Problem] = []
    if request.commits is not None and os.path.isdir(request.folder):
        problems += check_branch_folder(
            request.folder, [commit.hash for commit in request.commits], request.known)
    times: Dict[str, Dict[str, float]] = {}
    if request.json or request.junit or request.html:
        times = durations.by_commit(durations.read(request.times_folder or request.folder))
    was_collecting = gc.isenabled()
    # Nothing that is read here forms cycles
    gc.disable()
    try:
        _make_reports(request, collector, [folder for _, _, folder in commits], reports)
        printer.begin(None if request.commits is None else len(commits),
                      request.threads, request.jobs_per_thread)
        differ = Differ(request.boards, request.against is not None)
        found = incomplete = False
        for summary in _summaries(request, commits, differ, problems):
            summary.seconds = times.get(
                summary.commit.hash if summary.commit else durations.CURRENT, {})
            found = found or len(summary.not_built) < len(request.boards)
            incomplete = incomplete or bool(summary.not_built)
            summary.failures = request.why_not_built(summary.upto, summary.not_built)
            summary.inferred = request.inferred(summary.upto, summary.not_built)
            if request.gate:
                request.gate.judge(summary)
            if collector:
                collector.commit(summary)
            if request.budget:
                request.budget.commit(summary)
            printer.commit(summary)
            for report in reports:
                report.commit(summary)
        incomplete = incomplete and found and not request.ide
        if request.against is not None:
            # What was worse elsewhere has not recovered, and both may have the same errors
            differ.flakes.clear()
        printer.end(differ.flakes,
                    incomplete or bool(request.missing) or request.against is not None)
        for report in reports:
            report.end(differ.flakes, problems)
    finally:
        if was_collecting:
            gc.enable()
        for report in reports:
            report.close()
    if request.found and not request.ide:
        out.write('\n'.join(request.found.lines()) + '\n')
    out.flush()
    if not found:
        err.write(f"buildman: there is no result in '{request.folder}': build first (leave out"
                  ' -s), or name the output folder of that build with -o\n')
    elif incomplete and not printer.told_boards and request.text:
        where = '' if request.against is None else ' on both sides'
        err.write(f'buildman: not every board has a result{where}: --show-not-built shows which\n')
    _tell_problems(problems, err)
    return _verdict(request, collector, out, found)


def _collector(request: SummaryRequest, count: int) -> Optional[Collector]:
    """Return what collects complaints, None if nobody asked for them"""
    if not (request.annotate or request.codequality):
        return None
    from buildman.results.annotate import Collector
    gate = request.gate
    return Collector(request.boards, request.repo, count == 1,
                     gate.tolerates if gate else lambda target, item: False)


def _verdict(request: SummaryRequest, collector: Optional[Collector], out: TextIO,
             found: bool) -> int:
    """Tell what a CI server is to know, and return the exit status.

    Args:
        found: there is any result
    """
    status = request.status
    if collector and request.annotate:
        from buildman.results import annotate
        annotate.github(collector, out, request.step_summary,
                        f'buildman: {os.path.basename(request.folder)}')
    lines: List[str] = []
    if request.budget:
        if request.budget_update:
            lines.append(request.budget.update())
        else:
            lines += request.budget.lines()
    if request.gate:
        lines += request.gate.lines()
        status = EXIT_ERRORS if request.missing else request.gate.status()
    # Nothing is within no budget
    if request.budget and not request.budget_update and (request.budget.passed or not found):
        status = EXIT_ERRORS
    for line in lines:
        out.write(line + '\n')
    out.flush()
    return status


class ResultTeller:
    """Makes the text that tells of one result as soon as it is there (-v).

    It is that of a summary in which nothing comes before.
    """

    def __init__(self, request: SummaryRequest) -> None:
        """Set up.

        Args:
            request: what to show, of which boards and commits
        """
        self._request = request
        self._boards = {board.target: board for board in request.boards}

    def __call__(self, outcome: Outcome) -> str:
        """Return the lines for a result, each with its line end."""
        no_migration = self._request.filter_migration_warnings
        lines = err_lines(decode(outcome.stderr.encode('utf-8', 'surrogateescape'))[0],
                          self._request.filter_dtb_warnings, no_migration)
        status = ERROR if outcome.failed else WARNING if lines else OK
        facts = BoardFacts(statuses=bytes([status]))
        messages = classify(lines, no_migration)
        if messages != NO_MESSAGES:
            facts.messages[0] = messages
        board = [self._boards[outcome.target]]
        upto, commits = outcome.commit_upto, self._request.commits
        out = io.StringIO()
        printer = TextPrinter(board, self._request, out, out)
        printer.commit(Differ(board).advance(
            upto, commits[upto] if commits else None, facts))
        return out.getvalue()


def _make_reports(request: SummaryRequest, collector: Optional[Collector], folders: Sequence[str],
                  reports: List[Report]) -> None:
    """Add the reports that are asked for, each as soon as it is open."""
    if request.codequality and collector:
        from buildman.results.annotate import CodeQuality
        reports.append(CodeQuality(request.codequality, collector))
    if request.json or request.junit:
        # XML and JSON take as long to load as a small tree to read
        from buildman.results.report import JsonReport, JunitReport
        if request.json:
            reports.append(JsonReport(request.json, request.boards, request.folder,
                                      request.found))
        if request.junit:
            reports.append(JunitReport(request.junit, request.boards, request.folder,
                                       request.found))
    if request.html:
        from buildman.results.html import HtmlReport
        results = len(folders) * len(request.boards)
        reports.append(HtmlReport(
            request.html, request.boards, request.folder, folders,
            request.times_folder or request.folder,
            process_count(results, request.wanted(), request.processes) > 1))


def _summaries(request: SummaryRequest, commits: Sequence[Tuple[int, Optional[Commit], str]],
               differ: Differ, problems: List[Problem]) -> Iterator[CommitSummary]:
    """Yield each commit compared with the one before, or another, adding to `problems`."""
    wanted = request.wanted()
    targets = [brd.target for brd in request.boards]
    processes = process_count(len(commits) * len(targets), wanted, request.processes)
    pairs: Dict[str, str] = {}
    hashes = [commit.hash for _, commit, _ in commits if commit]
    shown = [folder for _, _, folder in commits]
    if request.against is not None:
        others = [request.against[upto] for upto, _, _ in commits]
        pairs = {ours: other.folder for ours, other in zip(shown, others)}
        hashes = [name for other, ours in zip(others, hashes) for name in (other.hash, ours)]
    folders = [name for ours in shown for name in ([pairs[ours], ours] if pairs else [ours])]
    steps = iter(read_commits(
        folders, targets, wanted, processes, History(request.repo, tuple(hashes)),
        {**pairs, **{other: ours for ours, other in pairs.items()}}))
    for upto, commit, folder in commits:
        for _ in range(1 + bool(pairs)):
            facts, found = next(steps)
            problems += found
            summary = differ.advance(upto, commit, facts)
        summary.against = pairs.get(folder, '')
        yield summary


def _tell_problems(problems: Sequence[Problem], err: TextIO) -> None:
    """Print each problem once, those of a kind together."""
    kinds: Dict[str, Dict[str, None]] = {}
    for problem in problems:
        kinds.setdefault(problem.kind, {})[problem.path] = None
    for kind, paths in kinds.items():
        for path in list(paths)[:_MAX_PATHS]:
            err.write(f"buildman: '{path}' {kind}\n")
        if len(paths) > _MAX_PATHS:
            err.write(f"buildman: … the same is true of {len(paths) - _MAX_PATHS} more\n")
    err.flush()
