# SPDX-License-Identifier: GPL-2.0+
"""Downloads cross compilers (--fetch-arch).

They come from the tree of 'nolibc' compilers at kernel.org, or a mirror of it
that `[toolchain-fetch] url = …` names (http, https or file). Below that
address there is a folder for each kind of machine they run on, in it one for
each version, and in that the archives:

    x86_64/13.2.0/x86_64-gcc-13.2.0-nolibc-arm-linux-gnueabi.tar.xz

(older ones have `nolibc_` before the target), with the sums of all in
`sha256sums.asc`. They unpack to `gcc-13.2.0-nolibc/arm-linux-gnueabi/bin/…`.
Each is unpacked and tried in a hidden folder and moved to its place last, so
an interrupted download leaves nothing behind that looks like a compiler.
"""

from __future__ import annotations

import configparser
import contextlib
import dataclasses
import hashlib
import html.parser
import http.client
import lzma
import os
import platform
import re
import shutil
import tarfile
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import zlib
from typing import Dict, Iterator, List, Optional, Sequence, TextIO, Tuple

from buildman import bsettings
from buildman.build.environment import SANDBOX
from buildman.core.errors import EXIT_OK, SetupError, ToolchainError, UsageError
from buildman.core.files import move_folder
from buildman.toolchains import find

DEFAULT_URL = 'https://mirrors.edge.kernel.org/pub/tools/crosstool/files/bin/'

# Where the compilers go, and what finds them there
FOLDER = '~/.buildman-toolchains'

# Silence after which a download is given up, in seconds
TIMEOUT = 60

_CHUNK = 1 << 18

# The longest page or list of sums that is read, in bytes
_MAX_PAGE = 4 << 20

_VERSION = re.compile(r'(\d+(?:\.\d+)*)/?')
_ARCHIVE = re.compile(r'(?P<host>[\w]+)-gcc-(?P<version>\d+(?:\.\d+)*)-nolibc[-_]'
                      r'(?P<target>[\w][\w-]*)\.tar\.(?:xz|gz|bz2)')

# How kernel.org calls the kinds of machines that differ from what uname says
_MACHINES = {'aarch64': 'arm64', 'amd64': 'x86_64'}


@dataclasses.dataclass(frozen=True)
class Archive:
    """A compiler that can be downloaded.

    Attributes:
        arch: what it builds for, as its name begins, e.g. 'arm'
        target: e.g. 'arm-linux-gnueabi'
        version: e.g. '13.2.0'
        url: address of the folder that the file is in, ending in '/'
        name: name of the file
    """

    arch: str
    target: str
    version: str
    url: str
    name: str

    @property
    def folder(self) -> str:
        """Where it belongs, below our folder."""
        return os.path.join(f'gcc-{self.version}-nolibc', self.target)


class Links(html.parser.HTMLParser):
    """Collects where the links of a page lead."""

    def __init__(self) -> None:
        super().__init__()
        self.hrefs: List[str] = []

    def handle_starttag(self, tag: str, attrs: List[Tuple[str, Optional[str]]]) -> None:
        """Note where a link leads."""
        if tag == 'a':
            self.hrefs += [value for name, value in attrs if name == 'href' and value]


# -- reading the tree ------------------------------------------------------

@contextlib.contextmanager
def _open(url: str) -> Iterator[http.client.HTTPResponse]:
    """Open an address.

    Raises:
        SetupError: it cannot be reached, or reading it fails
    """
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
            yield response
    except urllib.error.HTTPError as exc:
        raise SetupError(f'cannot download {url}: {exc.code} {exc.reason}') from exc
    except urllib.error.URLError as exc:
        raise SetupError(f'cannot download {url}: {exc.reason}') from exc
    except http.client.IncompleteRead as exc:
        raise SetupError(f'cannot download {url}: the connection was cut') from exc
    except (http.client.HTTPException, ValueError) as exc:
        raise SetupError(f'cannot download {url}: {exc}') from exc


def _read(response: http.client.HTTPResponse, url: str, size: int) -> bytes:
    """Read at most `size` bytes.

    Raises:
        SetupError: the connection fails; so it is not taken for an error of the disk
    """
    try:
        return response.read(size)
    except OSError as exc:
        raise SetupError(f'cannot download {url}: {exc.strerror or exc}') from exc


