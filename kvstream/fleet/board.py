"""Board: the newest summary of each cache of a fleet, worst first, as the compacted topic has them."""

import heapq
import threading
import time
from collections import Counter
from collections.abc import Mapping

import msgspec
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from kvstream.alerts.types import AlertLevel, CacheAlert
from kvstream.faults.log import FaultLog
from kvstream.fleet.address import KafkaAddress
from kvstream.fleet.client import (
    WAITING,
    client_settings,
    kafka_error,
    made,
    note_answer,
    note_fetch_error,
)
from kvstream.metrics.summary import RecentMetrics

_ANSWER_SECONDS = 10.0
_POLL_SECONDS = 0.25
_PAUSE_SECONDS = 2.0


class _Shown(msgspec.Struct, frozen=True):
    """What of a summary is shown in a line."""

    source: str
    tier: str
    timestamp: float
    blocks_live: int
    occupancy: float | None
    recent: RecentMetrics
    alerts: list[CacheAlert]


class CacheLine(msgspec.Struct, frozen=True, kw_only=True):
    """One cache in a line.

    Attributes:
        source: Cache instance.
        tier: Tier.
        level: The worst severity that fires, unless silenced; None if nothing does.
        alerts: How many alerts fire.
        message: What the worst of them says; empty without one.
        since: When that began, seconds since the Unix epoch; None without one.
        hit_ratio: In its last windows; None where hits are unknown.
        premature_ratio: Premature evictions by all evictions in them; None where contents are unknown.
        eviction_rate: Evictions a second in them.
        blocks: Blocks live.
        occupancy: By what there is room for, if that is known.
        timestamp: Event time of the summary, seconds since the Unix epoch.
        published_at: When a worker published it, seconds since the Unix epoch.
    """

    source: str
    tier: str
    level: AlertLevel | None
    alerts: int
    message: str
    since: float | None
    hit_ratio: float | None
    premature_ratio: float | None
    eviction_rate: float
    blocks: int
    occupancy: float | None
    timestamp: float
    published_at: float


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """All caches in a few figures.

    Attributes:
        caches: How many there are.
        sources: Sources of them.
        firing: Caches by the worst severity that fires.
        late: Caches with no summary for a minute.
        is_whole: Whether all was read that was in the topic at the start.
    """

    caches: int
    sources: int
    firing: dict[str, int]
    late: int
    is_whole: bool


LATE_SECONDS = 60.0
"""After which a cache without a newer summary is late: its worker is gone, or far behind."""


