# SPDX-License-Identifier: GPL-2.0+
"""What a build says: the same text from every slot, and whose fault it tells of."""

from __future__ import annotations

import os
import re
from typing import List, Mapping, Optional, Tuple

from buildman.core.outcome import Failure, FailureKind
from buildman.core.text import plain

# Characters of `log` or `err`; of more, the two ends are kept
MAX_SAID = 12 << 20

# make says this when one of its parallel jobs failed, depending on what else
# was running at that moment; with one job it never does. Several makes write to one
# pipe, so it may be indented, cut, or at the end of somebody else's line
_UNFINISHED = re.compile(
    r'[ \t]*(?:(?:(?<![\w./-])[\w./-]*/)?(?:g?make)?(?:\[\d+\])?: )?'
    r'(?:\*\*\* Waiting(?: for unfinished jobs\.{0,4}|(?: [a-z]+)*\.*[ \t]*$)'
    r'|(?:\*\*\* )?wait: No child processes\.?(?:  Stop\.)?)', re.MULTILINE)
# What is cheap to look for before that
_UNFINISHED_WORDS = ('*** Waiting', 'wait: No child processes')

# What binman says last when the images that it made are of no use, as blobs are missing
# or made up; its exit status is 103 then (tools/binman/control.py)
INVALID_IMAGES = 'Some images are invalid'
INVALID_STATUS = 103

# A make that gives up: how deep it is nested, and why
_GIVES_UP = re.compile(r'^[ \t]*(?:[\w./-]*make(?:\[(\d+)\])?|[\w./-]+:\d+): \*\*\* (.*)$',
                       re.MULTILINE)
_RECIPE_ERROR = re.compile(r'\[.*\] Error (\d+)\s*$')

# What a make gives up for whatever else there is: a command that is not there, or a file
# that nothing makes
_MISSING = re.compile(r'\*\*\* (?:\[(?:\S+:\d+: )?(\S+)\] Error 12[67]\s*$'
                      r"|No rule to make target '[^']+'(?:, needed by '([^']+)')?\.)", re.MULTILINE)

_OBJECT_ERROR = re.compile(r'\*\*\* \[(?:\S+:\d+: )?(\S+\.o)\] Error \d+\s*$', re.MULTILINE)

# What gcc's link-time optimiser says of the jobs that it may start: of the way in
# which make was run, not of the source. With a job server it has nothing to say
_SERIAL_LTO = re.compile(r'^lto-wrapper: (?:warning: (?:using serial compilation of \d+ LTRANS jobs'
                         r'|jobserver is not available: .*)'
                         r'|note: see the \S+ option documentation for more information)\n?',
                         re.MULTILINE)

# Where a path begins with the way from the build folder up to the source
_UP = re.compile(r'(?<![\w./-])\.\./(?=\w)')

# What upstream's buildman leaves of a slot's folders. It takes away that of the
# source where something follows; so what has a file after it is a build folder (-i)
_SLOT = r'(?:/[^\s:\'"`()<>]{0,500})?/\.bm-work/'
_UPSTREAM_BUILD = re.compile(_SLOT + r'(?:\d\d+(?:/build(?![\w.-])|(?=/))|(?!\d\d+(?![\w-]))'
                             r'[\w.+-]*[\w+-])')
_UPSTREAM_SOURCE = re.compile(_SLOT + r'\d\d+(?![\w/-])')

# What make, shells, gcc, git, Python and Perl say when the kernel gives them no process
# or thread. Whoever asked them may go on with nothing in place of what they would have
# said, so what comes of that is no verdict, even if it is a success
_STARVED = re.compile(
    r"(?:(?:^|[:\]] )(?:retry: )?Resource temporarily unavailable|\b[Cc]an(?:not|'t) fork"
    r"|can't start new thread|unable to create thread)[\s.]*$", re.MULTILINE)

