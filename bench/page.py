#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0+
"""What the page of --html costs: seconds to make it, its size, and when it can be used.

Makes a large tree (see summary_trees.page_tree()) and writes its page. Where there is a
Chromium, loads that and measures until it can be used, and until each view is there.

    bench/page.py [--boards 1600] [--commits 50] [--rounds 3] [--dir DIR]
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

from summary_trees import page_tree, plain_home

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OURS = os.path.join(TOP, 'tools', 'buildman', 'buildman')

# Seconds from the start of the load
READY = """(async () => {
  while (document.documentElement.dataset.ready !== 'yes')
    await new Promise(done => setTimeout(done, 5));
  await new Promise(done => requestAnimationFrame(() => setTimeout(done)));
  return performance.now() / 1000; })()"""

# Seconds that a view takes
VIEW = """(async () => {{
  const start = performance.now();
  document.querySelector('[data-view={0}]').click();
  while (!document.querySelector('#{0} {1}')) await new Promise(done => setTimeout(done, 5));
  await new Promise(done => requestAnimationFrame(() => setTimeout(done)));
  return (performance.now() - start) / 1000; }})()"""

VIEWS = {'problems': '.group', 'sizes': '#chart path', 'machines': '#lanes', 'matrix': '.cell'}


def run(argv, folder):
    """Run a program; return seconds on the clock, and of processor time."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.monotonic()
    subprocess.run(argv, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    wall = time.monotonic() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def look(page):
    """Measure how soon a page can be used."""
    sys.path[:0] = [os.path.join(TOP, 'tests'), os.path.join(TOP, 'tools')]
    from browser import Browser
    browser = Browser()
    try:
        for _ in range(3):
            browser.show(page)
            took = [f'{browser.run(READY):.2f} s until it can be used']
            took += [f'{view} {browser.run(VIEW.format(view, what)):.2f} s'
                     for view, what in VIEWS.items()]
            print(f"  {', '.join(took)}", flush=True)
    finally:
        browser.close()


def measure(tree, folder, rounds):
    """Print all figures for one tree."""
    page = os.path.join(folder, 'page.html')
    base = [sys.executable, OURS, '-s', '-b', 'work', '-o', tree.out]
    for label, more in (('-s', []), ('-s --html', ['--html', page])):
        found = [run(base + more, tree.repo) for _ in range(rounds)]
        wall, cpu = (statistics.median(column) for column in zip(*found))
        print(f'{label:10} wall {wall:6.2f} s  processor {cpu:6.2f} s', flush=True)
    print(f'page       {os.stat(page).st_size:,} bytes', flush=True)
    look(page)


def main():
    """Make the tree and measure."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
    parser.add_argument('--boards', type=int, default=1600)
    parser.add_argument('--commits', type=int, default=50)
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--dir', help='folder to make the tree in (default: a temporary one)')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.dir) as root:
        plain_home(root)
        tree = page_tree(os.path.join(root, 'tree'), args.boards, args.commits)
        measure(tree, root, args.rounds)


if __name__ == '__main__':
    main()