class Board:
    """Reads the summaries of a fleet, in a thread of its own, and shows them.

    Args:
        address: Where the topics are.
        kafka: Settings of librdkafka.

    Attributes:
        faults: Errors that ended nothing else.
    """

    def __init__(self, address: KafkaAddress, kafka: Mapping[str, str]) -> None:
        self.faults = FaultLog()
        self._address, self._kafka = address, kafka
        self._lock = threading.Lock()
        self._caches: dict[bytes, tuple[CacheLine, bytes]] = {}  # the line of each, and its summary
        # Partitions of which not all was read yet, and where each ended when first read; None at first.
        self._unread: dict[int, int | None] | None = None

    def connect(self) -> None:
        """Make the client; ``run`` comes after it.

        Raises:
            ConfigError: If a setting cannot be used.
        """
        self._consumer: Consumer = made(
            Consumer,
            client_settings(
                self._address,
                self._kafka,
                self.faults,
                group_id=f"{self._address.prefix}.board",  # never joined
                enable_auto_commit=False,
                enable_partition_eof=True,
                auto_offset_reset="earliest",
            ),
        )

    def run(self, stop: threading.Event) -> None:
        """Read until stopped, once a broker answers.

        Raises:
            KVStreamError: If the client cannot go on.
        """
        try:
            while not self._begin() and not stop.wait(_PAUSE_SECONDS):
                pass
            while not stop.is_set():
                message = self._consumer.poll(_POLL_SECONDS)
                if message is not None:
                    self._take(message)
        finally:
            self._consumer.close()

    def _begin(self) -> bool:
        """Read every partition from its first record on; return False if no broker answers."""
        topic = self._address.summaries
        try:
            numbers = list(
                self._consumer.list_topics(topic, timeout=_ANSWER_SECONDS).topics[topic].partitions
            )
        except KafkaException as error:
            self._consumer.poll(0)  # which calls back with what went wrong
            faulty = f"{kafka_error(self._address, error)}; {WAITING}"
            self.faults.note_standing("kafka", "unreachable", faulty)
            return False
        note_answer(self._address, self.faults)
        self._unread = dict.fromkeys(numbers)
        self._consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in numbers])
        return True

    def _take(self, message: Message) -> None:
        error, number = message.error(), message.partition() or 0
        if error is not None and error.code() == KafkaError._PARTITION_EOF:
            if self._unread is not None:
                self._unread.pop(number, None)
        elif error is not None:
            note_fetch_error(error, self._address.summaries, self._address, self.faults)
        else:
            self.put(message.key() or b"", message.value(), message.timestamp()[1] / 1e3)
            self._note_read(number, message.offset() or 0)

    def _note_read(self, number: int, offset: int) -> None:
        """Take note of how far a partition is read: one that is written to may never be found at its end."""
        if not self._unread or number not in self._unread:
            return
        if (end := self._unread[number]) is None:
            place = TopicPartition(self._address.summaries, number)
            _, end = self._consumer.get_watermark_offsets(place, cached=True)
            self._unread[number] = end
        if offset + 1 >= end:
            del self._unread[number]

    def put(self, key: bytes, value: bytes | None, published_at: float) -> None:
        """Take a summary in the place of the one before it; None takes its cache away."""
        if value is None:
            with self._lock:
                self._caches.pop(key, None)
            return
        try:
            line = _line(msgspec.json.decode(value, type=_Shown), published_at)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self.faults.note("summaries", "malformed", f"{self._address.summaries}: {error}")
            return
        with self._lock:
            self._caches[key] = line, value

    def worst(self, limit: int, offset: int = 0, text: str = "") -> list[CacheLine]:
        """Return caches, the worst first: by severity, then by how long it has lasted, then by their figures.

        Args:
            limit: How many.
            offset: How many to pass over.
            text: Only those with this in the name of their source or tier.
        """
        lines = self._lines()
        if text:
            lines = [line for line in lines if text in line.source or text in line.tier]
        return heapq.nsmallest(offset + limit, lines, key=_badness)[offset:]

    def summary(self, source: str, tier: str) -> bytes | None:
        """Return the newest summary of a cache (JSON); None if there is none."""
        with self._lock:
            found = self._caches.get(self._address.summary_key(source, tier))
        return None if found is None else found[1]

    @property
    def is_whole(self) -> bool:
        """Return whether all that there was has been read."""
        return self._unread is not None and not self._unread

    def _lines(self) -> list[CacheLine]:
        with self._lock:
            return [line for line, _ in self._caches.values()]

    def overview(self) -> Overview:
        """Return all caches in a few figures."""
        now = time.time()
        lines = self._lines()
        return Overview(
            caches=len(lines),
            sources=len({line.source for line in lines}),
            firing=dict(Counter(line.level.value for line in lines if line.level is not None)),
            late=sum(now - line.published_at > LATE_SECONDS for line in lines),
            is_whole=self.is_whole,
        )


def _line(shown: _Shown, published_at: float) -> CacheLine:
    firing = [alert for alert in shown.alerts if not alert.silenced_by]
    worst = min(firing, key=lambda alert: (-alert.level.severity, alert.started_at), default=None)
    return CacheLine(
        source=shown.source,
        tier=shown.tier,
        level=None if worst is None else worst.level,
        alerts=len(firing),
        message="" if worst is None else worst.message,
        since=None if worst is None else worst.started_at,
        hit_ratio=shown.recent.hit_ratio,
        premature_ratio=shown.recent.premature_ratio,
        eviction_rate=shown.recent.eviction_rate,
        blocks=shown.blocks_live,
        occupancy=shown.occupancy,
        timestamp=shown.timestamp,
        published_at=published_at,
    )


def _badness(line: CacheLine) -> tuple[object, ...]:
    """Return what caches are ordered by."""
    return (
        0 if line.level is None else -line.level.severity - 1,
        line.since or 0.0,
        -(line.premature_ratio or 0.0),
        1.0 if line.hit_ratio is None else line.hit_ratio,
        line.source,
        line.tier,
    )
