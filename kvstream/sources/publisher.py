"""One publisher's batches in order: missing ones are requested, and counted if no replay has them."""

import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Protocol

from kvstream.errors import MalformedInputError
from kvstream.events.frame import EventFrame
from kvstream.events.position import Place
from kvstream.events.types import Malformed
from kvstream.sources.kv_events import KVEventDecoder
from kvstream.state.resumption import InputMarker

HELD_BATCHES = 10_000  # as many as vLLM keeps for replay
HELD_BYTES = 64 * 1024 * 1024
LARGEST_NUMBER = 2**48 - 1
"""The highest number of a batch: at a million batches a second, nine years."""
FARTHEST_JUMP = 1_000_000
"""Batches that may be missing before one; a batch farther ahead counts once the next confirms it."""
FARTHEST_OVERLAP = 100_000
"""Batches that a replay may be ahead of the live ones: as many as ZMQ queues hold."""

_RETRIES = 8  # requests for answers that were dropped, before they count as lost
_TAKEN_BYTES = 4 * 1024 * 1024  # of batches decoded at once, about: a few ten milliseconds
_BATCH_BYTES = 64  # what a batch costs beside its payload
_RESTART, _SNAPSHOT, _END_OF_SNAPSHOT = -1, -2, -3


def batch_number(number: bytes) -> int:
    """Return the number of a batch from its 8 bytes, big-endian.

    Raises:
        MalformedInputError: If it has another length, or no publisher comes that far.
    """
    if len(number) != 8:
        raise MalformedInputError(f"a batch's number has 8 bytes, not {len(number):,}")
    value = int.from_bytes(number, "big", signed=True)
    if not 0 <= value <= LARGEST_NUMBER:
        raise MalformedInputError(f"a batch cannot have the number {value}")
    return value


def batch_check(payload: bytes) -> str:
    """Return what a batch is recognized by when it comes again."""
    return f"{zlib.crc32(payload):08x}"


class Taker(Protocol):
    """Takes what a feed has put in order."""

    def deliver(self, seq: int, payload: bytes) -> None:
        """Take the next batch."""

    def lose(self, batches: int) -> None:
        """Count batches that are missing before the next one."""

    def restart(self) -> None:
        """Begin again, as the publisher has."""

    def mark_snapshot(self, is_snapshot: bool) -> None:
        """Take the batches that follow as all that is cached, or no more."""

    def refuse(self, reason: str, seq: int, text: str) -> None:
        """Count a batch that is not taken."""