def _list(url: str) -> List[str]:
    """Return the names in the folder at an address.

    Raises:
        SetupError: it cannot be read
    """
    if url.startswith('file:'):
        path = urllib.request.url2pathname(urllib.parse.urlsplit(url).path)
        try:
            return sorted(os.listdir(path))
        except OSError as exc:
            raise SetupError(f'cannot read {url}: {exc.strerror}') from exc
    with _open(url) as response:
        page = _read(response, url, _MAX_PAGE).decode('utf-8', 'replace')
    links = Links()
    links.feed(page)
    # Links may be relative, or start at the root of the server
    base = urllib.parse.urlsplit(url)
    names = []
    for href in links.hrefs:
        full = urllib.parse.urlsplit(urllib.parse.urljoin(url, href))
        if full.netloc == base.netloc and full.path.startswith(base.path):
            name = urllib.parse.unquote(full.path[len(base.path):]).rstrip('/')
            if name and '/' not in name:
                names.append(name)
    return list(dict.fromkeys(names))


def _version_key(version: str) -> Tuple[int, ...]:
    """Return what versions are sorted by."""
    return tuple(int(part) for part in version.split('.'))


class Tree:
    """The tree of compilers at an address, read as far as it is needed."""

    def __init__(self, base: str, machine: str, out: TextIO) -> None:
        """Prepare to read.

        Args:
            base: address of the tree
            machine: what the compilers are to run on, as uname calls it
            out: where to say what is done
        """
        self.url = f'{base.rstrip("/")}/{_MACHINES.get(machine, machine)}/'
        self._out = out
        self._versions: Optional[List[str]] = None
        self._archives: Dict[str, Dict[str, Archive]] = {}

    def versions(self) -> List[str]:
        """Return the versions that there are, newest first.

        Raises:
            SetupError: the tree cannot be read
        """
        if self._versions is None:
            found = [match.group(1) for match in map(_VERSION.fullmatch, _list(self.url)) if match]
            self._versions = sorted(found, key=_version_key, reverse=True)
            if not self._versions:
                raise SetupError(f'no compilers found at {self.url}')
        return self._versions

    def archives(self, version: str) -> Dict[str, Archive]:
        """Return the compilers of a version: arch to archive.

        Raises:
            SetupError: the tree cannot be read
        """
        if version not in self._archives:
            url = f'{self.url}{version}/'
            print(f'Checking: {url}', file=self._out, flush=True)
            found: Dict[str, Archive] = {}
            for name in sorted(_list(url)):
                match = _ARCHIVE.fullmatch(name)
                if match:
                    arch = match['target'].split('-')[0]
                    found.setdefault(arch, Archive(arch, match['target'], match['version'],
                                                   url, name))
            self._archives[version] = found
        return self._archives[version]

    def all(self) -> Dict[str, Archive]:
        """Return the newest compiler of each arch.

        Raises:
            SetupError: the tree cannot be read
        """
        found: Dict[str, Archive] = {}
        for version in self.versions():
            for arch, archive in self.archives(version).items():
                found.setdefault(arch, archive)
        return found

    def find(self, names: Sequence[str]) -> Archive:
        """Return the newest compiler for the first of these archs that has one.

        Raises:
            ToolchainError: there is none; says what there is
            SetupError: the tree cannot be read
        """
        for version in self.versions():
            for name in names:
                if name in self.archives(version):
                    return self.archives(version)[name]
        raise ToolchainError(f"no toolchain for arch '{names[0]}' at {self.url}: there are "
                             + ' '.join(sorted(self.all())))


# -- getting one -----------------------------------------------------------

def _download(archive: Archive, path: str, out: TextIO) -> None:
    """Download an archive into a file, and compare its sum if that is known.

    Raises:
        SetupError: it does not come, or not whole
        OSError: the file cannot be written
    """
    url = archive.url + urllib.parse.quote(archive.name)
    print(f'- downloading: {url}', file=out, flush=True)
    digest = hashlib.sha256()
    done = 0
    with _open(url) as response, open(path, 'wb') as outf:
        total = int(response.headers.get('Content-Length') or 0)
        while True:
            data = _read(response, url, _CHUNK)
            if not data:
                break
            outf.write(data)
            digest.update(data)
            done += len(data)
            if out.isatty():
                part = f' [{100 * done // total:3}%]' if total else ''
                out.write(f'\r  {done >> 20:6} MiB{part}')
                out.flush()
    if out.isatty():
        out.write('\r' + ' ' * 24 + '\r')
    if total and done != total:
        raise SetupError(f'cannot download {url}: the connection was cut after {done} of '
                         f'{total} bytes')
    print(f'  {done >> 20} MiB', file=out, flush=True)
    wanted = _known_sum(archive)
    if wanted and wanted != digest.hexdigest():
        raise SetupError(f'{url}: it does not match its sum in sha256sums.asc; please try again')


