"""What never reaches a cache raises alerts of the stream."""

import anyio

from kvstream import KVStream
from kvstream.events.types import Op
from tests.streaming.test_liveness import clock, config, frame, simulated


def test_refused_events_raise_one_alert_that_names_the_limit_and_ends():
    async def main():
        async with KVStream(config(1.0, max_caches=2, forget_seconds=0.0), clock=clock) as stream:
            alerts = stream.alerts()
            for n in range(200):
                await stream.send(frame(Op.ALLOC, [1], f"s{n}", ts=clock()))
                await anyio.sleep(0.1)
            firing = stream.summary_nowait().alerts
            await anyio.sleep(120)
        return firing, [alert async for alert in alerts if alert.rule == "limit_reached"]

    firing, (fired, resolved) = simulated(main)
    assert (fired.state, fired.source, fired.tier, fired.level) == ("firing", "*", "*", "warning")
    assert "more than 2 caches (max_caches = 2)" in fired.message
    assert resolved.state == "resolved"
    assert resolved.fingerprint == fired.fingerprint
    assert [alert["rule"] for alert in firing].count("limit_reached") == 1


def test_a_stream_that_ends_at_once_still_says_that_it_refused_events():
    async def main():
        async with KVStream(config(max_live_blocks=2)) as stream:
            alerts = stream.alerts()
            await stream.producer("engine").allocated(range(10))
        return [alert async for alert in alerts]

    (alert,) = anyio.run(main)
    assert (alert.rule, alert.state) == ("limit_reached", "firing")
    assert "max_live_blocks = 2" in alert.message


def test_a_producer_that_repeats_itself_is_noticed_in_a_stream():
    async def main():
        async with KVStream(config(1.0), clock=clock) as stream:
            alerts = stream.alerts()
            for _ in range(120):
                await stream.send(frame(Op.ALLOC, [1], "engine", ts=5, seq=0))
                await anyio.sleep(1)
        return [alert async for alert in alerts]

    assert "frames_repeated" in [alert.rule for alert in simulated(main)]
