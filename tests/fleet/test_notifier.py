"""Alerts of all workers, of each change of an incident once."""

from contextlib import asynccontextmanager

import anyio
import confluent_kafka as ck
import msgspec
import pytest
from msgspec.structs import replace

from kvstream.alerts.types import alert_id
from kvstream.errors import UndeliveredError
from kvstream.fleet.address import KafkaAddress
from kvstream.fleet.notifier import Notifier
from kvstream.stream import KVStream
from tests.serving import alert
from tests.waiting import DEADLINE, until

pytestmark = pytest.mark.slow  # a group takes three seconds to come together


def incident(number, state="firing"):
    return replace(alert(number, state), fingerprint=f"{number:016x}", started_at=float(number))


def publish(broker, url, alerts):
    producer = ck.Producer({"bootstrap.servers": broker.address, "partitioner": "murmur2", "log_level": 0})
    for each in alerts:
        value = each if isinstance(each, bytes) else msgspec.json.encode(each)
        key = b"" if isinstance(each, bytes) else each.fingerprint.encode()
        producer.produce(KafkaAddress.parse(url).alerts, value, key)
    assert producer.flush(DEADLINE) == 0


@asynccontextmanager
async def notifying(url, handler):
    stream = KVStream()
    stream.on_alert(handler)
    notifier = Notifier(KafkaAddress.parse(url), {"log_level": "0"}, stream)
    notifier.connect()
    try:
        with anyio.fail_after(DEADLINE):
            async with stream, anyio.create_task_group() as tasks:
                tasks.start_soon(notifier.run)
                yield notifier, stream
                tasks.cancel_scope.cancel()
    finally:
        await anyio.to_thread.run_sync(notifier.close)


async def test_whatever_workers_repeat_is_sent_once(broker):
    url, sent = broker.url(), []
    alerts = [incident(n, state) for n in range(20) for state in ("firing", "resolved")]
    publish(broker, url, [*alerts, *alerts[10:30], *alerts])
    async with notifying(url, sent.append) as (notifier, _):
        await until(lambda: notifier.counts["alerts"] + notifier.counts["repeated"] == 100)
        await until(lambda: len(sent) == 40)
    assert sorted(map(alert_id, sent)) == sorted(map(alert_id, alerts))


async def test_another_notifier_sends_only_what_is_new(broker):
    url, first, second = broker.url(), [], []
    alerts = [incident(n) for n in range(10)]
    publish(broker, url, alerts)
    async with notifying(url, first.append):
        await until(lambda: len(first) == 10)
    publish(broker, url, [*alerts, incident(3, "resolved")])  # as of a worker that took over
    async with notifying(url, second.append) as (notifier, stream):
        await until(lambda: second)
        await until(lambda: notifier.counts["repeated"] == 10)
        firing = {each.fingerprint for each in stream.firing()}
    assert [alert_id(each) for each in second] == [alert_id(incident(3, "resolved"))]
    assert firing == {each.fingerprint for each in alerts} - {incident(3).fingerprint}


async def test_what_could_not_be_delivered_is_left_to_the_next_one(broker):
    url, sent = broker.url(), []

    async def refuse(_):
        raise UndeliveredError("nobody is there", retry_after=600.0)

    publish(broker, url, [incident(1)])
    async with notifying(url, refuse) as (notifier, stream):
        await until(lambda: stream.statistics().subscribers[0].failures)
    assert notifier.counts["commits"] == 0
    async with notifying(url, sent.append):
        await until(lambda: sent)
    assert [alert_id(each) for each in sent] == [alert_id(incident(1))]


async def test_what_is_no_alert_is_counted_and_passed_over(broker, caplog):
    url, sent = broker.url(), []
    publish(broker, url, [b"", b"{", b'{"type":"alert"}', incident(1)])
    async with notifying(url, sent.append) as (notifier, _):
        await until(lambda: sent)
        await until(lambda: notifier.counts["malformed"] == 3)
    assert ".alerts[" in caplog.text
