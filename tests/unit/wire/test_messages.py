# SPDX-License-Identifier: GPL-2.0+
"""The messages on the wire: every kind there and back, and bad data from the far side.

BUILDMAN_LONG_TESTS=1 in the environment makes the random histories long
(200,000 messages instead of a few thousand).
"""

import dataclasses
import json
import os
import random
import unittest

from support import damage

from buildman.wire import fields
from buildman.wire import messages as protocol

LONG = bool(os.environ.get('BUILDMAN_LONG_TESTS'))
COUNT = 200_000 if LONG else 4000

HEX = '0123456789abcdef'


def some_text(rnd):
    """Return a text as make might print it, now and then a long one."""
    alphabet = 'abc xyz:/"\\\n\t\x1b\x00é…\u2018\U0001f600{}[],BM> '
    text = ''.join(rnd.choice(alphabet) for _ in range(rnd.randrange(40)))
    return text * rnd.choice((1, 1, 1, 200))


def some_value(rnd, codec):
    """Return a value that a field with this codec may have."""
    name = next(key for key, val in {**vars(protocol), **vars(fields)}.items() if val is codec)
    sha = ''.join(rnd.choice(HEX) for _ in range(64))
    return {
        'TEXT': lambda: some_text(rnd),
        'INT': lambda: rnd.randrange(-300, 300),
        'COUNT': lambda: rnd.randrange(1 << rnd.randrange(1, 50)),
        'EXCEPTIONS': lambda: rnd.randrange(5),
        'NUMBER': lambda: rnd.random() * 1000,
        'BOOL': lambda: rnd.random() < .5,
        'STRINGS': lambda: tuple(some_text(rnd) for _ in range(rnd.randrange(4))),
        'HASHES': lambda: tuple(rnd.choice((None, sha[:40])) for _ in range(rnd.randrange(4))),
        'COUNTS': lambda: tuple(range(rnd.randrange(4))),
        'STRING_MAP': lambda: {some_text(rnd): some_text(rnd) for _ in range(rnd.randrange(4))},
        'FREE': lambda: {'a': [1, True, None, 1.5, {'b': some_text(rnd)}]},
        'SIZES': lambda: some_text(rnd),
        'SHA256': lambda: sha,
        'SHA256S': lambda: (sha,) * rnd.randrange(3),
        'FILE_NAME': lambda: rnd.choice(('.config', 'spl/u-boot-spl.bin', 'u-boot.img')),
        'FILES': lambda: {'.config': rnd.getrandbits(800).to_bytes(100, 'big'), 'toolchain': b''},
        'PIECE': lambda: bytes(rnd.randrange(3000)),
        'BOARDS': lambda: tuple(some_message(rnd, protocol.BuildBoard)
                                for _ in range(rnd.randrange(3))),
    }[name]()


def some_message(rnd, cls):
    """Return a message of this class with random content."""
    values = {}
    for field in dataclasses.fields(cls):
        has_default = (field.default is not dataclasses.MISSING
                       or field.default_factory is not dataclasses.MISSING)
        if has_default and rnd.random() < .3:
            continue
        values[field.name] = some_value(rnd, field.metadata['codec'])
    return cls(**values)


def decode(message, line):
    """Decode a line in the direction that the message travels."""
    if isinstance(message, protocol.Response):
        return protocol.decode_response(line)
    return protocol.decode_command(line)


ALL = list(protocol.COMMANDS.values()) + list(protocol.RESPONSES.values())


