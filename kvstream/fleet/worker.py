"""Worker: a member of the consumer group that judges the frames of a fleet, partition by partition.

For each partition that it is assigned: restore, seek, apply whole frames, save, have alerts and summaries
published, then commit the offset. The commit is the pointer to the snapshot, and the group's generation the
fence: whoever dies, or stands still for so long that it is taken for dead, has its partitions taken over from
the last commit, and what it commits later is refused. A refused commit is not a lost partition: state is
dropped only when the group takes the partition away.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

import msgspec
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from kvstream.alerts.rule import Rule
from kvstream.alerts.silences import Silence
from kvstream.config import MetricsConfig
from kvstream.errors import ConfigError
from kvstream.events.codec import MAX_FRAME_BYTES
from kvstream.faults.log import FaultLog
from kvstream.fleet.address import KafkaAddress
from kvstream.fleet.client import client_settings, described, made, note_fetch_error
from kvstream.fleet.outbox import Outbox
from kvstream.fleet.partition import Partition, Record
from kvstream.fleet.recovery import committed_offset, recover
from kvstream.fleet.snapshots import Snapshots
from kvstream.state.saver import MOST_OF_THE_TIME

_BATCH_RECORDS = 512
_BATCH_BYTES = 8 * 1024 * 1024
_POLL_SECONDS = 0.1
_ANSWER_SECONDS = 10.0
_RESTORE_SECONDS = 5.0  # between two attempts
_ROUND_SECONDS = 1.0  # of restoring or saving, after which records are taken again, however slow a bucket is

COUNTS = {
    "records": "Records applied.",
    "alerts": "Alerts published.",
    "undelivered": "Records that the broker refused.",
    "snapshots": "Snapshots saved.",
    "snapshot_bytes": "Bytes in them.",
    "commits": "Commits of the group.",
    "refused_commits": "Commits that the group refused.",
    "assigned": "Partitions assigned.",
    "revoked": "Partitions revoked.",
    "lost": "Partitions lost to other workers.",
}
"""What a worker counts, and in which words."""

_logger = logging.getLogger("kvstream")

_Answer = TypeVar("_Answer")


class PartitionStatistics(NamedTuple):
    """A partition at one moment.

    Attributes:
        number: Which one.
        offset: Place of its next record.
        committed: Offset of the last commit; None if there is none.
        sources: Sources in it.
        processed: Events applied since it began.
        problem: Why it stands still; empty if it does not.
    """

    number: int
    offset: int
    committed: int | None
    sources: int
    processed: int
    problem: str


class _Owned:
    """A partition that the group has assigned to this worker."""

    def __init__(self) -> None:
        self.partition: Partition | None = None  # None until its state is restored
        self.committed: int | None = None
        self.committing: int | None = None  # the offset of a commit that is not answered yet
        self.waiting: list[Record] = []
        self.problem = ""
        self.due = 0.0  # when it is to be saved next, or restored again; monotonic seconds
        self.cost = 0.0  # seconds that the last checkpoint took
        self.summarize_at = 0.0
        self.sources = self.processed = 0  # as they were at the last tick
        self.is_ticking = False  # while a tick is on its way: of a broker that was away, none are to pile up

    def ticked(self, error: KafkaError | None, _: Message) -> None:
        """Take note that a tick has arrived, or never will."""
        self.is_ticking = False


class WorkerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker goes about it.

    Attributes:
        checkpoint_seconds: From one commit of a partition to the next.
        session_seconds: Silence after which the group takes a worker for dead.
        summary_seconds: From one summary of a cache to the next.
        next_protocol: Use the group protocol of KIP-848, which brokers have from Kafka 4.0 on.
    """

    checkpoint_seconds: float = 5.0
    session_seconds: float = 10.0
    summary_seconds: float = 10.0
    next_protocol: bool = False


