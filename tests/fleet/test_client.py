"""What the clients of a fleet say of its brokers."""

import logging

import pytest

from kvstream.faults.log import FaultLog
from kvstream.fleet.address import KafkaAddress
from kvstream.fleet.client import client_settings, made
from tests.fleet.brokers import ck, mock_cluster
from tests.fleet.workers import wait_until
from tests.ports import free_port

KEEN = {"statistics.interval.ms": "100", "reconnect.backoff.max.ms": "100"}


@pytest.fixture
def said(caplog):
    """What an operator is shown, and with ``-v`` what details as well, as functions."""
    caplog.set_level(logging.INFO, "kvstream")

    def lines(level=logging.WARNING):
        return [record.getMessage() for record in caplog.records if record.levelno >= level]

    return lines


def producer(address, faults, settings=None):
    return made(ck.Producer, client_settings(address, KEEN | (settings or {}), faults))


def wait_for(client, condition):
    def polled():
        client.poll(0)
        return condition()

    wait_until(polled)


def test_that_no_broker_answers_is_said_once_by_all_clients_of_a_process(said):
    address, faults = KafkaAddress.parse(f"kafka://127.0.0.1:{free_port()}/kv"), FaultLog()
    clients = [producer(address, faults) for _ in range(2)]

    def tried():
        for client in clients:
            client.poll(0)
        return faults.counts["kafka", "unreachable"] >= 2 and faults.counts["kafka", "transport"] > 2

    wait_until(tried)
    assert said() == [
        f"{address.brokers}: no broker answers (Connection refused): start it, or correct the address; "
        "trying again until one answers"
    ]
    assert any("FAIL [kvstream#producer" in line for line in said(logging.INFO))


@pytest.mark.slow
def test_each_outage_is_said_and_that_it_is_over(said):
    with mock_cluster() as cluster:
        address, faults = KafkaAddress.parse(cluster.url()), FaultLog()
        client = producer(address, faults)
        for outage in range(2):
            cluster.go_down()
            wait_for(client, lambda lines=2 * outage + 1: len(said()) == lines)
            cluster.come_back()
            wait_for(client, lambda lines=2 * outage + 2: len(said()) == lines)
    assert [line.removeprefix(f"{address.brokers}: ")[:18] for line in said()] == [
        "no broker answers ",
        "a broker answers",
    ] * 2


def test_that_one_broker_of_several_is_down_is_a_detail(said):
    """Reported as the client reports it: a real one forgets addresses that it has not tried yet."""
    address, faults = KafkaAddress.parse("kafka://kafka-0:9092,kafka-1:9092/kv"), FaultLog()
    why = "kafka-0:9092/bootstrap: Connect to ipv4#10.0.0.1:9092 failed: Connection refused"
    client_settings(address, {}, faults)["error_cb"](ck.KafkaError(ck.KafkaError._TRANSPORT, why))
    assert said() == []
    assert said(logging.INFO) == [f"{address.brokers}: {why}"]
    assert faults.counts["kafka", "transport"] == 1
