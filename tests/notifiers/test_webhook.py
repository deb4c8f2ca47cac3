"""Webhooks and Slack messages against real servers."""

import asyncio
import base64
import json
import re
import socket
import time

import anyio
import httpx2
import pytest
import standardwebhooks

from kvstream.alerts.groups import AlertGroup
from kvstream.alerts.types import AlertLevel
from kvstream.config import MetricsConfig, StreamConfig
from kvstream.errors import ConfigError, KVStreamError, UndeliveredError
from kvstream.faults.answers import retry_after
from kvstream.notifiers.alertmanager import Alertmanager
from kvstream.notifiers.webhook import Webhook, slack_payload
from kvstream.stream import KVStream
from tests.alerting import alert, endpoint
from tests.ports import free_port, posted_to
from tests.text.test_escape import HOSTILE_NAMES
from tests.waiting import DEADLINE, until

CONFIG = StreamConfig(
    metrics=MetricsConfig(export_interval=0.0), shutdown_timeout=DEADLINE, delivery_timeout=DEADLINE
)


SIGNING_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def states(received):
    return [(body["fingerprint"], body["state"]) for body in (json.loads(body) for _, _, body in received)]


async def test_a_webhook_posts_the_alert_and_signs_it():
    with endpoint(200) as (url, received):
        await Webhook(f"{url}/hook", secret=SIGNING_SECRET)(alert())
    ((path, headers, body),) = received
    assert path == "/hook"
    assert standardwebhooks.Webhook(SIGNING_SECRET).verify(body, dict(headers)) == alert().to_dict()
    other = standardwebhooks.Webhook(f"whsec_{base64.b64encode(bytes(32)).decode()}")
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        other.verify(body, dict(headers))


async def test_each_attempt_is_signed_anew_under_the_same_id():
    with endpoint(503, 503, 200) as (url, received):
        await Webhook(url, secret=SIGNING_SECRET)(alert())
        await Webhook(url, secret=SIGNING_SECRET)(alert("resolved"))
    for _, headers, body in received:
        standardwebhooks.Webhook(SIGNING_SECRET).verify(body, dict(headers))
    first, *again, resolved = (headers["webhook-id"] for _, headers, _ in received)
    assert again == [first, first]
    assert resolved != first


async def test_without_a_secret_a_message_has_an_id_and_no_signature():
    group = AlertGroup(source="vllm-0", level=AlertLevel.CRITICAL, alerts=[alert(), alert(fingerprint="2")])
    with endpoint(200) as (url, received):
        await Webhook(url, slack_payload)(group)
        await Webhook(url)(alert())
    ids = {headers["webhook-id"] for _, headers, _ in received}
    assert len(ids) == 2
    assert not any("webhook-signature" in headers for _, headers, _ in received)


@pytest.mark.parametrize(
    "secret", ["", "whsec_", "s3cret", "T0PSECRET" * 9 + "!", "é" * 40, "whsec_" + "A" * 31]
)
def test_a_secret_that_is_not_24_bytes_in_base64_is_refused_without_showing_it(secret):
    with pytest.raises(ConfigError, match="openssl rand -base64 32") as caught:
        Webhook("http://ops.example", secret=secret)
    assert not secret or secret not in str(caught.value)


def test_secrets_may_be_without_prefix_and_padding():
    for secret in ("A" * 32, "whsec_" + "A" * 34, "A" * 34 + "=="):
        Webhook("http://ops.example", secret=secret)


async def test_a_webhook_tries_again_what_may_pass_and_not_what_is_refused():
    with endpoint(503, 429, 200) as (url, received):
        await Webhook(url)(alert())
        assert len(received) == 3
    with endpoint(403) as (url, received):
        with pytest.raises(httpx2.HTTPStatusError, match="answered 403"):
            await Webhook(url)(alert())
        assert len(received) == 1
    with pytest.raises(httpx2.TransportError):
        await Webhook(url, give_up_seconds=0.3)(alert())


@pytest.mark.parametrize("status", [429, 503])
async def test_an_endpoint_that_says_when_to_try_again_is_left_alone_until_then(status):
    times = []

    def answers():
        times.append(time.monotonic())
        return (status, {"Retry-After": "1"}) if len(times) == 1 else 200

    with posted_to(lambda *_: answers()) as url:
        async with KVStream(CONFIG) as stream:
            stream.on_alert(Webhook(url))
            stream._alerts.publish(alert())
    assert len(times) == 2
    assert times[1] - times[0] >= 1.0
    assert stream.statistics().subscribers[0].undelivered == 0