class Worker:
    """Judges the partitions that the group assigns to it, in one thread, once it is connected.

    Args:
        address: Where the topics are.
        kafka: Settings of librdkafka.
        snapshots: Where state is kept, for all workers.
        config: What is measured.
        rules: Alert rules; the built-in ones by default.
        silences: Alerts that nobody is notified of.
        settings: How it goes about it.

    Attributes:
        faults: Errors that ended nothing else.
        counts: What was done so far, by name.
    """

    def __init__(
        self,
        address: KafkaAddress,
        kafka: Mapping[str, str],
        snapshots: Snapshots,
        config: MetricsConfig,
        rules: Sequence[Rule] | None = None,
        silences: Sequence[Silence] = (),
        settings: WorkerSettings | None = None,
    ) -> None:
        self.faults = FaultLog()
        self.counts = dict.fromkeys(COUNTS, 0)
        self._address, self._kafka, self._snapshots = address, kafka, snapshots
        self._config, self._rules, self._silences = config, rules, silences
        self._settings = settings or WorkerSettings()
        self._outbox = Outbox(address, kafka, self.faults, self.counts)
        self._owned: dict[int, _Owned] = {}
        self._tick_seconds = max(1.0, config.window_seconds)
        self._tick_at = 0.0
        self._asked: deque[tuple[Callable[[list[Partition]], Any], Future[Any]]] = deque()

    def connect(self) -> None:
        """Make the clients; ``run`` comes after it.

        Raises:
            ConfigError: If a setting cannot be used.
        """
        self._consumer: Consumer = made(
            Consumer,
            client_settings(
                self._address,
                {"fetch.message.max.bytes": str(_BATCH_BYTES), **self._kafka},
                self.faults,
                group_id=self._address.workers,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                on_commit=self._commits_answered,
                receive_message_max_bytes=2 * MAX_FRAME_BYTES,
                **_membership(self._settings),
            ),
        )
        try:
            self._outbox.connect()
        except ConfigError:
            self._consumer.close()
            raise

    def run(self, stop: threading.Event) -> None:
        """Work until stopped; then save and commit, so that others continue from there.

        Raises:
            KVStreamError: If a client cannot go on.
        """
        self._consumer.subscribe(
            [self._address.frames],
            on_assign=self._assigned,
            on_revoke=self._revoked,
            on_lost=self._lost,
        )
        try:
            while not stop.is_set():
                self._receive()
                for owned in self._owned.values():
                    self._apply(owned)
                self._tick()
                self._look_after_partitions()
                self._outbox.poll()
                self._answer_questions()
        finally:
            self._consumer.close()  # which revokes what is assigned
            self._outbox.close(_ANSWER_SECONDS)

    def statistics(self) -> list[PartitionStatistics]:
        """Return the partitions that are assigned now; from any thread. What is in them is a second old."""
        return [
            PartitionStatistics(
                number,
                -1 if (partition := owned.partition) is None else partition.offset,
                owned.committed,
                owned.sources,
                owned.processed,
                owned.problem,
            )
            for number, owned in sorted(self._owned.copy().items())
        ]

    def ask(self, question: Callable[[list[Partition]], _Answer], seconds: float) -> _Answer | None:
        """Return what a question to the partitions is answered with, from any thread.

        It is called in the worker's thread, between two rounds.

        Args:
            question: Called with the partitions that are judged here.
            seconds: How long to wait; None is returned if no round ends within that time.
        """
        answer: Future[_Answer] = Future()
        self._asked.append((question, answer))
        try:
            return answer.result(seconds)
        except TimeoutError:
            answer.cancel()
            return None

    def _answer_questions(self) -> None:
        while self._asked:
            question, answer = self._asked.popleft()
            if not answer.set_running_or_notify_cancel():
                continue
            try:
                answer.set_result(
                    question([owned.partition for owned in self._owned.values() if owned.partition])
                )
            except Exception as error:
                answer.set_exception(error)

    # What the group says

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Restore assigned partitions and read on; those not restored yet are paused."""
        unready, until = [], time.monotonic() + _ROUND_SECONDS
        for assigned in partitions:
            owned = self._owned[assigned.partition] = _Owned()
            if time.monotonic() < until:
                self._restore(assigned.partition, owned)
            if owned.partition is None:
                assigned.offset = OFFSET_BEGINNING
                unready.append(assigned)
            else:
                assigned.offset = owned.partition.offset
        consumer.incremental_assign(partitions)
        if unready:
            consumer.pause(unready)
        self.counts["assigned"] += len(partitions)
        _logger.info("assigned: partitions %s", [each.partition for each in partitions])

    def _revoked(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        """Save and commit what another worker will go on with; of a slow bucket, not all of it."""
        # The others wait for it, and one that leaves has no heartbeat any more.
        until = time.monotonic() + self._settings.session_seconds / 2
        for revoked in partitions:
            owned = self._owned.get(revoked.partition)
            if owned is not None and time.monotonic() < until:
                self._apply(owned)
                if owned.partition is not None:
                    self._checkpoint(revoked.partition, owned, owned.partition, wait=True)
            self._owned.pop(revoked.partition, None)  # after its commit, which is noted in it
        self.counts["revoked"] += len(partitions)

    def _lost(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        """Drop what others have gone on with already."""
        for lost in partitions:
            self._owned.pop(lost.partition, None)
        self.counts["lost"] += len(partitions)
        self.faults.note(
            "kafka", "lost", f"the group has given away partitions {[p.partition for p in partitions]}"
        )

    # One round

    def _receive(self) -> None:
        """Take what has come, up to a batch; partitions come and go meanwhile."""
        size, message = 0, self._consumer.poll(_POLL_SECONDS)
        for _ in range(_BATCH_RECORDS):
            if message is None:
                return
            size += self._take(message)
            if size >= _BATCH_BYTES:
                return
            message = self._consumer.poll(0)
        if message is not None:
            self._take(message)

    def _take(self, message: Message) -> int:
        error = message.error()
        if error is not None:
            note_fetch_error(error, self._address.frames, self._address, self.faults)
            return 0
        number, offset, value = message.partition(), message.offset(), message.value() or b""
        owned = None if number is None else self._owned.get(number)
        if owned is None or offset is None:
            return 0
        owned.waiting.append(Record(offset, message.timestamp()[1], value))
        return len(value)

    def _apply(self, owned: _Owned) -> None:
        if owned.partition is None or not owned.waiting:
            return
        waiting, owned.waiting = owned.waiting, []
        partition, owned.partition = owned.partition, None  # if this raises, the state is not whole
        alerts = partition.apply(waiting)
        owned.partition = partition
        self.counts["records"] += len(waiting)
        self._outbox.publish(alerts)

    def _tick(self) -> None:
        """Write the time into each partition that is judged here, so that every replay has it."""
        now = time.monotonic()
        if now < self._tick_at:
            return
        self._tick_at = now + self._tick_seconds
        for number, owned in self._owned.items():
            if owned.partition is None:
                continue
            owned.sources = len(owned.partition.monitor.sources)
            owned.processed = owned.partition.accounts().processed
            if owned.is_ticking:
                continue
            owned.is_ticking = True
            self._outbox.tick(number, owned.ticked)

    def _look_after_partitions(self) -> None:
        """Restore and save what is due, the longest due first, and leave the rest to the next round."""
        until = time.monotonic() + _ROUND_SECONDS
        for number, owned in sorted(self._owned.items(), key=lambda each: each[1].due):
            if (now := time.monotonic()) >= until:
                return
            if owned.partition is None:
                if now >= owned.due:
                    self._resume(number, owned)
                continue
            if self._settings.summary_seconds and now >= owned.summarize_at:
                owned.summarize_at = now + self._settings.summary_seconds
                self._outbox.summarize(owned.partition)
            if now >= owned.due:
                began = time.thread_time()
                self._checkpoint(number, owned, owned.partition)
                owned.cost = time.thread_time() - began
                owned.due = time.monotonic() + self._checkpoint_seconds()

    # State

    def _restore(self, number: int, owned: _Owned) -> None:
        """Go on from the committed snapshot, or the newest whole one before it; or say why that cannot be."""
        owned.due = time.monotonic() + _RESTORE_SECONDS
        place = TopicPartition(self._address.frames, number)
        partition = Partition(
            f"{place.topic}[{number}]", self._config, self._rules, self._silences, self.faults
        )
        try:
            owned.committed = committed_offset(self._consumer, place)
            alerts = recover(self._consumer, self._snapshots, place, owned.committed, partition, self.faults)
        except Exception as error:  # whatever a bucket or a broker raises, the partition waits for it
            owned.problem = _why(error)
            self.faults.note("state", "restore", f"{partition.name} stands still: {owned.problem}")
            return
        owned.partition, owned.problem = partition, ""
        owned.due = time.monotonic() + self._checkpoint_seconds()
        owned.summarize_at = time.monotonic() + self._settings.summary_seconds  # first, what has waited
        self._outbox.publish(alerts)

    def _resume(self, number: int, owned: _Owned) -> None:
        """Restore a paused partition, and read on from its offset."""
        self._restore(number, owned)
        if owned.partition is not None:
            place = TopicPartition(self._address.frames, number, owned.partition.offset)
            owned.waiting.clear()
            try:
                self._consumer.seek(place)
            except KafkaException as error:  # as of one that was assigned this moment
                owned.partition, owned.problem, owned.due = None, _why(error), 0.0
                return
            self._consumer.resume([place])
            self.faults.note("state", "resumed", f"{owned.partition.name} goes on", logging.INFO)

    def _checkpoint(self, number: int, owned: _Owned, partition: Partition, wait: bool = False) -> None:
        """Save a partition, and commit it once its alerts are published; what fails is tried again later.

        Args:
            number: Which one.
            owned: How it is kept.
            partition: Its state.
            wait: Wait for the answer to the commit, also to one that is on its way.
        """
        if partition.offset == owned.committed or (owned.committing is not None and not wait):
            return
        if not self._outbox.is_published(_ANSWER_SECONDS):
            self._failed(owned, "publish", f"{self._address.brokers}: alerts wait to be published")
            return
        try:
            name, size = self._snapshots.save(number, partition.offset, time.time(), partition.sections())
        except Exception as error:  # whatever a bucket raises
            self._failed(
                owned, "save", f"{partition.name} is not saved in {self._snapshots.place}: {_why(error)}"
            )
            return
        self.counts["snapshots"] += 1
        self.counts["snapshot_bytes"] += size
        owned.committing = partition.offset
        self._commit(TopicPartition(self._address.frames, number, partition.offset, name), owned, wait)

    def _commit(self, place: TopicPartition, owned: _Owned, wait: bool) -> None:
        try:
            if not wait:  # the answer comes while others are polled for: in a rebalance it takes seconds
                self._consumer.commit(offsets=[place], asynchronous=True)
                return
            answers = self._consumer.commit(offsets=[place], asynchronous=False)
        except KafkaException as error:
            self._answered(place.partition, owned, error.args[0])
        else:
            self._answered(place.partition, owned, answers[0].error)

    def _commits_answered(self, error: KafkaError | None, partitions: list[TopicPartition]) -> None:
        """Take note of what became of commits that were not waited for."""
        for place in partitions:
            owned = self._owned.get(place.partition)
            if owned is not None and owned.committing == place.offset:
                self._answered(place.partition, owned, error or place.error)

    def _answered(self, number: int, owned: _Owned, error: KafkaError | None) -> None:
        offset, owned.committing = owned.committing, None
        if error is not None:
            self.counts["refused_commits"] += 1
            self._failed(
                owned, "commit", f"{self._address.frames}[{number}]: commit refused: {described(error)}"
            )
            return
        assert offset is not None  # noqa: S101
        self.counts["commits"] += 1
        owned.committed, owned.problem = offset, ""
        try:
            self._snapshots.prune(number, offset)
        except Exception as pruning:
            self.faults.note("state", "prune", f"{self._snapshots.place}: {_why(pruning)}")

    def _checkpoint_seconds(self) -> float:
        """Return the interval: longer where all partitions together would take too much of the time."""
        cost = sum(owned.cost for owned in self._owned.values())
        return max(self._settings.checkpoint_seconds, cost / MOST_OF_THE_TIME)

    def _failed(self, owned: _Owned, reason: str, message: str) -> None:
        owned.problem = message
        self.faults.note("state", reason, message)


def _membership(settings: WorkerSettings) -> dict[str, object]:
    """Return how the group is joined."""
    if settings.next_protocol:  # where the broker sets the rest
        return {"group_protocol": "consumer"}
    session_ms = round(settings.session_seconds * 1e3)
    return {
        "partition_assignment_strategy": "cooperative-sticky",
        "session_timeout_ms": session_ms,
        "heartbeat_interval_ms": max(100, session_ms // 10),  # by which others learn of a rebalance
    }


def _why(error: Exception) -> str:
    if isinstance(error, KafkaException):
        return described(error.args[0])
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
