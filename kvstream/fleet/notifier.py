"""Notifier: alerts of all workers, each change of an incident once, to the handlers of a stream.

A worker that takes over says again what another one has said: alerts come at least once, under the same ids.
What was sent before is read from the topic itself, up to the committed offset, so that a notifier keeps no
state of its own.
"""

from collections.abc import Iterator, Mapping

import msgspec
from anyio import to_thread
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from kvstream.alerts.types import AlertId, CacheAlert, alert_id
from kvstream.fleet.address import KafkaAddress
from kvstream.fleet.client import client_settings, described, made, note_fetch_error
from kvstream.fleet.metrics import Sample
from kvstream.stream import KVStream

_ANSWER_SECONDS = 10.0
_AT_ONCE = 500
_SESSION_MS = 10_000
_MOST_KNOWN = 100_000  # ids of each partition: a worker repeats only what is newer than its last commit
_POLL_SECONDS = 0.25


class _Relayed:
    """A partition of the alerts that is assigned to a notifier.

    Args:
        sent: Offset up to which a notifier before this one has sent.
    """

    def __init__(self, sent: int) -> None:
        self.sent = sent
        self.known: dict[AlertId, None] = {}  # oldest first
        self.next: int | None = None  # place after the last record that was relayed
        self.committed: int | None = None


class Notifier:
    """Relays the alerts of a fleet to a stream, and commits those that were passed to its handlers.

    Args:
        address: Where the topics are.
        kafka: Settings of librdkafka.
        stream: Whose handlers are to be called.

    Attributes:
        counts: What came so far: ``alerts``, ``repeated``, ``remembered`` (sent by a notifier before this
            one), ``malformed``, ``commits``, ``refused_commits``.
    """

    def __init__(self, address: KafkaAddress, kafka: Mapping[str, str], stream: KVStream) -> None:
        self.counts = dict.fromkeys(_COUNTS, 0)
        self._address, self._kafka, self._stream = address, kafka, stream
        self._partitions: dict[int, _Relayed] = {}

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
                self._stream.faults,
                group_id=self._address.notifiers,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                partition_assignment_strategy="cooperative-sticky",
                session_timeout_ms=_SESSION_MS,
                heartbeat_interval_ms=_SESSION_MS // 5,
            ),
        )

    async def run(self) -> None:
        """Relay until cancelled; ``close`` comes after it.

        Raises:
            KVStreamError: If the client cannot go on.
        """
        self._consumer.subscribe(
            [self._address.alerts], on_assign=self._assigned, on_revoke=self._gone, on_lost=self._gone
        )
        while True:
            for message in await to_thread.run_sync(self._consumer.consume, _AT_ONCE, _POLL_SECONDS):
                self._take(message)
            await to_thread.run_sync(self._commit)

    def close(self) -> None:
        """Commit what was passed to the handlers, and leave the group."""
        self._commit()
        self._consumer.close()

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Begin at the first alert that the topic still has, to know what was sent."""
        for place in consumer.committed(partitions, timeout=_ANSWER_SECONDS):
            if place.error is not None:
                raise KafkaException(place.error)
            self._partitions[place.partition] = _Relayed(max(0, place.offset))
        for place in partitions:
            place.offset = OFFSET_BEGINNING
        consumer.incremental_assign(partitions)

    def _gone(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        self._commit()
        for place in partitions:
            self._partitions.pop(place.partition, None)

    def _take(self, message: Message) -> None:
        error = message.error()
        if error is not None:
            note_fetch_error(error, self._address.alerts, self._address, self._stream.faults)
            return
        number, offset = message.partition(), message.offset()
        relayed = None if number is None else self._partitions.get(number)
        if relayed is None or offset is None:
            return
        is_sent = offset < relayed.sent
        if not is_sent:
            relayed.next = offset + 1
        try:
            alert = msgspec.json.decode(message.value() or b"", type=CacheAlert)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as damage:
            self.counts["malformed"] += 1
            self._stream.faults.note(
                "alerts", "malformed", f"{self._address.alerts}[{number}]: record {offset}: {damage}"
            )
            return
        known = relayed.known
        if (named := alert_id(alert)) in known:
            self.counts["repeated"] += 1
            return
        known[named] = None
        if len(known) > _MOST_KNOWN:
            del known[next(iter(known))]
        self.counts["remembered" if is_sent else "alerts"] += 1
        self._stream.relay(alert, is_news=not is_sent)

    def _commit(self) -> None:
        """Commit all that was relayed, once it was passed to the handlers."""
        places = [
            TopicPartition(self._address.alerts, number, relayed.next)
            for number, relayed in self._partitions.items()
            if relayed.next is not None and relayed.next != relayed.committed
        ]
        if not places or not self._stream.alerts_handled():
            return
        try:
            for place in self._consumer.commit(offsets=places, asynchronous=False):
                self._note(place)
        except KafkaException as error:
            self._refused(error.args[0])

    def _note(self, place: TopicPartition) -> None:
        if place.error is not None:
            self._refused(place.error)
            return
        self.counts["commits"] += 1
        if (relayed := self._partitions.get(place.partition)) is not None:
            relayed.committed = place.offset

    def _refused(self, error: KafkaError) -> None:
        self.counts["refused_commits"] += 1
        self._stream.faults.note("kafka", "commit", f"{self._address.alerts}: {described(error)}")


_COUNTS = {
    "alerts": "Alerts relayed.",
    "repeated": "Alerts that had come before.",
    "remembered": "Alerts that another notifier has sent.",
    "malformed": "Records that are no alerts.",
    "commits": "Commits of the group.",
    "refused_commits": "Commits that the group refused.",
}


def samples(notifier: Notifier, stream: KVStream) -> Iterator[Sample]:
    """Yield the accounts of a notifier as metrics."""
    for name, text in _COUNTS.items():
        yield f"kvstream_notifier_{name}_total", text, notifier.counts[name], ()
    handlers = stream.statistics().subscribers
    undelivered: dict[tuple[str, ...], float] = {(each.destination,): each.undelivered for each in handlers}
    waiting: dict[tuple[str, ...], float] = {(each.destination,): each.buffered for each in handlers}
    yield "kvstream_notifier_undelivered_total", "Alerts given up.", undelivered, ("destination",)
    yield "kvstream_notifier_waiting", "Alerts that wait to be delivered.", waiting, ("destination",)
