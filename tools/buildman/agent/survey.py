# SPDX-License-Identifier: GPL-2.0+
"""What a machine is, has and can do: runs there, sent over together with `lock`.

It has only the standard library there. `collect()` is also called on the
boss's own machine, to compare.
"""

from __future__ import annotations

import functools
import glob
import json
import os
import re
import shutil
import subprocess
import sys
from typing import (
    Any,
    Callable,
    Collection,
    Dict,
    List,
    Mapping,
    Optional,
    Sequence,
    TypeVar,
)

from buildman.agent import account, lock
from buildman.process import limits
from buildman.process.threads import join, on_all

# Before the answer, which is one line of JSON: login shells print, too
MARK = 'BM-PROBE '
TOOL_SECONDS = 10.0         # for a tool to tell its version
SIZE_SECONDS = 3.0          # for adding up the work folder

# Tools that a build needs or whose version shows in what it makes
TOOLS = {
    'git': ['git', '--version'],
    'make': ['make', '--version'],
    'gcc': ['gcc', '--version'],
    'binutils': ['ld', '--version'],
    'dtc': ['dtc', '--version'],
    'swig': ['swig', '-version'],
    'bison': ['bison', '--version'],
    'flex': ['flex', '--version'],
    'openssl': ['openssl', 'version'],
    'ccache': ['ccache', '--version'],
}
# Tools that a Python there tells of
PYTHON_MODULES = ('pyelftools', 'setuptools', 'python-dev')
_Said = TypeVar('_Said')
_VERSION = re.compile(r'\d+(?:\.\d+)+[a-z]?(?:[-+][\w.+~-]+)?')
_OPENSSL = re.compile(r'OPENSSL_VERSION_(?:STR|TEXT)\s+"(?:OpenSSL )?([\w.+-]+)')


def say(argv: Sequence[str]) -> str:
    """Return what a command prints, '' when it fails or takes too long."""
    try:
        proc = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=TOOL_SECONDS, check=False,
                              env={**os.environ, 'LC_ALL': 'C'})
    except (OSError, subprocess.TimeoutExpired):
        return ''
    return proc.stdout.decode('utf-8', 'replace').strip() if proc.returncode == 0 else ''


def version_in(text: str) -> str:
    """Return the first thing in a text that looks like a version, '' for none."""
    found = _VERSION.search(text)
    return found.group(0) if found else ''


def describe_gcc(path: str) -> Optional[Dict[str, str]]:
    """Return path, version, banner and binutils of a compiler; None when it does not work.

    The banner is what stands between the name and the version, so that two
    builds of one version can be told apart.
    """
    version = say([path, '-dumpfullversion', '-dumpversion']).split('\n')[0]
    if not version:
        return None
    first = (say([path, '--version']).split('\n') or [''])[0]
    tools = say([path[:-3] + 'ld', '--version']) if path.endswith('gcc') else ''
    return {'path': path, 'version': version[:80], 'banner': first.partition(' ')[2][:200],
            'binutils': version_in(tools)}


def find_gccs(candidates: Sequence[str]) -> List[Dict[str, str]]:
    """Return those of the compilers that are here and work.

    Args:
        candidates: full paths, paths with `~`, or names to be looked for on
            PATH; each may have wild cards
    """
    asks: Dict[str, Callable[[], Optional[Dict[str, str]]]] = {}
    for name in candidates:
        if '/' in name:
            full = os.path.expanduser(name)
            paths = sorted(glob.glob(full)) if glob.has_magic(full) else [full]
        else:
            paths = [shutil.which(name) or '']
        for path in paths:
            if path and os.path.isfile(path):
                asks[path] = functools.partial(describe_gcc, path)
    return [gcc for gcc in at_once(asks).values() if gcc is not None]


