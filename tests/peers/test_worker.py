# SPDX-License-Identifier: GPL-2.0+
"""The far end as a real process over pipes: what it answers and what it builds."""

from __future__ import annotations

import ast
import base64
import hashlib
import json
import os
import random
import subprocess
import sys
import zlib
from typing import Any, Dict, List

import support
from worker_support import COMMAND, WorkerCase, WorkerProcess

from buildman.remote import scripts
from buildman.wire import messages

# What an older boss knows, and the fields of a result that it gets
TABLE = {'ready', 'setup_done', 'configure_done', 'build_started', 'worktree_created',
         'build_prepare_done', 'build_result', 'build_done', 'quit_ack', 'heartbeat', 'error'}
RESULT_FIELDS = {'resp', 'board', 'commit_upto', 'return_code', 'stdout', 'stderr', 'sizes',
                 'load_avg'}


def unpack(text: str) -> bytes:
    """Return what a packed field holds."""
    return zlib.decompress(base64.b64decode(text))


class OlderBossTest(WorkerCase):
    """An older boss drives it: it tells no version and is easily confused."""

    def legacy(self, boards: int = 2, **settings: Any) -> WorkerProcess:
        """Return a worker that an older boss has prepared for two commits."""
        worker = self.start('-g', self.work_dir, cwd=self.work_dir)
        worker.next()
        worker.send('setup', work_dir=self.work_dir)
        worker.next()
        worker.send('configure', settings={'verbose_build': False, 'lines': False, **settings},
                    toolchains=self.gcc)
        worker.next()
        worker.send('build_prepare', commits=list(self.tree.commits[:2]), max_boards=boards)
        worker.until('build_prepare_done')
        return worker

    def start(self, *args: str, **kwargs: Any) -> WorkerProcess:
        # An older boss leaves no claim of ours
        lock_file = os.path.join(self.work_dir, '.lock')
        with open(lock_file, 'w', encoding='utf-8') as outf:
            outf.write('1700000000\n')
        return super().start(*args, **kwargs)

    def test_order_and_kinds(self) -> None:
        """Upstream's boss takes only these kinds, in this order; else it gives up."""
        worker = self.legacy(boards=3)
        self.assertEqual(
            ['ready', 'setup_done', 'configure_done', 'build_started', *['worktree_created'] * 3,
             'build_prepare_done'], worker.kinds())
        self.assertEqual({0, 1, 2}, {msg['thread'] for msg in worker.seen
                                     if msg['resp'] == 'worktree_created'})
        worker.send('build_board', board='anvil', arch='arm')
        worker.send('build_board', board='sandbox', arch='sandbox')
        worker.results(4)
        worker.send('build_done')
        worker.until('build_done', exceptions=0)
        worker.send('quit')
        worker.until('quit_ack')
        self.assertEqual(0, worker.wait())
        self.assertEqual(set(), set(worker.kinds()) - TABLE)
        for msg in worker.seen:
            if msg['resp'] == 'build_result':
                self.assertEqual(set(), set(msg) - RESULT_FIELDS)
                self.assertEqual(0, msg['return_code'], msg)
                self.assertIn('u-boot', msg['sizes']['raw'])
        self.assertEqual([], worker.noise)

    def test_no_toolchain(self) -> None:
        """It would wait for ever for a board that this machine cannot build."""
        worker = self.legacy()
        worker.send('build_board', board='anvil', arch='xtensa')
        for (_, _), msg in worker.results(2).items():
            self.assertNotEqual(0, msg['return_code'])
            self.assertIn('xtensa', msg['stderr'])

    def test_build_boards(self) -> None:
        """A boss that gives all boards at once is told when all are built."""
        worker = self.legacy()
        worker.send('build_boards', commits=list(self.tree.commits[:2]), boards=[
            {'board': 'anvil', 'arch': 'arm'}, {'board': 'rocket', 'arch': 'aarch64'}])
        worker.until('build_done')
        self.assertEqual(4, worker.kinds().count('build_result'))

    def test_home_in_toolchain(self) -> None:
        """Upstream names compilers below '~', which no shell expands here."""
        home = os.path.join(self.tmp, 'home')
        os.mkdir(home)
        os.symlink(self.toolchains, os.path.join(home, 'tc'))
        worker = self.start('-g', self.work_dir, extra={'HOME': home})
        worker.until('ready')
        worker.send('configure', settings={}, toolchains={
            'arm': '~/tc/bin/arm-sample-linux-gnueabi-gcc'})
        worker.until('configure_done')
        worker.send('build_prepare', commits=[self.tree.commits[0]])
        worker.until('build_prepare_done')
        worker.send('build_board', board='anvil', arch='arm')
        self.assertEqual(0, worker.until('build_result')['return_code'])

    def test_source_without_commit(self) -> None:
        """A build of the source as it was pushed has no commit to name."""
        worker = self.start('-g', self.work_dir)
        worker.until('ready')
        worker.send('build_prepare', commits=[None], max_boards=1)
        worker.until('build_prepare_done')
        worker.send('build_board', board='sandbox', arch='sandbox')
        self.assertEqual(0, worker.until('build_result')['return_code'])


