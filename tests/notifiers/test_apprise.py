"""Services of apprise, by those of its services that post to a server of one's own."""

import json
import socket
from urllib.parse import parse_qs

import anyio
import pytest

from kvstream.alerts.types import AlertLevel
from kvstream.config import MetricsConfig, StreamConfig
from kvstream.errors import ConfigError, UndeliveredError
from kvstream.notifiers.apprise import Apprise
from kvstream.stream import KVStream
from tests.alerting import alert, endpoint
from tests.ports import free_port
from tests.text.test_escape import HOSTILE_NAMES
from tests.waiting import DEADLINE, until

# Apprise loads all of its services, some of which use what Python 3.13 has no more.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")

SECRET = "T0PSECRET"
CONFIG = StreamConfig(
    metrics=MetricsConfig(export_interval=0.0), shutdown_timeout=DEADLINE, delivery_timeout=DEADLINE
)


def service(url, kind="json"):
    return f"{kind}://me:{SECRET}@{url.removeprefix('http://')}/{SECRET}"


async def test_a_service_is_notified_of_an_alert_under_one_title_from_beginning_to_end():
    beginning = alert(hint="add memory", runbook="https://docs.example/alerts")
    with endpoint(200) as (url, received):
        handler = Apprise(service(url))
        for each in (beginning, alert(level=AlertLevel.WARNING), alert("resolved")):
            await handler.deliver(each)
    messages = [json.loads(body) for _, _, body in received]
    assert {message["title"] for message in messages} == {"hit_ratio_drop on vllm-0/gpu"}
    assert [message["type"] for message in messages] == ["failure", "warning", "success"]
    assert messages[0]["message"] == (
        "firing critical: hit ratio fell to 0.06 from 0.84 <&>\nTry: add memory\nhttps://docs.example/alerts"
    )
    assert messages[2]["message"].startswith("resolved critical: ")


async def test_what_a_service_does_not_take_is_tried_again_in_its_newest_state(caplog):
    with endpoint(503, 503, 200) as (url, received):
        async with KVStream(CONFIG) as stream:
            stream.on_alert(Apprise(service(url, "form")))
            stream._alerts.publish(alert())
            await until(lambda: received)
            stream._alerts.publish(alert("resolved"))
    kinds = [parse_qs(body.decode())["type"] for _, _, body in received]
    assert kinds[0] == ["failure"]
    assert kinds[-1] == ["success"]
    (entry,) = stream.statistics().subscribers
    assert entry.destination == "apprise Form"
    assert entry.undelivered == 0
    assert entry.failures == 2
    assert "apprise Form: not delivered, will be tried again: Failed to send Form POST" in caplog.text


async def test_a_service_that_is_gone_is_counted_and_shown_without_its_secrets(caplog):
    config = StreamConfig(metrics=MetricsConfig(export_interval=0.0), shutdown_timeout=0.5)
    async with KVStream(config) as stream:
        stream.on_alert(Apprise(service(f"http://127.0.0.1:{free_port()}")))
        stream._alerts.publish(alert())
        await until(lambda: stream.statistics().subscribers[0].failures)
    (entry,) = stream.statistics().subscribers
    assert entry.undelivered == 1
    shown = repr(stream.statistics()) + "".join(
        record.getMessage() for record in caplog.records if record.name == "kvstream"
    )
    assert SECRET not in shown


async def test_a_service_that_never_answers_holds_neither_the_loop_nor_more_than_one_thread():
    with anyio.fail_after(DEADLINE), socket.create_server(("127.0.0.1", 0)) as server:
        handler = Apprise(f"json://127.0.0.1:{server.getsockname()[1]}/?rto=2", timeout=0.2)
        with pytest.raises(UndeliveredError, match=r"not taken within 0\.2 s"):
            await handler.deliver(alert())
        with pytest.raises(UndeliveredError, match="the attempt before"):
            await handler.deliver(alert())


@pytest.mark.parametrize("name", HOSTILE_NAMES.values(), ids=HOSTILE_NAMES.keys())
async def test_any_name_can_be_sent(name):
    with endpoint(200) as (url, received):
        await Apprise(service(url)).deliver(alert(source=name, message=name, hint=name))
    assert json.loads(received[0][2])["title"].startswith("hit_ratio_drop on ")


@pytest.mark.parametrize("url", ["", "T0PSECRET", "nothing://T0PSECRET", "pagerduty://T0PSECRET", "json://"])
def test_a_url_that_apprise_does_not_know_is_refused_without_its_secrets(url):
    with pytest.raises(ConfigError, match=r"https://appriseit\.com/services") as caught:
        Apprise(url)
    assert SECRET not in str(caught.value)