def openssl_headers() -> str:
    """Return the version of the OpenSSL headers, '' when there are none."""
    for folder in ('/usr/local/include', '/usr/include', '/opt/homebrew/include',
                   '/usr/include/*-linux-gnu'):
        for path in sorted(glob.glob(f'{folder}/openssl/opensslv.h')):
            try:
                with open(path, encoding='utf-8', errors='replace') as inf:
                    found = _OPENSSL.search(inf.read())
            except OSError:
                continue
            if found:
                return found.group(1)
    return ''


def python_modules() -> Dict[str, str]:
    """Return versions of what binman and the device-tree tools import.

    Asked of the `python3` that a build would run. It does not import them, which
    takes setuptools a quarter of a second: a version is in the name of the folder
    that tells of the package.
    """
    code = ('import glob, json, os, re, sysconfig\n'
            'from importlib.util import find_spec\n'
            'out = {}\n'
            'for name, mod in (("pyelftools", "elftools"), ("setuptools", "setuptools")):\n'
            '    spec = find_spec(mod)\n'
            '    where = os.path.dirname(os.path.dirname(spec.origin or "")) if spec else ""\n'
            '    found = [re.match(name + r"-([\\w.+]+?)(-py[\\d.]+)?[.](dist|egg)-info$", item)\n'
            '             for item in (os.listdir(where) if where else ())]\n'
            '    found = [item.group(1) for item in found if item]\n'
            '    out[name] = found[0] if found else "yes" if spec else ""\n'
            'path = os.path.join(sysconfig.get_paths()["include"], "Python.h")\n'
            'out["python-dev"] = "yes" if os.path.exists(path) else ""\n'
            'print(json.dumps(out))\n')
    lines = say(['python3', '-W', 'ignore', '-c', code]).splitlines()
    try:
        found = json.loads(lines[-1])
    except (IndexError, ValueError):
        return {}
    return {key: str(val)[:80] for key, val in found.items()}


def at_once(asks: Mapping[str, Callable[[], _Said]]) -> Dict[str, _Said]:
    """Call functions that wait for other programs, all at the same time.

    Returns:
        what each returned, in the order of the names
    """
    said: Dict[str, _Said] = {}

    def ask(name: str) -> None:
        said[name] = asks[name]()

    join(on_all(asks, ask))
    return {name: said[name] for name in asks}


def _version_of(name: str) -> Dict[str, str]:
    """Return the version of one of TOOLS, '?' for one that is there and tells none."""
    argv = TOOLS[name]
    return {name: (version_in(say(argv)) or '?') if shutil.which(argv[0]) else ''}


def tool_versions(names: Optional[Collection[str]] = None) -> Dict[str, str]:
    """Return each tool's version, '' for one that is missing.

    Args:
        names: the tools to be looked at; None for all
    """
    asks: Dict[str, Callable[[], Dict[str, str]]] = {
        name: functools.partial(_version_of, name)
        for name in TOOLS if names is None or name in names}
    if names is None or not set(names).isdisjoint(PYTHON_MODULES):
        asks['modules'] = python_modules
    out = {'python3': '.'.join(str(num) for num in sys.version_info[:3])}
    if names is None or 'openssl-headers' in names:
        out['openssl-headers'] = openssl_headers()
    for found in at_once(asks).values():
        out.update(found)
    return out


def _proc_numbers(path: str, key: str) -> List[float]:
    """Return the numbers of all lines `key : number` of a /proc file."""
    out: List[float] = []
    try:
        with open(path, encoding='utf-8', errors='replace') as inf:
            for line in inf:
                name, _, value = line.partition(':')
                if name.strip().lower() == key:
                    out.append(float(value.split()[0]))
    except (OSError, ValueError, IndexError):
        pass
    return out


def processors() -> Dict[str, Any]:
    """Return arch, cores, threads, BogoMIPS of one thread and load."""
    threads = limits.cpu_count()
    siblings = _proc_numbers('/proc/cpuinfo', 'siblings')
    cores = _proc_numbers('/proc/cpuinfo', 'cpu cores')
    ratio = cores[0] / siblings[0] if cores and siblings and siblings[0] else 1.0
    speed = _proc_numbers('/proc/cpuinfo', 'bogomips')
    return {'arch': os.uname().machine, 'cpus': max(1, round(threads * ratio)),
            'threads': threads, 'bogomips': speed[0] if speed else 0.0,
            'load': round(os.getloadavg()[0], 2)}