def _known_sum(archive: Archive) -> str:
    """Return the SHA-256 sum of an archive as the tree states it, '' if it does not.

    Raises:
        SetupError: the list of sums cannot be read
    """
    name = 'sha256sums.asc'
    if name not in _list(archive.url):
        return ''
    url = archive.url + name
    with _open(url) as response:
        text = _read(response, url, _MAX_PAGE).decode('ascii', 'replace')
    for line in text.splitlines():
        words = line.split()
        if len(words) == 2 and words[1].lstrip('*') == archive.name:
            return words[0].lower()
    return ''


def _remove_leftovers(folder: str) -> None:
    """Remove what a download that was killed has left."""
    for name in os.listdir(folder):
        match = re.match(r'\.fetch-(\d+)-', name)
        if match and not os.path.exists(f'/proc/{match.group(1)}') and os.path.isdir('/proc/self'):
            shutil.rmtree(os.path.join(folder, name), ignore_errors=True)


def install(archive: Archive, folder: str, out: TextIO) -> str:
    """Download, unpack and try a compiler, then put it in its place.

    Args:
        archive: what to get
        folder: where all compilers are
        out: where to say what is done

    Returns:
        path of the compiler

    Raises:
        SetupError: it cannot be had, or the disk refuses
        ToolchainError: it does not run here
    """
    final = os.path.join(folder, archive.folder)
    gcc = os.path.join('bin', f'{archive.target}-gcc')
    if os.path.exists(os.path.join(final, gcc)) and find.test_compiler(
            os.path.join(final, gcc)).works:
        print(f"Already there: '{final}'", file=out)
        return os.path.join(final, gcc)
    try:
        os.makedirs(folder, exist_ok=True)
        _remove_leftovers(folder)
        with tempfile.TemporaryDirectory(prefix=f'.fetch-{os.getpid()}-', dir=folder) as tmp:
            path = os.path.join(tmp, archive.name)
            _download(archive, path, out)
            print(f'Unpacking to: {folder}', file=out, flush=True)
            tree = os.path.join(tmp, 'tree')
            os.mkdir(tree)
            unpack(path, tree)
            found = os.path.join(tree, archive.folder)
            print('Testing', file=out, flush=True)
            test = find.test_compiler(os.path.join(found, gcc))
            if not test.works:
                raise ToolchainError(f"'{archive.name}' does not run here: {test.reason}")
            os.makedirs(os.path.dirname(final), exist_ok=True)
            if os.path.lexists(final):
                move_folder(final, os.path.join(tmp, 'old'), os.path.join(tmp, 'old.new'))
            os.rename(found, final)
    except OSError as exc:
        raise SetupError(f"cannot install into '{folder}': {exc.strerror or exc}") from exc
    return os.path.join(final, gcc)


# -- the command -----------------------------------------------------------

def _resolve(names: Sequence[str], tree: Tree, settings: configparser.ConfigParser
             ) -> List[Archive]:
    """Return what is to be downloaded for these names.

    Raises:
        UsageError, ToolchainError, SetupError: one cannot be had
    """
    if 'all' in names:
        return list(tree.all().values())
    aliases = {}
    if settings.has_section('toolchain-alias'):
        aliases = {arch.lower(): (value or '').split()
                   for arch, value in settings.items('toolchain-alias')}
    found = []
    for name in names:
        if name == SANDBOX:
            raise UsageError('sandbox is built with this machine\'s own gcc: please install that')
        found.append(tree.find([name, *aliases.get(name, ()), *find.other_names(name)]))
    return list(dict.fromkeys(found))


def _configure(folder: str, out: TextIO) -> None:
    """Let the configuration name what was downloaded.

    Raises:
        SetupError: the file cannot be written
    """
    if bsettings.is_default:
        # With a file, only what it names is searched: keep what was found on PATH
        extra = [place for place in os.environ.get('PATH', '').split(os.pathsep)
                 if os.path.isabs(place) and os.path.realpath(place) not in (
                     os.path.realpath('/bin'), os.path.realpath('/usr/bin'))
                 and find.compilers_in(place)]
        for pos, place in enumerate(dict.fromkeys(extra), 1):
            bsettings.set_item('toolchain', f'path-{pos}', place)
    pattern = os.path.join(folder, '*', '*')
    paths = [os.path.expanduser(value) for name, value in bsettings.get_items('toolchain')
             if name.lower() == find.DOWNLOAD]
    if pattern not in paths:
        where = bsettings.config_fname or os.path.expanduser('~/.buildman')
        print(f"Adding '{find.DOWNLOAD}' to config file '{where}'", file=out)
        bsettings.set_item('toolchain', find.DOWNLOAD, pattern)


