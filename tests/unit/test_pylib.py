# SPDX-License-Identifier: GPL-2.0+
"""The helper library, with real processes, files and repositories."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
import unittest

import support

from u_boot_pylib import command, terminal, tools, tout


def alive(pid: int) -> bool:
    """Return True while a process runs (a zombie does not)."""
    try:
        with open(f'/proc/{pid}/stat', encoding='ascii') as inf:
            return inf.read().rsplit(')', 1)[1].split()[0] != 'Z'
    except OSError:
        return False


class CommandTest(unittest.TestCase):
    """Running commands: nothing lost, nothing left behind."""

    def test_captures_both_streams_apart(self) -> None:
        """A build's errors must not be mixed with its log."""
        result = command.run_pipe([['sh', '-c', 'echo out; echo err >&2; exit 3']], capture=True,
                                  capture_stderr=True, raise_on_error=False)
        self.assertEqual(('out\n', 'err\n', 3),
                         (result.stdout, result.stderr, result.return_code))
        self.assertEqual(sorted('out\nerr\n'), sorted(result.combined))

    def test_pipe_passes_data_on(self) -> None:
        """Without this, data of more than a pipe's size would hang or be cut."""
        result = command.run_pipe([['seq', '100000'], ['sort', '-n'], ['tail', '-n', '1']],
                                  capture=True, oneline=True)
        self.assertEqual('100000', result.stdout)

    def test_early_end_of_the_reader_ends_the_writer(self) -> None:
        """An endless writer must not keep us for ever."""
        self.assertEqual('y\n', command.run_pipe([['yes'], ['head', '-n', '1']],
                                                 capture=True).stdout)

    def test_same_argv_twice_in_a_pipe(self) -> None:
        """The place in the pipe counts, not what the command is."""
        cat = ['cat']
        self.assertEqual('x', command.run_pipe([cat, cat], capture=True, stdin_data='x').stdout)

    def test_failure_names_the_command_and_the_last_error(self) -> None:
        """The user sees what failed and why."""
        with self.assertRaises(command.CommandExc) as caught:
            command.run_pipe([['sh', '-c', 'echo first >&2; echo last >&2; exit 2']],
                             capture=True, capture_stderr=True)
        self.assertEqual("Error running 'sh -c 'echo first >&2; echo last >&2; exit 2'': last",
                         str(caught.exception))
        self.assertEqual(2, caught.exception.result.return_code)

    def test_failure_without_words(self) -> None:
        """A silent failure still says how it ended."""
        with self.assertRaisesRegex(command.CommandExc, 'exit status 1$'):
            command.run_pipe([['false']])
        with self.assertRaisesRegex(command.CommandExc, 'ended by signal 9$'):
            command.run_pipe([['sh', '-c', 'kill -9 $$']], capture=True, capture_stderr=True)

    def test_missing_program(self) -> None:
        """A missing program is an error of the same class, and leaves no child."""
        with self.assertRaisesRegex(command.CommandExc, 'No such file or directory: no-such-prog'):
            command.run_pipe([['yes'], ['no-such-prog']], capture=True)
        result = command.run_pipe([['no-such-prog']], raise_on_error=False)
        self.assertIsInstance(result.exception, FileNotFoundError)
        self.assertNotEqual(0, result.return_code)

    def test_timeout_ends_the_children_too(self) -> None:
        """A grandchild left behind would hold locks, ports and processors."""
        with tempfile.TemporaryDirectory() as tmp:
            pid_file = os.path.join(tmp, 'pid')
            with self.assertRaisesRegex(command.CommandExc, 'still running after 0.3 seconds'):
                command.run_pipe([['sh', '-c', f'sleep 1000 & echo $! >{pid_file}; wait']],
                                 capture=True, timeout=0.3)
            with open(pid_file, encoding='ascii') as inf:
                self.assertFalse(alive(int(inf.read())))

    def test_timeout_when_only_a_grandchild_holds_the_pipe(self) -> None:
        """The command ended, but what it started does not let go."""
        with self.assertRaisesRegex(command.CommandExc, 'still running'):
            command.run_pipe([['sh', '-c', 'sleep 1000 & exit 0']], capture=True, timeout=0.3)

    def test_stubborn_group_is_killed(self) -> None:
        """What ignores SIGTERM is ended all the same."""
        with subprocess.Popen(['sh', '-c', "trap '' TERM; echo; while :; do sleep 1; done"],
                              stdout=subprocess.PIPE, start_new_session=True) as proc:
            assert proc.stdout
            proc.stdout.readline()
            command.end_group(proc, grace=0.05)
            self.assertEqual(-9, proc.returncode)
            command.end_group(proc)  # a second time does no harm

    def test_no_shell(self) -> None:
        """A board's name must never be run as a command."""
        self.assertEqual('$(id);`id`\n', command.output('echo', '$(id);`id`'))

    def test_binary_and_invalid_text(self) -> None:
        """A compiler's Latin-1 message must not end the run."""
        argv = ['printf', r'\377']
        self.assertEqual(b'\xff', command.run_pipe([argv], capture=True, binary=True).stdout)
        self.assertEqual('\ufffd', command.run_pipe([argv], capture=True).stdout)

    def test_helpers(self) -> None:
        """output() keeps all, output_one_line() the first line."""
        self.assertEqual('a\nb\n', command.output('printf', r'a\nb\n'))
        self.assertEqual('a', command.output_one_line('printf', r'a\nb\n'))
        self.assertEqual('', command.output_one_line('true'))
        self.assertEqual('/\n', command.output('pwd', cwd='/'))

    def test_results_can_be_made_by_hand(self) -> None:
        """Stand-ins in tests make results; every argument is optional."""
        result = command.CommandResult()
        self.assertEqual(('', '', '', 0, None), (result.stdout, result.stderr, result.combined,
                                                 result.return_code, result.exception))
        exc = command.CommandExc('msg', command.CommandResult(stderr='x', return_code=7))
        self.assertEqual(('msg', 7), (str(exc), exc.result.return_code))
        self.assertIsNotNone(command.CommandExc('msg').result)

    def test_leaves_no_open_files(self) -> None:
        """Thousands of commands in one run must not use up the descriptors."""
        before = len(os.listdir('/proc/self/fd'))
        for _ in range(5):
            command.run_pipe([['echo'], ['cat']], capture=True, capture_stderr=True,
                             stdin_data=b'x')
            command.run_pipe([['echo'], ['no-such-prog']], capture=True, raise_on_error=False)
        self.assertEqual(before, len(os.listdir('/proc/self/fd')))


