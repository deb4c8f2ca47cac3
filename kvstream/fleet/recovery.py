"""Recovery: a partition's state from the snapshot that its committed offset names, or why that cannot be."""

from confluent_kafka import Consumer, KafkaException, TopicPartition

from kvstream.alerts.types import CacheAlert
from kvstream.errors import StateError
from kvstream.faults.log import FaultLog
from kvstream.fleet.partition import Partition
from kvstream.fleet.snapshots import Snapshots

_ANSWER_SECONDS = 10.0


def committed_offset(consumer: Consumer, place: TopicPartition) -> int | None:
    """Return the offset that the group has committed; None if there is none.

    Raises:
        KafkaException: If the broker does not say.
    """
    [committed] = consumer.committed([place], timeout=_ANSWER_SECONDS)
    if committed.error is not None:
        raise KafkaException(committed.error)
    return committed.offset if committed.offset >= 0 else None


def recover(
    consumer: Consumer,
    snapshots: Snapshots,
    place: TopicPartition,
    committed: int | None,
    partition: Partition,
    faults: FaultLog,
) -> list[CacheAlert]:
    """Bring a new partition to where its group has committed; return alerts that end as rules have changed.

    Args:
        consumer: Asks how far the log goes.
        snapshots: Where state is kept.
        place: The partition of the topic.
        committed: Its committed offset; None if there is none.
        partition: To be restored; its ``offset`` is then where to read on.
        faults: Where it is noted that an older snapshot had to do, or that records are gone.

    Raises:
        StateError: If going on would be wrong.
        KafkaException: If the broker does not answer.
        Exception: Of whatever keeps the snapshots, if it does not.
    """
    first, end = consumer.get_watermark_offsets(place, timeout=_ANSWER_SECONDS)
    snapshot = snapshots.newest(place.partition, committed)
    if snapshot is None:
        if committed:
            raise StateError(
                f"{snapshots.place} has no snapshot of it, though offset {committed:,} is committed"
            )
        partition.read_from(first)
        return []
    if snapshot.offset > end:
        raise StateError(
            f"{snapshot.name} is ahead of the log, which ends at {end:,}: the topic is another one"
        )
    if snapshot.offset < first:
        faults.note(
            "state", "retention", f"{partition.name}: records {snapshot.offset:,} to {first - 1:,} are gone"
        )
    if committed is not None and snapshot.offset < committed:
        faults.note(
            "state", "older", f"{partition.name}: goes on from {snapshot.name}, as newer ones are not whole"
        )
    alerts = partition.restore(snapshot.sections)
    partition.read_from(max(snapshot.offset, first))
    return alerts
