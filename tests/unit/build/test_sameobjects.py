# SPDX-License-Identifier: GPL-2.0+
"""Objects that are the same for the next board, and those that are not."""

import os
import queue
import random
import shutil
import subprocess
import tempfile
import unittest

from buildman.build import sameobjects, slots
from buildman.core import events
from buildman.core.plan import Board, BoardJob, Settings, Toolchain

# As Kbuild does it: for each option that is another one a file is touched, and a note has
# the names of those that were read. Board and options: `config a`, `config b`...
MAKEFILE = r'''
B := $(O)
C := cc -Wp,-MD,tools/.x.o.d -Iinclude -c -o tools/x.o $(CURDIR)/x.c
all:
ifeq (,$(filter %_defconfig,$(MAKECMDGOALS)))
-include $(B)/tools/.x.o.cmd
endif
all: $(B)/include/config/auto.conf
	@$(MAKE) --no-print-directory O=$(B) $(B)/tools/x.o
include/config/auto.conf: $(B)/include/config/auto.conf
$(B)/include/config/auto.conf: $(B)/.config
	@mkdir -p $(B)/include/config/opt $(B)/include/generated
	@sed 's/^/#define CONFIG_/' $(B)/.config > $(B)/include/generated/autoconf.h
	@cmp -s $(B)/.config $(B)/old || touch $(B)/include/config/opt/a.h
	@cp $(B)/.config $(B)/old; cp $(B)/.config $@; [ ! -e say ] || cat say >&2
$(B)/tools/x.o: x.c
	@mkdir -p $(B)/tools; echo x >> compiled; cd $(B) && $(C) && { \
	echo 'cmd_tools/x.o := $(C)'; echo; \
	echo 'deps_tools/x.o := \'; echo '    $$(wildcard include/config/opt/a.h) \'; \
	echo '  $(CURDIR)/x.h \'; echo; \
	echo '$$(B)/tools/x.o: $$(B)/include/config/opt/a.h $(CURDIR)/x.h'; } > tools/.x.o.cmd
mrproper: ;
%_defconfig:
	@mkdir -p $(B)/include; cp $*.options $(B)/.config
'''


class SameCase(unittest.TestCase):
    """A slot that builds one board after the other"""

    def setUp(self):
        temp = tempfile.TemporaryDirectory()
        self.addCleanup(temp.cleanup)
        self.dir = temp.name
        self.source, self.work = (os.path.join(self.dir, name) for name in ('source', 'work'))
        self.folder = os.path.join(self.work, '00', 'build')
        os.makedirs(self.source)
        self.write('Makefile', MAKEFILE)
        self.write('x.h', 'extern int x;\n')
        self.write('x.c', '#include <generated/autoconf.h>\n#include "x.h"\nint x = CONFIG_X;\n')
        self.write('a.options', 'X 1\nA 1\n')
        self.write('b.options', 'X 1\nA 2\n')
        self.write('c.options', 'X 2\nA 2\n')
        self.events = queue.Queue()
        self.eng = None

    def write(self, name, text):
        """Write a file of the source"""
        with open(os.path.join(self.source, name), 'w', encoding='utf-8') as outf:
            outf.write(text)

    def start(self, boards=('a', 'b'), **settings):
        """Begin a run"""
        config = slots.EngineConfig(self.work, self.source, None, Settings(**settings), 1, 2,
                                    dict(os.environ), boards=boards)
        self.eng = slots.Engine(config, self.events.put)
        self.eng.start()
        self.addCleanup(self.eng.stop)

    def build(self, board, fails=False):
        """Build a board; return how often something was compiled, and what was said"""
        if not self.eng:
            self.start()
        self.write('compiled', '')
        self.eng.submit(BoardJob(Board(board, 'sandbox'), (0,), Toolchain(
            'sandbox', '/bin/cc', '/bin', '')))
        said = ''
        while True:
            event = self.events.get(timeout=60)
            if isinstance(event, events.Built):
                self.assertEqual(fails, event.outcome.return_code != 0, event.outcome.stderr)
                said = event.outcome.stderr
            if isinstance(event, events.BoardDone):
                with open(os.path.join(self.source, 'compiled'), encoding='utf-8') as inf:
                    return len(inf.read().split()), said

    def value(self):
        """Return what an object was compiled with"""
        prog = os.path.join(self.dir, 'prog')
        with open(prog + '.c', 'w', encoding='utf-8') as outf:
            outf.write('extern int x; int main(void) { return x; }\n')
        subprocess.run(['cc', '-o', prog, prog + '.c', os.path.join(self.folder, 'tools', 'x.o')],
                       check=True)
        return subprocess.run([prog], check=False).returncode


