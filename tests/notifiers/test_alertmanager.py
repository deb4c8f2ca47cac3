"""Alertmanager: the real one where it is installed, and a server that refuses what it refuses."""

import json
import shutil
import subprocess
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import anyio
import httpx2
import pytest
from msgspec.structs import replace

from kvstream.alerts.rules_file import default_rules
from kvstream.alerts.types import AlertLevel
from kvstream.config import MetricsConfig, StreamConfig
from kvstream.errors import ConfigError
from kvstream.notifiers.alertmanager import Alertmanager, Post, alertmanager_alert
from kvstream.stream import KVStream
from tests.alerting import alert, endpoint
from tests.ports import free_port
from tests.text.test_escape import HOSTILE_NAMES
from tests.waiting import DEADLINE, until

MINUTE = timedelta(minutes=1)
CONFIG = StreamConfig(metrics=MetricsConfig(export_interval=0.0), shutdown_timeout=DEADLINE)


def posts(received):
    """What was posted: for each post, the names, severities and whether they end."""
    return [
        [
            (each["labels"]["source"], each["labels"]["severity"], ends(each) <= datetime.now(UTC))
            for each in json.loads(body)
        ]
        for _, _, body in received
    ]


def starts(posted):
    return datetime.fromisoformat(posted["startsAt"])


def ends(posted):
    return datetime.fromisoformat(posted["endsAt"])


async def fire(stream, source="engine-0"):
    """Make an alert of lost frames fire, as long as nothing more comes of the source."""
    producer = stream.producer(source)
    producer.drop("closed", 1)
    await producer.accessed(1, ts=10**18)
    await producer.accessed(1, ts=10**18 + 10**9)
    await stream.flush()


@asynccontextmanager
async def running_alertmanager(folder):
    program = shutil.which("prometheus-alertmanager")
    if program is None:
        pytest.skip("needs Alertmanager: apt-get install prometheus-alertmanager")
    (folder / "am.yml").write_text("route: {receiver: nobody}\nreceivers: [{name: nobody}]\n")
    port = free_port()
    arguments = [
        f"--config.file={folder}/am.yml",
        f"--storage.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
    ]
    url = f"http://127.0.0.1:{port}"
    process = await anyio.open_process([program, *arguments], stdout=None, stderr=subprocess.DEVNULL)
    try:
        async with httpx2.AsyncClient(base_url=url, timeout=DEADLINE) as client:

            async def shown():
                try:
                    answer = await client.get("/api/v2/alerts")
                except httpx2.TransportError:
                    return None
                return answer.json() if answer.status_code == 200 else None

            with anyio.fail_after(DEADLINE):
                while await shown() is None:  # noqa: ASYNC110 - it is another process
                    await anyio.sleep(0.05)
            yield url, shown
    finally:
        process.terminate()
        await process.aclose()


async def test_a_real_alertmanager_shows_what_fires_and_no_more_what_is_over(tmp_path):
    ahead = time.time() + 600
    async with running_alertmanager(tmp_path) as (url, shown):
        handler = Alertmanager(url)

        async def severities():
            return [each["labels"]["severity"] for each in await shown()]

        with anyio.fail_after(DEADLINE):
            await handler.deliver(Post([alert(started_at=ahead, level=AlertLevel.WARNING)], changed=True))
            (posted,) = await shown()
            assert posted["labels"] == {
                "alertname": "hit_ratio_drop",
                "severity": "warning",
                "source": "vllm-0",
                "tier": "gpu",
            }
            assert posted["annotations"]["summary"] == alert().message
            assert posted["status"]["state"] in ("active", "unprocessed")
            await handler.deliver(Post([alert(started_at=ahead)], changed=True))
            while await severities() != ["critical"]:  # noqa: ASYNC110 - it is another process
                await anyio.sleep(0.05)
            await handler.deliver(Post([alert("resolved", started_at=ahead)], changed=True))
            while await shown():  # noqa: ASYNC110 - it is another process
                await anyio.sleep(0.05)


async def test_a_real_alertmanager_takes_any_name(tmp_path):
    alerts = [
        alert(
            source=name, message=name, labels={name: name, "empty": "", "9": "nine"}, fingerprint=str(number)
        )
        for number, name in enumerate(HOSTILE_NAMES.values())
    ]
    async with running_alertmanager(tmp_path) as (url, shown):
        await Alertmanager(url).deliver(Post(alerts, changed=True))
        posted = await shown()
    assert len(posted) == len(alerts)
    assert all("empty" not in each["labels"] and each["labels"]["_9"] == "nine" for each in posted)


