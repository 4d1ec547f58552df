# SPDX-License-Identifier: GPL-2.0+
"""What a machine is, has and can do: runs there, sent over together with `lock`.

It has only the standard library there. `collect()` is also called on the
boss's own machine, to compare.
"""

from __future__ import annotations

import glob
import json
import os
import re
import shutil
import subprocess
import sys
from typing import Any, Dict, List, Mapping, Optional, Sequence

from buildman import lock

# Before the answer, which is one line of JSON: login shells print, too
MARK = 'BM-PROBE '
TOOL_SECONDS = 10.0         # for a tool to tell its version
SIZE_SECONDS = 3.0          # for adding up the work folder

# Tools that a build needs or whose version shows in what it makes
TOOLS = {
    'git': ['git', '--version'],
    'make': ['make', '--version'],
    'gcc': ['gcc', '--version'],
    'dtc': ['dtc', '--version'],
    'swig': ['swig', '-version'],
    'bison': ['bison', '--version'],
    'flex': ['flex', '--version'],
    'openssl': ['openssl', 'version'],
    'ccache': ['ccache', '--version'],
}
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
    """Return the compiler's path, version and banner; None when it does not work.

    The banner is what stands between the name and the version, so that two
    builds of one version can be told apart.
    """
    version = say([path, '-dumpfullversion', '-dumpversion']).split('\n')[0]
    if not version:
        return None
    first = (say([path, '--version']).split('\n') or [''])[0]
    return {'path': path, 'version': version[:80], 'banner': first.partition(' ')[2][:200]}


def find_gccs(candidates: Sequence[str]) -> List[Dict[str, str]]:
    """Return those of the compilers that are here and work.

    Args:
        candidates: full paths, paths with `~`, or names to be looked for on
            PATH; each may have wild cards
    """
    out: List[Dict[str, str]] = []
    seen = set()
    for name in candidates:
        if '/' in name:
            full = os.path.expanduser(name)
            paths = sorted(glob.glob(full)) if glob.has_magic(full) else [full]
        else:
            paths = [shutil.which(name) or '']
        for path in paths:
            if path and path not in seen and os.path.isfile(path):
                seen.add(path)
                gcc = describe_gcc(path)
                if gcc is not None:
                    out.append(gcc)
    return out


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

    Asked of the `python3` that a build would run.
    """
    code = ('import json, os, sysconfig\n'
            'out = {}\n'
            'for name, mod in (("pyelftools", "elftools"), ("setuptools", "setuptools")):\n'
            '    try:\n'
            '        out[name] = getattr(__import__(mod), "__version__", "yes")\n'
            '    except ImportError:\n'
            '        out[name] = ""\n'
            'path = os.path.join(sysconfig.get_paths()["include"], "Python.h")\n'
            'out["python-dev"] = "yes" if os.path.exists(path) else ""\n'
            'print(json.dumps(out))\n')
    lines = say(['python3', '-W', 'ignore', '-c', code]).splitlines()
    try:
        found = json.loads(lines[-1])
    except (IndexError, ValueError):
        return {}
    return {key: str(val)[:80] for key, val in found.items()}


def tool_versions() -> Dict[str, str]:
    """Return each tool's version, '' for one that is missing."""
    out = {'python3': '.'.join(str(num) for num in sys.version_info[:3])}
    for name, argv in TOOLS.items():
        out[name] = version_in(say(argv)) if shutil.which(argv[0]) else ''
    out['openssl-headers'] = openssl_headers()
    out.update(python_modules())
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
    try:
        threads = len(os.sched_getaffinity(0))
    except AttributeError:
        threads = os.cpu_count() or 1
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
            the toolchains
    Returns:
        what `machine_info.MachineInfo` holds, as JSON types
    """
    out: Dict[str, Any] = {'gccs': {arch: find_gccs(names)
                                    for arch, names in spec.get('toolchains', {}).items()}}
    if not spec.get('tools', True):
        return out
    work_dir = os.path.expanduser(str(spec.get('work_dir', '~')))
    out.update(processors())
    out['mem_avail_mb'] = memory_mb()
    out['disk_avail_mb'] = disk_mb(work_dir)
    out['tools'] = tool_versions()
    out['work_dir'] = work_dir
    out['work_mb'] = (lock.folder_size(work_dir, SIZE_SECONDS) >> 20
                      if os.path.isdir(work_dir) else 0)
    try:
        owner = lock.who(work_dir)
    except OSError:
        owner = None
    out['owner'] = str(owner) if owner is not None else ''
    return out


def main(args: Optional[Sequence[str]] = None) -> int:
    """Print the description; the first argument is the spec as JSON."""
    args = sys.argv[1:] if args is None else args
    print('\n' + MARK + json.dumps(collect(json.loads(args[0]))))
    return 0


if __name__ == '__main__':
    sys.exit(main())