def test_retry_after_is_seconds_or_a_date_and_has_a_bound():
    now = 784_111_777.0  # Sun, 06 Nov 1994 08:49:37 GMT
    assert retry_after("7", now) == 7
    assert retry_after(" 0 ", now) == 0
    assert retry_after("9" * 5000, now) == 600
    assert retry_after("Sun, 06 Nov 1994 08:50:00 GMT", now) == 23
    assert retry_after("Sunday, 06-Nov-94 08:50:00 GMT", now) == 23
    assert retry_after("Sun, 06 Nov 1994 08:00:00 GMT", now) == 0
    assert retry_after("Sun, 06 Nov 2094 08:00:00 GMT", now) == 600
    for odd in ("", "-1", "soon", "1.5", "١", "Sun, 99 Nov 1994", "Sun, 06 Nov 99999 08:00:00 GMT", "\x00"):
        assert retry_after(odd, now) is None


async def test_an_outage_ends_with_what_fires_and_what_has_ended_and_no_stale_message():
    answers = [200, 503]
    received = []

    def take(path, headers, body):
        received.append((path, headers, body))
        return answers[min(len(received), len(answers)) - 1]

    with posted_to(take) as url:
        async with KVStream(CONFIG) as stream:
            stream.on_alert(Webhook(url))
            publish = stream._alerts.publish
            publish(alert(fingerprint="known"))
            await until(lambda: len(received) == 1)
            publish(alert(fingerprint="new"))
            await until(lambda: len(received) > 2)
            for _ in range(250):
                publish(alert(fingerprint="flapping"))
                publish(alert("resolved", fingerprint="flapping"))
            publish(alert("resolved", fingerprint="known"))
            failed = len(received)
            answers[:] = [200]
    after = states(received)[failed:]
    assert after[-3:] == [("new", "firing"), ("flapping", "resolved"), ("known", "resolved")]
    assert set(after[:-3]) <= {("new", "firing")}


async def test_a_dead_endpoint_delays_nothing_and_what_is_not_delivered_is_counted():
    with endpoint(200) as (url, _):
        pass  # gone: nobody listens there any more
    config = StreamConfig(
        metrics=MetricsConfig(export_interval=0.0), subscriber_buffer=2, shutdown_timeout=0.5
    )
    with anyio.fail_after(DEADLINE):
        async with KVStream(config) as stream:
            stream.on_alert(Webhook(url))
            producer = stream.producer("engine-0")
            for number in range(200):
                await producer.accessed(1, ts=number * 5_000_000_000)
                if number % 50 == 0:
                    producer.drop("closed", 1)  # a loss, so that an alert fires and resolves
                await stream.flush()
            assert stream.summary_nowait().accounts.processed == 200
    (entry,) = stream.statistics().subscribers
    assert entry.published > 2
    assert entry.published == entry.delivered + entry.dropped + entry.superseded
    assert entry.delivered == 0
    assert entry.undelivered == entry.dropped == 1  # all are states of one alert
    assert entry.destination == f"webhook {url}"


@pytest.mark.parametrize("error", [asyncio.CancelledError, GeneratorExit, ValueError])
async def test_a_payload_function_that_raises_loses_its_alert_alone(error):
    def payload(one):
        if one.fingerprint == "1":
            raise error
        return {"fingerprint": one.fingerprint, "state": one.state}

    with endpoint(200) as (url, received):
        async with KVStream(CONFIG) as stream:
            stream.on_alert(Webhook(url, payload))
            for number in range(3):
                stream._alerts.publish(alert(fingerprint=str(number)))
    assert states(received) == [("0", "firing"), ("2", "firing")]
    assert stream.statistics().subscribers[0].undelivered == 1


@pytest.mark.parametrize("name", HOSTILE_NAMES.values(), ids=HOSTILE_NAMES.keys())
async def test_any_name_can_be_posted(name):
    hostile = alert(source=name, message=name, hint=name, labels={name: name})
    group = AlertGroup(source=name, level=AlertLevel.CRITICAL, alerts=[hostile])
    with endpoint(200) as (url, received):
        await Webhook(url)(hostile)
        await Webhook(url, slack_payload)(group)
    plain, slack = (json.loads(body) for _, _, body in received)
    assert plain["source"] == name.encode("utf-8", "backslashreplace").decode()
    for text in (slack["text"], *(block["text"]["text"] for block in slack["blocks"])):
        assert "<" not in text
        assert "\x1b" not in text
        assert len(text) <= 40_000
    assert len(slack["blocks"][0]["text"]["text"]) <= 3000


