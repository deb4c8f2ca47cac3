"""What ``kvstream doctor kafka://…`` finds at a broker."""

import json

import pytest

from kvstream.fleet.address import KafkaAddress
from kvstream.fleet.inspection import Fleet, Group, inspect
from tests.cli.conftest import kvstream as kvstream
from tests.fleet.brokers import PARTITIONS, REAL, ck, mock_cluster
from tests.ports import free_port
from tests.waiting import DEADLINE


@pytest.fixture
def written(broker):
    """A fleet with records in one partition of its frames; the workers have committed some of them."""
    address = KafkaAddress.parse(broker.url())
    producer = ck.Producer({"bootstrap.servers": address.brokers, "log_level": 0})
    for _ in range(3):
        producer.produce(address.frames, b"frame", partition=1)
        assert producer.flush(DEADLINE) == 0  # each on its own, as Tansu has one offset a batch
    consumer = ck.Consumer(
        {"bootstrap.servers": address.brokers, "group.id": address.workers, "enable.auto.commit": False}
    )
    consumer.commit(offsets=[ck.TopicPartition(address.frames, 1, 2)], asynchronous=False)
    consumer.close()
    return address


def checked(kvstream, *args, **options):
    """What doctor says of an endpoint."""
    ran = kvstream("doctor", *args, "--json", **options)
    [found] = [each for each in map(json.loads, ran.out.splitlines()) if each["name"] == "endpoint"]
    assert ran.code == (found["state"] == "error")
    return found


def test_partitions_records_and_what_groups_have_committed_are_found(written):
    found = inspect(written, {}, DEADLINE)
    assert found == Fleet(
        brokers=found.brokers,
        absent=[],
        partitions=PARTITIONS,
        without_leader=0,
        records=3,
        groups=(Group(written.workers, PARTITIONS, 1, 1), Group(written.notifiers, PARTITIONS, 0, 0)),
    )
    assert found.brokers >= 1


def test_doctor_says_it_of_a_fleet(kvstream, written):
    found = checked(kvstream, str(written), "--wait", f"{DEADLINE}s")
    assert found["state"] == "ok"
    assert f"{written.frames} has {PARTITIONS} partitions and 3 records" in found["found"]
    assert f"{written.workers} has committed 1 of {PARTITIONS} partitions and is 1 records" in found["found"]


def test_doctor_says_what_is_missing(kvstream, broker):
    address = KafkaAddress.parse(broker.url())
    found = checked(kvstream, f"kafka://{address.brokers}/{address.prefix}-not", "--wait", f"{DEADLINE}s")
    assert found["state"] == "error"
    assert f"no topic {address.prefix}-not.frames" in found["found"]
    assert "--create-topics" in found["advice"]
    found = checked(kvstream, str(address), "--wait", f"{DEADLINE}s")
    assert (found["state"], "start kvstream fleet agent" in found["advice"]) == ("warning", True)


def test_doctor_says_that_nobody_applies_records(kvstream, broker):
    address = KafkaAddress.parse(broker.url())
    producer = ck.Producer({"bootstrap.servers": address.brokers, "log_level": 0})
    producer.produce(address.frames, b"frame")
    assert producer.flush(DEADLINE) == 0
    found = checked(kvstream, str(address), "--wait", f"{DEADLINE}s")
    assert (found["state"], "start kvstream fleet worker" in found["advice"]) == ("warning", True)


def test_doctor_says_where_no_broker_is(kvstream, tmp_path):
    found = checked(kvstream, f"kafka://127.0.0.1:{free_port()}/kv", "--wait", "500ms")
    assert found["state"] == "error"
    assert "no broker answers (Connection refused): start it, or correct the address" in found["found"]
    found = checked(kvstream, "kafka://nonsense", "--wait", "500ms")
    assert "write kafka://HOST:PORT/PREFIX" in found["found"]


def test_settings_of_the_client_come_from_a_file(kvstream, tmp_path):
    (tmp_path / "client").write_text("no.such.setting=1\n")
    found = checked(
        kvstream, f"kafka://127.0.0.1:{free_port()}/kv", "--kafka-config", tmp_path / "client", "--wait", "5s"
    )
    assert "no.such.setting" in found["found"]
    ran = kvstream("doctor", "--kafka-config", tmp_path / "missing")
    assert (ran.code, "No such file" in ran.err) == (1, True)


@pytest.mark.skipif(bool(REAL), reason="takes brokers down")
def test_partitions_without_a_leader_are_counted():
    with mock_cluster() as cluster:
        address = KafkaAddress.parse(cluster.url())
        cluster.lead(address.frames, 2, None)
        found = inspect(address, {}, DEADLINE)
    assert (found.partitions, found.without_leader) == (PARTITIONS, 1)
