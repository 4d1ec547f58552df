# SPDX-License-Identifier: GPL-2.0+
"""Lines and messages over real pipes, with peers that misbehave."""

import contextlib
import io
import os
import queue
import random
import subprocess
import sys
import threading
import time
import unittest
from unittest import mock

from buildman.wire import channel, fields, messages

WAIT = 20       # seconds; only a failing test ever waits for so long


class StandIn:
    """A stream as callers' tests have it: bytes readline() and nothing else."""

    def __init__(self, lines):
        self.lines = list(lines)

    def readline(self):
        return self.lines.pop(0) if self.lines else b''


class Gathered:
    """What a reader handed on."""

    def __init__(self):
        self.lines = []
        self.noise = []
        self.too_long = []
        self.ended = queue.Queue()

    def reader(self, stream, **kwargs):
        """Return a started Reader on the stream."""
        reader = channel.Reader(stream, self.lines.append, on_noise=self.noise.append,
                                on_too_long=self.too_long.append, on_end=self.ended.put,
                                **{'prefix': b'BM> ', **kwargs})
        reader.start()
        return reader

    def end(self):
        """Wait for the end and return its reason."""
        return self.ended.get(timeout=WAIT)


class TestReader(unittest.TestCase):
    """What a far side prints must neither hang nor confuse the boss."""

    def setUp(self):
        self.got = Gathered()
        self.fd_r, self.fd_w = os.pipe()
        self.stream = os.fdopen(self.fd_r, 'rb')
        self.addCleanup(self.stream.close)

    def write(self, data):
        """Write to the pipe from a thread (it may be more than it holds), then close it."""
        def run():
            with os.fdopen(self.fd_w, 'wb') as outf:
                outf.write(data)
        thread = threading.Thread(target=run)
        thread.start()
        self.addCleanup(thread.join)

    def test_lines_and_noise(self):
        """A banner of 600 lines, also one without newline, comes before `ready`."""
        banner = b''.join(b'Welcome %d\r\n' % i for i in range(600))
        self.write(banner + b'last words\x1b[31m: BM> {"a": 1}\nBM> {"b": 2}\r\nBM> \n$ \n')
        reader = self.got.reader(self.stream)
        self.assertEqual(self.got.end(), '')
        self.assertEqual(self.got.lines, [b'{"a": 1}', b'{"b": 2}', b''])
        self.assertEqual(len(self.got.noise), 602)
        self.assertEqual(self.got.noise[0], 'Welcome 0')
        self.assertEqual(self.got.noise[600:], ['last words: ', '$ '])
        self.assertEqual(reader.received, len(banner) + 52)
        self.assertTrue(reader.close())

    def test_cut_in_a_message(self):
        """A message of which half came is no message."""
        self.write(b'BM> {"a": 1}\nBM> {"b": ')
        self.got.reader(self.stream)
        self.assertEqual(self.got.end(), 'in the middle of a line')
        self.assertEqual(self.got.lines, [b'{"a": 1}'])

    def test_last_line_without_newline(self):
        self.write(b'BM> {"a": 1}')
        self.got.reader(self.stream)
        self.assertEqual(self.got.end(), '')
        self.assertEqual(self.got.lines, [b'{"a": 1}'])

    def test_huge_line(self):
        """A line of 100 MB costs a bounded amount of memory, and the next one is read."""
        chunk = b'x' * (1 << 20)

        def run():
            with os.fdopen(self.fd_w, 'wb') as outf:
                outf.write(b'BM> ')
                for _ in range(100):
                    outf.write(chunk)
                outf.write(b'\nBM> {"a": 1}\n')
        thread = threading.Thread(target=run)
        thread.start()
        self.addCleanup(thread.join)
        self.got.reader(self.stream, max_line=1 << 20)
        self.assertEqual(self.got.end(), '')
        self.assertEqual(self.got.too_long, [4 + (100 << 20)])
        self.assertEqual(self.got.lines, [b'{"a": 1}'])

    def test_any_chunks(self):
        """However the network cuts the stream, the lines are the same."""
        rnd = random.Random(7)
        for _ in range(200):
            lines = [bytes(rnd.randrange(32, 127) for _ in range(rnd.randrange(30)))
                     for _ in range(rnd.randrange(10))]
            data = b''.join(line + b'\n' for line in lines)
            splitter = channel.Splitter(20)
            out, long = [], []
            while data:
                size = rnd.randrange(1, 40)
                splitter.feed(data[:size], out.append, long.append)
                data = data[size:]
            self.assertEqual(out, [line for line in lines if len(line) <= 20])
            self.assertEqual(long, [len(line) for line in lines if len(line) > 20])
            self.assertEqual(splitter.rest(), b'')

    def test_grandchild_holds_the_pipe(self):
        """The worker died, its make still holds the pipe: close() does not wait for that."""
        os.close(self.fd_w)
        proc = subprocess.Popen(['sh', '-c', 'echo "BM> 1"; sleep 1000 & echo "BM> $!"; exit'],
                                stdout=subprocess.PIPE)
        lines = queue.Queue()
        reader = channel.Reader(proc.stdout, lines.put, prefix=b'BM> ', on_end=self.got.ended.put)
        reader.start()
        self.assertEqual(lines.get(timeout=WAIT), b'1')
        pid = int(lines.get(timeout=WAIT))
        proc.wait(WAIT)
        self.assertTrue(reader.close())
        self.assertEqual(self.got.end(), 'closed')
        proc.stdout.close()
        os.kill(pid, 9)

    def test_close_before_start_and_twice(self):
        os.close(self.fd_w)
        reader = channel.Reader(self.stream, print)
        self.assertTrue(reader.close())
        self.assertTrue(reader.close())

    def test_stand_in(self):
        """A stream with only readline() will do."""
        for stream in (StandIn([b'hello\n', b'BM> {"a": 1}\n', b'BM> {"b": 2}']),
                       io.BytesIO(b'hello\nBM> {"a": 1}\nBM> {"b": 2}')):
            got = Gathered()
            got.reader(stream)
            self.assertEqual(got.end(), '')
            self.assertEqual(got.lines, [b'{"a": 1}', b'{"b": 2}'])
            self.assertEqual(got.noise, ['hello'])
        os.close(self.fd_w)


