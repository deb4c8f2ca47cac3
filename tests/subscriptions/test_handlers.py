"""Subscriptions and handlers of a stream, on both event loops."""

import asyncio
import logging
import threading
from contextlib import suppress

import anyio
import pytest

from kvstream import KVStream, MetricsConfig, StreamConfig
from kvstream.alerts.buffer import AlertBuffer
from kvstream.alerts.types import AlertLevel
from kvstream.errors import UndeliveredError
from kvstream.subscriptions.buffer import MessageBuffer
from kvstream.subscriptions.handler import Delivery
from kvstream.subscriptions.subscription import Subscription
from tests.alerting import alert
from tests.faults.test_containment import FOR_ALL, backends, errors, forms, raising
from tests.waiting import DEADLINE, until


def config(**changes):
    return StreamConfig(metrics=MetricsConfig(export_interval=0.0), **changes)


def balanced(entry):
    return entry.published == entry.delivered + entry.buffered + entry.dropped + entry.superseded


@backends
@forms
@errors
def test_whatever_a_handler_raises_ends_that_call_alone(backend, form, error, caplog):
    calls = []
    raise_it = raising(error, form)

    if form == "async":

        async def handler(event):
            calls.append(event.block_id)
            await raise_it()
    else:

        def handler(event):
            calls.append(event.block_id)
            return raise_it()

    handler.__qualname__ = "pager\x1b[31m"

    async def main():
        with anyio.fail_after(DEADLINE):
            async with KVStream(config()) as stream:
                stream.on_eviction(handler)
                producer = stream.producer("e")
                await producer.allocated([1, 2, 3])
                await producer.evicted([1, 2, 3])
        return stream.statistics()

    statistics = anyio.run(main, backend=backend)
    assert calls == [1, 2, 3]
    (entry,) = statistics.subscribers
    assert (entry.delivered, entry.failures, entry.undelivered) == (3, 3, 3)
    assert sum(n for (part, _), n in statistics.faults.items() if part == "handler") == 3
    assert "pager\\x1b[31m failed" in caplog.text
    assert "\x1b" not in caplog.text


@backends
@forms
@pytest.mark.parametrize("error", FOR_ALL, ids=repr)
def test_what_a_handler_raises_for_the_process_goes_through(backend, form, error):
    raise_it = raising(error, form)

    async def main():
        async with KVStream(config()) as stream:
            stream.on_alert(lambda alert: raise_it())
            stream._alerts.publish(alert())
            await anyio.sleep(DEADLINE)

    with pytest.raises((KeyboardInterrupt, SystemExit, BaseExceptionGroup)) as caught:
        anyio.run(main, backend=backend)
    assert type(caught.value) is type(error) or caught.group_contains((KeyboardInterrupt, SystemExit))


@backends
def test_a_cancelled_stream_cancels_its_handlers_and_accounts_for_what_they_had(backend):
    began = []

    async def handler(alert):
        began.append(alert)
        with suppress(ValueError):
            await anyio.sleep_forever()

    async def main():
        with anyio.fail_after(DEADLINE), anyio.CancelScope() as scope:
            async with KVStream(config()) as stream:
                stream.on_alert(handler)
                for number in range(3):
                    stream._alerts.publish(alert(fingerprint=str(number)))
                await until(lambda: began)
                scope.cancel()
                await anyio.sleep_forever()
        return stream.statistics().subscribers

    (entry,) = anyio.run(main, backend=backend)
    assert len(began) == 1
    assert (entry.published, entry.delivered, entry.dropped, entry.undelivered) == (3, 0, 3, 3)


@errors
def test_an_item_for_which_a_filter_raises_is_left_out(error, caplog):
    def picky(item):
        if item == 2:
            raise error
        return True

    subscription = Subscription("numbers", 10, wanted=picky)
    for number in (1, 2, 3):
        subscription.publish(number)
    assert list(subscription.buffered()) == [1, 3]
    assert subscription.statistics().failures == 1
    assert "the filter of numbers failed" in caplog.text


