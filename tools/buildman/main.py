# SPDX-License-Identifier: GPL-2.0+
"""The door: runs the command and turns every error into a line and a status."""

from __future__ import annotations

import argparse
import codecs
import contextlib
import io
import os
import signal
import sys
from typing import NoReturn, Optional, Sequence

from buildman.cli import signals
from buildman.core.errors import EXIT_OK, EXIT_USAGE, BuildmanError


def main(argv: Sequence[str]) -> int:
    """Run the command.

    Args:
        argv: without the name of the program

    Returns:
        exit status
    """
    take_descriptors()
    if '--worker' in argv:
        # Before anything can print: stdout belongs to the messages
        from buildman import worker
        return worker.main([word for word in argv if not word.startswith('-')])
    if sys.stdout is None:
        _say('cannot write to standard output: it is closed')
        return EXIT_USAGE
    show_all()
    args = argparse.Namespace(debug=False)
    signals.install()
    try:
        try:
            status = _run(argv, args)
        except SystemExit as exc:
            # From --help and --version
            status = exc.code if isinstance(exc.code, int) else EXIT_OK
        error = _output_error()
        if error:
            raise error
        return status
    except (Exception, KeyboardInterrupt) as exc:
        # A signal may have become another error on its way: that of a git that was ended, say
        return _tell(signals.came() or exc, args.debug)
    finally:
        _end_all()
        _output_error()


def _tell(exc: BaseException, debug: bool) -> int:
    """Say what ended the command, if need be, and return its exit status"""
    if isinstance(exc, KeyboardInterrupt):
        _say('terminated' if isinstance(exc, signals.Terminated) else 'interrupted')
        return signals.status_of(exc)
    if isinstance(exc, BrokenPipeError):
        # Whoever read our output has gone; nothing more can be said there
        return 128 + signal.SIGPIPE
    if debug:
        _print_traceback()
    if isinstance(exc, BuildmanError):
        from buildman.core.text import plain
        # It may speak of what a commit or a file holds
        _say(plain(str(exc)))
        return exc.status
    error = _output_error()
    if error:
        _say(f'cannot write to standard output: {error.strerror}')
    else:
        # The only catch-all: a defect of ours, or a machine in a state that
        # nobody thought of (no memory, no threads)
        _say(f'unexpected {type(exc).__name__}: {exc} (-D shows where)')
    return EXIT_USAGE


def take_descriptors() -> None:
    """Have the descriptors of standard input, output and errors taken, if they are closed.

    Else the next file that is opened would get one of them, and what others print.
    """
    for fdes in range(3):
        try:
            os.fstat(fdes)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(fdes, True)
    if sys.stdin is None:
        sys.stdin = open(0, encoding='utf-8', closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, 'w', encoding='utf-8', closefd=False)  # noqa: SIM115


def show_all() -> None:
    """Let nothing that is printed be an error: what the output cannot encode is replaced.

    A commit, a compiler or a file may have any character. How a user wants them to
    be shown (PYTHONIOENCODING) is left as it is, if it can be done.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and (
                stream.errors == 'strict' or (stream.errors == 'surrogateescape'
                                              and codecs.lookup(stream.encoding).name != 'utf-8')):
            stream.reconfigure(errors='replace')


def _say(text: str) -> None:
    """Print a line on stderr, if that can be done: its terminal may be gone"""
    try:
        print(f'buildman: {text}', file=sys.stderr, flush=True)
    except OSError:
        _drop(2)


class _Output(io.TextIOWrapper):
    """Standard output that remembers what went wrong with it, whoever saw that"""

    failure: Optional[OSError] = None

    def write(self, text: str) -> int:
        """Write text, or part of a buffer that is full."""
        try:
            return super().write(text)
        except OSError as exc:
            self.failure = exc
            raise

    def flush(self) -> None:
        """Write what is in the buffer."""
        try:
            super().flush()
        except OSError as exc:
            self.failure = exc
            raise


def _output_error() -> Optional[OSError]:
    """Return what is wrong with standard output; that its reader has gone is nothing wrong"""
    try:
        sys.stdout.flush()
    except OSError:
        # The end of Python would say it in its own way
        _drop(1)
    error: Optional[OSError] = getattr(sys.stdout, 'failure', None)
    return None if isinstance(error, BrokenPipeError) else error


def _drop(fdes: int) -> None:
    """Have what is printed from now on, as at the end of Python, go nowhere"""
    with contextlib.suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, fdes)
        os.close(null)


def _print_traceback() -> None:
    import traceback
    with contextlib.suppress(OSError):
        traceback.print_exc()


def _end_all() -> None:
    """Have nothing outlive us, whatever the end was"""
    # Nothing was started before this was loaded
    registry = sys.modules.get('buildman.process.registry')
    if registry:
        registry.STARTED.end_all()


def _run(argv: Sequence[str], args: argparse.Namespace) -> int:
    """Do what the command line asks for.

    Args:
        argv: the command line
        args: gets what it says
    """
    # Here, where an interruption of the loading is dealt with
    from buildman.cli import cmdline
    cmdline.parse(argv, args)
    # --help and a wrong command line have ended above, without the rest
    from buildman.source import git

    # Called from a git hook, these would lead every git of ours elsewhere
    for name in git.VARIABLES:
        os.environ.pop(name, None)
    if args.worker:
        # Spelled in another way than a boss does
        from buildman import worker
        return worker.main(args.terms)
    if args.demo is not None:
        from buildman.demo import sample
        return sample.run_demo(args.demo, sys.stdout)
    from buildman.cli import control
    return control.run(args)


def entry() -> NoReturn:
    """Run as a program."""
    signals.leave_quietly()
    old = sys.stdout
    if isinstance(old, io.TextIOWrapper):
        sys.stdout = sys.__stdout__ = _Output(  # type: ignore[misc]
            old.buffer, old.encoding, old.errors, line_buffering=old.line_buffering,
            write_through=old.write_through)
        old.detach()
    try:
        status = main(sys.argv[1:])
        signals.leave_quietly()
    except KeyboardInterrupt as exc:
        # In the last moment
        signals.leave_quietly()
        status = signals.status_of(exc)
    sys.exit(status)


if __name__ == '__main__':
    entry()
