# SPDX-License-Identifier: GPL-2.0+
"""Objects for the host that are the same for the next board, and those that are not."""

import os
import queue
import subprocess
import tempfile
import unittest

from buildman.build import hostobjects, slots
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
all: $(B)/include/config/auto.conf $(B)/tools/x.o
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


class HostCase(unittest.TestCase):
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

    def build(self, board):
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
                self.assertEqual(0, event.outcome.return_code, event.outcome.stderr)
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


class TestBoards(HostCase):
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

    def test_said(self):
        """What is said of a configuration is said in the build, and once"""
        self.build('a')
        self.write('say', 'a warning\n')
        self.assertEqual((1, 'a warning\n'), self.build('b'))

    def test_not_for_all(self):
        """Where make tells all, cleans first, or no other board is expected"""
        for settings in ({'verbose_build': True}, {'mrproper': True}, {'boards': ('a',)},
                         {'per_board_out_dir': True}):
            with self.subTest(settings=settings):
                self.work = os.path.join(self.dir, *settings)
                self.folder = os.path.join(
                    self.work, *(['a'] if 'per_board_out_dir' in settings else ['00', 'build']))
                self.start(**settings)
                self.build('a')
                self.assertFalse(os.path.exists(
                    os.path.join(self.folder, hostobjects.SUMS)))


class TestObjects(HostCase):
    """What else an object depends on"""

    def setUp(self):
        super().setUp()
        self.build('a')
        self.eng.finish()
        self.assertTrue(self.eng.join(60))
        self.object = os.path.join(self.folder, 'tools', 'x.o')
        self.note = os.path.join(self.folder, 'tools', '.x.o.cmd')
        # Another board has other options since
        os.utime(os.path.join(self.folder, 'include', 'config', 'opt', 'a.h'))

    def renew(self):
        """Return whether it counts as made anew"""
        before = os.stat(self.object).st_mtime_ns

        def make(words):
            return subprocess.run(['make', *words], check=False).returncode

        host = hostobjects.HostObjects(self.folder, os.path.join(self.dir, 'temp'), make)
        self.assertTrue(host.known)
        host.renew()
        return os.stat(self.object).st_mtime_ns > before

    def test_renewed(self):
        """Nothing else has changed; and it was the last time, too"""
        self.assertTrue(self.renew())
        self.assertFalse(self.renew())
        os.utime(os.path.join(self.folder, 'include', 'config', 'opt', 'a.h'))
        self.assertTrue(self.renew())

    def test_other_file(self):
        """A file that is newer, though its text is the same; one that is gone"""
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

    def test_other_object(self):
        """One that was made since the sum was"""
        with open(self.object, 'ab'):
            os.utime(self.object, (1, 1))
        self.assertFalse(self.renew())

    def test_other_command(self):
        """Another command; one that only a shell understands; a note of nothing"""
        with open(self.note, encoding='utf-8') as inf:
            text = inf.read()
        for new in (text.replace(' -c ', ' -DX -c '), text.replace(' -c ', ' `x` -c '), '',
                    'cmd_x.o := \n', text.replace(' -c ', " 'x -c "),
                    text.replace('deps_', 'other_'), text.replace('-o tools/x.o', '-o x.o')):
            with open(self.note, 'w', encoding='utf-8') as outf:
                outf.write(new)
            self.assertFalse(self.renew(), new)

    def test_sums(self):
        """A list that is none"""
        for text in ('', '[]', '{"tools/x.o": 1}', '{"tools/x.o": ["x", "y"]}'):
            with open(os.path.join(self.folder, hostobjects.SUMS), 'w', encoding='utf-8') as outf:
                outf.write(text)
            self.assertFalse(self.renew(), text)

    def test_read_by_assembler(self):
        """What the assembler reads is in no note"""
        self.write('x.c', f'#include "x.h"\nasm(".incbin \\"{self.source}/x.h\\"");\n')
        self.write('x.h', '')
        os.remove(os.path.join(self.folder, hostobjects.SUMS))
        self.eng = None
        self.build('a')
        self.assertFalse(os.path.exists(os.path.join(self.folder, hostobjects.SUMS)))