class PublisherFeed:
    """Orders live batches and replayed ones by their numbers, which begin at 0 when a publisher starts.

    Live batches come in ascending order, as they are published; one that does not ascend therefore shows
    that the publisher has restarted. A gap is asked for from the batch before it on: if that comes back
    different, the publisher has restarted unnoticed. Live batches wait meanwhile, within bounds. The first
    batch sets where the numbers begin: what was published before is not missing.

    A number that jumps by more than ``FARTHEST_JUMP`` is refused unless the batch after it goes on from
    there, so that one forged number neither counts as a loss nor makes true ones look old.

    Args:
        taker: Takes what comes, in order.
        ask: Asks for a replay from a number on, dropping any replay under way; None if there is none
            to be had. It is asked for everything at once, as batches may come before we listen.
        start: Where to go on, in the life that the publisher is thought to be in: its number is the next one,
            its check the one of the batch before. None if nothing is known.

    Attributes:
        newest_live: Number of the last batch that was published; -1 before the first.
    """

    def __init__(self, taker: Taker, ask: Callable[[int], None] | None, start: Place | None = None) -> None:
        self.duplicates = 0
        self.replayed = 0
        self._taker, self._ask = taker, ask
        self._next = 0
        self._begun = False  # whether ``_next`` is known to be the next one
        self.newest_live = -1
        self._jump: int | None = None  # a number that the next one may confirm
        self._last: bytes | None = None  # the batch before the next, if a replay may show it again
        self._held: dict[int, bytes] = {}
        self._held_bytes = 0
        self._waiting = False
        self._answers = 0  # batches had by the replay under way
        self._retries = 0
        self._snapshot: int | None = None  # the number of a snapshot's parts
        self._asked_until = -1  # the newest batch when it was asked for
        self._check = ""  # of the batch before the next, if it was taken by another process
        if start is not None:
            self._next, self._begun, self._check = start.at, True, start.check
            self.newest_live = start.at - 1  # what is published from now on is later, unless it has restarted

    @property
    def holds(self) -> bool:
        """Return whether batches wait for a replay."""
        return bool(self._held)

    @property
    def is_waiting(self) -> bool:
        """Return whether a replay has been asked for that has not ended."""
        return self._waiting

    def live(self, seq: int, payload: bytes) -> None:
        """Take a batch that was published."""
        if seq == self._next and seq > self.newest_live and not self._waiting:  # as nearly all are
            self._jump, self.newest_live = None, seq
            self._begun, self._next = True, seq + 1
            self._take_in(seq, payload)
            return
        if seq <= self.newest_live or seq + FARTHEST_OVERLAP < self._next:
            self._deliver_held()
            self._begin_again()
        elif self._is_jump(seq) and (self._jump is None or not self._jump < seq <= self._jump + HELD_BATCHES):
            self._jump = seq
            self._taker.refuse("jump", seq, f"number {seq} after {max(self.newest_live, self._next - 1)}")
            return
        self._jump = None
        self.newest_live = seq
        if not self._waiting:
            if seq <= self._next or self._ask is None:
                self._take(seq, payload)
                return
            self._request_missing()
        self._held[seq] = payload
        self._held_bytes += len(payload)
        if len(self._held) > HELD_BATCHES or self._held_bytes > HELD_BYTES:
            self.give_up()

    def replay(self, seq: int, payload: bytes) -> bool:
        """Take a batch that has come again; returns whether anything was learnt from it."""
        if not self._waiting:
            return False
        if seq == self._snapshot:
            self._take_in(seq, payload)
            return True
        self._end_snapshot()
        if seq == self._next - 1 and self._is_other(payload):
            self._begin_again()
            return True
        if seq < self._next:
            return False
        if self._is_jump(seq):
            self._taker.refuse("jump", seq, f"number {seq} in the answer, after {self._next - 1}")
            return False
        self._deliver_held(before=seq)
        if seq > self._next and self._answers and self._retries < _RETRIES:
            # Most publishers keep batches without holes: this one was dropped on its way here.
            self._retries += 1
            self._request_missing()
            return True
        self._forget(seq)
        self._answers += 1
        self.replayed += 1
        self._take(seq, payload)
        return True

    def replay_snapshot(self, seq: int) -> None:
        """Take the batches of this number that follow as all that is cached after batch ``seq``."""
        if not self._waiting or seq < self._next:
            return
        for held in sorted(self._held):
            if held <= seq:
                self._forget(held)
        self._end_snapshot()
        self._skip_to(seq + 1)
        self._snapshot, self._last = seq, None
        self._taker.mark_snapshot(True)

    def replay_ended(self) -> None:
        """Take what waits: what the replay does not have is lost, unless it was published later."""
        self._end_snapshot()
        for seq in sorted(self._held):
            if seq > self._next > self._asked_until:
                self._request_missing()
                return
            self._take(seq, self._forget(seq))
        self._waiting, self._retries = False, 0

    def catch_up(self) -> None:
        """Request what may have been published before this subscriber listened, or since another ended."""
        self._request_missing()

    def give_up(self) -> None:
        """Process the batches that wait: no replay is available, so what is missing is lost."""
        self._waiting, self._retries = False, 0
        self._end_snapshot()
        self._deliver_held()

    def _is_other(self, payload: bytes) -> bool:
        """Return whether the batch before the next is known to have been another one."""
        if self._last is None:
            return self._check not in ("", batch_check(payload))
        return payload != self._last

    def _end_snapshot(self) -> None:
        if self._snapshot is not None:
            self._snapshot = None
            self._taker.mark_snapshot(False)

    def _is_jump(self, seq: int) -> bool:
        known = self._begun or self.newest_live >= 0
        return known and seq - max(self._next, self.newest_live + 1) > FARTHEST_JUMP

    def _request_missing(self) -> None:
        self._request(max(0, self._next - 1))

    def _request(self, start: int) -> None:
        if self._ask is not None:
            self._end_snapshot()
            self._waiting, self._answers = True, 0
            self._asked_until = self.newest_live
            self._ask(start)

    def _begin_again(self) -> None:
        self._taker.restart()
        self._next, self._begun, self._check = 0, True, ""
        self.newest_live, self._last = max(self._held, default=-1), None
        self._request(0)

    def _deliver_held(self, before: int | None = None) -> None:
        for seq in sorted(self._held):
            if before is not None and seq >= before:
                return
            self._take(seq, self._forget(seq))

    def _forget(self, seq: int) -> bytes:
        payload = self._held.pop(seq, b"")
        self._held_bytes -= len(payload)
        return payload

    def _take(self, seq: int, payload: bytes) -> None:
        if seq < self._next:
            self.duplicates += 1
            return
        self._skip_to(seq)
        self._next = seq + 1
        self._take_in(seq, payload)

    def _skip_to(self, seq: int) -> None:
        if seq > self._next and self._begun:
            self._taker.lose(seq - self._next)
        self._next, self._begun = seq, True

    def _take_in(self, seq: int, payload: bytes) -> None:
        if self._ask is not None:
            self._last, self._check = payload, ""
        self._taker.deliver(seq, payload)