def memory_mb() -> int:
    """Return the MiB of memory that are to be had."""
    found = _proc_numbers('/proc/meminfo', 'memavailable')
    if found:
        return int(found[0]) // 1024
    try:
        return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') >> 20
    except (ValueError, OSError):
        return 0


def disk_mb(path: str) -> int:
    """Return the MiB that are free where a folder is or would be."""
    while not os.path.isdir(path) and path not in ('/', ''):
        path = os.path.dirname(path)
    try:
        stat = os.statvfs(path or '/')
    except OSError:
        return 0
    return stat.f_bavail * stat.f_frsize >> 20


def collect(spec: Mapping[str, Any]) -> Dict[str, Any]:
    """Return the description of this machine.

    Args:
        spec: `work_dir`: folder to be looked at, with `~`; `toolchains`: arch
            to candidates, see find_gccs(); `tools`: False to leave out all but
            the toolchains, or the names of those that matter, which leaves out
            the size of the work folder, too
    Returns:
        what `facts.MachineInfo` holds, as JSON types
    """
    tools = spec.get('tools', True)
    names = tools if isinstance(tools, list) else None
    asks: Dict[str, Callable[[], Any]] = {
        arch: functools.partial(find_gccs, gccs)
        for arch, gccs in spec.get('toolchains', {}).items()}
    if tools:
        # No arch has a name like this
        asks['/tools'] = functools.partial(tool_versions, names)
    found = at_once(asks)
    versions = found.pop('/tools', {})
    out: Dict[str, Any] = {'gccs': found}
    if not tools:
        return out
    work_dir = os.path.expanduser(str(spec.get('work_dir', '~')))
    out.update(processors())
    out['mem_avail_mb'] = memory_mb()
    out['disk_avail_mb'] = disk_mb(work_dir)
    out['tools'] = versions
    out['work_dir'] = work_dir
    # A folder of many slots takes its time
    out['work_mb'] = (lock.folder_size(work_dir, SIZE_SECONDS) >> 20
                      if names is None and os.path.isdir(work_dir) else 0)
    try:
        owner = lock.who(work_dir)
    except OSError:
        owner = None
    out['owner'] = str(owner) if owner is not None else ''
    return out


def show(info: Mapping[str, Any]) -> None:
    """Print a description, on a line of its own whatever a login shell printed."""
    print('\n' + MARK + json.dumps(info), flush=True)


def unfit(info: Mapping[str, Any], limits: Mapping[str, float]) -> str:
    """Return why a machine is not to be used, '' when it is.

    Args:
        info: its description
        limits: `max_load` in percent of its threads, 0 for any; `min_disk_mb` and
            `min_mem_mb` in MiB
    """
    for tool in ('git', 'make'):
        if not info['tools'].get(tool):
            return f'{tool} is not installed there'
    threads, load = info['threads'], info['load']
    if limits['max_load'] and load > threads * limits['max_load'] / 100:
        return (f"busy: load {load:.1f} is over {limits['max_load']:g}% of its "
                f'{threads} threads')
    for name, what, where in (('disk', 'disk', f" for {info['work_dir']}"),
                              ('mem', 'memory', '')):
        free = info[f'{name}_avail_mb']
        if free < limits[f'min_{name}_mb']:
            return (f"{what}: {free} MiB are free{where}, it takes "
                    f"{limits[f'min_{name}_mb']:g}")
    return ''


def main(args: Optional[Sequence[str]] = None) -> int:
    """Print the description; the first argument is the spec as JSON."""
    args = sys.argv[1:] if args is None else args
    account.leave()
    show(collect(json.loads(args[0])))
    return 0


if __name__ == '__main__':
    sys.exit(main())
