"""The topics of a fleet: made once, with settings that its guarantees rest on, or found missing."""

import math
from collections.abc import Mapping
from typing import Self

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ClusterMetadata, NewTopic  # type: ignore[attr-defined]

from kvstream.errors import ConfigError
from kvstream.events.codec import MAX_FRAME_BYTES
from kvstream.faults.log import FaultLog
from kvstream.fleet.address import KafkaAddress
from kvstream.fleet.client import client_settings, described, kafka_error, made

_ANSWER_SECONDS = 10.0
_FEW_PARTITIONS = 4
_HOUR_MS = 3_600_000
_ALL_DOWN = KafkaError._ALL_BROKERS_DOWN

BROKERS_DEFAULT = -1
"""Copies of each partition as the broker is set."""


def required(address: KafkaAddress, partitions: int, copies: int) -> list[NewTopic]:
    """Return the topics of a fleet as they should be.

    Args:
        address: Their prefix.
        partitions: Of the frames, each of which one worker applies; they cannot be changed later, as a source
            would go on in another partition.
        copies: Brokers that keep each partition.
    """
    frames = {
        # Silence is judged by these times: those of one clock, the broker's.
        "message.timestamp.type": "LogAppendTime",
        "max.message.bytes": str(MAX_FRAME_BYTES),
        # Workers go back to their last snapshot, some seconds or, after an outage, some hours.
        "retention.ms": str(24 * _HOUR_MS),
    }
    return [
        NewTopic(address.frames, partitions, copies, config=frames),
        NewTopic(address.alerts, _FEW_PARTITIONS, copies, config={"retention.ms": str(7 * 24 * _HOUR_MS)}),
        NewTopic(address.summaries, _FEW_PARTITIONS, copies, config={"cleanup.policy": "compact"}),
    ]


def require_topics(address: KafkaAddress, settings: Mapping[str, str]) -> None:
    """Return if every topic is there.

    Raises:
        ConfigError: If one is missing.
        KVStreamError: If no broker answers.
    """
    admin = Admin.connect(address, settings)
    if absent := admin.absent(admin.cluster()):
        raise ConfigError(
            f"{address.brokers} has no topic {', '.join(absent)}: make them with --create-topics, "
            f"or as docs/fleet.md has them"
        )


def create_topics(
    address: KafkaAddress, settings: Mapping[str, str], partitions: int, copies: int = BROKERS_DEFAULT
) -> list[str]:
    """Make the topics that are not there; return their names.

    Raises:
        ConfigError: If the broker does not make one.
        KVStreamError: If no broker answers.
    """
    admin = Admin.connect(address, settings)
    absent = admin.absent(admin.cluster())
    topics = [topic for topic in required(address, partitions, copies) if topic.topic in absent]
    if topics:
        for name, answer in admin.client.create_topics(topics, request_timeout=_ANSWER_SECONDS).items():
            try:
                answer.result(math.ceil(_ANSWER_SECONDS) + 1)
            except KafkaException as error:
                raise ConfigError(
                    f"{address.brokers} does not make {name}: {described(error.args[0])}"
                ) from None
    return absent


class Admin:
    """A client that asks for topics and makes them.

    Args:
        address: The brokers.
        client: The client.
        errors: Takes what the client says of its brokers.
        seconds: Until a question must be answered.

    Attributes:
        client: The client.
    """

    def __init__(
        self, address: KafkaAddress, client: AdminClient, errors: list[KafkaError], seconds: float
    ) -> None:
        self.client, self.seconds = client, seconds
        self._address, self._errors = address, errors

    @classmethod
    def connect(
        cls, address: KafkaAddress, settings: Mapping[str, str], seconds: float = _ANSWER_SECONDS
    ) -> Self:
        """Return an ``Admin`` with a client of its own.

        Args:
            address: The brokers.
            settings: What the user has set of the client.
            seconds: Until a question must be answered.

        Raises:
            ConfigError: If a setting cannot be used.
        """
        errors: list[KafkaError] = []
        own = client_settings(address, settings, FaultLog(), error_cb=errors.append)
        return cls(address, made(AdminClient, own), errors, seconds)

    def cluster(self) -> ClusterMetadata:
        """Return the brokers, and all topics with their partitions.

        Raises:
            KVStreamError: If no broker answers.
        """
        try:
            return self.client.list_topics(timeout=self.seconds)
        except KafkaException as error:
            self.client.poll(0)  # which calls back with what went wrong
            why = next((str(each.str()) for each in self._errors if each.code() != _ALL_DOWN), "")
            raise kafka_error(self._address, error, why) from error

    def absent(self, cluster: ClusterMetadata) -> list[str]:
        """Return the topics of a fleet that are not there."""
        return [topic.topic for topic in required(self._address, 1, 1) if topic.topic not in cluster.topics]
