"""The publishers of one input: distinguished by topic, and by sequence numbers where they share one."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator

import msgspec

from kvstream.sources.publisher import Publisher
from kvstream.state.resumption import MarkerOf, no_marker
from kvstream.text.escape import for_terminal
from kvstream.text.names import MAX_NAME, bounded_name

MOST_PUBLISHERS = 1024
FORGET_SECONDS = 3600.0
MAX_SOURCE = MAX_NAME - len("/dp4095")
"""Characters of a publisher's name, as a rank may follow."""

_SWEEP_SECONDS = 1.0  # between two looks for publishers to forget
_MOST_TOGETHER = 16  # publishers under one topic
_REMEMBERED = 1_000  # batches after a restart or a gap, in which what came before may go on

logger = logging.getLogger("kvstream")


class PublisherTotals(msgspec.Struct):
    """Accounts of publishers, added up."""

    batches: int = 0
    replayed: int = 0
    lost_batches: int = 0
    duplicates: int = 0
    restarts: int = 0
    unknown_events: int = 0
    refused: Counter[str] = msgspec.field(default_factory=Counter)

    def add(self, publisher: Publisher) -> None:
        """Add a publisher's accounts."""
        self.batches += publisher.decoder.batches
        self.replayed += publisher.feed.replayed
        self.lost_batches += publisher.lost_batches
        self.duplicates += publisher.feed.duplicates
        self.restarts += publisher.restarts
        self.unknown_events += publisher.decoder.unknown_events
        self.refused.update(publisher.refused)


def shared_text(topic: str) -> str:
    """Return what to say of a topic that several publishers share."""
    return f"several publishers send under the topic '{topic}', each with its own numbers; give each a topic"


class _Topic:
    """The publishers under one topic: one, unless the numbers of several interleave.

    One publisher's numbers ascend, and where they do not it has restarted. But if the number that should
    have come before such a step, or before a gap, comes after it, there are two publishers, each with its own
    numbers from then on. Two whose numbers are equal show by a second repetition; which batch is whose is
    then taken from their order.
    """

    def __init__(self, name: str, make: Callable[[str, int], Publisher | None], most: int) -> None:
        self.name = name
        self._most = most
        self.publishers: list[Publisher] = []  # the one that has waited for the longest time first
        self.sole: Publisher | None = None  # the only one, where nothing is remembered
        self.heard = time.monotonic()
        self.is_shared = False  # and it was said
        self._make = make
        self._made = 0
        # Numbers with which what came before a restart or a gap would go on; how many batches may yet come.
        self._left: dict[int, int] = {}
        self._repeated = 0  # restarts, not long ago, by the very number that was the last

    def publisher_of(self, seq: int) -> Publisher | None:
        """Return the publisher that sends a number next; None if there are too many."""
        publisher = self._next_of(seq) or self._other(seq) or self._first_or_closest(seq)
        if publisher is not None:
            self._look_at_order(publisher, seq)
            self.publishers.remove(publisher)
            self.publishers.append(publisher)
        self.sole = publisher if len(self.publishers) == 1 and not self._left else None
        return publisher

    def _next_of(self, seq: int) -> Publisher | None:
        return next((each for each in self.publishers if each.feed.newest_live + 1 == seq), None)

    def _other(self, seq: int) -> Publisher | None:
        """Return another publisher, if this number can only be its."""
        newest = self.publishers[-1].feed.newest_live if self.publishers else -1
        is_other = seq in self._left or (self._repeated == 1 and seq == newest)
        if not is_other or len(self.publishers) >= self._most:
            return None
        self._left.pop(seq, None)
        self._repeated = 0
        return self._begin()

    def _first_or_closest(self, seq: int) -> Publisher | None:
        if not self.publishers:
            return self._begin()
        behind = [each for each in self.publishers if each.feed.newest_live < seq]
        if behind:
            return max(behind, key=lambda each: each.feed.newest_live)
        return self.publishers[0]  # which has restarted

    def _begin(self) -> Publisher | None:
        publisher = self._make(self.name, self._made)
        if publisher is not None:
            self._made += 1
            self.publishers.append(publisher)
        return publisher

    def _look_at_order(self, publisher: Publisher, seq: int) -> None:
        self._left = {number: left - 1 for number, left in self._left.items() if left}
        newest = publisher.feed.newest_live
        if newest >= 0 and seq != newest + 1:
            self._left[newest + 1] = _REMEMBERED
            if len(self._left) > _MOST_TOGETHER:
                del self._left[next(iter(self._left))]
        if not self._left:
            self._repeated = 0
        elif seq <= newest:
            self._repeated = self._repeated + 1 if seq == newest > 0 else 0