class Endless:
    """A stream without a descriptor that ends when it is told to"""

    def __init__(self, fileno=None, wait=False):
        self.go = threading.Event()
        self.wait = wait
        if fileno is not None:
            self.fileno = fileno

    def readline(self):
        if self.wait:
            self.go.wait(WAIT)
        return b'' if self.go.is_set() else b'line\n'


def descriptors():
    """Return the descriptors that this process has"""
    return set(os.listdir('/proc/self/fd'))


class TestEnd(unittest.TestCase):
    """How reading ends: nobody waits for ever, nothing is handed on afterwards"""

    def setUp(self):
        self.fds = []
        self.addCleanup(lambda: [os.close(fd) for fd in self.fds])
        self.died = []
        old = threading.excepthook
        self.addCleanup(setattr, threading, 'excepthook', old)
        threading.excepthook = self.died.append
        self.got = Gathered()

    def pipe(self, data=b''):
        """Return the ends of a pipe, closed at the end, with something in it"""
        ends = os.pipe()
        self.fds += ends
        os.write(ends[1], data)
        return ends

    def hang_up(self, fd):
        """Close one end of a pipe"""
        self.fds.remove(fd)
        os.close(fd)

    def read(self, *lines, **kwargs):
        """Read lines of a stand-in; return why it ended"""
        self.got.reader(StandIn(lines), **kwargs)
        return self.got.end()

    def test_closed_by_callback(self):
        """What came in one piece with `quit` is not handed on any more"""
        fd_r, _ = self.pipe(b'1\n2\n3\n4')
        lines, said, ended = [], [], queue.Queue()

        def take(line):
            lines.append(line)
            if line == b'2':
                said.append(reader.close())

        reader = channel.Reader(fd_r, take, on_end=ended.put)
        reader.start()
        self.assertEqual(ended.get(timeout=WAIT), 'closed')
        self.assertEqual((lines, said, self.died), ([b'1', b'2'], [True], []))
        reader.close()

    def test_no_descriptor_stays(self):
        """A boss that runs for days, and its builds, have no use for dead machines' pipes"""
        fd_r, fd_w = self.pipe(b'x')
        before = descriptors()
        for start in (True, False):
            reader = channel.Reader(fd_r, print)
            self.assertEqual(len(descriptors() - before), 2)
            if start:
                reader.start()
            self.assertTrue(reader.close())
            self.assertLessEqual(descriptors(), before)
        # The second time it is somebody else's
        other = self.pipe()
        self.assertTrue(reader.close())
        for fd in (*other, fd_r, fd_w):
            os.fstat(fd)
        before = descriptors()
        channel.Reader(StandIn([]), print)
        self.assertLessEqual(descriptors(), before)

    def test_wait_end(self):
        """It waits, and not longer than told"""
        stream = Endless(wait=True)
        reader = self.got.reader(stream)
        reader.wait_end(.001)
        self.assertEqual(self.got.lines, [])
        timer = threading.Timer(.05, stream.go.set)
        timer.start()
        reader.wait_end(WAIT)
        self.assertTrue(stream.go.is_set())
        self.assertEqual(self.got.ended.get_nowait(), '')
        timer.join()
        channel.Reader(stream, print).wait_end(WAIT)

    def test_close_hangs(self):
        """A stream that is no descriptor cannot be given up; the caller is told"""
        old = channel.JOIN_TIME
        self.addCleanup(setattr, channel, 'JOIN_TIME', old)
        stream = Endless(wait=True)
        reader = self.got.reader(stream)
        channel.JOIN_TIME = .001
        self.assertFalse(reader.close())
        channel.JOIN_TIME = WAIT
        stream.go.set()
        self.assertTrue(reader.close())
        self.assertEqual(self.got.end(), 'closed')

    def test_close_endless(self):
        """A peer that never stops talking is not listened to for ever"""
        channel.JOIN_TIME, old = WAIT, channel.JOIN_TIME
        self.addCleanup(setattr, channel, 'JOIN_TIME', old)
        stream = Endless()
        reader = self.got.reader(stream)
        self.addCleanup(stream.go.set)
        self.assertTrue(reader.close())
        self.assertEqual(self.got.end(), 'closed')

    def test_error(self):
        """Whatever a callback raises ends the reading, and is told"""
        for exc, want in ((ValueError('boom'), 'boom'), (ValueError(), 'ValueError')):
            fd_r, _ = self.pipe(b'x\n')

            def fail(line, exc=exc):
                raise exc

            ended = queue.Queue()
            channel.Reader(fd_r, fail, on_end=ended.put).start()
            self.assertEqual(ended.get(timeout=WAIT), want)

    def test_no_callbacks(self):
        """Who wants lines only need not say more"""
        fd_r, fd_w = self.pipe(b'noise\nBM> ' + b'x' * 99 + b'\nBM> 1\nBM> ')
        lines = []
        reader = channel.Reader(fd_r, lines.append, prefix=b'BM> ', max_line=50)
        reader.start()
        self.hang_up(fd_w)
        reader.wait_end(WAIT)
        self.assertEqual((lines, self.died), ([b'1'], []))

    def test_last_words(self):
        """Noise without a newline is noise all the same"""
        self.assertEqual(self.read(b'BM> 1\n', b'bye'), '')
        self.assertEqual((self.got.lines, self.got.noise), ([b'1'], ['bye']))
        fd_r, fd_w = self.pipe(b'BM> 1\n} bye')
        self.hang_up(fd_w)
        self.got.reader(fd_r)
        self.assertEqual(self.got.end(), '')
        self.assertEqual(self.got.noise, ['bye', '} bye'])
        # Nothing of a line that was too long is taken for one
        fd_r, fd_w = self.pipe(b'BM> ' + b'x' * 99 + b'}')
        self.hang_up(fd_w)
        self.got.reader(fd_r, max_line=50)
        self.assertEqual(self.got.end(), '')
        self.assertEqual(self.got.lines, [b'1', b'1'])

    def test_at_the_bound(self):
        """A line may be as long as the bound"""
        self.read(b'BM> 67\n', b'BM> 678\n', max_line=6)
        self.assertEqual((self.got.lines, self.got.too_long), ([b'67'], [7]))

    def test_beyond_the_bound(self):
        """What is under way and too long is no sign of life, and not kept"""
        splitter, lines = channel.Splitter(6), []
        for chunk in (b'BM> 12', b'3', b'4'):
            splitter.feed(chunk, lines.append, lines.append)
        self.assertFalse(splitter.has_part(b'BM> '))
        self.assertEqual(splitter.rest(), b'')
        splitter.feed(b'5\nBM> 1\nBM', lines.append, lines.append)
        self.assertEqual((lines, splitter.rest()), ([9, b'BM> 1'], b'BM'))

    def test_odd_streams(self):
        """What callers' tests use for streams: without newlines, or objects that are no streams"""
        self.assertEqual(self.read(b'BM> 1', b'BM> 2'), '')
        self.assertEqual(self.got.lines, [b'1', b'2'])
        for end in (StopIteration(), 'text', None):
            stream = StandIn([])
            stream.readline = mock.Mock(side_effect=[b'BM> 3\n', end, b'BM> 4\n'])
            self.got.reader(stream)
            self.assertEqual(self.got.end(), '')
            self.assertEqual(self.got.lines.pop(), b'3')

    def test_no_fileno(self):
        """A descriptor is what fileno() returns, if that is a number"""
        for fileno in (mock.Mock(), mock.Mock(side_effect=OSError),
                       mock.Mock(side_effect=ValueError)):
            stream = Endless(fileno)
            stream.go.set()
            self.got.reader(stream)
            self.assertEqual(self.got.end(), '')

    def test_parts(self):
        """Only a part of a message is a sign of life, wherever the network cut it"""
        fd_r, fd_w = self.pipe()
        parts, noise = queue.Queue(), queue.Queue()
        reader = channel.Reader(fd_r, parts.put, prefix=b'BM> ', on_noise=noise.put,
                                on_part=lambda: parts.put('part'))
        reader.start()
        os.write(fd_w, b'begin')
        os.write(fd_w, b' end\nx\n')
        self.assertEqual([noise.get(timeout=WAIT) for _ in range(2)], ['begin end', 'x'])
        os.write(fd_w, b'BM> {')
        self.assertEqual(parts.get(timeout=WAIT), 'part')
        os.write(fd_w, b'}\n')
        self.assertEqual(parts.get(timeout=WAIT), b'{}')
        reader.close()