class Publisher:
    """One publisher: its batches in order as frames, and what was malformed.

    Args:
        origin: The input's name, for reports.
        source: Name of the publisher's events.
        epoch: Number of its first epoch; each restart adds one.
        ask: Asks for a replay from a number on; None if there is none to be had.
        has_one_rank: Whether ``source`` names the rank, whatever its batches say.
        marker: Marks its frames, and says where to go on; None where no state is kept.

    Attributes:
        refused: Batches, events and numbers that were not taken, by reason.
        lost_batches: Batches that could not be had or decoded for want of memory.
        restarts: Restarts of the publisher.
    """

    def __init__(
        self,
        origin: str,
        source: str,
        epoch: int = 0,
        ask: Callable[[int], None] | None = None,
        has_one_rank: bool = False,
        marker: InputMarker | None = None,
    ) -> None:
        start = None
        if marker is not None and marker.start is not None:
            start = marker.begin_in_last_life()
            epoch = start.life
        self.decoder = KVEventDecoder(source, epoch, has_one_rank)
        self._marker = marker
        self._check = "" if start is None else start.check  # of the batch before the next that is decoded
        self.refused: Counter[str] = Counter()
        self.lost_batches = self.restarts = 0
        self._origin = origin
        self._items: list[EventFrame | Malformed] = []
        self._numbers: list[int] = []  # of the batches that the decoder has not decoded yet
        self._newest = b""  # the last of them
        self._part_ends: int | None = None  # number with which another part of the input must begin
        self._size = 0  # of these, about, in bytes
        # What comes after them; without a payload, how many batches are lost, a restart, or where a snapshot
        # begins or ends.
        self._pending: deque[tuple[int, bytes | None]] = deque()
        self.feed = PublisherFeed(self, ask, start)

    @property
    def is_pending(self) -> bool:
        """Return whether there are batches that ``take`` has not decoded yet."""
        return bool(self._pending)

    def take(self) -> list[EventFrame | Malformed]:
        """Return what the next few megabytes of batches hold; call it again while ``is_pending``."""
        while self._pending and self._size < _TAKEN_BYTES:
            self._resume(*self._pending.popleft())
        self._frame()
        self._size = 0
        items, self._items = self._items, []
        return items

    def refuse(self, reason: str, seq: int, text: str) -> None:
        """Count a batch that is not taken."""
        self._reject(reason, "message", seq, text, 1)

    def deliver(self, seq: int, payload: bytes) -> None:
        """Take the next batch."""
        if self._pending or self._size >= _TAKEN_BYTES:
            self._pending.append((seq, payload))
        else:
            self._add(seq, payload)

    def lose(self, batches: int) -> None:
        """Count batches that are missing before the next one."""
        self._pending.append((batches, None))

    def restart(self) -> None:
        """Begin again, as the publisher has."""
        self._pending.append((_RESTART, None))

    def mark_snapshot(self, is_snapshot: bool) -> None:
        """Take the batches that follow as all that is cached, or no more."""
        self._pending.append((_SNAPSHOT if is_snapshot else _END_OF_SNAPSHOT, None))

    def _resume(self, number: int, payload: bytes | None) -> None:
        if payload is not None:
            self._add(number, payload)
            return
        self._frame()
        self._check = ""
        if number == _RESTART:
            self.restarts += 1
            self.decoder.restart()
        elif number in (_SNAPSHOT, _END_OF_SNAPSHOT):
            self.decoder.mark_snapshot(number == _SNAPSHOT)
        else:
            self.lost_batches += number
            self.decoder.lost(number)

    def _add(self, number: int, payload: bytes) -> None:
        """Queue a batch, to be decoded with those before it."""
        if self._marker is not None:
            if not self._numbers:
                self._begin_part(self._marker, number)
            elif self._part_ends is not None and number >= self._part_ends:
                self._frame()
                self._begin_part(self._marker, number)
            self._newest = payload
        self.decoder.add(payload)
        self._numbers.append(number)
        self._size += len(payload) + _BATCH_BYTES

    def _begin_part(self, marker: InputMarker, number: int) -> None:
        epoch = self.decoder.epoch
        marker.begin(Place(epoch, number, self._check))
        self._part_ends = marker.next_place(epoch, number)

    def _frame(self) -> None:
        frames: Iterable[EventFrame] = self.decoder.frames()
        if self._marker is not None and self._numbers:
            frames = self._marker.marked(frames, renumber=True)
            self._check = batch_check(self._newest)
        self._items.extend(frames)
        for rejected in self.decoder.rejected:
            number = self._numbers[rejected.batch]
            self._reject(rejected.unit, "message", number, rejected.reason, rejected.count)
        if self.decoder.undecoded:
            self.refused["no_memory"] += self.decoder.undecoded
            self.lost_batches += self.decoder.undecoded
        self._numbers.clear()

    def _reject(self, reason: str, unit: str, position: int, text: str, count: int) -> None:
        self.refused[reason] += count
        self._items.append(Malformed(self._origin, unit, position, text, count))