class Publishers:
    """The publishers of one input, each followed by its topic.

    Args:
        origin: The input's name, for reports.
        source: Name of the first publisher; the topic, if it has one, where none is given.
        fallback: Name of a publisher without a topic, where no source is given.
        by_topic: Whether publishers are distinguished by topic, and under one topic by sequence numbers;
            otherwise whatever comes is one publisher's.
        ask: Asks for a replay from a number on; None if there is none to be had.
        rank: Rank of the publisher, whatever its batches say; None takes what they say.
        most: Publishers that are followed.
        forget_seconds: Seconds without a batch after which one makes room for another.
        first_epoch: Returns the epoch of a new publisher.
        marker_of: Returns what marks the frames of the publisher of a name; those under a shared topic have
            none, as they cannot be found again.

    Attributes:
        forgotten: Publishers that are followed no more.
    """

    def __init__(
        self,
        origin: str,
        source: str | None,
        *,
        fallback: str = "",
        by_topic: bool = True,
        ask: Callable[[int], None] | None = None,
        rank: int | None = None,
        most: int = MOST_PUBLISHERS,
        forget_seconds: float = FORGET_SECONDS,
        first_epoch: Callable[[], int] = time.time_ns,
        marker_of: MarkerOf = no_marker,
    ) -> None:
        self.forgotten = 0
        self._marker_of = marker_of
        self._origin, self._source, self._fallback = origin, source, fallback
        self._by_topic, self._ask, self._rank = by_topic, ask, rank
        self._most, self._forget_seconds, self._first_epoch = most, forget_seconds, first_epoch
        self._topics: dict[bytes, _Topic] = {}
        self._past = PublisherTotals()  # of publishers that are forgotten
        self._epoch = 0  # lowest epoch of new publishers
        self._swept = -_SWEEP_SECONDS

    def __iter__(self) -> Iterator[Publisher]:
        return (publisher for topic in self._topics.values() for publisher in topic.publishers)

    def __len__(self) -> int:
        return sum(len(topic.publishers) for topic in self._topics.values())

    def get(self, topic: bytes, seq: int) -> Publisher | None:
        """Return the publisher of a batch; None if it would be one too many."""
        key = topic if self._by_topic else b""
        known = self._topics.get(key)
        if known is not None:
            known.heard = time.monotonic()
            sole = known.sole
            if sole is not None and sole.feed.newest_live + 1 == seq:
                return sole  # as nearly always
        # Where we connect to an endpoint, one publisher is behind it.
        known = known or _Topic(self._name(key), self._new, _MOST_TOGETHER if self._by_topic else 1)
        publisher = known.publisher_of(seq)
        if publisher is not None:
            self._topics[key] = known
            if len(known.publishers) > 1 and not known.is_shared:
                known.is_shared = True
                logger.warning(
                    "%s: %s", for_terminal(self._origin), for_terminal(shared_text(bounded_name(key)))
                )
        return publisher

    @property
    def shared_topics(self) -> list[str]:
        """Return the topics under which several publishers send."""
        return [bounded_name(topic) for topic, known in self._topics.items() if known.is_shared]

    def totals(self) -> PublisherTotals:
        """Return the accounts of all publishers so far."""
        totals = msgspec.structs.replace(self._past, refused=self._past.refused.copy())
        for publisher in self:
            totals.add(publisher)
        return totals

    def _new(self, name: str, place: int) -> Publisher | None:
        """Return a new publisher, the one of a place under its topic; None if there are too many."""
        if len(self) >= self._most:
            self._forget()
            if len(self) >= self._most:
                return None
        if place:
            name = bounded_name(f"{name}/{place + 1}", MAX_SOURCE)
        if self._rank is not None:
            name = f"{name}/dp{self._rank}"
        self._epoch = max(self._first_epoch(), self._epoch)
        ask = None if place else self._ask
        marker = None if place else self._marker_of(f"zmq {name}")
        publisher = Publisher(
            self._origin, name, self._epoch, ask, has_one_rank=self._rank is not None, marker=marker
        )
        publisher.feed.catch_up()
        return publisher

    def _name(self, topic: bytes) -> str:
        name = self._source
        if not name:
            name = bounded_name(topic, MAX_SOURCE) or self._fallback
        elif self._topics:  # batches of two publishers cannot be one source's: their numbers differ
            name = f"{name}/{bounded_name(topic)}"
        return bounded_name(name, MAX_SOURCE)

    def _forget(self) -> None:
        """Forget publishers that have sent nothing for long; their accounts stay in the totals."""
        now = time.monotonic()
        if now - self._swept < _SWEEP_SECONDS:
            return
        self._swept = now
        for topic, known in list(self._topics.items()):
            if now - known.heard > self._forget_seconds and not any(p.is_pending for p in known.publishers):
                del self._topics[topic]
                for publisher in known.publishers:
                    self._past.add(publisher)
                    self.forgotten += 1
                    # Whoever comes back is a new publisher, whatever the clock says meanwhile.
                    self._epoch = max(self._epoch, publisher.decoder.epoch + 1)
