# SPDX-License-Identifier: GPL-2.0+
"""Machines: configuration, probing through a stub `ssh`, toolchains, the table."""

import json
import os
import shutil
import stat
import sys
import tempfile
import unittest

import support

from buildman import bsettings, machine
from buildman.agent import lock, survey
from buildman.core.errors import UsageError
from buildman.core.plan import bounded_boards
from buildman.remote import facts, scripts, ssh
from buildman.remote.facts import Gcc

STUB = os.path.join(support.TESTS, 'stub_ssh')

FAKE_GCC = '''#!/bin/sh
case "$1" in
-dumpfullversion) echo {version};;
*) echo "$(basename "$0") ({builder}) {version}";;
esac
'''


def fake_gcc(path, version='12.2.0', builder='Debian 1'):
    """Make a compiler that only tells its version."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'w', encoding='utf-8') as outf:
        outf.write(FAKE_GCC.format(version=version, builder=builder))
    os.chmod(path, 0o755)
    return path


class MachineCase(unittest.TestCase):
    """A test with a stub ssh and a configuration of its own."""

    def setUp(self):
        tmp = tempfile.TemporaryDirectory()
        self.addCleanup(tmp.cleanup)
        self.dir = tmp.name
        old = dict(os.environ)
        self.addCleanup(lambda: (os.environ.clear(), os.environ.update(old)))
        os.environ['PATH'] = f"{STUB}:{os.environ['PATH']}"
        os.environ['BM_STUB_DIR'] = self.dir
        self.home = os.path.join(self.dir, 'homes', 'boss')
        os.environ['HOME'] = self.home
        self.addCleanup(bsettings.setup, None)

    def pool(self, text, names=None):
        """Return the pool of a configuration."""
        bsettings.setup(None)
        bsettings.add_file(text)
        return machine.MachinePool(names)

    def control(self, text, host='all'):
        """Say how the stub is to fail."""
        with open(os.path.join(self.dir, f'{host}.ctl'), 'w', encoding='utf-8') as outf:
            outf.write(text + '\n')

    def calls(self):
        """Return how often ssh was called."""
        try:
            with open(os.path.join(self.dir, 'log'), encoding='utf-8') as inf:
                return len(inf.readlines())
        except FileNotFoundError:
            return 0


class TestConfig(MachineCase):
    """What a user writes into [machines]."""

    def test_machines(self):
        pool = self.pool('''[machines]
alpha
beta = bob@beta.example.org
[machine:alpha]
max_boards = 3
work_dir = /scratch/bm
ssh_options = -p 2222
max_load = 0
other_gcc = yes
[machine:beta]
max_boards = 0
transport = local
''')
        alpha, beta = pool.machines
        self.assertEqual((alpha.name, alpha.hostname, alpha.max_boards, alpha.work_dir),
                         ('alpha', 'alpha', 3, '/scratch/bm'))
        self.assertEqual((alpha.max_load, alpha.other_gcc), (0, True))
        self.assertIn('2222', alpha.transport.argv('x'))
        self.assertEqual((beta.name, beta.hostname, beta.max_boards, beta.work_dir),
                         ('beta', 'bob@beta.example.org', 0, '~/dev/.bm-worker'))
        self.assertEqual(beta.transport.kind, 'local')
        # Those who know the host name only take the same way
        self.assertIn('2222', ssh.transport_for('alpha').argv('x'))
        pool._load_from_config()
        self.assertEqual(len(pool.machines), 2)
        pool._load_from_config(['beta'])
        self.assertEqual([mach.name for mach in pool.machines], ['beta'])

    def test_none(self):
        self.assertEqual(self.pool('[toolchain]\n').machines, [])
        self.assertEqual(self.pool('').get_total_weight(), 0)

    def test_same_host_by_two_names(self):
        """Two containers behind one host differ by port; the same place twice is a mistake."""
        text = '[machines]\na = root@box\nb = root@box\n[machine:a]\nssh_options = -p 1\n'
        pool = self.pool(text)
        for mach, port in zip(pool.machines, ('1', None)):
            argv = ssh.transport_for('root@box', mach.name).argv('x')
            self.assertEqual('-p' in argv, port is not None)
        with self.assertRaisesRegex(UsageError, "'a' and 'b' .* same host"):
            self.pool(text + '[machine:b]\nssh_options = -p 1\n')
        self.pool(text + '[machine:b]\nssh_options = -p 1\nwork_dir = /x\n')

    def test_images(self):
        """One machine for each image, which builds the archs of that only."""
        text = '[machines]\nbox = localhost\n[machine:box]\ntransport = podman run {image} sh -c\n'
        pool = self.pool(text + '[image]\narm = u/arm:13\naarch64 = u/arm:13\nsandbox = ./x y\n')
        self.assertEqual([(mach.name, mach.work_dir, mach.archs) for mach in pool.machines],
                         [('box-arm', '~/dev/.bm-worker/arm', {'arm', 'aarch64'}),
                          ('box-sandbox', '~/dev/.bm-worker/sandbox', {'sandbox'})])
        self.assertEqual(['podman', 'run', './x y', 'sh', '-c', 'id'],
                         pool.machines[1].transport.argv('id'))
        self.assertEqual({'arm': ['gcc']},
                         pool.machines[0].probe_spec({'arm': ['gcc'], 'sandbox': ['gcc']})
                         ['toolchains'])
        with self.assertRaisesRegex(UsageError, r'no section \[image\]'):
            self.pool(text)

    def test_bad(self):
        """What could run a command here, or is a mistake, is refused with a name."""
        for text in ('[machines]\n-oProxyCommand=touch x\n', '[machines]\na b; reboot\n',
                     '[machines]\n$(id)\n', '[machines]\nx = -lroot\n', '[machines]\n../x = a\n',
                     '[machines]\nx = a b\n',
                     '[machines]\na\n[machine:a]\nmax_boards = many\n',
                     '[machines]\na\n[machine:a]\nmax_boards = -1\n',
                     '[machines]\na\n[machine:a]\nwork_dir = dev\n',
                     '[machines]\na\n[machine:a]\nwork_dir = ~bob/x\n',
                     '[machines]\na\n[machine:a]\nwork_dir = /x\n  /y\n',
                     '[machines]\na\n[machine:a]\ntransport = sh "\n',
                     '[machines]\na\n[machine:a]\nother_gcc = perhaps\n',
                     '[machines]\na\na\n'):
            with self.subTest(text):
                with self.assertRaises(UsageError) as caught:
                    self.pool(text)
                self.assertNotIn('\n', str(caught.exception))
        with self.assertRaisesRegex(UsageError, "'gamma' is not in .* alpha, beta"):
            self.pool('[machines]\nalpha\nbeta\n', ['gamma'])


class TestGccVersion(unittest.TestCase):
    """Which downloaded gcc a path belongs to."""

    def test_paths(self):
        for path, want in (
                ('/home/u/.buildman-toolchains/gcc-13.1.0-nolibc/aarch64-linux/bin/'
                 'aarch64-linux-gcc', 'gcc-13.1.0-nolibc'),
                ('/usr/bin/aarch64-linux-gnu-gcc', None), ('/usr/bin/gcc-12', None), ('', None),
                ('/opt/gcc-arm/bin/arm-gcc', None), ('gcc', None)):
            self.assertEqual(machine.gcc_version(path), want)


class TestProbe(MachineCase):
    """Machines are asked, and what they answer decides."""

    TWO = ('[machines]\nalpha\nbeta = bob@beta\n[machine:alpha]\nmax_load = 0\n'
           '[machine:beta]\nmax_load = 0\nmax_boards = 2\n')

    def test_probe(self):
        """One ssh a machine, the compilers included."""
        gcc = fake_gcc(os.path.join(self.home, 'tc', 'bin', 'arm-gcc'))
        fake_gcc(os.path.join(self.dir, 'homes', 'alpha', 'tc', 'bin', 'arm-gcc'))
        pool = self.pool(self.TWO)
        said = []
        avail = pool.probe_all({'arm': gcc}, said.append)
        self.assertEqual([mach.name for mach in avail], ['alpha', 'beta'],
                         [mach.reason for mach in pool.machines])
        self.assertEqual(len(said), 2)
        self.assertEqual(said[1][:11], 'Probing 2/2')
        alpha, beta = pool.machines
        self.assertEqual(alpha.info.arch, os.uname().machine)
        self.assertGreaterEqual(alpha.info.threads, 1)
        self.assertGreater(alpha.info.mem_avail_mb, 0)
        self.assertTrue(alpha.info.tools['git'])
        self.assertEqual(alpha.info.work_dir,
                         os.path.join(self.dir, 'homes', 'alpha', 'dev', '.bm-worker'))
        missing = pool.check_toolchains(['arm'], local_gcc={'arm': gcc})
        self.assertEqual(self.calls(), 2)
        self.assertEqual(alpha.toolchains,
                         {'arm': os.path.join(self.dir, 'homes', 'alpha', 'tc/bin/arm-gcc')})
        # beta has it, too: at the very same path as here, as all is one machine
        self.assertEqual(beta.toolchains, {'arm': gcc})
        self.assertEqual(missing, {})
        self.assertEqual(missing[alpha], set())
        self.assertEqual(pool.get_total_weight(), alpha.weight + beta.weight)

    def test_asked_later(self):
        """Toolchains can be asked for after the probe; names on PATH are found."""
        pool = self.pool(self.TWO)
        pool.probe_all()
        self.assertEqual(pool.check_toolchains({'nosucharch'}),
                         {mach: {'nosucharch'} for mach in pool.machines})
        self.assertEqual(self.calls(), 4)
        bindir = os.path.join(self.dir, 'bin')
        gcc = fake_gcc(os.path.join(bindir, 'nosucharch-linux-gnu-gcc'))
        self.control(f"env PATH={bindir}:{os.environ['PATH']}")
        pool.probe_all()
        self.assertEqual(pool.check_toolchains({'nosucharch'}), {})
        self.assertEqual(pool.machines[0].toolchains, {'nosucharch': gcc})

    def test_one_fails(self):
        """The others go on."""
        self.control('refuse', 'alpha')
        pool = self.pool(self.TWO)
        self.assertEqual([mach.name for mach in pool.probe_all()], ['beta'])
        self.assertIn('connection refused', pool.machines[0].reason)
        self.assertFalse(pool.machines[0].avail)
        self.assertEqual(pool.get_total_weight(), pool.machines[1].weight)

    def test_login_shell_prints(self):
        self.control('banner 600\nbanner-raw no newline')
        pool = self.pool(self.TWO)
        self.assertEqual(len(pool.probe_all()), 2)

    def test_no_git(self):
        bindir = os.path.join(self.dir, 'bin')
        os.mkdir(bindir)
        os.symlink(sys.executable, os.path.join(bindir, 'python3'))
        for name in ('sh', 'make'):
            os.symlink(f'/bin/{name}', os.path.join(bindir, name))
        self.control(f'path {bindir}')
        pool = self.pool(self.TWO)
        self.assertEqual(pool.probe_all(), [])
        self.assertEqual(pool.machines[0].reason, 'git is not installed there')
        os.remove(os.path.join(bindir, 'python3'))
        pool.probe_all()
        self.assertIn('python3 is not installed', pool.machines[0].reason)

    def answer(self, mach, **changes):
        """Probe a machine that answers as told."""
        info = {'arch': 'x', 'threads': 10, 'load': 1.0, 'bogomips': 5000, 'disk_avail_mb': 5000,
                'mem_avail_mb': 5000, 'tools': {'git': '2', 'make': '4'}, **changes}
        old = machine._run_ssh
        machine._run_ssh = lambda mach, cmd, timeout: f'hi\n{survey.MARK}{json.dumps(info)}'
        try:
            mach.probe()
        finally:
            machine._run_ssh = old
        return mach.reason

    def test_limits(self):
        """A machine that somebody works on, or that is full, is left alone, and says why."""
        mach = machine.Machine('alpha')
        self.assertEqual(self.answer(mach), '')
        self.assertTrue(mach.avail)
        self.assertEqual(mach.weight, 9)
        self.assertEqual(self.answer(mach, load=8.0), '')
        self.assertEqual(mach.weight, 2)
        self.assertEqual(self.answer(mach, load=8.1), 'busy: load 8.1 is over 80% of its '
                         '10 threads')
        self.assertFalse(mach.avail)
        self.assertIn('1023 MiB are free', self.answer(mach, disk_avail_mb=1023))
        self.assertIn('511 MiB are free', self.answer(mach, mem_avail_mb=511))
        mach.max_load = 0
        self.assertEqual(self.answer(mach, load=800), '')
        self.assertEqual(mach.weight, 1)

    def test_bad_answers(self):
        """A far side that answers nonsense is put aside."""
        mach = machine.Machine('alpha')
        for changes in ({'threads': 'x'}, {'load': None, 'arch': 3}, {'tools': []},
                        {'gccs': {'arm': [3]}}, {'gccs': 3}, {'threads': True}):
            self.assertIn('makes no sense', self.answer(mach, **changes))
        for text in ('', 'x', survey.MARK + '{', survey.MARK + '[]',
                     survey.MARK + '[' * 100_000):
            with self.assertRaises(ValueError):
                facts.parse_probe(text)
        self.answer(mach, arch='\x1b[31mred\x07')
        self.assertEqual(mach.info.arch, 'red')

    def test_many_threads(self):
        """A machine that boasts gets no more boards than one that has as much as any"""
        text = survey.MARK + json.dumps({'threads': 100000})
        self.assertEqual(facts.parse_probe(text).threads, 1024)
        for wanted, threads, want in ((8, 4, 8), (10**9, 4, 64), (10**9, 100, 400), (0, 0, 1),
                                      (10**9, 10**9, 1024)):
            self.assertEqual(bounded_boards(wanted, threads), want)

    def test_who_uses_it(self):
        """--mach tells who has a machine."""
        work = os.path.join(self.dir, 'homes', 'alpha', 'dev', '.bm-worker')
        os.makedirs(work)
        lock.claim(work, lock.Owner(user='ann', host='desk', pid=7, run='r'))
        pool = self.pool(self.TWO)
        pool.probe_all()
        self.assertIn('ann@desk, pid 7', pool.machines[0].info.owner)
        self.assertEqual(pool.machines[1].info.owner, '')
        text = report(pool)
        self.assertIn('in use', text)
        self.assertIn('alpha: in use by ann@desk', text)


class TestToolchains(MachineCase):
    """Which compiler of a machine makes the same as the one here."""

    def setUp(self):
        super().setUp()
        self.far = os.path.join(self.dir, 'homes', 'alpha')
        self.text = '[machines]\nalpha\n[machine:alpha]\nmax_load = 0\n'

    def check(self, gcc, text='', **kwargs):
        """Return the machine and what it lacks, with this compiler here."""
        pool = self.pool(self.text + text)
        pool.probe_all({'arm': gcc})
        missing = pool.check_toolchains(['arm'], local_gcc={'arm': gcc}, **kwargs)
        return pool.machines[0], missing[pool.machines[0]]

    def test_other_version(self):
        """Another version makes other sizes: told, and not used unless allowed."""
        gcc = fake_gcc(os.path.join(self.home, 'tc', 'arm-gcc'))
        there = fake_gcc(os.path.join(self.far, 'tc', 'arm-gcc'), '11.1.0')
        # The same path here would serve, were this another machine
        os.rename(gcc, gcc + '-away')
        fake_gcc(gcc, '13.3.0')
        mach, missing = self.check(gcc)
        self.assertEqual(missing, set())
        os.remove(gcc)
        os.rename(gcc + '-away', gcc)
        mach = machine.Machine('alpha')
        want = Gcc(gcc, '12.2.0', '(Debian 1) 12.2.0')
        found = (Gcc(there, '11.1.0', '(Debian 1) 11.1.0'),)
        self.assertEqual(mach.choose('arm', found, want), '')
        self.assertIn('11.1.0', mach.problems[0])
        self.assertIn('other_gcc = yes in [machine:alpha]', mach.problems[0])
        mach.other_gcc, mach.problems = True, []
        self.assertEqual(mach.choose('arm', found, want), there)
        self.assertEqual(len(mach.problems), 1)
        mach.other_gcc, mach.problems = False, []
        self.assertEqual(mach.choose('sandbox', found, want), there)

    def test_same_version_first(self):
        mach = machine.Machine('alpha')
        found = (Gcc('/a', '11.1.0', 'x'), Gcc('/b', '12.2.0', 'other'),
                 Gcc('/c', '12.2.0', 'same'))
        self.assertEqual(mach.choose('arm', found, Gcc('/z', '12.2.0', 'same')), '/c')
        self.assertEqual(mach.problems, [])
        self.assertEqual(mach.choose('arm', found[:2], Gcc('/z', '12.2.0', 'same')), '/b')
        self.assertEqual(mach.problems, ["arm: gcc is 'other', here it is 'same'"])
        mach.problems = []
        found = (Gcc('/b', '12.2.0', 'same', '2.44'),)
        self.assertEqual(mach.choose('arm', found, Gcc('/z', '12.2.0', 'same', '2.40')), '/b')
        self.assertEqual(mach.problems, ['arm: binutils are 2.44, here they are 2.40'])
        downloaded = Gcc('/x/gcc-12.2.0-nolibc/arm/bin/gcc', '12.2.0', 'same')
        self.assertEqual(mach.choose('arm', (downloaded,), Gcc('/z', '12.2.0')), '')

    def test_broken_compiler(self):
        """One that does not run is as good as none."""
        gcc = fake_gcc(os.path.join(self.dir, 'here', 'arm-gcc'))
        there = fake_gcc(os.path.join(self.far, 'arm-gcc'))
        with open(there, 'w', encoding='utf-8') as outf:
            outf.write('#!/bin/sh\nexit 1\n')
        self.assertEqual(survey.find_gccs(['~/none', there, 'no-such-gcc']), [])
        os.chmod(gcc, stat.S_IRUSR)
        self.assertEqual(survey.find_gccs([gcc]), [])

    def test_fetch(self):
        """What is missing is installed and then found; a failure is told."""
        gcc = os.path.join(self.home, 'tc', 'arm-gcc')
        seen = []

        def fetcher(mach, archs):
            seen.append((mach.name, list(archs)))
            fake_gcc(os.path.join(self.far, 'tc', 'arm-gcc'))

        mach, missing = self.check(gcc, fetch=True, fetcher=fetcher)
        self.assertEqual(seen, [('alpha', ['arm'])])
        self.assertEqual(missing, set())
        self.assertEqual(mach.toolchains, {'arm': os.path.join(self.far, 'tc', 'arm-gcc')})

        def failing(mach, archs):
            raise ssh.RemoteError(mach.name, 'failed', 'no network')

        os.remove(os.path.join(self.far, 'tc', 'arm-gcc'))
        mach, missing = self.check(gcc, fetch=True, fetcher=failing)
        self.assertEqual(missing, {'arm'})
        self.assertEqual(mach.problems, ['fetching toolchains: no network'])

    def test_where_it_is_looked_for(self):
        home = os.path.expanduser('~')
        names = machine.candidates_for(['arm', 'riscv', 'sandbox'],
                                       {'arm': f'{home}/tc/bin/arm-gcc'})
        self.assertEqual(names['arm'], ['~/tc/bin/arm-gcc', f'{home}/tc/bin/arm-gcc', 'arm-gcc'])
        self.assertIn('riscv-linux-gnu-gcc', names['riscv'])
        self.assertEqual(names['sandbox'], ['gcc'])
        gcc = fake_gcc(os.path.join(self.home, '.buildman-toolchains', 'gcc-13.1.0-nolibc',
                                    'riscv-linux', 'bin', 'riscv-linux-gcc'))
        self.assertEqual(survey.find_gccs(names['riscv'])[-1]['path'], gcc)


def report(pool, tools=None):
    """Return what --mach prints."""
    return '\n'.join(facts.report_lines(pool, tools or {}))


class TestReport(MachineCase):
    """The table of --mach."""

    def test_table(self):
        pool = self.pool('[machines]\nalpha\nbeta\n[machine:alpha]\nmax_boards = 3\n')
        alpha, beta = pool.machines
        alpha.info = facts.MachineInfo(
            arch='x86_64', cpus=4, threads=8, bogomips=5199.9, load=1.26, mem_avail_mb=23654,
            disk_avail_mb=104857, tools={'git': '2.39', 'dtc': '1.6', 'swig': ''},
            work_dir='/home/a/w', work_mb=120)
        alpha.avail, alpha.reason, alpha.toolchains = True, '', {'arm': '/usr/bin/arm-gcc'}
        pool.missing[alpha] = {'sh'}
        beta.reason = 'connection refused'
        lines = report(pool, {'git': '2.39', 'dtc': '1.7', 'swig': '4'}).splitlines()
        self.assertEqual(lines[0], 'Machine pool: 1 of 2 machines available, total weight 7')
        self.assertEqual(lines[2:6], [
            '  Name             Arch Threads BogoMIPS   Load  Mem GB Disk TB Toolchains  Status',
            '  ' + '-' * 88,
            '  alpha          x86_64       8     5200    1.3    23.1     0.1     1 of 2  '
            'weight 7, max 3',
            '  beta                -       0        0    0.0     0.0     0.0          -  '
            'connection refused'])
        text = '\n'.join(lines[6:])
        for line in ('alpha: tools: git 2.39, dtc 1.6', 'alpha: not installed: swig',
                     'alpha: differs from here: dtc 1.6 (here 1.7), swig missing (here 4)',
                     'alpha: work folder: /home/a/w, 120 MiB', 'alpha: missing toolchains: sh',
                     'alpha: toolchain arm: /usr/bin/arm-gcc'):
            self.assertIn(f'  {line}', text)

    def test_versions(self):
        """Tools are not told apart when their version is not what they say themselves."""
        said = survey.tool_versions(['git', 'setuptools'])
        self.assertEqual(set(said), {'python3', 'git', *survey.PYTHON_MODULES})
        code = 'import setuptools; print(setuptools.__version__)'
        self.assertEqual(said['setuptools'], survey.say(
            ['python3', '-W', 'ignore', '-c', code]))
        self.assertEqual(said['git'], survey.tool_versions()['git'])

    def test_script_fits_a_command_line(self):
        """One argument of a command may have 128 KiB on Linux."""
        cands = machine.candidates_for([f'arch{num}' for num in range(20)], {})
        cmd = scripts.probe_script({'work_dir': '~/x', 'toolchains': cands})
        self.assertLess(len(cmd), 64 << 10)


class TestSurvey(MachineCase):
    """What a machine is asked when it is started for a build."""

    def survey(self, **limits):
        """Return (whether it may be used, what else it says) of this machine."""
        mach = machine.Machine('localhost')
        mach.transport = ssh.LocalTransport('localhost')
        mach.work_dir = os.path.join(self.dir, 'work')
        mach.max_load = 0
        text = mach.transport.run(scripts.survey_script(
            mach.work_dir, scripts.new_owner('run'), mach.probe_spec({'sandbox': ['gcc']}, True),
            {**mach.limits, **limits}), 60)
        self.assertTrue(mach.take_answer(text))
        return mach, scripts.parse_init(text)

    def test_fit(self):
        """One command finds a machine fit, and claims it."""
        mach, answer = self.survey()
        self.assertEqual(answer.work_dir, os.path.realpath(mach.work_dir))
        self.assertEqual(lock.who(mach.work_dir).run, 'run')
        self.assertEqual([gcc.path for gcc in mach.info.gccs['sandbox']], [shutil.which('gcc')])
        self.assertEqual(set(machine.DECIDING_TOOLS) - set(mach.info.tools), set())

    def test_unfit(self):
        """A machine that is too busy is left alone: no claim, and nothing on its disk."""
        mach, answer = self.survey(min_mem_mb=1 << 40)
        self.assertEqual(answer.work_dir, '')
        self.assertFalse(os.path.exists(mach.work_dir))