# Failures that speak of the machine rather than of the source: what tells of them, and
# how we put it
_INFRA = (
    (FailureKind.NO_SPACE, re.compile(r'No space left on device'), 'no space left'),
    (FailureKind.QUOTA, re.compile(r'(?:Disk quota exceeded)'), 'disk quota exceeded'),
    (FailureKind.NO_MEMORY, re.compile(
        r'(?:Cannot allocate memory|virtual memory exhausted|out of memory allocating)'),
     'out of memory'),
    (FailureKind.NO_PROCESS, _STARVED, 'no more processes can be started'),
    (FailureKind.NO_PROCESS, re.compile(r'Too many open files'), 'too many files are open'),
    (FailureKind.BAD_DISK, re.compile(r'Cannot create temporary file'),
     'no temporary file can be made'),
    (FailureKind.KILLED, re.compile(
        r'(?:\bKilled(?: signal terminated program)?\b|Terminated signal terminated)'),
     'a compiler was killed'),
    # A word is begun once, however long it is
    (FailureKind.NO_COMMAND, re.compile(
        r'(?<!\S)(\S{1,300}): (?:command )?not found\s*$', re.MULTILINE),
     'a command was not found'),
    (FailureKind.NO_MODULE, re.compile(r"ModuleNotFoundError: No module named '([\w.]+)'"),
     'a Python module is missing'),
    # Of the libraries that host programs of the build use; any other one would be of the source
    (FailureKind.NO_HEADER, re.compile(
        r'fatal error: ((?:openssl|gnutls|uuid|SDL2?)/[\w./-]+\.h|Python\.h|'
        r'(?:n?curses|libelf|gelf|std(?:io|lib|int))\.h): No such file'),
     'a header of a library is missing'),
    (FailureKind.NO_LIBRARY, re.compile(
        r'cannot find -l(ssl|crypto|gnutls|uuid|SDL2|python[\d.]+)\b'),
     'a library is missing'),
    (FailureKind.NO_EXEC, re.compile(
        r'^[ \t]*(?:/\S*sh: (?:line )?\d+: |[\w./-]*make(?:\[\d+\])?: )(\S{1,300}): '
        r'Permission denied\s*$', re.MULTILINE),
     'a program may not be run'),
    (FailureKind.BAD_DISK, re.compile(r'Read-only file system|Input/output error'),
     'the disk fails'),
)

# A file with its full path, just before what is said of it
_FILE_BEFORE = re.compile(r'(/[^\s:\'"]*)[\'"]?: \Z')


def without_chatter(text: str) -> str:
    """Return text without what make says of its jobs, and without lines of nothing else."""
    if not any(words in text for words in _UNFINISHED_WORDS):
        return text
    out = []
    for line in text.splitlines(keepends=True):
        body = line.rstrip('\r\n')
        rest = _UNFINISHED.sub('', body)
        if rest == body or rest.strip():
            out.append(rest + line[len(body):])
    return ''.join(out)


def make_failures(text: str) -> List[Optional[int]]:
    """Return how the recipes ended that made a make fail.

    A make that gives up since a make below it has, says so as well ("Error 2"); that is
    not one of them.

    Args:
        text: what was written to stderr

    Returns:
        the exit status of each recipe; None for a make that gave up for another reason
    """
    found: List[Optional[int]] = []
    levels = set()
    for level_text, why in _GIVES_UP.findall(without_chatter(text)):
        match = _RECIPE_ERROR.search(why)
        level = int(level_text or 0)
        status = int(match.group(1)) if match else None
        if status != 2 or level + 1 not in levels:
            found.append(status)
        levels.add(level)
    return found


def lone_object(text: str) -> str:
    """Return the object that a make could not make, if nothing else failed; else ''.

    Args:
        text: what was written to stderr
    """
    objects = _OBJECT_ERROR.findall(text)
    return objects[0] if len(objects) == 1 == len(make_failures(text)) else ''


def misses(text: str) -> Tuple[str, ...]:
    """Return what could not be made since something is missing that nothing makes.

    Args:
        text: what was written to stderr
    """
    return tuple(made or needed for made, needed in _MISSING.findall(text))


def is_make_failure(line: str) -> bool:
    """Tell whether a line says that a make gives up."""
    return bool(_GIVES_UP.match(line))


def lacks_blobs_only(return_code: int, stderr: str) -> bool:
    """Tell whether a build failed for nothing but images that lack blobs.

    binman has made them all the same and told what they lack. That is no fault of the
    source; whoever has the blobs gets images that work. A build in which something else
    failed as well is a failure: binman runs last, but a parallel make may be at
    something else meanwhile.

    Args:
        return_code: make's exit status
        stderr: what it wrote
    """
    return (return_code == 2 and INVALID_IMAGES in stderr
            and all(status == INVALID_STATUS for status in make_failures(stderr)))


def as_ours(line: str) -> str:
    """Return a line of an `err` that upstream's buildman wrote as one of ours would have it."""
    if '/.bm-work/' in line:
        line = _UPSTREAM_SOURCE.sub('.', _UPSTREAM_BUILD.sub('build', line))
    if '\x1b' in line:
        # binman writes in colours there
        line = plain(line)
    return _UP.sub('', line)


def starved(stderr: bytes) -> Optional[Failure]:
    """Return the failure of a machine on which something could not be started, else None.

    Args:
        stderr: of a build or of a part of it, however that ended
    """
    # Quick for what is usual
    if (b'unavailable' in stderr or b'fork' in stderr or b'thread' in stderr) and (
            _STARVED.search(stderr.decode('utf-8', 'replace'))):
        return Failure(FailureKind.NO_PROCESS, 'no more processes can be started')
    return None


