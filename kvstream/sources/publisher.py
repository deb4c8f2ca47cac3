"""One publisher's batches in order: what is missing is asked for, what cannot be had is counted."""

from collections.abc import Callable
from typing import Protocol

from kvstream.events.frame import EventFrame
from kvstream.events.types import Malformed
from kvstream.sources.kv_events import KVEventDecoder

HELD_BATCHES = 10_000  # as many as vLLM keeps for replay
HELD_BYTES = 256 * 1024 * 1024


class Taker(Protocol):
    """What is told of the batches, in order."""

    def deliver(self, seq: int, payload: bytes) -> None:
        """Takes the next batch."""

    def lose(self, batches: int) -> None:
        """So many are missing before the next one."""

    def restart(self) -> None:
        """The publisher has begun again."""


class PublisherFeed:
    """Orders live batches and replayed ones by their numbers, which begin at 0 with each life.

    Live batches come in ascending order, as they are published; one that does not ascend therefore tells
    of a new life. A gap is asked for from the batch before it on: if that comes back different, the
    publisher has had a new life unnoticed. Live batches wait meanwhile, within bounds.

    Args:
        taker: Told of what comes, in order.
        ask: Asks for a replay from a number on, dropping any replay under way; None if there is none
            to be had. It is asked for everything at once, as the start is a gap, too.
    """

    def __init__(self, taker: Taker, ask: Callable[[int], None] | None) -> None:
        self.duplicates = 0
        self.replayed = 0
        self._taker, self._ask = taker, ask
        self._next = 0
        self._newest_live = -1
        self._last = b""  # the batch before the next
        self._held: dict[int, bytes] = {}
        self._held_bytes = 0
        self._waiting = False
        self._answers = 0  # batches had by the replay under way
        self._asked_until = -1  # the newest batch when it was asked for
        self._request(0)

    @property
    def holds(self) -> bool:
        """Whether batches wait for a replay."""
        return bool(self._held)

    def live(self, seq: int, payload: bytes) -> None:
        """A batch has been published."""
        if seq <= self._newest_live:
            self._deliver_held()
            self._begin_again()
        self._newest_live = seq
        if not self._waiting:
            if seq <= self._next or self._ask is None:
                self._take(seq, payload)
                return
            self._request_missing()
        self._held[seq] = payload
        self._held_bytes += len(payload)
        if len(self._held) > HELD_BATCHES or self._held_bytes > HELD_BYTES:
            self.give_up()

    def replay(self, seq: int, payload: bytes) -> None:
        """A batch has come again."""
        if not self._waiting:
            return
        if seq == self._next - 1 and payload != self._last:
            self._begin_again()
            return
        if seq >= self._next:
            self._deliver_held(before=seq)
            if seq > self._next and self._answers:
                # Kept batches have no holes: this one was dropped on its way here.
                self._request_missing()
                return
            self._forget(seq)
            self._answers += 1
            self.replayed += 1
            self._take(seq, payload)

    def replay_ended(self) -> None:
        """The replay is complete: what it does not have is lost, unless it was published later."""
        for seq in sorted(self._held):
            if seq > self._next > self._asked_until:
                self._request_missing()
                return
            self._take(seq, self._forget(seq))
        self._waiting = False

    def give_up(self) -> None:
        """No replay is to be had: what is missing is lost."""
        self._waiting = False
        self._deliver_held()

    def _request_missing(self) -> None:
        self._request(max(0, self._next - 1))

    def _request(self, start: int) -> None:
        if self._ask is not None:
            self._waiting, self._answers = True, 0
            self._asked_until = self._newest_live
            self._ask(start)

    def _begin_again(self) -> None:
        self._taker.restart()
        self._next, self._newest_live, self._last = 0, max(self._held, default=-1), b""
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
        if seq > self._next:
            self._taker.lose(seq - self._next)
        self._next, self._last = seq + 1, payload
        self._taker.deliver(seq, payload)


class Publisher:
    """One publisher: its batches in order as frames, and what was malformed.

    Args:
        origin: The input's name, for reports.
        source: Name of the publisher's events.
        epoch: Number of its first life.
        ask: Asks for a replay from a number on; None if there is none to be had.
    """

    def __init__(
        self, origin: str, source: str, epoch: int = 0, ask: Callable[[int], None] | None = None
    ) -> None:
        self.decoder = KVEventDecoder(source, epoch)
        self.lost_batches = self.restarts = self.malformed = 0
        self._origin = origin
        self._items: list[EventFrame | Malformed] = []
        self._numbers: list[int] = []  # of the batches that the decoder has not decoded yet
        self.feed = PublisherFeed(self, ask)

    def take(self) -> list[EventFrame | Malformed]:
        """What there is since the last call."""
        self._frame()
        items, self._items = self._items, []
        return items

    def reject(self, unit: str, position: int, reason: str) -> None:
        """Counts something that could not be decoded."""
        self.malformed += 1
        self._items.append(Malformed(self._origin, unit, position, reason))

    def deliver(self, seq: int, payload: bytes) -> None:
        """Takes the next batch."""
        self.decoder.add(payload)
        self._numbers.append(seq)

    def lose(self, batches: int) -> None:
        """So many batches are missing before the next one."""
        self._frame()
        self.lost_batches += batches
        self.decoder.lost(batches)

    def restart(self) -> None:
        """The publisher has begun again."""
        self._frame()
        self.restarts += 1
        self.decoder.restart()

    def _frame(self) -> None:
        self._items.extend(self.decoder.frames())
        for batch, reason in self.decoder.rejected:
            self.reject("message", self._numbers[batch], reason)
        self._numbers.clear()