class ResultTest(WorkerCase):
    """What comes back is what a local build leaves."""

    BOARDS = (('anvil', 'arm'), ('rocket', 'aarch64'), ('sandbox_spl', 'sandbox'))

    def local(self, *args: str) -> Dict[str, bytes]:
        """Return the tree of a local build of the same."""
        out = self.out('local')
        # Images hold the time at which they were built
        self.run_buildman('-b', self.tree.branch, '-o', out, '--boards',
                          ','.join(target for target, _ in self.BOARDS), *args,
                          env={'SOURCE_DATE_EPOCH': '0'})
        return support.read_tree(os.path.join(out, self.tree.branch))

    def remote(self, worker: WorkerProcess, commits: List[int]) -> Dict[str, bytes]:
        """Build the same on a worker and return the tree that its results stand for."""
        tree: Dict[str, bytes] = {}
        pieces: Dict[str, bytes] = {}
        for target, arch in self.BOARDS:
            worker.send_message(messages.BuildBoard(target, arch, tuple(commits)))
        left = {target for target, _ in self.BOARDS}
        while left:
            msg = worker.next()
            folder = f"{msg.get('commit_upto')}/{msg.get('board')}"
            if msg['resp'] == 'file_piece':
                path = f"{folder}/{msg['name']}"
                self.assertEqual(msg['offset'], len(pieces.get(path, b'')))
                pieces[path] = pieces.get(path, b'') + unpack(msg['data'])
                if msg['last']:
                    self.assertEqual(msg['sha256'], hashlib.sha256(pieces[path]).hexdigest())
                    tree[path] = pieces[path]
            elif msg['resp'] == 'build_result':
                decoded = messages.decode_response(dict(msg))
                assert isinstance(decoded, messages.BuildResult), decoded
                tree.update({f'{folder}/{name}': data for name, data in decoded.files.items()})
                tree[f'{folder}/done'] = str(decoded.return_code).encode()
                tree[f'{folder}/log'] = decoded.stdout.encode()
                for name, text in (('err', decoded.stderr), ('sizes', decoded.sizes)):
                    if text:
                        tree[f'{folder}/{name}'] = text.encode()
            elif msg['resp'] == 'board_done':
                left.discard(msg['board'])
        return tree

    def compare(self, settings: Dict[str, Any], *args: str) -> None:
        """Compare the last two commits of the branch, built here and there."""
        # With which settings it was built is for the boss to note
        want = {f'{int(path[:2]) - 8}{path[path.index("/"):]}': data
                for path, data in self.local(*args).items()
                if path[:2] in ('08', '09') and not path.endswith('/settings')}
        got = self.remote(self.prepared(settings=settings, first=7,
                                        extra={'SOURCE_DATE_EPOCH': '0'}), [0, 1])
        self.assertEqual(sorted(want), sorted(got))
        for path, data in want.items():
            self.assertEqual(support.comparable(path, data),
                             support.comparable(path, got[path]), path)

    def test_equal_to_local(self) -> None:
        """A distributed tree differs from a local one."""
        self.compare({})

    def test_images(self) -> None:
        """-k brings no images, or broken ones."""
        self.compare({'keep_outputs': True}, '-k')

    def test_some_commits(self) -> None:
        """Commits that are there already are built again."""
        worker = self.prepared(count=3)
        worker.send_message(messages.BuildBoard('anvil', 'arm', (1,)))
        worker.until('board_done', board='anvil')
        self.assertEqual([1], [msg['commit_upto'] for msg in worker.seen
                               if msg['resp'] == 'build_result'])

    def test_files_sent_along(self) -> None:
        """BL31 and its like are missing, or the ones of that machine."""
        data = os.urandom(3 << 20)
        sha = hashlib.sha256(data).hexdigest()
        worker = self.start()
        worker.until('ready')
        worker.send_message(messages.Setup(self.work_dir, messages.PROTOCOL_VERSION))
        worker.until('setup_done')
        worker.send_message(messages.NeedBlobs((sha,)))
        self.assertEqual([sha], worker.until('blobs_missing')['sha256s'])
        half = len(data) // 2
        worker.send_message(messages.PutBlob(sha, 0, data[:half], False))
        worker.send_message(messages.PutBlob(sha, half, data[half:], True))
        worker.until('blob_done', sha256=sha)
        worker.send_message(messages.NeedBlobs((sha,)))
        self.assertEqual([], worker.until('blobs_missing')['sha256s'])
        knobs = self.write_knobs('sandbox', 'show BL31')
        worker.send_message(messages.Configure({}, {}, {'settings': {}, 'env': {
            'BL31': f'@blob:{sha}/bl31.elf@', **knobs}}, messages.PROTOCOL_VERSION))
        worker.until('configure_done')
        worker.send_message(messages.BuildPrepare(self.tree.commits[:1], 1))
        worker.until('build_prepare_done')
        worker.send_message(messages.BuildBoard('sandbox', 'sandbox'))
        path = worker.until('build_result')['stdout'].strip().rpartition('=')[2]
        with open(path, 'rb') as inf:
            self.assertEqual(data, inf.read())
        self.assertTrue(path.endswith('/bl31.elf'), path)

    def test_damaged_file(self) -> None:
        """A file that arrives damaged is built into an image."""
        worker = self.start()
        worker.until('ready')
        worker.send_message(messages.Setup(self.work_dir, messages.PROTOCOL_VERSION))
        worker.send_message(messages.PutBlob('a' * 64, 0, b'other', True))
        worker.until('error')
        worker.send_message(messages.NeedBlobs(('a' * 64,)))
        self.assertEqual(['a' * 64], worker.until('blobs_missing')['sha256s'])