async def test_an_endpoint_that_drips_or_floods_is_held_to_the_timeout():
    async def drip(stream):
        async with stream:
            await stream.receive()
            await stream.send(b"HTTP/1.1 200 OK\r\n")
            with anyio.move_on_after(DEADLINE):
                while True:
                    await anyio.sleep(0.05)
                    await stream.send(b"X-Slow: 1\r\n")

    async def flood(stream):
        async with stream:
            await stream.receive()
            await stream.send(b"HTTP/1.1 400 Bad\r\nContent-Length: 1000000000\r\n\r\n")
            with pytest.raises((anyio.BrokenResourceError, anyio.ClosedResourceError)):
                while True:
                    await stream.send(b"no" * 50_000)

    for serve, timeout, error, says in (
        (drip, 2.0, UndeliveredError, "within"),
        (flood, DEADLINE, KVStreamError, "nono"),
    ):
        async with (
            await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(listener.serve, serve)
            port = listener.extra(anyio.abc.SocketAttribute.local_port)
            with anyio.fail_after(DEADLINE), pytest.raises(error, match=says) as caught:
                await Webhook(f"http://127.0.0.1:{port}/", timeout=timeout).deliver(alert())
            assert len(str(caught.value)) < 500
            tasks.cancel_scope.cancel()


SECRET = "T0PSECRET"


async def test_nothing_of_an_url_but_its_host_is_shown(caplog):
    with endpoint(403) as (url, _):
        host = url.removeprefix("http://")
        secretive = f"http://{SECRET}:{SECRET}@{host}/{SECRET}?token={SECRET}"
        dead = f"http://{SECRET}@127.0.0.1:{free_port()}/{SECRET}"
        config = StreamConfig(shutdown_timeout=1)
        async with KVStream(config) as stream:
            stream.on_alert(Webhook(secretive))
            stream.on_alert(Webhook(dead))
            stream._alerts.publish(alert())
            await until(lambda: all(entry.failures for entry in stream.statistics().subscribers))
    assert f"webhook http://{host}: not delivered: answered 403" in caplog.text
    assert "json_post.py" not in caplog.text
    shown = caplog.text + repr(stream.statistics())
    assert SECRET not in shown


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("ftp://ops.example/T0PSECRET", "'ftp://ops.example'"),
        ("ops.example/T0PSECRET", "'ops.example'"),
        ("https://", "no host"),
        ("http:///T0PSECRET", "no host"),
        ("http://T0PSECRET@:80/", "no host"),
        ("http://a b/T0PSECRET", "http"),
        ("http://host:port/T0PSECRET", "port"),
        ("http://host:99999999/T0PSECRET", "http"),
        ("http://host/\n", "http"),
        ("http://[::1/T0PSECRET", "http"),
        ("", "scheme"),
    ],
)
def test_an_url_that_cannot_be_posted_to_is_refused_without_its_secrets(url, says):
    with pytest.raises(ConfigError, match=re.escape(says)) as caught:
        Webhook(url)
    assert SECRET not in str(caught.value)
    assert "https://HOST/PATH" in str(caught.value)


def test_certificates_are_loaded_when_it_becomes_a_handler(monkeypatch, tmp_path):
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    url = "https://hooks.example/T"
    webhook, stream = Webhook(url), KVStream()
    for attach in (stream.on_alert, stream.on_alert_group):
        with pytest.raises(FileNotFoundError):
            attach(webhook)
    with pytest.raises(FileNotFoundError):
        Alertmanager(url).attach(stream)
    monkeypatch.delenv("SSL_CERT_FILE")
    stream.on_alert(webhook)
    assert len(stream.statistics().subscribers) == 1


def test_what_is_shown_of_an_url_is_where_it_leads():
    assert Webhook("https://u:p@[::1]:8443/x").destination == "webhook https://[::1]:8443"
    assert Webhook("http://ops.example/x").destination == "webhook http://ops.example"


def test_a_message_for_slack_says_it_all_and_escapes():
    group = AlertGroup(source="vllm-0", level=AlertLevel.CRITICAL, alerts=[alert(), alert("resolved")])
    payload = slack_payload(group)
    first, second = payload["text"].split("\n")
    assert first == (
        "🔴 firing critical: hit_ratio_drop on vllm-0/gpu: hit ratio fell to 0.06 from 0.84 &lt;&amp;&gt;"
    )
    assert second.startswith("🟢 resolved")
    assert "&lt;&amp;&gt;" in payload["blocks"][0]["text"]["text"]


def test_more_alerts_than_slack_takes_are_counted():
    alerts = [alert(fingerprint=str(number)) for number in range(60)]
    payload = slack_payload(AlertGroup(source="vllm-0", level=AlertLevel.CRITICAL, alerts=alerts))
    assert len(payload["blocks"]) == 50
    assert payload["blocks"][-1]["text"]["text"] == "and 11 more alerts of vllm-0"


async def test_a_port_that_takes_connections_and_never_answers_is_tried_again():
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(UndeliveredError):
            await Webhook(url, timeout=0.2).deliver(alert())
