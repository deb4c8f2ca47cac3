import anyio

from kvstream import KVStream
from kvstream.alerts.groups import alert_groups
from kvstream.subscriptions.subscription import Subscription
from tests.alerting import alert
from tests.waiting import DEADLINE


async def test_alerts_of_a_source_come_together_each_once_in_its_last_state():
    alerts = Subscription("alerts", 100)
    for source, state, name in [
        ("a", "firing", "1"),
        ("b", "firing", "2"),
        ("a", "firing", "3"),
        ("a", "resolved", "1"),
    ]:
        alerts.publish(alert(state, source=source, fingerprint=name))
    groups = alert_groups(alerts, wait_seconds=0.01)
    with anyio.fail_after(DEADLINE):
        first, second = await anext(groups), await anext(groups)
        assert [(a.fingerprint, a.state) for a in first.alerts] == [("1", "resolved"), ("3", "firing")]
        assert (first.source, second.source, len(second.alerts)) == ("a", "b", 1)
        alerts.publish(alert(source="c"))
        assert [a.source for a in (await anext(groups)).alerts] == ["c"]
        alerts.close()
        assert [group async for group in groups] == []


async def test_a_closing_stream_does_not_wait_for_more_alerts():
    groups = []
    with anyio.fail_after(DEADLINE):
        async with KVStream() as stream:
            stream.on_alert_group(groups.append, wait_seconds=3600)
            producer = stream.producer("engine-0")
            producer.drop("closed", 1)
            await producer.accessed(1, ts=10**18)
            await stream.flush()
    assert [a.rule for group in groups for a in group.alerts] == ["lost_frames"]