class CommandTest(WorkerCase):
    """Commands that are odd, wrong or out of order."""

    def test_stdout_is_for_messages(self) -> None:
        """Something prints, and the boss takes it for a broken message."""
        noisy = ('import os, sys; sys.path.insert(0, sys.argv[1])\n'
                 'from buildman.agent import serve\n'
                 'old = serve.Worker._prepare\n'
                 'def prepare(self, msg):\n'
                 '    print("noise"); os.write(1, b"raw noise\\n"); os.system("echo shell noise")\n'
                 '    old(self, msg)\n'
                 'serve.Worker._prepare = prepare\n'
                 'sys.exit(serve.main(sys.argv[2:]))\n')
        worker = self.start(argv=[sys.executable, '-c', noisy, support.TOOLS, self.work_dir,
                                  self.owner.run])
        worker.until('ready')
        worker.send_message(messages.BuildPrepare(self.tree.commits[:1], 1))
        worker.until('build_prepare_done')
        worker.send('quit')
        worker.until('quit_ack')
        self.assertEqual({}, worker.next())
        self.assertEqual([], worker.noise)
        worker.wait()
        for text in ('noise', 'raw noise', 'shell noise'):
            self.assertIn(text, worker.said().splitlines())

    def test_garbage(self) -> None:
        """A boss that has gone mad must not leave a crashed worker's lock and builds."""
        rng = random.Random(7)
        worker = self.prepared()
        kinds = [*messages.COMMANDS, 'nonsense', '']
        kinds.remove('quit')
        values: List[Any] = [None, 0, -1, 1 << 70, 'x', '../x', [], {}, [1, 'a'], True, 1e308,
                             '\ud800', {'a': {'b': []}}, ['0' * 40]]
        fields = ['board', 'arch', 'commits', 'settings', 'max_boards', 'boards', 'plan',
                  'toolchains', 'version', 'sha256', 'sha256s', 'data', 'offset', 'last', 'source']
        lines = []
        for _ in range(1500):
            kind = rng.choice(kinds)
            if kind in ('setup', 'build_prepare', 'build_boards'):
                # Real work on real folders: only with fields that are wrong
                lines.append(json.dumps({'cmd': kind, 'commits': 7, 'boards': 7, 'work_dir': 7}))
                continue
            obj = {'cmd': kind, **{rng.choice(fields): rng.choice(values)
                                   for _ in range(rng.randrange(6))}}
            lines.append(json.dumps(obj))
            lines.append(''.join(chr(rng.randrange(1, 256)) for _ in range(rng.randrange(40))))
        lines += ['[' * 100_000, '"' + 'x' * 100_000, '{"cmd": "ping"', 'null', '1']
        worker.write(b''.join(line.encode('utf-8', 'surrogatepass').replace(b'\n', b' ') + b'\n'
                              for line in lines))
        worker.send_message(messages.Configure({}, self.gcc, {'settings': {}},
                                               messages.PROTOCOL_VERSION))
        worker.send_message(messages.BuildBoard('anvil', 'arm', (0,)))
        self.assertEqual(0, worker.until('build_result', board='anvil')['return_code'])
        worker.send('quit')
        worker.until('quit_ack')
        self.assertEqual(0, worker.wait())
        self.assertNotIn('Traceback', worker.said())

    def test_impossible_boards(self) -> None:
        """A board that cannot be built is waited for, for ever."""
        worker = self.prepared()
        for board, arch, commits in (('anvil', 'xtensa', None), ('../anvil', 'arm', None),
                                     ('anvil', 'arm', (5,)), ('-x', 'arm', None)):
            worker.send_message(messages.BuildBoard(board, arch, commits))
            self.assertEqual(board, worker.until('error')['board'])
            worker.until('board_done', board=board)
        # What a board of -X is made of becomes words of make
        for base, fragments in (('../anvil', ()), ('-x', ()), ('SHELL=x', ()),
                                ('anvil', ('/tmp/x.config',)), ('anvil', ('-fx',)),
                                ('anvil', ('quiet.config', ''))):
            worker.send_message(messages.BuildBoard('x,anvil', 'arm', (0,), base=base,
                                                    fragments=fragments))
            self.assertIn('is not a board', worker.until('error', board='x,anvil')['msg'])
            worker.until('board_done', board='x,anvil')

    def test_board_before_prepare(self) -> None:
        """The same, from a boss that forgot a step."""
        worker = self.start()
        worker.until('ready')
        worker.send_message(messages.Setup(self.work_dir, messages.PROTOCOL_VERSION))
        worker.send_message(messages.BuildBoard('anvil', 'arm'))
        self.assertIn('build_prepare', worker.until('error')['msg'])
        worker.until('board_done', board='anvil')

    def test_unknown_commit(self) -> None:
        """A commit that was not pushed is named, rather than silence."""
        worker = self.start()
        worker.until('ready')
        worker.send_message(messages.Setup(self.work_dir, messages.PROTOCOL_VERSION))
        worker.send_message(messages.BuildPrepare(('1' * 40,), 1))
        self.assertIn('1' * 40, worker.until('error')['msg'])

    def test_prepare_again(self) -> None:
        """A second series on the same worker gets the first one's results."""
        worker = self.prepared(count=1)
        worker.send_message(messages.BuildBoard('anvil', 'arm'))
        worker.until('board_done')
        worker.send_message(messages.BuildPrepare(self.tree.commits[2:4], 2))
        worker.until('build_prepare_done')
        worker.send_message(messages.BuildBoard('anvil', 'arm'))
        self.assertEqual({2}, {msg['return_code'] for msg in worker.results(2).values()})

    def test_cancel(self) -> None:
        """A board that another machine has built goes on here; all that is told has its attempt."""
        knobs = self.write_knobs('anvil', 'hang deaf')
        worker = self.prepared(extra=knobs, boards=1)
        worker.send_message(messages.BuildBoard('anvil', 'arm', attempt=3))
        worker.until('started', board='anvil', attempt=3)
        worker.send_message(messages.Cancel('anvil'))
        worker.send_message(messages.BuildBoard('anvil', 'none', attempt=4))
        worker.send_message(messages.BuildBoard('rocket', 'aarch64', attempt=5))
        self.assertEqual(0, worker.until('build_result')['return_code'])
        worker.until('board_done', board='rocket')
        told = {(msg['resp'], msg['board'], msg['attempt']) for msg in worker.seen
                if 'attempt' in msg}
        self.assertEqual({('started', 'anvil', 3), ('board_done', 'anvil', 3),
                          ('board_done', 'anvil', 4), ('started', 'rocket', 5),
                          ('build_result', 'rocket', 5), ('board_done', 'rocket', 5)}, told)
        self.assertNotIn(('build_result', 'anvil'),
                         [(msg['resp'], msg.get('board')) for msg in worker.seen])

    def test_large_output(self) -> None:
        """A board that prints without end kills every worker that tries it."""
        worker = self.prepared(extra=self.write_knobs('anvil', 'noise 20000'), count=1)
        worker.send_message(messages.BuildBoard('anvil', 'arm'))
        msg = messages.decode_response(dict(worker.until('build_result')))
        assert isinstance(msg, messages.BuildResult)
        self.assertIn('left out', msg.stdout)
        self.assertEqual(0, msg.return_code)


