"""Workers around a broker, and one process that nothing interrupts to compare them with."""

import threading
import time
import uuid
from contextlib import contextmanager

import confluent_kafka as ck
import msgspec

from kvstream.alerts.rules_file import default_rules
from kvstream.alerts.types import CacheAlert
from kvstream.events.codec import encode_frame
from kvstream.fleet.address import KafkaAddress
from kvstream.fleet.partition import Record
from kvstream.fleet.snapshots import Snapshots
from kvstream.fleet.worker import Worker, WorkerSettings
from tests.fleet.partitions import CONFIG, partition
from tests.waiting import DEADLINE

SETTINGS = WorkerSettings(checkpoint_seconds=0.2, session_seconds=6.0, summary_seconds=0.5)


def write(broker, url, frames):
    """Writes frames to the topic; returns how many there are."""
    producer = ck.Producer({"bootstrap.servers": broker.address, "partitioner": "murmur2", "log_level": 0})
    topic = KafkaAddress.parse(url).frames
    for frame in frames:
        producer.produce(topic, encode_frame(frame), frame.source.encode())
    assert producer.flush(DEADLINE) == 0
    return len(frames)


def new_worker(url, place, *, config=CONFIG, settings=SETTINGS, kafka=None, snapshots=None):
    address = KafkaAddress.parse(url)
    snapshots = snapshots or Snapshots.at(str(place), address.frames, "test")
    worker = Worker(address, kafka or {"log_level": "0"}, snapshots, config, default_rules(), (), settings)
    worker.connect()
    return worker


@contextmanager
def working(worker):
    """A worker in a thread; stopped at the end."""
    stop, raised = threading.Event(), []

    def run():
        try:
            worker.run(stop)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield worker
    finally:
        stop.set()
        thread.join(DEADLINE)
        assert not thread.is_alive()
    if raised:
        raise raised[0]


def wait_until(condition):
    until = time.monotonic() + DEADLINE
    while not (found := condition()):
        assert time.monotonic() < until, condition
        time.sleep(0.02)
    return found


def committed(broker, url):
    """The committed offset of each partition, and what else the commit says; nothing where no group is."""
    address = KafkaAddress.parse(url)
    consumer = ck.Consumer({"bootstrap.servers": broker.address, "group.id": address.workers, "log_level": 0})
    try:
        numbers = consumer.list_topics(address.frames, timeout=DEADLINE).topics[address.frames].partitions
        found = consumer.committed([ck.TopicPartition(address.frames, n) for n in numbers], timeout=DEADLINE)
        return {each.partition: (each.offset, each.metadata) for each in found}
    except ck.KafkaException as error:
        if error.args[0].code() != ck.KafkaError.GROUP_ID_NOT_FOUND:
            raise
        return {}
    finally:
        consumer.close()


def written(broker, url, kind="frames"):
    """The records of a topic, by partition."""
    found = {}
    for number, offset, key, value, at_ms in broker.records(getattr(KafkaAddress.parse(url), kind)):
        found.setdefault(number, []).append((key, Record(offset, at_ms, value)))
    return found


def uninterrupted(broker, url, upto, config=CONFIG):
    """Each partition as one process sees it that begins at the first record, and all alerts it says."""
    parts, alerts, found = {}, [], written(broker, url)
    for number, offset in upto.items():
        part = parts[number] = partition(config)
        alerts += part.apply([record for _, record in found.get(number, ()) if record.offset < offset])
    return parts, alerts


def is_saved(broker, url, place):
    """Whether the newest whole snapshot of each partition is the committed one."""
    snapshots = Snapshots.at(str(place), KafkaAddress.parse(url).frames, "test")
    offsets = {number: offset for number, (offset, _) in committed(broker, url).items() if offset >= 0}
    return all(snapshots.newest(number, offset).offset == offset for number, offset in offsets.items())


def saved(broker, url, place, config=CONFIG):
    """Each partition as its committed snapshot has it, read by what the broker says alone."""
    address = KafkaAddress.parse(url)
    found = {}
    for number, (offset, _) in committed(broker, url).items():
        if offset < 0:
            continue
        snapshot = Snapshots.at(str(place), address.frames, "test").newest(number, offset)
        assert snapshot.offset == offset, number
        part = found[number] = partition(config)
        part.restore(snapshot.sections)
    return found


def ids(alerts):
    """What names each change of an incident."""
    return {(alert.fingerprint, alert.started_at, alert.state, alert.level) for alert in alerts}


def published(broker, url):
    found = written(broker, url, "alerts")
    return [
        msgspec.json.decode(record.value, type=CacheAlert) for each in found.values() for _, record in each
    ]


def fresh(tmp_path):
    return tmp_path / uuid.uuid4().hex
