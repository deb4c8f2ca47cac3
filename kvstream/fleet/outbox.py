"""Outbox: what a worker writes: alerts, summaries, and ticks."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from confluent_kafka import KafkaError, Message, Producer

from kvstream.alerts.types import CacheAlert
from kvstream.errors import KVStreamError
from kvstream.faults.log import FaultLog
from kvstream.fleet.address import KafkaAddress
from kvstream.fleet.client import client_settings, described, made
from kvstream.fleet.partition import TICK, Partition

_POLL_SECONDS = 0.1

Report = Callable[[KafkaError | None, Message], None]
"""Called with what became of a record, while the outbox is polled."""


class Outbox:
    """Writes what a worker has to say into the topics of its fleet.

    Args:
        address: Where the topics are.
        kafka: Settings of librdkafka.
        faults: Where refused records are noted.
        counts: Where ``alerts`` and ``undelivered`` are counted.
    """

    def __init__(
        self, address: KafkaAddress, kafka: Mapping[str, str], faults: FaultLog, counts: dict[str, int]
    ) -> None:
        self._address, self._kafka, self._faults, self._counts = address, kafka, faults, counts
        self._unpublished = 0  # alerts that the broker has not answered

    def connect(self) -> None:
        """Make the client.

        Raises:
            ConfigError: If a setting cannot be used.
        """
        self._producer: Producer = made(
            Producer,
            client_settings(
                self._address,
                {"linger.ms": "5", "compression.type": "lz4", **self._kafka},
                self._faults,
                enable_idempotence=True,
                message_timeout_ms=0,
            ),
        )

    def publish(self, alerts: Sequence[CacheAlert]) -> None:
        """Write alerts."""
        for alert in alerts:
            self._counts["alerts"] += 1
            self._unpublished += 1
            self._produce(
                self._address.alerts, alert.fingerprint.encode(), msgspec.json.encode(alert), self._published
            )

    def is_published(self, seconds: float) -> bool:
        """Wait until every alert is in the topic, or was refused; return False if that takes too long."""
        until = time.monotonic() + seconds
        while self._unpublished and (left := until - time.monotonic()) > 0:
            self._producer.poll(min(left, _POLL_SECONDS))
        return not self._unpublished

    def summarize(self, partition: Partition) -> None:
        """Write the summaries of a partition's caches, and that those are gone which were forgotten."""
        for source, tier, summary in partition.summaries():
            self._produce(self._address.summaries, self._address.summary_key(source, tier), summary)
        for source, tier in partition.take_gone():
            self._produce(self._address.summaries, self._address.summary_key(source, tier), None)

    def tick(self, number: int, report: Report) -> None:
        """Write the time into a partition of the frames."""
        self._produce(self._address.frames, None, TICK, report, partition=number)

    def poll(self) -> None:
        """Take note of what the broker has answered."""
        self._producer.poll(0)

    def close(self, seconds: float) -> None:
        """Wait until all is written, but no longer than that."""
        self._producer.flush(seconds)

    def _produce(
        self, topic: str, key: bytes | None, value: bytes | None, report: Report | None = None, **options: Any
    ) -> None:
        """Hand a record to the client, waiting for room."""
        while True:
            try:
                self._producer.produce(topic, value, key, on_delivery=report or self._delivered, **options)
            except BufferError:
                self._producer.poll(_POLL_SECONDS)
            else:
                return

    def _published(self, error: KafkaError | None, message: Message) -> None:
        self._unpublished -= 1
        self._delivered(error, message)

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._counts["undelivered"] += 1
            self._faults.note("kafka", "refused", f"{message.topic()}: {described(error)}")
            if error.fatal():
                raise KVStreamError(f"{self._address.brokers}: {described(error)}; start again")
