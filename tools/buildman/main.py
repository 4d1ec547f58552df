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
from typing import NoReturn, Sequence

from buildman.cli import cmdline, control, signals
from buildman.core.errors import EXIT_INTERRUPTED, EXIT_USAGE, BuildmanError
from buildman.core.text import plain
from buildman.process.registry import STARTED
from buildman.source import git


def main(argv: Sequence[str]) -> int:
    """Run the command.

    Args:
        argv: without the name of the program

    Returns:
        exit status
    """
    if '--worker' in argv:
        # Before anything can print: stdout belongs to the messages
        from buildman import worker
        return worker.main([word for word in argv if not word.startswith('-')])
    show_all()
    debug = False
    # Called from a git hook, these would lead every git of ours elsewhere
    for name in git.VARIABLES:
        os.environ.pop(name, None)
    signals.install()
    try:
        args = cmdline.parse(argv)
        debug = args.debug
        return _run(args)
    except BuildmanError as exc:
        if debug:
            _print_traceback()
        # It may speak of what a commit or a file holds
        print(f'buildman: {plain(str(exc))}', file=sys.stderr)
        return exc.status
    except signals.Terminated:
        print('buildman: terminated', file=sys.stderr)
        return 128 + signal.SIGTERM
    except KeyboardInterrupt:
        print('buildman: interrupted', file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone; nothing more can be said there
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + signal.SIGPIPE
    except Exception as exc:
        # The only catch-all: a defect of ours, or a machine in a state that
        # nobody thought of (no memory, no threads)
        if debug:
            _print_traceback()
        print(f'buildman: unexpected {type(exc).__name__}: {exc} (-D shows where)',
              file=sys.stderr)
        return EXIT_USAGE
    finally:
        # Whatever the end was, nothing outlives it
        STARTED.end_all()


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


def _print_traceback() -> None:
    import traceback
    traceback.print_exc()


def _run(args: argparse.Namespace) -> int:
    """Do what the command line asks for"""
    if args.worker:
        # Spelled in another way than a boss does
        from buildman import worker
        return worker.main(args.terms)
    if args.demo is not None:
        from buildman.demo import demo
        return demo.run(args.demo, sys.stdout)
    return control.run(args)


def entry() -> NoReturn:
    """Run as a program."""
    sys.exit(main(sys.argv[1:]))


if __name__ == '__main__':
    entry()
