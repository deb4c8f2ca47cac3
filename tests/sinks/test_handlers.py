"""Alert handlers against real servers and processes."""

import json
import re
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from datetime import UTC, datetime

import anyio
import httpx2
import pytest

from kvstream.alerts.groups import AlertGroup
from kvstream.alerts.types import AlertLevel, CacheAlert, MetricType
from kvstream.config import MetricsConfig, StreamConfig
from kvstream.errors import ConfigError, KVStreamError
from kvstream.sinks.alertmanager import Alertmanager, alertmanager_alert
from kvstream.sinks.command import Command
from kvstream.sinks.webhook import SIGNATURE_HEADER, Webhook, signature, slack_payload
from kvstream.stream import KVStream
from tests.ports import free_port, posted_to
from tests.waiting import DEADLINE


def alert(state="firing", **changes):
    fields = {
        "level": AlertLevel.CRITICAL,
        "state": state,
        "rule": "hit_ratio_drop",
        "metric": MetricType.HIT_RATIO,
        "message": "hit ratio fell to 0.06 from 0.84 <&>",
        "value": 0.06,
        "threshold": 0.64,
        "source": "vllm-0",
        "tier": "gpu",
        "timestamp": 1_700_000_010.0,
        "started_at": 1_700_000_000.0,
        "fingerprint": "0123456789abcdef",
    }
    return CacheAlert(**{**fields, **changes})


@contextmanager
def endpoint(*statuses):
    """An HTTP server that answers with these statuses, the last for ever; its URL and what it was sent."""
    received = []

    def take(path, headers, body):
        received.append((path, headers, body))
        return statuses[min(len(received), len(statuses)) - 1]

    with posted_to(take) as url:
        yield url, received


async def test_a_webhook_posts_the_alert_and_signs_it():
    with endpoint(200) as (url, received):
        await Webhook(f"{url}/hook", secret="s3cret")(alert())
    ((path, headers, body),) = received
    assert path == "/hook"
    assert json.loads(body) == alert().to_dict()
    at = int(re.fullmatch(r"t=(\d+),v1=[0-9a-f]{64}", headers[SIGNATURE_HEADER])[1])
    assert headers[SIGNATURE_HEADER] == signature("s3cret", body, at)
    assert headers[SIGNATURE_HEADER] != signature("other", body, at)


async def test_a_webhook_tries_again_what_may_pass_and_not_what_is_refused():
    with endpoint(503, 429, 200) as (url, received):
        await Webhook(url)(alert())
        assert len(received) == 3
    with endpoint(403) as (url, received):
        with pytest.raises(httpx2.HTTPStatusError):
            await Webhook(url)(alert())
        assert len(received) == 1
    with pytest.raises(httpx2.TransportError):
        await Webhook(url, give_up_after=0.3)(alert())


async def test_a_dead_endpoint_delays_nothing_and_what_is_not_delivered_is_counted():
    with endpoint(200) as (url, _):
        pass  # gone: nobody listens there any more
    config = StreamConfig(
        metrics=MetricsConfig(export_interval=0.0), subscriber_buffer=4, shutdown_timeout=0.5
    )
    with anyio.fail_after(DEADLINE):
        async with KVStream(config) as stream:
            stream.on_alert(Webhook(url, give_up_after=60))
            producer = stream.producer("engine-0")
            for second in range(200):
                await producer.accessed(1, ts=second * 1_000_000_000)
                if second % 20 == 0:
                    producer.drop("closed", 1)  # a loss, so that an alert fires and resolves
                await stream.flush()
            assert stream.summary().accounts.unknown_accesses == 200
    (told,) = stream.statistics().subscribers
    assert told.published > 4
    assert told.published == told.delivered + told.dropped
    assert told.delivered == 1


def test_a_message_for_slack_says_it_all_and_escapes():
    group = AlertGroup(source="vllm-0", level=AlertLevel.CRITICAL, alerts=[alert(), alert("resolved")])
    payload = slack_payload(group)
    first, second = payload["text"].split("\n")
    assert first == "🔴 firing critical: hit_ratio_drop on vllm-0/gpu: hit ratio fell to 0.06 from 0.84 <&>"
    assert second.startswith("🟢 resolved")
    assert "&lt;&amp;&gt;" in payload["blocks"][0]["text"]["text"]