class TestBoards(SameCase):
    """From board to board"""

    def test_same(self):
        """An option that does not reach the compiler; then one that does"""
        self.assertEqual((1, ''), self.build('a'))
        self.assertEqual((0, ''), self.build('b'))
        self.assertEqual((0, ''), self.build('a'))
        self.assertEqual((1, ''), self.build('c'))
        self.assertEqual(2, self.value())
        self.assertEqual((1, ''), self.build('a'))
        self.assertEqual(1, self.value())
        self.assertEqual([], [name for name in os.listdir(self.work) if name.endswith('.new')])

    def test_random(self):
        """Whatever was built before, and failed, an object is that of its board and source"""
        seed = random.randrange(1 << 32)
        rng = random.Random(seed)
        names = [f'r{x}{a}' for x in range(1, 4) for a in range(1, 4)]
        for name in names:
            self.write(f'{name}.options', f'X {name[1]}\nA {name[2]}\n')
        self.start(names)
        want = ''
        for step in range(30):
            name, kind = rng.choice(names), rng.randrange(8)
            if kind < 3 or not want:
                text = rng.choice(('CONFIG_X', '(CONFIG_X > 1)', 'CONFIG_A', '7'))
                self.write('x.c', '#include <generated/autoconf.h>\n#include "x.h"\n'
                                  f'int x = {text};\n')
                want = text
            if kind == 7:
                with open(os.path.join(self.source, 'x.c'), encoding='utf-8') as inf:
                    good = inf.read()
                self.write('x.c', 'oops\n')
                self.build(name, fails=True)
                self.write('x.c', good)
            with self.subTest(seed=seed, step=step, board=name):
                self.build(name)
                self.assertEqual({'CONFIG_X': int(name[1]), 'CONFIG_A': int(name[2]),
                                  '(CONFIG_X > 1)': int(name[1] > '1'), '7': 7}[want],
                                 self.value())

    def test_said(self):
        """What is said of a configuration is said in the build, and once"""
        self.build('a')
        self.write('say', 'a warning\n')
        self.assertEqual((1, 'a warning\n'), self.build('b'))

    def test_not_for_all(self):
        """Where make tells all, or cleans first"""
        for settings in ({'verbose_build': True}, {'mrproper': True}, {'per_board_out_dir': True}):
            with self.subTest(settings=settings):
                self.work = os.path.join(self.dir, *settings)
                self.start(**settings)
                self.assertEqual([1, 1], [self.build(board)[0] for board in 'ab'])


