# SPDX-License-Identifier: GPL-2.0+
"""--demo: the main job on a small tree, on a machine with just git, make and gcc.

The build is a distributed one: two machines are workers on this one, which need
no sshd, in folders of their own.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import TextIO

from buildman.cli import cmdline, control
from buildman.core.errors import SetupError
from buildman.demo import sample, sample_files

# Machines of the demo
MACHINES = ('north', 'south')


def run(folder: str, out: TextIO) -> int:
    """Make the sample tree, build its branch, say what came out and where.

    Args:
        folder: folder to work in, must be empty or not there; '' for a
            temporary one, which stays so that it can be looked at
        out: where to print

    Returns:
        0: the sample has boards that fail and warn on purpose, and all came
        out as they should; else the exit status of the build

    Raises:
        SetupError: git, make or gcc is missing, or the folder is in use
    """
    missing = [tool for tool in ('git', 'make', 'gcc', 'objcopy') if not shutil.which(tool)]
    if missing:
        raise SetupError(f"the demo needs {', '.join(missing)} "
                         '(apt-get install git make gcc binutils)')
    if folder:
        folder = os.path.abspath(folder)
        if os.path.isdir(folder) and os.listdir(folder):
            raise SetupError(f"folder '{folder}' is not empty: name a new one for the demo")
        os.makedirs(folder, exist_ok=True)
    else:
        folder = tempfile.mkdtemp(prefix='buildman-demo-')
    # One board lacks a blob, as many real ones do; a user may have such blobs
    for name in ('BL31', 'BINMAN_INDIRS'):
        os.environ.pop(name, None)
    tree = sample.make_sample(os.path.join(folder, 'tree'), boards=[
        *sample_files.DEFAULT_BOARDS, sample_files.BLOB_BOARD])
    chains = sample.make_toolchains(os.path.join(folder, 'toolchains'))
    config = os.path.join(folder, 'config')
    sample.write_config(config, chains, extra=_machines(folder))
    results = os.path.join(folder, 'out')
    words = ['-G', config, '-g', tree.path, '-b', tree.branch, '-o', results, '--dist']
    print(f"$ buildman {' '.join(words)}", file=out, flush=True)
    status = control.run(cmdline.parse(words))
    return _tell(tree, os.path.join(results, tree.branch), status, out)


def _machines(folder: str) -> str:
    """Return the configuration of two machines that are this one"""
    text = '[machines]\n' + ''.join(f'{name} = localhost\n' for name in MACHINES)
    for name in MACHINES:
        text += (f'[machine:{name}]\ntransport = local\n'
                 f"work_dir = {os.path.join(folder, 'machines', name)}\n")
    return text


def _tell(tree: sample.SampleTree, base: str, status: int, out: TextIO) -> int:
    """Show what came out, commit by commit, and compare it with what should"""
    print(f'\nExit status {status}: 100 says that boards failed. By commit and board:\n',
          file=out)
    names = {int(name[:2]): name for name in sorted(os.listdir(base)) if name[:2].isdigit()}
    wrong = 0
    width = max(len(target) for target in tree.targets)
    for upto, subject in enumerate(tree.subjects):
        print(f'{upto + 1:02}: {subject}', file=out)
        cells = []
        for target in tree.targets:
            where = os.path.join(base, names.get(upto + 1, ''), target)
            got = _verdict(where)
            wrong += got != tree.expected[upto, target]
            cells.append(f'{target:{width}} {got}')
        for row in range(0, len(cells), 4):
            print('    ' + '  '.join(f'{cell:{width + 5}}' for cell in cells[row:row + 4]).rstrip(),
                  file=out)
    print(f'\nThe results are in {base}, the logs of the machines, too\n'
          f'The tree is in     {tree.path}', file=out)
    if wrong:
        print(f'{wrong} results are not what the sample should give', file=out)
        return status or 1
    return 0


def _verdict(folder: str) -> str:
    """Return 'ok', 'warn' or 'fail' for a result folder, '-' without a result"""
    try:
        with open(os.path.join(folder, 'done'), encoding='ascii') as inf:
            if inf.read() != '0':
                return 'fail'
    except OSError:
        return '-'
    return 'warn' if os.path.exists(os.path.join(folder, 'err')) else 'ok'
