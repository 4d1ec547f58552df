# SPDX-License-Identifier: GPL-2.0+
"""Lines and messages over real pipes, with peers that misbehave."""

import io
import os
import queue
import random
import subprocess
import sys
import threading
import unittest

from buildman.wire import channel, codec, fields

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

    def test_endless_noise(self):
        """A far side that prints for ever does not fill the log."""
        self.write(b'y\n' * (channel.NOISE_LINES + 500) + b'z' * 100_000 + b'\n')
        self.got.reader(self.stream)
        self.assertEqual(self.got.end(), '')
        self.assertEqual(len(self.got.noise), channel.NOISE_LINES)

    def test_any_chunks(self):
        """However the network cuts the stream, the lines are the same."""
        rnd = random.Random(7)
        for _ in range(200):
            lines = [bytes(rnd.randrange(32, 127) for _ in range(rnd.randrange(30)))
                     for _ in range(rnd.randrange(10))]
            data = b''.join(line + b'\n' for line in lines)
            splitter = channel._Splitter(20)
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

    def close(self):
        """Close what is still open."""
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

    def test_peer_gone(self):
        os.close(self.fd_r)
        self.fd_r = -1
        writer = channel.Writer(self.fd_w)
        with self.assertRaisesRegex(channel.ChannelError, 'Broken pipe'):
            writer.send(b'x')

    def test_peer_goes_while_we_send(self):
        writer = channel.Writer(self.fd_w)
        writer.send(bytes(1 << 20))
        os.close(self.fd_r)
        self.fd_r = -1
        self.assertFalse(writer.flush(WAIT))
        with self.assertRaisesRegex(channel.ChannelError, 'Broken pipe'):
            writer.send(b'x')

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
        writer = channel.Writer(self.fd_w)
        writer.send(bytes(1 << 20))
        writer.close(timeout=.01)
        self.assertEqual(writer.pending, 0)
        writer.close()

    def test_stand_in(self):
        """Callers' tests look at what was written to a plain object."""
        stream = io.BytesIO()
        writer = channel.Writer(stream)
        writer.send(b'abc\n')
        self.assertEqual(stream.getvalue(), b'abc\n')
        self.assertEqual(writer.sent, 4)
        stream.close()
        with self.assertRaises(channel.ChannelError):
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
        messages, noise, ended = queue.Queue(), [], queue.Queue()
        times = iter(range(1000))
        chan = channel.Channel(proc.stdout, proc.stdin, from_worker=True,
                               on_message=messages.put, on_noise=noise.append, on_end=ended.put,
                               name='peer', clock=lambda: next(times))
        chan.start()
        before = chan.last_heard
        ready = messages.get(timeout=WAIT)
        self.assertEqual(ready, codec.Ready(nthreads=3, slots=1, version=1))
        self.assertGreater(chan.last_heard, before)
        # Nothing that an older peer does not know goes out before that is known
        self.assertEqual(chan.send(codec.Ping()), 0)
        chan.version = ready.version
        self.assertGreater(chan.send(codec.Ping()), 0)
        self.assertEqual(messages.get(timeout=WAIT), codec.ErrorMsg('ping'))
        self.assertIsInstance(messages.get(timeout=WAIT), codec.Malformed)
        chan.send(codec.Quit())
        self.assertEqual(messages.get(timeout=WAIT), codec.QuitAck())
        self.assertEqual(ended.get(timeout=WAIT), '')
        self.assertEqual(noise, ['Last login: today'])
        self.assertEqual(chan.bytes_sent, 32)
        self.assertGreater(chan.bytes_received, 100)
        chan.close()
        chan.close()
        self.assertEqual(proc.wait(WAIT), 0)
        proc.stdin.close()
        proc.stdout.close()

    def test_worker_end(self):
        """The worker reads commands without prefix and is told of a line that is too long."""
        fd_r, fd_w = os.pipe()
        messages, ended = queue.Queue(), queue.Queue()
        chan = channel.Channel(fd_r, io.BytesIO(), from_worker=False, on_message=messages.put,
                               on_end=ended.put, max_line=100)
        chan.start()
        os.write(fd_w, b'{"cmd": "quit"}\n\n' + b'x' * 200 + b'\n{"cmd": "ping"}\n')
        os.close(fd_w)
        self.assertEqual(messages.get(timeout=WAIT), codec.Quit())
        self.assertEqual(messages.get(timeout=WAIT), codec.Malformed('a line of 200 bytes'))
        self.assertEqual(messages.get(timeout=WAIT), codec.Ping())
        self.assertEqual(ended.get(timeout=WAIT), '')
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