async def test_what_fires_is_posted_again_whether_or_not_there_are_summaries():
    with endpoint(200) as (url, received):
        with anyio.fail_after(DEADLINE):
            async with KVStream(CONFIG) as stream:
                Alertmanager(url, repeat_seconds=0.05).attach(stream)
                await fire(stream)
                await until(lambda: len(received) >= 4)
    assert {each for post in posts(received) for each in post} == {("engine-0", "warning", False)}
    for path, _, body in received:
        assert path == "/api/v2/alerts"
        (posted,) = json.loads(body)
        assert posted["labels"]["alertname"] == "lost_frames"
        assert posted["startsAt"] == "2001-09-09T01:46:41+00:00", "the end of the window"


async def test_the_minimum_severity_holds_for_changes_and_for_repeats():
    with endpoint(200) as (url, received):
        async with KVStream(CONFIG) as stream:
            Alertmanager(url, repeat_seconds=0.02).attach(stream, AlertLevel.CRITICAL)
            await fire(stream)
            stream._alerts.publish(alert(source="critical"))
            await until(lambda: received)
            await anyio.sleep(0.1)
    assert posts(received) == [[("critical", "critical", False)]]


async def test_a_severity_that_rises_ends_the_lower_one_in_the_same_post():
    with endpoint(200) as (url, received):
        async with KVStream(CONFIG) as stream:
            Alertmanager(url).attach(stream)
            for change in (alert(level=AlertLevel.WARNING), alert(), alert("resolved")):
                stream._alerts.publish(change)
    assert posts(received) == [
        [("vllm-0", "warning", False)],
        [("vllm-0", "warning", True), ("vllm-0", "critical", False)],
        [("vllm-0", "critical", True)],
    ]


async def test_after_an_outage_both_severities_end():
    with endpoint(200, 503, 503, 200) as (url, received):
        async with KVStream(CONFIG) as stream:
            Alertmanager(url).attach(stream)
            stream._alerts.publish(alert(level=AlertLevel.WARNING))
            await until(lambda: len(received) == 1)
            stream._alerts.publish(alert())
            await until(lambda: len(received) == 2)
            stream._alerts.publish(alert("resolved"))
    assert posts(received)[-1] == [("vllm-0", "warning", True), ("vllm-0", "critical", True)]


async def test_many_alerts_are_posted_together_up_to_a_bound():
    with endpoint(200) as (url, received):
        async with KVStream(CONFIG) as stream:
            Alertmanager(url).attach(stream)
            for number in range(2000):
                stream._alerts.publish(alert(source=f"e{number}", fingerprint=str(number)))
    sizes = [len(post) for post in posts(received)]
    assert sum(sizes) == 2000
    assert max(sizes) <= 256
    assert len(sizes) < 20


@pytest.mark.parametrize("ahead", [0.0, 600.0, 10.0**12, -(10.0**12)])
def test_no_alert_starts_in_the_future_or_ends_before_it_starts(ahead):
    now = datetime.now(UTC)
    for state in ("firing", "resolved"):
        posted = alertmanager_alert(alert(state, started_at=now.timestamp() + ahead), now, MINUTE)
        assert starts(posted) <= now
        assert ends(posted) >= starts(posted)
        assert (ends(posted) > now) == (state == "firing")


def test_labels_of_rules_do_not_hide_what_an_alert_is():
    labels = {"severity": "x", "alertname": "x", "team": "inference", "a-b.c": "d"}
    posted = alertmanager_alert(alert(labels=labels), datetime.now(UTC), MINUTE)["labels"]
    assert posted == {
        "alertname": "hit_ratio_drop",
        "severity": "critical",
        "source": "vllm-0",
        "tier": "gpu",
        "team": "inference",
        "a_b_c": "d",
    }


def test_an_address_that_cannot_be_posted_to_is_refused():
    with pytest.raises(ConfigError):
        Alertmanager("alertmanager:9093")


async def test_the_heartbeat_is_posted_at_once_and_again_whatever_its_level():
    rules = [replace(rule, enabled=rule.name == "heartbeat") for rule in default_rules()]
    with endpoint(200) as (url, received):
        async with KVStream(CONFIG, rules) as stream:
            alerts = stream.alerts()
            Alertmanager(url, repeat_seconds=0.05).attach(stream, AlertLevel.CRITICAL)
            await until(lambda: len(received) >= 3)
            assert stream.firing() == []
        assert [alert async for alert in alerts] == [], "as it is no news"
    assert {each for post in posts(received) for each in post} == {("*", "info", False)}
    assert json.loads(received[0][2])[0]["labels"]["alertname"] == "heartbeat"
    assert stream.heartbeat() is None, "once the stream is closed"


async def test_nothing_beats_unless_it_is_asked_for():
    with endpoint(200) as (url, received):
        async with KVStream(CONFIG) as stream:
            Alertmanager(url, repeat_seconds=0.02).attach(stream)
            await fire(stream)
            await until(lambda: len(received) >= 3)
            assert stream.heartbeat() is None
    assert {each for post in posts(received) for each in post} == {("engine-0", "warning", False)}
