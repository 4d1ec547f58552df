# SPDX-License-Identifier: GPL-2.0+
"""The machines of `[machines]`: configuration, probing, toolchains.

A machine is probed with one command, all machines at the same time. What it
answers decides whether it is used, with how much weight, and for which archs.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
import re
import shlex
import threading
from typing import (
    Callable,
    Dict,
    FrozenSet,
    Iterable,
    List,
    Mapping,
    Optional,
    Sequence,
    Set,
    Tuple,
)

from buildman import bsettings
from buildman.agent import survey
from buildman.core.errors import UsageError
from buildman.process import commands
from buildman.remote import facts, scripts, ssh, supply
from buildman.remote.facts import Gcc, MachineInfo, gcc_version, parse_probe

PROBE_TIMEOUT = 60.0        # seconds for one machine to describe itself
MAX_THREADS = 64            # machines that are asked at the same time

# A machine is used when it has at least this much to offer
MAX_LOAD = 80               # percent of its threads; `max_load` of a machine, 0: any
MIN_DISK_MB = 1024
MIN_MEM_MB = 512

# Keys of a [machine:NAME] section; the features that use further ones add them

# Tools whose version shows in what a build makes
DECIDING_TOOLS = ('gcc', 'binutils', 'dtc', 'swig', 'openssl-headers', 'pyelftools')

# What stands for an image in a transport
IMAGE = '{image}'

_WORK_DIR = re.compile('~?/[^\x00-\x1f]+\\Z')

Fetcher = Callable[['Machine', Sequence[str]], None]


def _run_ssh(machine: 'Machine', remote_cmd: str, timeout: float) -> str:
    """Run a one-shot command on a machine; looked up here at each call."""
    return machine.transport.run(remote_cmd, timeout)


def speed_of(threads: int, bogomips: float) -> float:
    """Return how fast a machine is, in a unit that is the same for all."""
    return float(max(1, threads)) * max(1.0, bogomips)


class Machine:
    """One machine.

    Attributes:
        hostname: host or `user@host`
        name: what it is called in messages and logs
        toolchains: arch to path of the compiler to use there
        info: what it told of itself
        max_boards: boards at a time, 0 for as many as it has threads
        work_dir: folder there, may begin with `~`
        transport: the way to it
        max_load: percent of its threads that may be busy, 0 for any
        other_gcc: compilers of another version than here may be used
        archs: what it may build, None for whatever it has compilers for
        lease: what it is had by, None for one that is always there
        avail: it was probed and can be used
        reason: why it cannot, '' when it can
        problems: what is wrong with it although it is used, or beside it
    """

    def __init__(self, hostname: str, name: Optional[str] = None) -> None:
        self.hostname = hostname
        self.name = name or hostname
        self.toolchains: Dict[str, str] = {}
        self.info = MachineInfo()
        self.max_boards = 0
        self.work_dir = scripts.DEFAULT_WORK_DIR
        self.transport: ssh.Transport = ssh.transport_for(hostname, self.name)
        self.max_load = MAX_LOAD
        self.other_gcc = False
        self.archs: Optional[FrozenSet[str]] = None
        self.lease: Optional[supply.Lease] = None
        self.avail = False
        self.reason = 'not probed'
        self.problems: List[str] = []
        self._asked: Dict[str, List[str]] = {}

    def __repr__(self) -> str:
        state = 'available' if self.avail else self.reason
        return f'Machine({self.name!r}, {self.hostname!r}, {state})'

    @property
    def weight(self) -> int:
        """Share of the boards that it gets: idle threads, at least 1."""
        return max(1, self.info.threads - int(self.info.load))

    def probe(self, candidates: Optional[Mapping[str, List[str]]] = None,
              timeout: float = PROBE_TIMEOUT) -> bool:
        """Ask the machine what it is; sets info, avail and reason.

        Args:
            candidates: compilers to be looked for, by arch
            timeout: seconds
        Returns:
            True when it can be used
        """
        try:
            text = _run_ssh(self, scripts.probe_script(self.probe_spec(candidates)), timeout)
        except ssh.RemoteError as exc:
            return self.cannot(exc.text)
        return self.take_answer(text)

    def probe_spec(self, candidates: Optional[Mapping[str, List[str]]] = None,
                   brief: bool = False) -> Dict[str, object]:
        """Return what the machine is to be asked.

        Args:
            candidates: compilers to be looked for, by arch
            brief: no more than what decides whether it is used, and how
        """
        self._asked = self._own(candidates or {})
        self.problems = []
        return {'work_dir': self.work_dir, 'toolchains': self._asked,
                **({'tools': ['git', 'make', *DECIDING_TOOLS]} if brief else {})}

    @property
    def limits(self) -> Dict[str, float]:
        """What it has to offer, see survey.unfit()."""
        return {'max_load': self.max_load, 'min_disk_mb': MIN_DISK_MB, 'min_mem_mb': MIN_MEM_MB}

    def take_answer(self, text: str) -> bool:
        """Take what the machine said; sets info, avail and reason.

        Returns:
            True when it can be used
        """
        try:
            self.info = parse_probe(text)
        except ValueError as exc:
            return self.cannot(f'its answer makes no sense: {exc}')
        # As it was configured, not the full path
        info = {**vars(self.info), 'work_dir': self.work_dir}
        self.reason = survey.unfit(info, self.limits)
        self.avail = not self.reason
        return self.avail

    def cannot(self, reason: str) -> bool:
        """Note why the machine cannot be used; return False."""
        self.info, self.reason, self.avail = MachineInfo(), reason, False
        return False

    def find_toolchains(self, candidates: Mapping[str, List[str]],
                        wanted: Mapping[str, Gcc], timeout: float = PROBE_TIMEOUT) -> Set[str]:
        """Choose the compiler for each arch; sets toolchains.

        The machine is asked again only when it has not been asked for these.

        Args:
            candidates: compilers to be looked for, by arch
            wanted: the compilers here, by arch
            timeout: seconds
        Returns:
            archs for which it has none that may be used
        """
        gccs = dict(self.info.gccs)
        candidates = self._own(candidates)
        todo = {arch: names for arch, names in candidates.items()
                if self._asked.get(arch) != names}
        if todo:
            try:
                answer = _run_ssh(self, scripts.probe_script({'toolchains': todo,
                                                              'tools': False}), timeout)
                gccs.update(parse_probe(answer).gccs)
                self._asked.update(todo)
                self.info = dataclasses.replace(self.info, gccs=gccs)
            except ssh.RemoteError as exc:
                self.problems.append(exc.text)
            except ValueError as exc:
                self.problems.append(f'its answer makes no sense: {exc}')
        missing = set()
        for arch in candidates:
            path = self.choose(arch, gccs.get(arch, ()), wanted.get(arch))
            if path:
                self.toolchains[arch] = path
            else:
                self.toolchains.pop(arch, None)
                missing.add(arch)
        return missing

    def _own(self, candidates: Mapping[str, List[str]]) -> Dict[str, List[str]]:
        """Return those of the archs that it may build"""
        return {arch: names for arch, names in candidates.items()
                if self.archs is None or arch in self.archs}

    def forget_compilers(self) -> None:
        """Have it asked again which compilers it has."""
        self._asked = {}

    def choose(self, arch: str, found: Sequence[Gcc], want: Optional[Gcc]) -> str:
        """Return the path of the compiler to use for an arch, '' for none."""
        if not found:
            return ''
        if want is None:
            return found[0].path
        same = [gcc for gcc in found if gcc.version == want.version
                and gcc_version(gcc.path) in (None, gcc_version(want.path))]
        if same:
            # Of two builds of one version rather that which is here
            same.sort(key=lambda gcc: gcc.banner != want.banner)
            if same[0].banner != want.banner:
                self._problem(f"{arch}: gcc is '{same[0].banner}', here it is '{want.banner}'")
            if same[0].binutils != want.binutils:
                self._problem(f'{arch}: binutils are {same[0].binutils or "missing"}, '
                              f'here they are {want.binutils or "missing"}')
            return same[0].path
        have = ', '.join(f'{gcc.version} ({gcc.path})' for gcc in found)
        if self.other_gcc or arch == 'sandbox':
            self._problem(f'{arch}: gcc is {have}, here it is {want.version}')
            return found[0].path
        self._problem(f'{arch}: gcc is {have}, here it is {want.version}: not used; allow it '
                      f'with other_gcc = yes in [machine:{self.name}]')
        return ''

    def _problem(self, text: str) -> None:
        if text not in self.problems:
            self.problems.append(text)

    def differences(self, tools: Mapping[str, str]) -> List[str]:
        """Return the tools of another version than those given, where that matters."""
        out = []
        for name in DECIDING_TOOLS:
            there, here = self.info.tools.get(name, ''), tools.get(name, '')
            if there != here:
                out.append(f"{name} {there or 'missing'} (here {here or 'missing'})")
        return out


class _Missing(Dict[Machine, Set[str]]):
    """Archs that machines lack; a machine that lacks none has an empty set."""

    def __missing__(self, key: Machine) -> Set[str]:
        return set()


def _from_config(name: str, hostname: str) -> List[Machine]:
    """Return a machine with what its section says; one for each image, if it runs images.

    Raises:
        UsageError: the configuration cannot be understood
    """
    section = f'machine:{name}'
    transport = bsettings.get_value(section, 'transport')
    if IMAGE not in transport:
        return [_reached_by(transport, name, hostname, section)]
    images: Dict[str, List[str]] = {}
    for arch, image in bsettings.get_items('image'):
        images.setdefault(image, []).append(arch)
    if not images:
        raise UsageError(f'[{section}] transport has {IMAGE}, and there is no section [image]: '
                         "add one with a line 'arch = IMAGE' for each arch")
    out = []
    for image, archs in images.items():
        mach = _reached_by(transport.replace(IMAGE, shlex.quote(image)), f'{name}-{archs[0]}',
                           hostname, section)
        mach.archs = frozenset(archs)
        mach.work_dir += f'/{archs[0]}'
        # The image is what somebody has named for the sake of its compiler
        mach.other_gcc = True
        out.append(mach)
    return out


def _reached_by(transport: str, name: str, hostname: str, section: str) -> Machine:
    """Return a machine with what a section says, but for the way to it.

    Raises:
        UsageError: it cannot be understood
    """
    way = ssh.make_transport(ssh.check_hostname(hostname), transport,
                             bsettings.get_value(section, 'ssh_options'))
    ssh.register(way, ssh.check_name(name))
    out = Machine(hostname, name)
    out.transport = way
    # Here the load is our own
    _configure(out, section, 0 if way.kind == 'local' else MAX_LOAD)
    return out


def _configure(out: Machine, section: str, max_load: int) -> None:
    """Set what a section says of a machine however it is reached.

    Raises:
        UsageError: it cannot be understood
    """
    out.max_boards = bsettings.get_int(section, 'max_boards')
    out.work_dir = bsettings.get_value(section, 'work_dir', scripts.DEFAULT_WORK_DIR)
    if not _WORK_DIR.match(out.work_dir):
        raise UsageError(f"[{section}] work_dir {out.work_dir!r} has to begin with '/' or '~/'")
    out.max_load = bsettings.get_int(section, 'max_load', max_load)
    out.other_gcc = bsettings.get_bool(section, 'other_gcc')


def from_supply(source: supply.Supply) -> Machine:
    """Return a machine that a supply is to be asked for.

    Its work folder is its own, as several may see the same home folder.

    Raises:
        UsageError: the configuration cannot be understood
    """
    lease = source.next_lease()
    out = Machine(lease.name)
    # Nobody else is to be there
    _configure(out, f'machine:{source.name}', 0)
    out.work_dir = f'{out.work_dir}/{lease.name}'
    out.lease = lease
    return out


class MachinePool:
    """The machines that are configured, or those of them that were asked for.

    Attributes:
        machines: in the order of the configuration
        supplies: where more come from
    """

    def __init__(self, names: Optional[Iterable[str]] = None) -> None:
        """Read the configuration.

        Args:
            names: machines to use; None for all
        Raises:
            UsageError: the configuration cannot be understood, or a name is
                not in it
        """
        self.machines: List[Machine] = []
        self.supplies: List[supply.Supply] = []
        self.missing: Dict[Machine, Set[str]] = _Missing()
        self._load_from_config(names)

    def _load_from_config(self, names: Optional[Iterable[str]] = None) -> None:
        """Set the machines from bsettings; may be called again."""
        ssh.forget_refused()
        pairs = []
        for key, value in bsettings.get_items('machines'):
            hostname = value.strip() or key
            pairs.append((key, hostname))
        if names is not None:
            names = list(names)
            known = [name for name, _ in pairs]
            for name in names:
                if name not in known:
                    raise UsageError(f"machine '{name}' is not in [machines]; "
                                     f"there are: {', '.join(known) or 'none'}")
            pairs = [pair for pair in pairs if pair[0] in names]
        found = {name: supply.from_config(ssh.check_name(name)) for name, _ in pairs}
        self.supplies = [source for source in found.values() if source]
        self.machines = [mach for pair in pairs if not found[pair[0]]
                         for mach in _from_config(*pair)]
        places: Dict[Tuple[Tuple[str, ...], str], Machine] = {}
        for mach in self.machines:
            other = places.setdefault((tuple(mach.transport.argv('')), mach.work_dir), mach)
            if other is not mach:
                raise UsageError(f"machines '{other.name}' and '{mach.name}' in [machines] are "
                                 'the same host with the same work_dir')

    def _each(self, machines: Sequence[Machine], func: Callable[[Machine], object]) -> None:
        """Call a function for all machines at the same time."""
        if not machines:
            return
        with concurrent.futures.ThreadPoolExecutor(
                min(MAX_THREADS, len(machines)), 'machine') as pool:
            jobs = [pool.submit(func, mach) for mach in machines]
            try:
                for job in jobs:
                    job.result()
            except BaseException:
                # Ctrl-C: do not wait for machines that do not answer
                commands.stop_all()
                raise

    def probe_all(self, local_gcc: Optional[Mapping[str, str]] = None,
                  progress: Optional[Callable[[str], None]] = None) -> List[Machine]:
        """Ask all machines at once what they are, one command each.

        Args:
            local_gcc: arch to path of the compiler here; told this, the machines
                are asked for their compilers in the same command
            progress: called with a line of text as machines answer
        Returns:
            those that can be used
        """
        candidates = candidates_for(local_gcc or {}, local_gcc or {})
        lock = threading.Lock()
        done: List[str] = []

        def probe(mach: Machine) -> None:
            mach.probe(candidates)
            if progress is not None:
                with lock:
                    done.append(mach.name)
                    progress(f'Probing {len(done)}/{len(self.machines)}: {mach.name}')

        self._each(self.machines, probe)
        return self.get_available()

    def get_available(self) -> List[Machine]:
        """Return the machines that can be used, as of the last probe."""
        return [mach for mach in self.machines if mach.avail]

    def get_total_weight(self) -> int:
        """Return the sum of the weights of the machines that can be used."""
        return sum(mach.weight for mach in self.get_available())

    def check_toolchains(self, needed: Iterable[str], buildman_path: str = 'buildman',
                         fetch: bool = False, local_gcc: Optional[Mapping[str, str]] = None,
                         fetcher: Optional[Fetcher] = None) -> Dict[Machine, Set[str]]:
        """Find on each machine a compiler for each arch, as it is here if possible.

        Args:
            needed: archs
            buildman_path: not used, as nothing of ours is installed there
            fetch: have what is missing installed by `fetcher`
            local_gcc: arch to path of the compiler here
            fetcher: called with a machine and archs; raises ssh.RemoteError
        Returns:
            for each machine that lacks some: the archs that it lacks
        """
        local = dict(local_gcc or {})
        candidates = candidates_for(needed, local)
        wanted = {}
        for arch, path in local.items():
            gcc = survey.describe_gcc(path) if arch in candidates else None
            if gcc is not None:
                wanted[arch] = Gcc(**gcc)
        self.missing = _Missing()

        def check(mach: Machine) -> None:
            missing = mach.find_toolchains(candidates, wanted)
            if missing and fetch and fetcher is not None:
                try:
                    fetcher(mach, sorted(missing))
                except ssh.RemoteError as exc:
                    mach.problems.append(f'fetching toolchains: {exc.text}')
                mach.forget_compilers()
                mach.problems = [text for text in mach.problems
                                 if not text.startswith(tuple(f'{arch}:' for arch in missing))]
                missing = mach.find_toolchains(candidates, wanted)
            if missing:
                self.missing[mach] = missing

        self._each(self.get_available(), check)
        return self.missing

    def print_summary(self, tools: Optional[Mapping[str, str]] = None) -> None:
        """Print the table of machines, then each one's tools and problems.

        Args:
            tools: versions of the tools here, to tell differences; None to
                find them out
        """
        here = survey.tool_versions() if tools is None and self.machines else tools or {}
        for line in facts.report_lines(self, here):
            print(line)


def candidates_for(needed: Iterable[str], local: Mapping[str, str]) -> Dict[str, List[str]]:
    """Return for each arch where its compiler may be on another machine.

    The compiler here: at the same place below the home folder, at the same
    place, or by its name on PATH. Without one here: what distributions and
    kernel.org call it.
    """
    out: Dict[str, List[str]] = {}
    for arch in needed:
        path = local.get(arch, '')
        if path:
            home = os.path.expanduser('~').rstrip('/') + '/'
            names = ['~/' + path[len(home):]] if path.startswith(home) else []
            names += [path, os.path.basename(path)]
        elif arch == 'sandbox':
            names = ['gcc']
        else:
            names = [f'{arch}-linux-gnu-gcc', f'{arch}-linux-gnueabihf-gcc',
                     f'{arch}-linux-gnueabi-gcc', f'{arch}-linux-gcc',
                     f'~/.buildman-toolchains/gcc-*/{arch}-linux*/bin/{arch}-linux*-gcc']
        out[arch] = list(dict.fromkeys(names))
    return out


def compiler_spec(needed: Iterable[str],
                  local: Mapping[str, str]) -> Tuple[Dict[str, List[str]], Dict[str, Gcc]]:
    """Return what Machine.probe() and Machine.find_toolchains() are to look for.

    Args:
        needed: archs
        local: arch to path of the compiler here

    Returns:
        (candidates by arch, the compilers here by arch)
    """
    candidates = candidates_for(needed, local)
    wanted = {}
    for arch in candidates:
        found = survey.describe_gcc(local[arch]) if arch in local else None
        if found is not None:
            wanted[arch] = Gcc(**found)
    return candidates, wanted
