# SPDX-License-Identifier: GPL-2.0+
"""What a machine sends, turned into events: checked, as the machine is not trusted.

A result counts when it was asked for, holds no file but those of a list, and
its images came whole. What is refused is told with the machine's name, and
the board is still owed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from typing import Callable, Dict, Iterable, Mapping, Set, Tuple

from buildman.build import artifacts, output
from buildman.core import events
from buildman.core.outcome import Outcome
from buildman.core.text import plain
from buildman.remote import budget
from buildman.remote.logs import WorkerLog
from buildman.wire import fields, messages

# How many images of a result are accepted
MAX_IMAGES = 300

# Bytes of all images of a result that are under way
MAX_STAGED = 4 << 30


def one_line(text: str) -> str:
    """Return what a machine says in a line that can be shown."""
    return ' '.join(fields.harmless(text).split('\n'))


class Receiver:
    """What one machine sends, and what becomes of it.

    take() is called in the thread that hears the machine, everything else by the
    loop or by who ends the machine.

    Attributes:
        load: its load average, as it told last
        results: received, a board at a commit each
        tells_done: it says when it is through with a board, as an older one does not
    """

    def __init__(self, name: str, post: Callable[[events.Event], None], log: WorkerLog,
                 stage_dir: str, with_images: bool, purse: budget.Budget) -> None:
        """Set up.

        Args:
            name: of the machine
            post: takes events
            log: gets each message
            stage_dir: folder for images that are under way
            with_images: images are asked for
            purse: pays for what was not
        """
        self.load = 0.0
        self.results = 0
        self.tells_done = True
        self._name = name
        self._post = post
        self._log = log
        self._stage_dir = stage_dir
        self._with_images = with_images
        self._purse = purse
        # Board and attempt -> commits that are to come
        self._owed: Dict[Tuple[str, int], Set[int]] = {}
        # The same -> those of them that were told to have begun
        self._begun: Dict[Tuple[str, int], Set[int]] = {}
        self._reasons: Dict[str, str] = {}
        self._images: Dict[Tuple[str, int], Dict[str, _Image]] = {}
        self._too_large: Set[str] = set()

    @property
    def owes(self) -> bool:
        """True when results are to come."""
        return any(list(self._owed.values()))

    def expect(self, target: str, commits: Iterable[int], attempt: int = 0) -> None:
        """Take note of a board that is given to the machine.

        Args:
            target, commits: what it is to build
            attempt: that will be told with what comes; 0 when it tells none
        """
        self._owed.setdefault((target, attempt), set()).update(commits)
        self._begun.pop((target, attempt), None)
        self._reasons.pop(target, None)

    def _was_given(self, target: str) -> bool:
        """Return whether the machine was given a board, and was not through with it"""
        return any(board == target for board, _ in list(self._owed))

    def tell(self, text: str) -> None:
        """Tell people something about the machine, or what it says."""
        self._post(events.Said(self._name, one_line(text)))

    def take(self, msg: messages.Message) -> None:
        """Turn a message that speaks of boards into events.

        Raises:
            OverBudget: the machine sends too much that was not asked for
        """
        if isinstance(msg, messages.BuildResult):
            self._result(msg)
        elif isinstance(msg, messages.FilePiece):
            self._piece(msg)
        elif isinstance(msg, messages.Started):
            self._started(msg)
        elif isinstance(msg, messages.BoardDone):
            if not self._board_done(msg.board, msg.attempt):
                self._unasked(msg)
        elif isinstance(msg, messages.Heartbeat):
            self.load = msg.load_avg or self.load
        elif isinstance(msg, messages.ErrorMsg):
            if self._was_given(msg.board) and msg.board not in self._reasons:
                self._cannot(msg.board, msg.msg)
                return
            self._purse.spend(budget.COMPLAINT, 'errors')
            if not self._was_given(msg.board):
                self.tell(msg.msg)
        elif isinstance(msg, messages.Malformed):
            self.tell(f'sent a message that makes no sense: {msg.reason}')
            if msg.kind == 'build_result' and self._was_given(msg.board):
                # That result is lost: the board is owed still
                self._cannot(msg.board, f'its result makes no sense: {msg.reason}')
        elif not isinstance(msg, messages.Unknown):
            self._unasked(msg)

    def _unasked(self, msg: messages.Message) -> None:
        """Take note of a message that nobody waits for"""
        kind = messages.kind_of(msg)
        self._purse.spend(budget.MESSAGE, f"messages '{kind}' that were not asked for")
        if isinstance(msg, messages.BuildResult):
            self._log.error(f'a result for {(msg.board, msg.commit_upto)} was not asked for')
        elif isinstance(msg, messages.FilePiece):
            self._log.error(f'a file {msg.name!r} was not asked for')

    def _started(self, msg: messages.Started) -> None:
        """Tell the loop, once, that a board is being built at a commit"""
        key = msg.board, msg.attempt
        begun = self._begun.setdefault(key, set()) if key in self._owed else set()
        if msg.commit_upto in self._owed.get(key, set()) - begun:
            begun.add(msg.commit_upto)
            self._post(events.Started(self._name, msg.board, msg.commit_upto, msg.attempt))
        else:
            self._unasked(msg)

    def _cannot(self, target: str, reason: str) -> None:
        """Note why a board is not going to be complete"""
        self._reasons[target] = one_line(reason)
        if not self.tells_done:
            self._board_done(target)

    def _board_done(self, target: str, attempt: int = 0) -> bool:
        """Tell the loop that the worker is through with a board; return whether it had it"""
        keys = [key for key in list(self._owed) if key[0] == target and attempt in (0, key[1])]
        for key in keys:
            del self._owed[key]
            self._begun.pop(key, None)
        if keys:
            self._post(events.BoardDone(self._name, target, (), self._reasons.pop(target, ''),
                                        attempt))
        return bool(keys)

    def _result(self, msg: messages.BuildResult) -> None:
        """Turn a result into an outcome, if it was asked for"""
        key = (msg.board, msg.commit_upto)
        images = self._images.pop(key, {})
        owed = self._owed.get((msg.board, msg.attempt), set())
        if msg.commit_upto not in owed:
            _drop(images)
            self._unasked(msg)
            return
        owed.discard(msg.commit_upto)
        self._purse.earn()
        self.load, self.results = msg.load_avg or self.load, self.results + 1
        bad = [name for name in msg.files if not artifacts.is_result_file(name)]
        if bad or any(not image.complete for image in images.values()):
            self.tell(f"result of '{msg.board}' refused: it holds "
                       f"{bad[0] if bad else 'an image that is not complete'}")
            _drop(images)
            self._cannot(msg.board, 'its result was refused')
        else:
            self._post(events.Built(self._name, Outcome(
                target=msg.board, commit_upto=msg.commit_upto, return_code=msg.return_code,
                stdout=plain(msg.stdout), stderr=plain(msg.stderr), files=dict(msg.files),
                sizes=msg.sizes + '\n' if msg.sizes and msg.sizes[-1] != '\n' else msg.sizes,
                images={name: image.path for name, image in images.items()},
                seconds=msg.seconds, scan_seconds=msg.scan_seconds,
                reconfigured=msg.reconfigured, skipped=msg.skipped,
                infra=output.failure_told(one_line(msg.infra), one_line(msg.infra_kind)),
                machine=self._name), msg.attempt))

    def _piece(self, msg: messages.FilePiece) -> None:
        """Take a piece of an image"""
        key = (msg.board, msg.commit_upto)
        if (msg.commit_upto not in self._owed.get((msg.board, msg.attempt), ())
                or not artifacts.is_image(msg.name)
                or not self._with_images):
            self._unasked(msg)
            return
        if msg.size > artifacts.MAX_IMAGE:
            # The result is complete without it
            if msg.name not in self._too_large and len(self._too_large) < MAX_IMAGES:
                self._too_large.add(msg.name)
                self.tell(f"image '{msg.name}' of '{msg.board}' is not kept: it has {msg.size} "
                          f'bytes, {artifacts.MAX_IMAGE} can be taken from a machine')
            else:
                self._unasked(msg)
            return
        if key not in self._images:
            # A board is built at one commit after the other, and the images of each
            # come right before its result
            for other in [other for other in self._images if other[0] == msg.board]:
                self._unasked(msg)
                _drop(self._images.pop(other))
        images = self._images.setdefault(key, {})
        if msg.name not in images:
            if len(images) >= MAX_IMAGES:
                self._unasked(msg)
                return
            folder = os.path.join(self._stage_dir,
                                  f'{self._name}.stage-{msg.board}-{msg.commit_upto}')
            os.makedirs(folder, exist_ok=True)
            images[msg.name] = _Image(os.path.join(folder, msg.name))
        try:
            if sum(image.size for image in images.values()) + len(msg.data) > MAX_STAGED:
                raise ValueError('the images of this result are too large')
            if not images[msg.name].add(msg):
                self._unasked(msg)
        except (OSError, ValueError) as exc:
            self._unasked(msg)
            self.tell(f"image '{msg.name}' of '{msg.board}': {exc}")

    def drop_images(self) -> None:
        """Remove images whose result never came"""
        for images in list(self._images.values()):
            _drop(images)
        self._images.clear()


class _Image:
    """An image that is under way"""

    def __init__(self, path: str) -> None:
        self.path = path
        self.complete = False
        self.size = 0
        self._digest = hashlib.sha256()
        self._broken = False

    def add(self, msg: messages.FilePiece) -> bool:
        """Add a piece; return False when one before it was none.

        Raises:
            ValueError: it does not follow the one before, the file is too
                large or did not arrive as it was sent
            OSError: no space
        """
        if self._broken:
            return False
        self._broken = True
        if self.complete or msg.offset != self.size or (
                self.size + len(msg.data) > artifacts.MAX_IMAGE):
            raise ValueError('pieces do not fit together')
        with open(self.path, 'ab' if msg.offset else 'wb') as outf:
            outf.write(msg.data)
        self.size += len(msg.data)
        self._digest.update(msg.data)
        if msg.last:
            if msg.sha256 != self._digest.hexdigest():
                raise ValueError('it did not arrive as it was sent')
            os.chmod(self.path, msg.mode & 0o777)
            self.complete = True
        self._broken = False
        return True


def _drop(images: Mapping[str, _Image]) -> None:
    """Remove the staging folders of images"""
    for folder in {os.path.dirname(image.path) for image in images.values()}:
        shutil.rmtree(folder, ignore_errors=True)