class TestRoundTrip(unittest.TestCase):
    """A field that does not cross is a setting or a result that a user loses."""

    def test_each_class(self):
        rnd = random.Random(1)
        for cls in ALL:
            with self.subTest(cls.__name__):
                for _ in range(30):
                    msg = some_message(rnd, cls)
                    line = protocol.encode(msg)
                    self.assertEqual(line.count(b'\n'), 1)
                    self.assertTrue(line.endswith(b'\n'))
                    self.assertEqual(decode(msg, line), msg)

    def test_registry_is_complete(self):
        """A message without a kind could be made but never sent."""
        for base in (protocol.Command, protocol.Response):
            for cls in base.__subclasses__():
                self.assertIn(cls, ALL)
        known = set(protocol.COMMANDS) | set(protocol.RESPONSES)
        self.assertLessEqual(protocol.EXTRA_KINDS, known)

    def test_prefix(self):
        """Responses carry the prefix, else an older boss takes them for noise."""
        self.assertEqual(protocol.RESPONSE_PREFIX, 'BM> ')
        line = protocol.encode(protocol.Ready(nthreads=4, slots=2), protocol.LEGACY_VERSION)
        self.assertEqual(line, b'BM> {"resp": "ready", "nthreads": 4, "slots": 2}\n')
        line = protocol.encode(protocol.Quit())
        self.assertEqual(line, b'{"cmd": "quit"}\n')

    def test_legacy(self):
        """An older peer gets the fields it knows and no others: its boss is strict."""
        rnd = random.Random(2)
        result = protocol.BuildResult(
            board='b', commit_upto=1, return_code=0, stdout='x' * 5000, stderr='', sizes='raw\n',
            load_avg=1.5, files={'.config': b'CONFIG_A=y\n'}, seconds=3.5, infra='x', skipped=True)
        obj = json.loads(protocol.encode(result, 0)[4:])
        self.assertEqual(set(obj), {'resp', 'board', 'commit_upto', 'return_code', 'stdout',
                                    'stderr', 'sizes', 'load_avg'})
        self.assertEqual(obj['sizes'], {'raw': 'raw\n'})
        self.assertEqual(obj['stdout'], 'x' * 5000)
        board = protocol.BuildBoard('b', 'arm', commits=(1, 2), make_args=('A=1',))
        self.assertEqual(json.loads(protocol.encode(board, 0)),
                         {'cmd': 'build_board', 'board': 'b', 'arch': 'arm'})
        many = protocol.BuildBoards((board,), ('c' * 40,))
        self.assertEqual(json.loads(protocol.encode(many, 0))['boards'],
                         [{'board': 'b', 'arch': 'arm'}])
        for kind in protocol.EXTRA_KINDS:
            cls = {**protocol.RESPONSES, **protocol.COMMANDS}[kind]
            self.assertEqual(protocol.encode(some_message(rnd, cls), 0), b'')

    def test_all_commits_or_none(self):
        """No list of commits means all of them; an empty list means none."""
        for commits in (None, (), (0, 2)):
            msg = protocol.BuildBoard('b', 'arm', commits=commits)
            self.assertEqual(protocol.decode_command(protocol.encode(msg)).commits, commits)

    def test_long_log_is_compressed(self):
        """With -V a log has megabytes; the network is the user's."""
        text = 'drivers/foo.c:12: warning: …\n' * 20000
        msg = protocol.BuildResult('b', 0, 0, stdout=text, stderr=text)
        line = protocol.encode(msg)
        self.assertLess(len(line), len(text) // 20)
        self.assertEqual(protocol.decode_response(line), msg)

    def test_too_large_to_send(self):
        msg = protocol.ErrorMsg('x' * fields.MAX_LINE)
        with self.assertRaisesRegex(ValueError, 'over'):
            protocol.encode(msg)


class TestTolerance(unittest.TestCase):
    """Peers of other versions work, as far as what they say can be understood."""

    def test_unknown_fields_and_kinds(self):
        msg = protocol.decode_response(b'BM> {"resp": "ready", "nthreads": 2, "hat": {"x": [1]}}')
        self.assertEqual(msg, protocol.Ready(nthreads=2, slots=1))
        msg = protocol.decode_response(b'{"resp": "frobnicate", "x": 1}')
        self.assertIsInstance(msg, protocol.Unknown)
        self.assertEqual(msg.kind, 'frobnicate')
        self.assertIn('"x": 1', msg.raw)
        self.assertIsInstance(protocol.decode_command({'cmd': 'x' * 500}), protocol.Unknown)
        self.assertEqual(len(protocol.decode_command({'cmd': 'x' * 500}).kind), 80)

    def test_missing_and_null(self):
        bad = protocol.decode_response('{"resp": "build_result", "board": "b", "commit_upto": 3}')
        self.assertEqual(bad, protocol.Malformed("no 'return_code'", 'build_result', 'b', 3))
        msg = protocol.decode_response('{"resp": "build_result", "board": "b", "commit_upto": 3, '
                                       '"return_code": 2, "sizes": null, "load_avg": null}')
        self.assertEqual(msg, protocol.BuildResult('b', 3, 2))
        msg = protocol.decode_response('{"resp": "build_done", "exceptions": ["a", "b"]}')
        self.assertEqual(msg, protocol.BuildDone(2))

    def test_wrong_types(self):
        good = {'resp': 'build_result', 'board': 'b', 'commit_upto': 0, 'return_code': 0}
        for key, val in (('board', 1), ('board', ['b']), ('commit_upto', '0'),
                         ('commit_upto', True), ('commit_upto', -1), ('commit_upto', 1.5),
                         ('return_code', {}), ('stdout', 3), ('sizes', 'raw'),
                         ('sizes', {'raw': 3}), ('load_avg', 'x'), ('files', []),
                         ('files', {'a': 3}), ('seconds', True), ('skipped', 1),
                         ('commit_upto', 1 << 60), ('zstdout', 'AAAA'), ('zstdout', 1)):
            with self.subTest(key=key, val=val):
                msg = protocol.decode_response(json.dumps({**good, key: val}))
                self.assertIsInstance(msg, protocol.Malformed)
                self.assertEqual(msg.kind, 'build_result')

    def test_not_messages(self):
        deep = b'[' * 200_000
        for line in (b'', b'{', b'[]', b'null', b'"x"', b'3', b'{"resp": 3}', b'{"cmd": "quit"}',
                     b'\xff\xfe{}', b'{"resp": "ready", "nthreads": NaN}',
                     b'{"resp": "ready", "nthreads": Infinity}',
                     b'{"resp": "ready", "nthreads": 1e999}',
                     b'{"resp": "ready", "nthreads": ' + b'9' * 2_000_000 + b'}',
                     deep, b'{"resp":' * 100_000, b'{"a":' + deep,
                     b'{"resp": "ready", "nthreads": 1, "x": ' + deep):
            with self.subTest(line[:50]):
                self.assertIsInstance(protocol.decode_response(line), protocol.Malformed)

    def test_nested_settings(self):
        """Depth in a free-form object must not come back as a crash when it is logged."""
        nested = {}
        for _ in range(100):
            nested = {'a': nested}
        msg = protocol.decode_command(json.dumps({'cmd': 'configure', 'settings': nested}))
        self.assertIsInstance(msg, protocol.Malformed)
        self.assertIn('deep', msg.reason)

    def test_memory_bombs(self):
        """Lines that unpack to far more than they have in bytes are refused unread."""
        for line in (b'{"resp": "ready", "a": [' + b'[],' * 3_000_000 + b'[]]}',
                     b'{"resp": "ready", "a": [' + b'"",' * 3_000_000 + b'""]}',
                     b'{"resp": "ready", "a": [' + b'1,' * 3_000_000 + b'1]}'):
            msg = protocol.decode_response(line)
            self.assertIsInstance(msg, protocol.Malformed)
            self.assertIn('too many', msg.reason)
        # A long text full of brackets and quotes is no bomb
        text = '{"[",}\\"\\\\' * 200_000
        line = json.dumps({'resp': 'build_result', 'board': 'b', 'commit_upto': 0,
                           'return_code': 0, 'stdout': text})
        self.assertEqual(protocol.decode_response(line).stdout, text)

    def test_zip_bombs(self):
        bomb = fields.pack(bytes(fields.MAX_FILE + 1))
        base = {'resp': 'build_result', 'board': 'b', 'commit_upto': 0, 'return_code': 0}
        msg = protocol.decode_response({**base, 'files': {'a': bomb}})
        self.assertIn('over', msg.reason)
        self.assertEqual(msg.board, 'b')
        half = fields.pack(bytes(fields.MAX_FILES_TOTAL // 2))
        msg = protocol.decode_response({**base, 'files': dict.fromkeys('abc', half)})
        self.assertIsInstance(msg, protocol.Malformed)
        many = {str(i): fields.pack(b'') for i in range(fields.MAX_FILES + 1)}
        self.assertIsInstance(protocol.decode_response({**base, 'files': many}),
                              protocol.Malformed)
        cut = fields.pack(os.urandom(3000))[:2000]
        self.assertIn('cut short', protocol.decode_response({**base, 'files': {'a': cut}}).reason)

    def test_file_names(self):
        """A name that leaves the result folder must not reach the disk."""
        for name in ('/etc/passwd', '../x', 'a/../../x', '..', '.', '', 'a//b', 'a/', '/', 'a\\b',
                     'a\x00', 'a\n', 'a b', 'ä', 'x' * 300, '~', '\x1b[0m', 'a/./b'):
            self.assertFalse(fields.safe_name(name), name)
        for name in ('.config', 'u-boot', 'spl/u-boot-spl.bin', 'u-boot-dtb.bin',
                     'arch/arm/dts/a,b.dtb', 'u-boot+x', '...'):
            self.assertTrue(fields.safe_name(name), name)

    def test_lone_surrogates(self):
        """Half a character must not stop the log or the tree from being written."""
        line = (b'{"resp": "error", "msg": "\\ud800x\\udfff", "board": "\\udc80"}')
        msg = protocol.decode_response(line)
        self.assertEqual(msg, protocol.ErrorMsg('\ufffdx\ufffd', '\ufffd'))
        msg.msg.encode()
        msg = protocol.decode_command(b'{"cmd": "configure", "settings": {"\\ud800": "\\ud801"}}')
        str(msg).encode()
        for line in (b'{"resp": "\\ud800", "\\ud801": 1}',
                     b'{"resp": "ready", "nthreads": "\\ud800"}'):
            str(protocol.decode_response(line)).encode()
        for size in (10, 10_000):
            msg = protocol.BuildResult('b', 0, 1, stderr='\udcff' * size)
            back = protocol.decode_response(protocol.encode(msg))
            self.assertEqual(back.stderr, '\ufffd' * size)


def any_json(rnd, depth=0):
    """Return any JSON value."""
    what = rnd.randrange(9 if depth < 4 else 6)
    if what < 6:
        return rnd.choice((None, True, -1, 0, 1, 2.5, '', 'b', '../x', '\ud800', 1 << 70))
    if what < 7:
        return [any_json(rnd, depth + 1) for _ in range(rnd.randrange(4))]
    return {rnd.choice(('a', 'raw', 'board', '\udc00')): any_json(rnd, depth + 1)
            for _ in range(rnd.randrange(4))}


class TestRandom(unittest.TestCase):
    """Whatever a far side sends, the boss goes on with the other machines."""

    def check(self, msg):
        """What came out is a message and can be logged."""
        self.assertIsInstance(msg, protocol.Message)
        repr(msg).encode()
        if isinstance(msg, protocol.Malformed):
            self.assertTrue(msg.reason)

    def test_random_messages(self):
        rnd = random.Random(3)
        for _ in range(COUNT):
            msg = some_message(rnd, rnd.choice(ALL))
            self.assertEqual(decode(msg, protocol.encode(msg)), msg)

    def test_damaged_lines(self):
        rnd = random.Random(4)
        samples = [protocol.encode(some_message(rnd, cls)) for cls in ALL for _ in range(8)]
        for _ in range(COUNT):
            line = damage(rnd, rnd.choice(samples))
            self.check(protocol.decode_command(line))
            self.check(protocol.decode_response(line))

    def test_any_values(self):
        rnd = random.Random(5)
        for _ in range(COUNT):
            for registry, key, func in (
                    (protocol.COMMANDS, 'cmd', protocol.decode_command),
                    (protocol.RESPONSES, 'resp', protocol.decode_response)):
                kind, cls = rnd.choice(sorted(registry.items()))
                obj = {key: kind}
                for field in dataclasses.fields(cls):
                    if rnd.random() < .7:
                        obj[field.name] = any_json(rnd)
                self.check(func(obj))
                self.check(func(json.dumps(obj)))

    def test_random_bytes(self):
        rnd = random.Random(6)
        for _ in range(COUNT):
            line = bytes(rnd.randrange(256) for _ in range(rnd.randrange(60)))
            self.assertIsInstance(protocol.decode_response(line), protocol.Malformed)