def machine_failure(return_code: int, stderr: str) -> Optional[Failure]:
    """Return what a failed build says of the machine, None for a verdict on the source."""
    if return_code == 0:
        return None
    if return_code in (126, 127):
        return Failure(FailureKind.NO_MAKE, 'make cannot be run')
    if return_code > 128:
        return Failure(FailureKind.KILLED, f'make was ended by signal {return_code - 128}')
    for kind, regex, text in _INFRA:
        match = regex.search(stderr)
        if match:
            detail = match.group(1) if match.groups() else _folder_before(stderr, match.start())
            return Failure(kind, text + (f' ({detail})' if detail else ''))
    return None


def _folder_before(text: str, pos: int) -> str:
    """Return the folder of the file that a complaint names, '' for a file of the build"""
    match = _FILE_BEFORE.search(text[max(0, pos - 300):pos])
    return os.path.dirname(match.group(1)) if match else ''


def failure_told(text: str, kind: str) -> Optional[Failure]:
    """Return the failure that a machine tells, None when it tells none.

    Args:
        text: for people
        kind: the value of its FailureKind; '' from an older machine, whose text tells
            it, since that begins as ours does
    """
    if not text and not kind:
        return None
    if kind:
        found = next((item for item in FailureKind if item.value == kind), FailureKind.OTHER)
    else:
        found = next((item for item, _, ours in _INFRA if text.startswith(ours)),
                     FailureKind.OTHER)
    return Failure(found, text or kind)


# What a build runs of the binutils by itself: a compiler calls its linker and its
# assembler by a path of its own, with or without ccache
_BINUTILS = r'(?:ld\.bfd|ar|nm|objcopy|objdump|ranlib|readelf|size|strip)'
_CROSS_BINUTILS = f'(?:{_BINUTILS}|ld|as)'


def by_path(prefix: str) -> 're.Pattern[str]':
    """Return what finds the folder before the name of a tool that says something.

    ccache runs what it is put before by its path, so binutils call themselves by
    that, where they give just their name without ccache.

    Args:
        prefix: of the cross tools, without a folder; '' for those of the host
    """
    names = _CROSS_BINUTILS if prefix else _BINUTILS
    return re.compile(rf'^/[^\s:]*/(?={re.escape(prefix)}{names}: )', re.MULTILINE)


def bounded(text: str) -> str:
    """Return what was said without its middle, if it is too much for anybody to read.

    What is left depends on nothing but the text, less the folders of a slot: so it
    is the same on every machine.
    """
    if len(text) <= MAX_SAID:
        return text
    half = MAX_SAID // 2
    return (f'{text[:half]}\n… left out: the middle of what is over {MAX_SAID} characters …\n'
            f'{text[-half:]}')


class Tidier:
    """Takes the folders of one slot out of what is said in it.

    Attributes:
        tools: finds what else is to be left out of complaints; see by_path()
    """

    def __init__(self, source: str, build: str, own: bool,
                 elsewhere: Optional[Mapping[str, str]] = None) -> None:
        """Set up.

        Args:
            source: folder that make is started in
            build: the build folder (O=)
            own: it is the slot's; else its name is part of what was asked for
            elsewhere: other paths, each with what is to be said instead
        """
        self._elsewhere = elsewhere or {}
        self.tools: Optional['re.Pattern[str]'] = None
        names = {}
        if own:
            names.update({build: 'build', os.path.realpath(build): 'build'})
        names.update({source: '.', os.path.realpath(source): '.'})
        if os.path.dirname(source) == os.path.dirname(build):
            # Where make is told the path (-P), ccache makes it relative to the build folder
            names[f'../{os.path.basename(source)}'] = '.'
        self._folders = [(folder, name, re.compile(re.escape(folder) + r'(?![\w.-])'))
                         for folder, name in names.items()]

    def text(self, text: str) -> str:
        """Return text with `build` for the build folder and without that of the source."""
        for there, here in self._elsewhere.items():
            text = text.replace(there, here)
        for folder, name, regex in self._folders:
            if folder not in text:
                continue
            if name == '.':
                text = text.replace(folder + '/', '')
            text = regex.sub(name, text)
        return text

    def said(self, data: bytes, commands: bool = False) -> str:
        """Return output with paths relative to the source.

        Args:
            data: what make wrote
            commands: it has commands, which only make sense as they are
        """
        if not data:
            return ''
        text = self.text(plain(data.decode('utf-8', 'replace')))
        return text if commands else _UP.sub('', text)

    def complaints(self, data: bytes) -> str:
        """Return what make wrote to stderr, less what depends on chance or on the jobs it had."""
        text = _SERIAL_LTO.sub('', without_chatter(self.said(data)))
        return self.tools.sub('', text) if self.tools else text
