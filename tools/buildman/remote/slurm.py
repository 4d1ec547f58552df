# SPDX-License-Identifier: GPL-2.0+
"""Machines from Slurm: the words of salloc, srun, squeue and scancel, nothing else here knows any.

An allocation is held by a salloc whose command reads: it ends with the input, and so
with whoever has the other end. Each command on the machine is a step of that job. srun
keeps what a task writes until a newline comes, and with that git's packs and messages
in pieces; but not with -u.
"""

from __future__ import annotations

import subprocess
from typing import List, Mapping, Sequence

from buildman.core.errors import BuildmanError
from buildman.process import commands

# Keys of a [machine:NAME] section -> options of salloc
RESOURCES = {'cpus': '--cpus-per-task', 'memory': '--mem', 'time': '--time',
             'partition': '--partition'}

# Variables that go to the machine; srun sends all
ENVIRONMENT = 'HOME,LOGNAME,PATH,USER'

# Run when the machine is there: says how to run a command there, then holds it. A step
# has one processor unless it is told otherwise
HOLD = (f'echo "srun --jobid=$SLURM_JOB_ID --overlap --nodes=1 --ntasks=1 '
        '--cpus-per-task=${SLURM_JOB_CPUS_PER_NODE%%(*} --mem=0 --unbuffered --quiet '
        f'--export={ENVIRONMENT} /bin/sh -c" && exec cat >/dev/null')

# Seconds for an answer about the queue
ANSWER_TIME = 30.0


def ask(job: str, resources: Mapping[str, str], options: Sequence[str]) -> List[str]:
    """Return the command that asks for a machine; see supply.Lease.

    Args:
        job: name of the job
        resources: by the keys of RESOURCES
        options: further words for salloc
    """
    return ['salloc', f'--job-name={job}', '--nodes=1', '--ntasks=1',
            *(f'{RESOURCES[key]}={val}' for key, val in resources.items()), *options,
            'sh', '-c', HOLD]


def _run(*words: str) -> str:
    """Return what a command of Slurm's prints.

    Raises:
        BuildmanError: it fails, with what it says
    """
    try:
        done = commands.run(words, ANSWER_TIME)
    except OSError as exc:
        raise BuildmanError(f'{words[0]} cannot be run: {exc.strerror}') from exc
    except subprocess.TimeoutExpired as exc:
        raise BuildmanError(f'{words[0]} did not answer within {ANSWER_TIME:g} seconds') from exc
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise BuildmanError(said[-1] if said else f'{words[0]}: exit status {done.returncode}')
    return done.stdout


def jobs(user: str, prefix: str) -> List[List[str]]:
    """Return [number, name, state, nodes or why it waits] of a user's jobs by name.

    Raises:
        BuildmanError: the queue cannot be read
    """
    text = _run('squeue', '--noheader', f'--user={user}', '--format=%i|%j|%T|%R')
    lines = [line.split('|', 3) for line in text.splitlines()]
    return [line for line in lines if len(line) == 4 and line[1].startswith(prefix)]


def cancel(numbers: Sequence[str]) -> None:
    """End jobs.

    Raises:
        BuildmanError: that cannot be done
    """
    if numbers:
        _run('scancel', *numbers)


def state(partition: str) -> str:
    """Return what Slurm says of its nodes, in one line.

    Args:
        partition: of these; '': all

    Raises:
        BuildmanError: it does not answer
    """
    text = _run('sinfo', '--noheader', '--format=%P %D %T', *(
        [f'--partition={partition}'] if partition else []))
    parts = [line.split() for line in text.splitlines()]
    return ', '.join(f'{num} {what} in {name}' for name, num, what in
                     (part for part in parts if len(part) == 3)) or 'no nodes'
