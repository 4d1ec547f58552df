# SPDX-License-Identifier: GPL-2.0+
"""What is done to all machines at once without a build: end workers, clean up."""

from __future__ import annotations

import threading
from typing import Callable, Dict, Sequence, Tuple

from buildman import boss
from buildman.core.text import reason
from buildman.remote import scripts

# host name -> work folder, where the configuration names one
WORK_DIRS: Dict[str, str] = {}

# Seconds for removing a work folder, which may be large
CLEAN_TIME = 600


def kill_workers(machines: Sequence[str]) -> int:
    """Stop left-over workers and free their locks, on all hosts at once.

    Prints one line a host, also for one that fails.

    Args:
        machines: host names

    Returns:
        0; who has to know whether it was done everywhere calls kill_all()
    """
    kill_all(machines)
    return 0


def kill_all(machines: Sequence[str]) -> bool:
    """Do what kill_workers() does; return whether that was done on all hosts."""
    def kill(hostname: str) -> Tuple[str, bool]:
        text = boss._run_ssh(hostname, scripts.kill_script(_work_dir_of(hostname)),
                             boss.COMMAND_TIME)
        return _last_line(text), True

    return _on_all(machines, kill)


def clean_workers(machines: Sequence[str]) -> int:
    """Remove the work folder on all hosts at once, where nobody uses it.

    Prints one line a host.

    Args:
        machines: host names

    Returns:
        0 when that was done on all of them, else 1
    """
    def clean(hostname: str) -> Tuple[str, bool]:
        text = boss._run_ssh(hostname, scripts.clean_script(_work_dir_of(hostname)), CLEAN_TIME)
        answer = scripts.parse_init(text)
        if answer.busy:
            return f'in use by {answer.owner}' if answer.owner else 'in use', False
        return _last_line(text), True

    return 0 if _on_all(machines, clean) else 1


def _last_line(text: str) -> str:
    """Return the last line that a host printed"""
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else 'done'


def _work_dir_of(hostname: str) -> str:
    """Return the work folder of a host"""
    return WORK_DIRS.get(hostname, scripts.DEFAULT_WORK_DIR)


def _on_all(machines: Sequence[str], act: Callable[[str], Tuple[str, bool]]) -> bool:
    """Do something on all hosts in parallel, and print a line for each"""
    answers: Dict[int, Tuple[str, bool]] = {}

    def run(pos: int, hostname: str) -> None:
        try:
            answers[pos] = act(hostname)
        except Exception as exc:
            answers[pos] = reason(exc), False

    threads = [threading.Thread(target=run, args=item, daemon=True)
               for item in enumerate(machines)]
    for thread in threads:
        thread.start()
    for pos, (thread, hostname) in enumerate(zip(threads, machines)):
        thread.join()
        print(f'{hostname}: {answers.get(pos, ("failed", False))[0]}', flush=True)
    return all(answers.get(i, ('', False))[1] for i in range(len(machines)))