class ShippedTest(WorkerCase):
    """What the boss sends is all that a machine needs."""

    def test_modules(self) -> None:
        """A module that is missing is found on the first real machine."""
        code = ('import os, sys; sys.path.insert(0, sys.argv[1])\n'
                'from buildman.agent import serve\n'
                'serve.main([])\n'
                'print(*[name for name in sys.modules if name.startswith("buildman.")])\n'
                'print(*[name for name in sys.modules if name.startswith("u_boot")])\n')
        out = subprocess.run([sys.executable, '-I', '-c', code, support.TOOLS], check=True,
                             stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT).stdout.decode().split('\n')
        # Sent, and loaded when it is asked for
        later = {'buildman', 'buildman.build.dwarflines'}
        self.assertEqual(sorted(set(scripts.modules_of('agent.serve')) - later),
                         sorted(out[-3].split()))
        self.assertEqual('', out[-2], 'only modules of buildman travel')

    def test_ready_first(self) -> None:
        """The boss waits for a machine that compiles what nobody has asked for yet"""
        code = ('import os, sys; sys.path.insert(0, sys.argv[1])\n'
                'class Spy:\n'
                '    @staticmethod\n'
                '    def find_spec(name, path=None, target=None):\n'
                '        if name.startswith("buildman."):\n'
                '            os.write(1, name.encode() + b"\\n")\n'
                'sys.meta_path.insert(0, Spy)\n'
                'from buildman.agent import serve\n'
                'serve.main([])\n')
        out = subprocess.run([sys.executable, '-I', '-c', code, support.TOOLS], check=True,
                             stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT).stdout.decode().split('\n')
        ready = next(num for num, line in enumerate(out) if '"ready"' in line)
        self.assertIn('buildman.agent.lock', out[:ready])
        # And not later than that, when it waits for the first board
        self.assertEqual('buildman.build.slots', out[ready + 1])
        self.assertIn('buildman.build.job', out[ready + 2:])

    def test_size(self) -> None:
        """One argument may have 128 KiB; beyond that nothing starts."""
        script = scripts.worker_script('/home/somebody/' + 'x' * 200, 'f' * 32, 10)
        self.assertLess(len(script), 112 << 10)

    def test_words(self) -> None:
        """What is left out is what a module says of itself, and nothing that it does"""
        for name in {**scripts.modules_of('agent.serve'), **scripts.modules_of('agent.setup')}:
            path = os.path.join(support.TOOLS, name.replace('.', os.sep))
            path = f'{path}.py' if not os.path.isdir(path) else os.path.join(path, '__init__.py')
            with open(path, encoding='utf-8') as inf:
                text = inf.read()
            short = scripts.without_words(text)
            self.assertEqual(short.count('\n'), text.count('\n'))
            self.assertLess(len(short), len(text))
            dumps = []
            for tree in (ast.parse(text), ast.parse(short)):
                for node in ast.walk(tree):
                    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and (
                            ast.get_docstring(node, clean=False) is not None):
                        node.body.pop(0)
                dumps.append((ast.dump(tree), [getattr(node, 'lineno', 0)
                                               for node in ast.walk(tree)]))
            self.assertEqual(*dumps, name)

    def test_bare_machine(self) -> None:
        """It needs something that only this machine has."""
        bare = os.path.join(self.tmp, 'bare')
        os.mkdir(bare)
        home = os.path.join(self.tmp, 'home')
        os.mkdir(home)
        # What lies in the home folder must not be taken for a module of Python's
        for name in ('json', 'queue', 'select', 'dataclasses'):
            with open(os.path.join(home, f'{name}.py'), 'w', encoding='utf-8') as outf:
                outf.write('raise SystemExit("shadowed")\n')
        with open(os.path.join(bare, 'python3'), 'w', encoding='utf-8') as outf:
            outf.write(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
        os.chmod(os.path.join(bare, 'python3'), 0o755)
        script = scripts.worker_script(self.work_dir, self.owner.run)
        worker = self.start(argv=['env', '-i', f'HOME={home}', f'{support.MARK}={self.marker}',
                                  f'PATH={bare}:/usr/bin:/bin', 'sh', '-c', script], cwd=home)
        ready = worker.until('ready')
        self.assertEqual(messages.PROTOCOL_VERSION, ready['version'])
        worker.send_message(messages.Configure({}, self.gcc, {'settings': {}, 'env': {}},
                                               messages.PROTOCOL_VERSION))
        worker.until('configure_done')
        worker.send_message(messages.BuildPrepare(self.tree.commits[:1], 1))
        worker.until('build_prepare_done')
        worker.send_message(messages.BuildBoard('anvil', 'arm'))
        self.assertEqual(0, worker.until('build_result')['return_code'])
        worker.send('quit')
        worker.until('quit_ack')
        self.assertEqual(0, worker.wait())
        self.assertEqual('', worker.said())

    def test_command(self) -> None:
        """`buildman --worker` is what an older boss starts."""
        worker = self.start(argv=[COMMAND, '--worker'], cwd=self.work_dir)
        ready = worker.until('ready')
        self.assertGreater(ready['nthreads'], 0)
        self.assertGreater(ready['slots'], 0)
        worker.send('quit')
        worker.until('quit_ack')
        self.assertEqual(0, worker.wait())