class ToolsTest(unittest.TestCase):
    """Whole files."""

    def test_read_what_was_written(self) -> None:
        """Data comes back as it was, line ends and all."""
        with tempfile.TemporaryDirectory() as tmp:
            path = os.path.join(tmp, 'f')
            tools.write_file(path, b'a\r\n\xff')
            self.assertEqual(b'a\r\n\xff', tools.read_file(path))
            tools.write_file(path, 'gr\u00fc\u00df\n', binary=False)
            self.assertEqual('gr\u00fc\u00df\n', tools.read_file(path, binary=False))
            tools.write_file(path, 'a\n')
            self.assertEqual(b'a\n', tools.read_file(path))
            with self.assertRaises(FileNotFoundError):
                tools.read_file(os.path.join(tmp, 'none'))


class TerminalTest(unittest.TestCase):
    """Colours, and catching output."""

    def test_capture(self) -> None:
        """What is printed is caught, and the streams are put back after an error."""
        before = sys.stdout, sys.stderr
        with self.assertRaises(KeyError), terminal.capture() as (out, err):
            print('to out')
            print('to err', file=sys.stderr)
            raise KeyError
        self.assertEqual(('to out\n', 'to err\n'), (out.getvalue(), err.getvalue()))
        self.assertEqual(before, (sys.stdout, sys.stderr))

    def test_colours(self) -> None:
        """Scripts that strip colours know these codes."""
        col = terminal.Color(terminal.COLOUR_ALWAYS)
        self.assertEqual('\033[1;34mx\033[0m', col.build(col.BLUE, 'x'))
        self.assertEqual('\033[22;33mx\033[0m', col.build(col.YELLOW, 'x', bright=False))
        self.assertEqual('\033[1mx\033[0m', col.build(col.BOLD, 'x'))

    def test_no_codes_in_a_pipe(self) -> None:
        """A log file must not hold escape codes."""
        for col in (terminal.Color(terminal.COLOUR_NEVER), terminal.Color(stream=io.StringIO())):
            self.assertEqual('x', col.build(col.RED, 'x'))
            self.assertEqual('', col.start(col.RED) + col.stop())

    def test_codes_on_a_terminal(self) -> None:
        """On a terminal there are colours without asking."""
        master, slave = os.openpty()
        self.addCleanup(os.close, master)
        with os.fdopen(slave, 'w') as stream:
            self.assertTrue(terminal.Color(stream=stream).enabled)
        self.assertFalse(terminal.Color(stream=stream).enabled)


class ToutTest(unittest.TestCase):
    """Messages go to stderr up to the level."""

    def test_levels(self) -> None:
        """Errors are always shown, debugging only when asked for."""
        self.addCleanup(tout.init)
        names = ('error', 'warning', 'notice', 'info', 'detail', 'debug')
        for level, last in enumerate(names):
            tout.init(level)
            with terminal.capture() as (out, err):
                for name in names:
                    getattr(tout, name)(name)
            self.assertEqual('', out.getvalue())
            self.assertEqual(names[:names.index(last) + 1], tuple(err.getvalue().split()))


class ImportTest(unittest.TestCase):
    """The library is for other tools too."""

    def test_does_not_need_buildman(self) -> None:
        """Importing it must not drag buildman in: a worker and other tools use it alone."""
        code = ('import sys; from u_boot_pylib import command, terminal, tools, tout; '
                'sys.exit(any(m.split(".")[0] == "buildman" for m in sys.modules))')
        top = support.TOOLS
        self.assertEqual(0, subprocess.run([sys.executable, '-c', code], check=False,
                                           env={**os.environ, 'PYTHONPATH': top}).returncode)