class TestHarmless(unittest.TestCase):
    """A far side must not paint over the user's terminal or worse."""

    def test_escapes(self):
        for text, want in (('plain text\tx', 'plain text\tx'),
                           ('\x1b[31;1mred\x1b[0m', 'red'),
                           ('\x1b]0;title\x07x', 'x'), ('\x1b]52;c;aGk=\x1b\\x', 'x'),
                           ('a\rb\x08c\x00', 'abc'), ('\x9b31mx', '31mx'), ('x\x1b', 'x'),
                           ('\x1bcx', 'x'), ('a\u202eb', 'ab'), ('\ud800', '\ufffd')):
            self.assertEqual(fields.harmless(text), want)
        self.assertEqual(fields.harmless(b'a\xffb'), 'a\ufffdb')
        self.assertEqual(len(fields.harmless('x' * 9999)), fields.NOISE_LINE)

    def test_random(self):
        rnd = random.Random(8)
        for _ in range(3000):
            data = bytes(rnd.choice(b'\x1b[]0;m\x07\\ab\x9b\xc2\x00\r\n') for _ in range(30))
            out = fields.harmless(data)
            self.assertFalse([char for char in out if (ord(char) < 32 and char not in '\t\n')
                              or 0x7f <= ord(char) < 0xa0])


