"""StreamAccounts: where every event of a stream went, at one moment."""

from collections import Counter, deque
from collections.abc import Mapping
from typing import Any, NamedTuple

from kvstream.engine.inputs import InputStatistics
from kvstream.engine.monitor import accounts_of
from kvstream.events.types import Malformed
from kvstream.metrics.summary import Accounts, SavedState
from kvstream.recording.producer import ProducerStatistics
from kvstream.recording.queue import QueueStatistics
from kvstream.recording.registry import ProducerSet, ProducersStatistics
from kvstream.streaming.consumers import Consumers
from kvstream.subscriptions.subscription import SubscriptionStatistics

_MALFORMED_KEPT = 100


class StreamStatistics(NamedTuple):
    """The inside of a stream at one moment.

    Attributes:
        accounts: Where every event and block went.
        queues: One entry a consumer.
        producers: One entry a producer, in order of making.
        subscribers: One entry a subscription or handler.
        faults: Contained errors by (part, reason): each ended one connection, frame or call and nothing else.
        inputs: One entry a connection of the inputs around the stream (``watch_inputs``).
        state: The saved state; None for a stream without.
    """

    accounts: Accounts
    queues: tuple[QueueStatistics, ...]
    producers: tuple[ProducerStatistics, ...]
    subscribers: tuple[SubscriptionStatistics, ...]
    faults: dict[tuple[str, str], int]
    inputs: tuple[InputStatistics, ...]
    state: SavedState | None


class StreamAccounts:
    """Adds up what the producers, the inputs and the consumers of a stream have counted.

    Args:
        consumers: The consumers.
        producers: The producers.

    Attributes:
        malformed: The last hundred pieces of input that could not be decoded.
    """

    def __init__(self, consumers: Consumers, producers: ProducerSet) -> None:
        self.malformed: deque[Malformed] = deque(maxlen=_MALFORMED_KEPT)
        self._consumers, self._producers = consumers, producers
        self._malformed_count = 0
        self._offered_before = 0  # events processed or dropped before this process went on with the stream
        self._dropped_before: Mapping[str, int] = {}  # those of them that came to no cache, by drop reason
        self._is_forked = False

    def reject(self, malformed: Malformed) -> None:
        """Count a piece of input that could not be decoded."""
        self._malformed_count += malformed.count
        self.malformed.append(malformed)

    def of(self, source: str | None, tier: str | None) -> Accounts:
        """Return where the events and blocks of a source and tier went, as far as known, or of all."""
        if source is None and tier is None:
            return self.total(self._producers.statistics())
        return accounts_of(self._consumers.monitors, source, tier)

    def total(self, counted: ProducersStatistics) -> Accounts:
        """Return the accounts of the whole stream at the moment of these counts of its producers.

        While threads record, events go from a producer to a queue between two looks. So what is in flight is
        not looked for there: it is what was offered and has neither been dropped nor left a queue to be
        applied. The last changes with the state of a consumer only, which is at rest, each producer's counts
        under a lock of its own.
        """
        accounts = accounts_of(self._consumers.monitors, None, None)
        dropped = Counter(accounts.dropped)
        dropped.update(self._dropped_before)
        offered = self._offered_before
        in_flight = -sum(consumer.consumed for consumer in self._consumers)
        for sender in (counted.others, *counted.producers):
            offered += sender.offered
            in_flight += sender.offered - sum(sender.dropped.values())
            dropped.update(sender.dropped)
        if self._is_forked:  # it may have been in the middle of a slice
            dropped["forked"] += offered - accounts.processed - dropped.total()
            in_flight = 0
        accounts.malformed = self._malformed_count
        accounts.offered = offered + accounts.malformed
        accounts.in_flight = in_flight
        accounts.dropped = dict(dropped)
        return accounts

    def close_after_fork(self) -> None:
        """Count what was on its way as the parent's to process, in a forked child."""
        self._is_forked = True

    def save(self) -> dict[str, Any]:
        """Return what never came to a cache, as plain values."""
        counted = self._producers.statistics()
        dropped = Counter(self._dropped_before)
        for sender in (counted.others, *counted.producers):
            dropped.update(sender.dropped)
        return {"malformed": self._malformed_count, "dropped": dict(+dropped)}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go on from what ``save`` returned, once the state of the consumers does."""
        self._dropped_before = saved.get("dropped", {})
        self._malformed_count = saved.get("malformed", 0)
        engine = accounts_of(self._consumers.monitors, None, None)
        self._offered_before = engine.offered + sum(self._dropped_before.values())