async def test_a_real_alertmanager_shows_what_fires_and_no_more_what_is_over(tmp_path):
    program = shutil.which("prometheus-alertmanager")
    if program is None:
        pytest.skip("needs Alertmanager: apt-get install prometheus-alertmanager")
    (tmp_path / "am.yml").write_text("route: {receiver: nobody}\nreceivers: [{name: nobody}]\n")
    port = free_port()
    arguments = [
        f"--config.file={tmp_path}/am.yml",
        f"--storage.path={tmp_path}/data",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
    ]
    url = f"http://127.0.0.1:{port}"
    process = await anyio.open_process([program, *arguments], stdout=None, stderr=subprocess.DEVNULL)
    try:
        with anyio.fail_after(DEADLINE):
            async with httpx2.AsyncClient(base_url=url, timeout=DEADLINE) as client:

                async def shown():
                    try:
                        answer = await client.get("/api/v2/alerts")
                    except httpx2.TransportError:
                        return None
                    return answer.json() if answer.status_code == 200 else None

                while await shown() is None:  # noqa: ASYNC110
                    await anyio.sleep(0.05)
                handler = Alertmanager(url)
                await handler.tell(alert(started_at=time.time() - 10))
                (told,) = await shown()
                assert told["labels"] == {
                    "alertname": "hit_ratio_drop",
                    "severity": "critical",
                    "source": "vllm-0",
                    "tier": "gpu",
                }
                assert told["annotations"]["summary"] == alert().message
                assert told["status"]["state"] in ("active", "unprocessed")
                await handler.tell(alert("resolved", started_at=time.time() - 10))
                while await shown():  # noqa: ASYNC110
                    await anyio.sleep(0.05)
    finally:
        process.terminate()
        await process.aclose()


async def test_alertmanager_is_told_as_alerts_change_and_again_with_each_summary():
    with endpoint(200) as (url, received):
        config = StreamConfig(metrics=MetricsConfig(export_interval=0.01))
        with anyio.fail_after(DEADLINE):
            async with KVStream(config) as stream:
                Alertmanager(url).attach(stream)
                producer = stream.producer("engine-0")
                producer.drop("closed", 1)
                await producer.accessed(1, ts=10**18)
                await producer.accessed(1, ts=10**18 + 10**9)
                await stream.flush()
                while len(received) < 3:  # noqa: ASYNC110 - the server has its own thread
                    await anyio.sleep(0.005)
    for path, _, body in received:
        assert path == "/api/v2/alerts"
        (told,) = json.loads(body)
        assert told["labels"] == {
            "alertname": "lost_frames",
            "severity": "warning",
            "source": "engine-0",
            "tier": "gpu",
        }
        assert told["startsAt"] == "2001-09-09T01:46:40+00:00"
        assert datetime.fromisoformat(told["endsAt"]) > datetime.now(UTC)
    now = datetime.now(UTC)
    assert alertmanager_alert(alert("resolved"), now)["endsAt"] == now.isoformat()


async def test_a_command_gets_the_alert_as_json(tmp_path):
    script = f"import sys; open({str(tmp_path / 'told')!r}, 'w').write(sys.stdin.read())"
    await Command(f"{sys.executable} -c {json.dumps(script)}")(alert())
    told = json.loads((tmp_path / "told").read_text())
    assert told == {"type": "alert", **alert().to_dict()} or told == alert().to_dict()


@pytest.mark.parametrize(
    ("code", "says"), [("sys.exit('no such pager')", "no such pager"), ("input(); input()", "ended with 1")]
)
async def test_a_command_that_fails_says_why(code, says):
    with pytest.raises(KVStreamError, match=says):
        await Command(f'{sys.executable} -c "import sys; {code}"')(alert())


async def test_a_command_that_takes_too_long_is_killed():
    with anyio.fail_after(DEADLINE), pytest.raises(KVStreamError, match="longer than"):
        await Command(f'{sys.executable} -c "import time; time.sleep(600)"', timeout=0.2)(alert())


def test_what_cannot_be_a_handler_is_refused():
    for make in (lambda: Webhook("ftp://x"), lambda: Command(""), lambda: Command("'")):
        with pytest.raises(ConfigError):
            make()