class TestWriter(unittest.TestCase):
    """A peer that does not read must not hold up the other machines."""

    def setUp(self):
        self.fd_r, self.fd_w = os.pipe()
        self.addCleanup(self.close)
        self.died = []
        old = threading.excepthook
        threading.excepthook = self.died.append
        self.addCleanup(setattr, threading, 'excepthook', old)

    def close(self):
        """Close what is still open; no thread died of an error."""
        self.assertEqual(self.died, [])
        for fd in (self.fd_r, self.fd_w):
            if fd >= 0:
                os.close(fd)

    def test_order_and_counting(self):
        """More than the pipe holds: the caller goes on, all arrives, in order."""
        writer = channel.Writer(self.fd_w)
        data = [bytes([i]) * 100_000 for i in range(30)]
        for chunk in data:
            writer.send(chunk)
        self.assertGreater(writer.pending, 0)
        want = b''.join(data)
        got = b''
        while len(got) < len(want):
            got += os.read(self.fd_r, 1 << 20)
        self.assertEqual(got, want)
        self.assertTrue(writer.flush(WAIT))
        self.assertEqual(writer.sent, len(want))
        writer.close()
        with self.assertRaisesRegex(channel.ChannelError, 'closed'):
            writer.send(b'x')
        self.assertEqual(writer.sent, len(want))

    def test_order_with_room(self):
        """What comes later does not get past what waits, though there is room for it"""
        writer = channel.Writer(self.fd_w)
        writer.send(bytes(1 << 17))
        got = []
        for num in range(1, 50):
            got.append(os.read(self.fd_r, 4096))
            writer.send(bytes([num]))
        while sum(map(len, got)) < (1 << 17) + 49:
            got.append(os.read(self.fd_r, 1 << 17))
        self.assertEqual(b''.join(got)[1 << 17:], bytes(range(1, 50)))

    def test_peer_gone(self):
        os.close(self.fd_r)
        self.fd_r = -1
        writer = channel.Writer(self.fd_w)
        with self.assertRaisesRegex(channel.ChannelError, '^Broken pipe$'):
            writer.send(b'x')

    def test_peer_goes_while_we_send(self):
        writer = channel.Writer(self.fd_w)
        writer.send(bytes(1 << 20))
        os.close(self.fd_r)
        self.fd_r = -1
        self.assertFalse(writer.flush(WAIT))
        with self.assertRaisesRegex(channel.ChannelError, '^Broken pipe$'):
            writer.send(b'x')
        writer.close()
        self.assertEqual(writer.pending, 0)

    def test_peer_does_not_read(self):
        """The deadline passes, with the caller waiting for room or not."""
        for room in (0, 1 << 30):
            fd_r, fd_w = os.pipe()
            writer = channel.Writer(fd_w, deadline=.05, max_pending=room)
            with self.assertRaisesRegex(channel.ChannelError, 'took nothing for 0.05 seconds'):
                writer.send(bytes(1 << 20))
                writer.flush(WAIT)
                writer.send(b'x')
            writer.close()
            os.close(fd_r)
            os.close(fd_w)

    def test_close_does_not_wait(self):
        writer = channel.Writer(self.fd_w, name='x')
        writer.send(bytes(1 << 20))
        writer.close(timeout=.01)
        self.assertEqual(writer.pending, 0)
        self.assertNotIn('write x', [thread.name for thread in threading.enumerate()])
        writer.close()

    def test_stand_in(self):
        """Callers' tests look at what was written to a plain object."""
        stream = io.BytesIO()
        writer = channel.Writer(stream)
        writer.send(b'abc\n')
        self.assertEqual(stream.getvalue(), b'abc\n')
        self.assertEqual(writer.sent, 4)
        stream.close()
        for _ in range(2):
            with self.assertRaisesRegex(channel.ChannelError, 'closed file'):
                writer.send(b'x')
        writer = channel.Writer(mock.Mock(write=mock.Mock(side_effect=OSError)))
        with self.assertRaisesRegex(channel.ChannelError, 'OSError'):
            writer.send(b'x')
        self.assertEqual(writer.sent, 0)

    def test_buffered_stand_in(self):
        stream = mock.Mock(spec=['write', 'flush'])
        channel.Writer(stream).send(b'x')
        self.assertEqual([call[0] for call in stream.method_calls], ['write', 'flush'])

    def test_pending(self):
        """What waits is what was not taken, and flush() tells whether all went"""
        writer = channel.Writer(self.fd_w)
        self.assertTrue(writer.flush(WAIT))
        for _ in range(2):
            writer.send(bytes(1 << 17))
            writer.send(b'')
        # One thread sends it all, or the order were a matter of luck
        self.assertEqual(1, sum(thread.name.startswith('write ')
                                for thread in threading.enumerate()))
        self.assertGreaterEqual(writer.sent, 1 << 12)
        self.assertEqual(writer.pending, (1 << 18) - writer.sent)
        self.assertFalse(writer.flush(.001))
        left = 1 << 18
        while left:
            left -= len(os.read(self.fd_r, 50_000))
        self.assertTrue(writer.flush(WAIT))
        self.assertEqual((writer.pending, writer.sent), (0, 1 << 18))
        # There is a thread only while something waits; then there is another one
        writer.send(bytes(1 << 18))
        left = 1 << 18
        while left:
            left -= len(os.read(self.fd_r, 50_000))
        self.assertTrue(writer.flush(WAIT))
        writer.close()
        writer.send(b'')
        self.assertFalse(writer.flush(WAIT))

    def test_room(self):
        """A caller who sends very much waits until there is room"""
        writer = channel.Writer(self.fd_w, max_pending=1000)
        done = threading.Event()

        def run():
            writer.send(bytes(1 << 20))
            done.set()

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        left = 1 << 20
        while left:
            if left > 200_000:
                self.assertFalse(done.is_set())
            left -= len(os.read(self.fd_r, 50_000))
        self.assertTrue(done.wait(WAIT))
        # What just fits is no reason to wait
        while writer.pending:
            time.sleep(.001)
        size = 1000 + self.fill()
        writer = channel.Writer(self.fd_w, max_pending=1000)
        thread = threading.Thread(target=writer.send, args=(bytes(1000),), daemon=True)
        thread.start()
        thread.join(WAIT)
        self.assertFalse(thread.is_alive())
        self.assertEqual(writer.pending, 1000)
        while size:
            size -= len(os.read(self.fd_r, 50_000))
        writer.close()

    def fill(self):
        """Fill the pipe; return how many bytes are in it"""
        size = 0
        os.set_blocking(self.fd_w, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                size += os.write(self.fd_w, b'x')
        return size

    def test_close_sends(self):
        """What waits is sent before the end, for as long as is told"""
        writer = channel.Writer(self.fd_w)
        writer.send(bytes(1 << 18))
        got = []

        def run():
            while sum(got) < 1 << 18:
                got.append(len(os.read(self.fd_r, 50_000)))

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        writer.close(WAIT)
        thread.join(WAIT)
        self.assertEqual((sum(got), writer.sent), (1 << 18, 1 << 18))

    def test_closed_while_waiting(self):
        """close() ends the wait of who sends very much"""
        writer = channel.Writer(self.fd_w, max_pending=10)
        raised = queue.Queue()

        def run():
            try:
                writer.send(bytes(1 << 20))
            except channel.ChannelError as exc:
                raised.put(str(exc))

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        while not writer.pending:
            time.sleep(.001)
        writer.close()
        self.assertEqual(raised.get(timeout=WAIT), 'closed')
        # The first reason is the one that counts
        os.close(self.fd_r)
        self.fd_r = -1
        writer.close()
        with self.assertRaisesRegex(channel.ChannelError, 'closed'):
            writer.send(b'x')

    def test_slow_but_alive(self):
        """The deadline counts from the last byte that went, not from the first"""
        now = [0.0]
        looked = threading.Semaphore(0)

        def clock():
            looked.release()
            return now[0]

        def look():
            """Wait until it has looked at the clock, surely since now"""
            while looked.acquire(blocking=False):
                pass
            for _ in range(2):
                self.assertTrue(looked.acquire(timeout=WAIT))

        writer = channel.Writer(self.fd_w, deadline=10.0, clock=clock)
        writer.send(bytes(1 << 20))
        for step in range(1, 3):
            look()
            now[0] = 9.0 * step
            sent = writer.sent
            while writer.sent == sent:
                os.read(self.fd_r, 4096)
        look()
        now[0] += 9.9
        look()
        writer.send(b'x')
        now[0] += .1
        self.assertFalse(writer.flush(WAIT))
        with self.assertRaisesRegex(channel.ChannelError, 'took nothing for 10 seconds'):
            writer.send(b'x')


# A worker in a few lines: answers until it is told to quit
PEER = r'''
import json, sys
print("Last login: today")
print('BM> {"resp": "ready", "nthreads": 3, "version": 1}', flush=True)
for line in sys.stdin:
    obj = json.loads(line)
    if obj["cmd"] == "quit":
        print('BM> {"resp": "quit_ack"}', flush=True)
        break
    print("BM> " + json.dumps({"resp": "error", "msg": obj["cmd"]}), flush=True)
    print("BM> {garbage", flush=True)
'''


class TestChannel(unittest.TestCase):
    """Both directions with a real process."""

    def test_dialogue(self):
        proc = subprocess.Popen([sys.executable, '-c', PEER], stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE)
        received, noise, ended = queue.Queue(), [], queue.Queue()
        times = iter(range(1000))
        chan = channel.Channel(proc.stdout, proc.stdin, from_worker=True,
                               on_message=received.put, on_noise=noise.append, on_end=ended.put,
                               name='peer', clock=lambda: next(times))
        chan.start()
        before = chan.last_heard
        ready = received.get(timeout=WAIT)
        self.assertEqual(ready, messages.Ready(nthreads=3, slots=1, version=1))
        self.assertGreater(chan.last_heard, before)
        # Nothing that an older peer does not know goes out before that is known
        self.assertEqual(chan.send(messages.Ping()), 0)
        chan.version = ready.version
        self.assertGreater(chan.send(messages.Ping()), 0)
        self.assertEqual(received.get(timeout=WAIT), messages.ErrorMsg('ping'))
        self.assertIsInstance(received.get(timeout=WAIT), messages.Malformed)
        chan.send(messages.Quit())
        self.assertEqual(received.get(timeout=WAIT), messages.QuitAck())
        self.assertEqual(ended.get(timeout=WAIT), '')
        self.assertEqual(noise, ['Last login: today'])
        self.assertEqual(chan.bytes_sent, 32)
        self.assertGreater(chan.bytes_received, 100)
        chan.close()
        chan.close()
        with self.assertRaisesRegex(channel.ChannelError, 'closed'):
            chan.send(messages.Quit())
        self.assertEqual(proc.wait(WAIT), 0)
        proc.stdin.close()
        proc.stdout.close()

    def test_worker_end(self):
        """The worker reads commands without prefix and is told of a line that is too long."""
        fd_r, fd_w = os.pipe()
        received, ended = queue.Queue(), queue.Queue()
        chan = channel.Channel(fd_r, io.BytesIO(), from_worker=False, on_message=received.put,
                               on_end=ended.put, max_line=100)
        chan.start()
        os.write(fd_w, b'{"cmd": "quit"}\n\n' + b'x' * 200 + b'\n{"cmd": "ping"}\n')
        os.close(fd_w)
        self.assertEqual(received.get(timeout=WAIT), messages.Quit())
        self.assertEqual(received.get(timeout=WAIT), messages.Malformed('a line of 200 bytes'))
        self.assertEqual(received.get(timeout=WAIT), messages.Ping())
        self.assertEqual(ended.get(timeout=WAIT), '')
        chan.close()
        os.close(fd_r)

    def test_life(self):
        """Each message is a sign of life; blank lines and lines that are too long are none"""
        fd_r, fd_w = os.pipe()
        seen, times = queue.Queue(), iter(range(100))
        chan = channel.Channel(fd_r, io.BytesIO(), from_worker=False, max_line=50,
                               on_message=lambda msg: seen.put(chan.last_heard),
                               clock=lambda: next(times))
        self.assertEqual(chan.last_heard, 0)
        chan.start()
        self.assertEqual(chan.last_heard, 1)
        os.write(fd_w, b'{"cmd": "ping"}\n \n' + b'x' * 60 + b'\n{"cmd": "ping"}\n')
        self.assertEqual([seen.get(timeout=WAIT) for _ in range(3)], [2, 2, 3])
        os.close(fd_w)
        chan.close()
        os.close(fd_r)

    def test_part_of_a_long_line_is_life(self):
        """A large result over a slow network is no silence."""
        fd_r, fd_w = os.pipe()
        seen = queue.Queue()
        chan = channel.Channel(fd_r, io.BytesIO(), from_worker=True, on_message=seen.put,
                               clock=lambda: seen.put('clock') or 0)
        seen.get(timeout=WAIT)
        chan.start()
        seen.get(timeout=WAIT)
        os.write(fd_w, b'BM> {"resp"')
        self.assertEqual(seen.get(timeout=WAIT), 'clock')
        os.close(fd_w)
        chan.close()
        os.close(fd_r)