class TestObjects(SameCase):
    """What else an object depends on"""

    def setUp(self):
        super().setUp()
        self.build('a')
        self.eng.finish()
        self.assertTrue(self.eng.join(60))
        self.object = os.path.join(self.folder, 'tools', 'x.o')
        self.note = os.path.join(self.folder, 'tools', '.x.o.cmd')
        self.option = os.path.join(self.folder, 'include', 'config', 'opt', 'a.h')
        self.header = os.path.join(self.folder, 'include', 'generated', 'autoconf.h')
        self.number = 1
        self.makes = []

    def make(self, words):
        """Run make, with a look at how many texts it writes"""
        with open(words[words.index('-f') + 1], encoding='utf-8') as inf:
            self.makes.append(inf.read().count('all: '))
        return subprocess.run(['make', *words], check=False).returncode

    def renew(self, value=1, before=lambda: None, soc='x'):
        """Go to the next configuration; return whether the object counts as made anew"""
        stamp = os.stat(self.object).st_mtime_ns
        same = sameobjects.SameObjects(self.folder, self.make)
        self.makes = []
        before()
        same.begin()
        self.assertTrue(same.begun)
        self.number += 1
        with open(self.header, 'w', encoding='utf-8') as outf:
            outf.write(f'#define CONFIG_X {value}\n#define CONFIG_A {self.number}\n'
                       f'#define CONFIG_SYS_SOC "{soc}"\n')
        os.utime(self.option)
        same.renew()
        self.assertFalse(same.begun)
        self.assertEqual([], [name for name in os.listdir(self.folder) if name.endswith('.new')])
        return os.stat(self.object).st_mtime_ns > stamp

    def test_renewed(self):
        """Nothing else has changed; and the next time one text is known"""
        self.assertTrue(self.renew())
        self.assertEqual([1, 1], self.makes)
        self.assertTrue(self.renew())
        self.assertEqual([1], self.makes)
        self.assertFalse(self.renew(2))

    def test_another_soc(self):
        """Only what is made for the host is tried: other commands are different ones"""
        self.assertTrue(self.renew(soc='y'))
        for name in ('x.o', '.x.o.cmd'):
            os.makedirs(os.path.join(self.folder, 'lib'), exist_ok=True)
            os.rename(os.path.join(self.folder, 'tools', name),
                      os.path.join(self.folder, 'lib', name))
        self.object, self.note = (os.path.join(self.folder, 'lib', name)
                                  for name in ('x.o', '.x.o.cmd'))
        with open(self.note, encoding='utf-8') as inf:
            text = inf.read()
        with open(self.note, 'w', encoding='utf-8') as outf:
            outf.write(text.replace('tools/x.o', 'lib/x.o'))
        self.assertTrue(self.renew(soc='y'))
        self.assertFalse(self.renew(soc='z'))
        self.assertEqual([], self.makes)

    def test_time_of_access(self):
        """It tells what make has read: what we read does not count"""
        stamp = os.stat(self.note).st_mtime_ns
        os.utime(self.note, ns=(0, stamp))
        self.assertTrue(self.renew())
        self.assertEqual(0, os.stat(self.note).st_atime_ns)

    def test_no_change(self):
        """The same configuration once more; none before"""
        same = sameobjects.SameObjects(self.folder, self.make)
        same.begin()
        os.utime(self.option)
        same.renew()
        self.assertEqual([], self.makes)
        same.begin()
        os.remove(self.header)
        same.renew()
        self.assertEqual([], self.makes)
        same.begin()
        self.assertFalse(same.begun)

    def test_before(self):
        """An option was changed before, and is again: what the object was made with is not known"""
        self.assertFalse(self.renew(before=lambda: os.utime(self.option)))
        self.assertEqual([], self.makes)

    def test_other_file(self):
        """A file that is newer, though its text is the same"""
        os.utime(os.path.join(self.source, 'x.h'))
        self.assertFalse(self.renew())

    def test_gone(self):
        """A file that is not there"""
        os.remove(os.path.join(self.source, 'x.h'))
        self.assertFalse(self.renew())

    def test_source(self):
        """The source itself"""
        os.utime(os.path.join(self.source, 'x.c'))
        self.assertFalse(self.renew())

    def test_another_read(self):
        """A file that was not there when the object was made, and is read now"""
        self.write('x.c', '#if __has_include("y.h")\n#include "y.h"\n#endif\nint x;\n')
        self.eng = None
        self.build('a')
        self.assertTrue(self.renew())
        self.write('y.h', '')
        self.assertFalse(self.renew())

    def test_command_line(self):
        """A file that the command line names, as Kbuild has all read the configuration"""
        path = os.path.relpath(os.path.join(self.source, 'x.h'), self.folder)
        with open(self.note, encoding='utf-8') as inf:
            text = inf.read()
        with open(self.note, 'w', encoding='utf-8') as outf:
            outf.write(text.replace(' -c ', f' -include {path} -c ').replace(
                f'  {self.source}/x.h', f'  {path}'))
        self.write('x.c', '#include <generated/autoconf.h>\nint x = CONFIG_X;\n')
        os.utime(self.object)
        self.assertTrue(self.renew())
        os.utime(os.path.join(self.source, 'x.h'))
        self.assertFalse(self.renew())

    def test_other_header(self):
        """A configuration that is read by another way than the one that we see to"""
        for way in (f'"{self.header}"', '"../work/00/build/include/generated/autoconf.h"'):
            self.write('x.c', f'#include {way}\nint x = CONFIG_X;\n')
            self.eng = None
            self.build('a')
            self.assertFalse(self.renew(2), way)

    def test_other_object(self):
        """One that was made since the sum was"""
        self.assertTrue(self.renew())
        os.utime(self.object)
        self.assertTrue(self.renew())
        self.assertEqual([1, 1], self.makes)

    def test_old_sum(self):
        """The sum of an object that was made again since does not count, whatever make says"""
        self.assertTrue(self.renew())
        os.utime(self.object)
        make, calls = self.make, []

        def fail_first(words):
            calls.append(words)
            return 1 if len(calls) == 1 else make(words)

        self.make = fail_first
        self.assertFalse(self.renew())
        self.assertEqual(2, len(calls))

    def test_other_command(self):
        """One that only a shell or make understands; one that fails; a note of nothing"""
        with open(self.note, encoding='utf-8') as inf:
            text = inf.read()
        for new in (text.replace(' -c ', ' `x` -c '), text.replace(' -c ', ' "$(X)" -c '),
                    text.replace(' -c ', ' ; x -c '), '', 'cmd_x.o := \n',
                    text.replace(' -c ', " 'x -c "), text.replace(' -c ', ' "a`x`" -c '),
                    text.replace('cc ', 'no-such-cc ', 1), text.replace(' -c ', ' -fno-such -c '),
                    text.replace('deps_', 'other_'), text.replace('-o tools/x.o', '-o x.o')):
            with open(self.note, 'w', encoding='utf-8') as outf:
                outf.write(new)
            os.utime(self.object)
            self.assertFalse(self.renew(), new)
        os.utime(self.object)
        with open(self.note, 'w', encoding='utf-8') as outf:
            outf.write(text.replace(' -c ', """ -DX='"(x)"' "-DY=a b" -c """))
        self.assertTrue(self.renew())

    def test_sums(self):
        """A list that is none"""
        for text in ('', '[]', '{"tools/x.o": 1}', '{"tools/x.o": ["x", "y"]}', '{"x": [1, 2]}'):
            with open(os.path.join(self.folder, sameobjects.SUMS), 'w', encoding='utf-8') as outf:
                outf.write(text)
            self.assertTrue(self.renew(), text)
            self.assertEqual([1, 1], self.makes)

    def test_read_by_assembler(self):
        """What the assembler reads is in no note"""
        self.write('x.c', f'#include "x.h"\nasm(".incbin \\"{self.source}/x.h\\"");\n')
        self.write('x.h', '')
        self.eng = None
        self.build('a')
        self.assertFalse(self.renew())
        self.assertEqual([1, 1], self.makes)

    def test_sample(self):
        """Where it does not pay for some, the others are left alone; else not"""
        with open(self.note, encoding='utf-8') as inf:
            text = inf.read()
        for number in range(40):
            name = f'y{number}'
            shutil.copy(self.object, os.path.join(self.folder, 'tools', f'{name}.o'))
            with open(os.path.join(self.folder, 'tools', f'.{name}.o.cmd'), 'w',
                      encoding='utf-8') as outf:
                outf.write(text.replace('tools/x.o', f'tools/{name}.o'))
        self.assertFalse(self.renew(2))
        self.assertEqual(2, len(self.makes))
        self.assertLess(max(self.makes), 25)
        for number in range(40):
            os.utime(os.path.join(self.folder, 'tools', f'y{number}.o'))
        os.utime(self.object)
        self.assertTrue(self.renew(2))
        self.assertEqual((4, 41), (len(self.makes), self.makes[0] + self.makes[2]))


if __name__ == '__main__':
    unittest.main()