def test_a_filter_that_raises_for_the_process_is_heard():
    def interrupted(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Subscription("numbers", 10, wanted=interrupted).publish(1)


@backends
def test_what_could_not_be_delivered_comes_again_in_its_newest_state(backend):
    taken, down = [], [True]

    class Pager(Delivery):
        destination = "pager"

        async def deliver(self, item):
            if down:
                raise UndeliveredError("busy")
            taken.append((item.fingerprint, item.state))

    async def main():
        async with KVStream(config(delivery_timeout=DEADLINE, shutdown_timeout=DEADLINE)) as stream:
            stream.on_alert(Pager())
            seen = stream._alerts.statistics
            stream._alerts.publish(alert(fingerprint="a"))
            await until(lambda: seen()[0].failures)
            stream._alerts.publish(alert(fingerprint="b"))
            for number in range(500):
                state = "firing" if number % 2 else "resolved"
                stream._alerts.publish(alert(state, fingerprint="c"))
            stream._alerts.publish(alert("resolved", fingerprint="a"))
            await until(lambda: seen()[0].failures > 2)
            assert balanced(seen()[0])
            down.clear()
        return stream.statistics()

    statistics = anyio.run(main, backend=backend)
    assert taken == [("a", "resolved"), ("b", "firing"), ("c", "firing")]
    (entry,) = statistics.subscribers
    assert (entry.published, entry.delivered, entry.superseded, entry.dropped) == (503, 3, 500, 0)
    assert (entry.undelivered, entry.destination, entry.topic) == (0, "pager", "alerts")
    assert statistics.faults["handler", "undelivered"] >= 1


async def test_what_a_receiver_asks_for_is_the_pause():
    attempts = []

    async def handler(alert):
        attempts.append(anyio.current_time())
        if len(attempts) == 1:
            raise UndeliveredError("later", retry_after=0.5)

    async with KVStream(config()) as stream:
        stream.on_alert(handler)
        stream._alerts.publish(alert())
        await until(lambda: len(attempts) == 2)
    assert attempts[1] - attempts[0] >= 0.5
    assert UndeliveredError("much later", 10**9).retry_after == 3600
    assert UndeliveredError("nonsense", float("nan")).retry_after == 0


async def test_a_closing_stream_waits_while_a_handler_succeeds_and_not_while_it_fails(caplog):
    caplog.set_level(logging.CRITICAL, "kvstream")

    async def slow(alert):
        await anyio.sleep(0.3)

    async def failing(alert):
        raise UndeliveredError("down")

    with anyio.fail_after(DEADLINE):
        async with KVStream(config(delivery_timeout=1.0, shutdown_timeout=DEADLINE)) as stream:
            stream.on_alert(slow)
            stream.on_alert(failing)
            for number in range(5):
                stream._alerts.publish(alert(fingerprint=str(number)))
    first, second = stream.statistics().subscribers
    assert (first.delivered, first.undelivered) == (5, 0)
    assert (second.delivered, second.dropped, second.undelivered) == (0, 5, 5)


async def test_a_late_subscriber_begins_with_what_fires():
    async with KVStream(config()) as stream:
        producer = stream.producer("engine-0")
        producer.drop("closed", 1)
        await producer.accessed(1, ts=10**18)
        await producer.accessed(1, ts=10**18 + 10**9)
        await stream.flush()
        assert [a.rule for a in stream.firing()] == ["lost_frames"]
        assert stream.firing(AlertLevel.CRITICAL) == []
        late, too_high, heard, groups = stream.alerts(), stream.alerts(AlertLevel.CRITICAL), [], []
        stream.on_alert(heard.append)
        stream.on_alert_group(groups.append)
        with anyio.fail_after(DEADLINE):
            assert (await anext(late)).rule == "lost_frames"
        assert too_high.statistics().published == 0
    assert (heard[0].rule, heard[0].state) == ("lost_frames", "firing")
    assert groups[0].source == "engine-0"


async def test_two_thousand_sources_that_fire_at_once_all_reach_a_slow_subscriber_and_a_small_one():
    async with KVStream(config(subscriber_buffer=16)) as stream:
        slow, small, heard = stream.alerts(buffer=1024), stream.alerts(buffer=1), []

        async def handler(alert):
            heard.append(alert.source)

        stream.on_alert(handler)
        for number in range(2000):
            stream._alerts.publish(alert(source=f"e{number}", fingerprint=f"{number}"))
    sources = [f"e{number}" for number in range(2000)]
    assert heard == sources
    assert [a.source async for a in slow] == sources
    assert [a.source async for a in small] == sources


async def test_a_message_put_back_comes_first_as_far_as_there_is_room():
    buffer = MessageBuffer(2)
    for number in (1, 2):
        buffer.put(number)
    first = buffer.take()
    buffer.put(3)
    buffer.put_back([first])
    assert (list(buffer.items()), buffer.dropped) == ([2, 3], 1)
    assert buffer.take_all(lambda number: number == 3) == [3]
    buffer.put_back([1])
    assert list(buffer.items()) == [1, 2]


async def test_cancelling_whoever_waits_loses_nothing():
    subscription = Subscription("alerts", 4, waiting=AlertBuffer(4))
    with anyio.move_on_after(0.01):
        await subscription.wait()
    subscription.publish(alert())
    assert await subscription.wait()
    assert (await anext(subscription)) == alert()
    subscription.close()
    assert not await subscription.wait()
    await subscription.wait_closed()


async def test_a_handler_that_cancels_its_own_task_is_called_again():
    calls = []

    async def handler(alert):
        calls.append(alert)
        asyncio.current_task().cancel()

    async with KVStream(config()) as stream:
        stream.on_alert(handler)
        for number in range(3):
            stream._alerts.publish(alert(fingerprint=str(number)))
    assert len(calls) == 3


@backends
def test_a_thread_that_goes_on_after_a_cancellation_holds_nobody_up(backend):
    release = threading.Event()

    async def main():
        with anyio.fail_after(DEADLINE):
            async with KVStream(config(shutdown_timeout=0.2)) as stream:
                stream.on_alert(lambda alert: release.wait())
                stream._alerts.publish(alert())
        release.set()
        return stream.statistics().subscribers

    (entry,) = anyio.run(main, backend=backend)
    assert (entry.delivered, entry.undelivered) == (0, 1)
