"""What a broker has of a fleet: its topics, how many records they hold, and how far each group has come."""

from collections.abc import Mapping
from typing import NamedTuple

from kvstream.errors import MissingExtraError
from kvstream.fleet.address import KafkaAddress

try:
    from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
    from confluent_kafka.admin import ClusterMetadata, OffsetSpec  # type: ignore[attr-defined]

    from kvstream.fleet.client import kafka_error
    from kvstream.fleet.topics import Admin
except ImportError:
    raise MissingExtraError("kafka://", "kafka") from None


class Group(NamedTuple):
    """How far a consumer group has come in its topic.

    Attributes:
        name: Its name.
        partitions: Partitions of the topic.
        committed: Those of which it has committed an offset.
        behind: Records in these that it has not come to.
    """

    name: str
    partitions: int
    committed: int
    behind: int


class Fleet(NamedTuple):
    """What a broker has of a fleet.

    Attributes:
        brokers: Brokers of the cluster.
        absent: Topics that are not there; nothing more is then known.
        partitions: Of the frames.
        without_leader: Those of them that no broker leads now.
        records: Records of frames that are kept.
        groups: The workers and the notifiers.
    """

    brokers: int
    absent: list[str]
    partitions: int = 0
    without_leader: int = 0
    records: int = 0
    groups: tuple[Group, ...] = ()


def inspect(address: KafkaAddress, settings: Mapping[str, str], seconds: float) -> Fleet:
    """Return what a broker has of a fleet; nothing is changed there.

    Args:
        address: The brokers, and the prefix of the fleet's topics.
        settings: What the user has set of the client.
        seconds: Until each question must be answered.

    Raises:
        ConfigError: If a setting cannot be used.
        KVStreamError: If no broker answers, or one refuses.
    """
    admin = Admin.connect(address, settings, seconds)
    cluster = admin.cluster()
    if absent := admin.absent(cluster):
        return Fleet(len(cluster.brokers), absent)
    frames = cluster.topics[address.frames].partitions
    try:
        workers, records = _group(admin, cluster, address.workers, address.frames)
        notifiers, _ = _group(admin, cluster, address.notifiers, address.alerts)
    except KafkaException as error:
        raise kafka_error(address, error) from error
    led = _led(cluster, address.frames)
    return Fleet(len(cluster.brokers), [], len(frames), len(frames) - len(led), records, (workers, notifiers))


def _led(cluster: ClusterMetadata, topic: str) -> list[TopicPartition]:
    """Return the partitions of a topic that a broker leads, which are those that can be asked for."""
    partitions = cluster.topics[topic].partitions
    return [TopicPartition(topic, n) for n, found in partitions.items() if found.leader in cluster.brokers]


def _group(admin: Admin, cluster: ClusterMetadata, name: str, topic: str) -> tuple[Group, int]:
    """Return how far a group has come in a topic, and how many records that keeps.

    Raises:
        KafkaException: If the broker does not say.
    """
    places = _led(cluster, topic)
    first = _offsets(admin, places, OffsetSpec.earliest())  # type: ignore[no-untyped-call]
    end = _offsets(admin, places, OffsetSpec.latest())  # type: ignore[no-untyped-call]
    asked = [ConsumerGroupTopicPartitions(name, places)]
    answer = admin.client.list_consumer_group_offsets(asked, request_timeout=admin.seconds)[name].result()
    committed = {place.partition: place.offset for place in answer.topic_partitions if place.offset >= 0}
    behind = sum(max(0, end[n] - max(offset, first[n])) for n, offset in committed.items())
    group = Group(name, len(cluster.topics[topic].partitions), len(committed), behind)
    return group, sum(end.values()) - sum(first.values())


def _offsets(admin: Admin, places: list[TopicPartition], which: OffsetSpec) -> dict[int, int]:
    """Return an offset of each partition, by its number.

    Raises:
        KafkaException: If the broker does not say.
    """
    if not places:
        return {}
    asked = admin.client.list_offsets(dict.fromkeys(places, which), request_timeout=admin.seconds)
    return {place.partition: answer.result().offset for place, answer in asked.items()}