def install_archs(names: Sequence[str], settings: configparser.ConfigParser, out: TextIO,
                  machine: str = '') -> Iterator[Tuple[str, str]]:
    """Download compilers and unpack them below FOLDER; the configuration stays as it is.

    Args:
        names: archs, or 'all'
        settings: the configuration
        out: where to say what is done
        machine: what the compilers are to run on; default this machine

    Yields:
        (arch, path of its compiler), each when it is there and runs

    Raises:
        UsageError: an arch needs no download
        ToolchainError: there is none for an arch, or it does not run
        SetupError: the tree cannot be reached, or the disk refuses
    """
    base = settings.get('toolchain-fetch', 'url', fallback='') or DEFAULT_URL
    tree = Tree(base, machine or platform.machine(), out)
    for archive in _resolve(names, tree, settings):
        print(f"\nDownloading toolchain for arch '{archive.arch}'", file=out, flush=True)
        yield archive.arch, install(archive, os.path.expanduser(FOLDER), out)


def fetch(names: Sequence[str], settings: configparser.ConfigParser, out: TextIO,
          machine: str = '') -> int:
    """Download compilers, or list which there are (--fetch-arch).

    Args:
        names: archs, or 'all', or 'list'
        settings: the configuration
        out: where to say what is done
        machine: what the compilers are to run on, as uname calls it; default
            this machine

    Returns:
        exit status

    Raises:
        UsageError: no arch is named, or one that needs no download
        ToolchainError: there is none for an arch, or it does not run
        SetupError: the tree cannot be reached, or the disk refuses
    """
    names = [name.strip() for name in names if name.strip()]
    if not names:
        raise UsageError("--fetch-arch: name an arch, 'all', or 'list' for those that there are")
    if 'list' in names:
        base = settings.get('toolchain-fetch', 'url', fallback='') or DEFAULT_URL
        tree = Tree(base, machine or platform.machine(), out)
        print(f"Available architectures: {' '.join(sorted(tree.all()))}", file=out)
        return EXIT_OK
    for arch, gcc in install_archs(names, settings, out, machine):
        _configure(os.path.expanduser(FOLDER), out)
        chains = find.Toolchains()
        chains.scan(strict=False)
        used = chains.select(arch)
        if os.path.realpath(used.gcc) != os.path.realpath(gcc):
            print(f"Note: '{used.gcc}' is preferred for {arch}; to use the new one, add "
                  f"'{arch} = {gcc[:-3]}' to [toolchain-prefix]", file=out)
    return EXIT_OK


def _check_member(member: tarfile.TarInfo, folder: str) -> None:
    """Make sure that unpacking a member touches nothing outside of `folder`.

    Where links lead is looked up on the disk, as earlier members made it.

    Raises:
        SetupError: it would, or it is not a file, folder or link
    """
    def inside(path: str) -> bool:
        real = os.path.realpath(path)
        return real == folder or real.startswith(folder + os.sep)

    def refuse(why: str) -> SetupError:
        return SetupError(f'refused to unpack {member.name!r}: {why}')

    parts = member.name.split('/')
    if os.path.isabs(member.name) or '..' in parts:
        raise refuse('it lies outside of the archive')
    path = os.path.join(folder, member.name)
    if not inside(os.path.dirname(path)) or (not member.issym() and not inside(path)):
        raise refuse('it lies outside of the archive')
    if member.issym():
        if os.path.isabs(member.linkname) or not inside(
                os.path.join(os.path.dirname(path), member.linkname)):
            raise refuse(f'it is a link to {member.linkname!r}')
    elif member.islnk():
        if os.path.isabs(member.linkname) or '..' in member.linkname.split('/') or not inside(
                os.path.join(folder, member.linkname)):
            raise refuse(f'it is a link to {member.linkname!r}')
    elif not member.isfile() and not member.isdir():
        raise refuse('it is a special file')


def unpack(path: str, folder: str) -> None:
    """Unpack an archive into a folder, and nowhere else.

    Raises:
        SetupError: it is broken, or a member would end up elsewhere
        OSError: the disk refuses
    """
    folder = os.path.realpath(folder)
    # Python from 3.12 on warns without a filter; older ones have none
    how = {'filter': 'data'} if hasattr(tarfile, 'data_filter') else {}
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                _check_member(member, folder)
                # Neither set-uid, nor a folder that cannot be written into
                member.mode = (member.mode & 0o755) | (0o700 if member.isdir() else 0o400)
                member.uid, member.gid = os.getuid(), os.getgid()
                member.uname = member.gname = ''
                tar.extract(member, folder, **how)  # type: ignore[arg-type]
            # The sums of the compressed data are only checked at its end
            while tar.fileobj and tar.fileobj.read(1 << 20):
                pass
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, KeyError) as exc:
        raise SetupError(f"cannot unpack '{os.path.basename(path)}': {exc}") from exc
