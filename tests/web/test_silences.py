"""Silences over real HTTP."""

from datetime import UTC, datetime, timedelta

import httpx2
import pytest

from kvstream.alerts.silences import MAX_SILENCES, Silence
from kvstream.web.guard import COOKIE
from tests.alerts.test_silences import T0, config, fill
from tests.serving import DEADLINE, served

TOKEN = "s3cret"
JSON = {"content-type": "application/json"}


def client_of(url, **options):
    return httpx2.AsyncClient(base_url=url, timeout=DEADLINE, **options)


async def test_a_silence_is_made_listed_and_ended():
    async with served(config=config()) as (stream, url), client_of(url) as client:
        await fill(stream)
        made = await client.post(
            "api/silences", json={"rule": "occupancy_*", "duration_seconds": 3600, "reason": "known"}
        )
        assert made.status_code == 201
        silence = made.json()
        until = datetime.fromisoformat(silence["until"])
        assert abs(until - datetime.fromtimestamp(T0 + 9 + 3600, UTC)) < timedelta(seconds=DEADLINE)
        assert (silence["rule"], silence["source"], silence["reason"]) == ("occupancy_*", "*", "known")
        assert (await client.get("api/silences")).json() == {"silences": [silence]}
        assert [each["silenced_by"] for each in (await client.get("api/summary")).json()["alerts"]] == [
            "known"
        ]
        ended = await client.delete(f"api/silences/{silence['id']}")
        assert (ended.status_code, ended.content) == (204, b"")
        assert (await client.delete(f"api/silences/{silence['id']}")).status_code == 404
        assert (await client.get("api/silences")).json() == {"silences": []}
        assert [each.rule for each in stream.firing()] == ["occupancy_high"]


async def test_an_alert_that_fires_is_acknowledged():
    async with served(config=config()) as (stream, url), client_of(url) as client:
        await fill(stream)
        (alert,) = stream.firing()
        answer = await client.post(f"api/alerts/{alert.fingerprint}/acknowledge", json={"reason": "mine"})
        assert answer.status_code == 201
        assert (answer.json()["incident"], answer.json()["until"]) == (alert.incident, None)
        assert stream.firing() == []
        answer = await client.post("api/alerts/0123456789abcdef/acknowledge", headers=JSON)
        assert answer.status_code == 404


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ({}, "either until or duration_seconds"),
        ({"until": "2030-01-01T00:00:00Z", "duration_seconds": 1}, "either"),
        ({"until": "2030-01-01T00:00:00"}, "timezone"),
        ({"duration_seconds": 0}, "duration_seconds"),
        ({"duration_seconds": 1e300}, "duration_seconds"),
        ({"duration_seconds": 5, "source": "x" * 5000}, "source"),
        ({"duration_seconds": 5, "surce": "x"}, "surce"),
        ({"duration_seconds": "5"}, "float"),
        ([], "object"),
    ],
)
async def test_what_is_no_silence_is_refused_and_says_why(body, what):
    async with served() as (stream, url), client_of(url) as client:
        answer = await client.post("api/silences", json=body)
        assert answer.status_code == 400
        assert what in answer.json()["error"]
        assert stream.silences() == []


@pytest.mark.parametrize(
    ("content", "content_type", "status"),
    [
        (b"duration_seconds=5", "application/x-www-form-urlencoded", 415),
        (b'{"duration_seconds":5}', "text/plain", 415),
        (b'{"duration_seconds":5}', None, 415),
        (b'{"duration_seconds":', "application/json", 400),
        (b'{"reason":"\xff"}', "application/json; charset=utf-8", 400),
        (b" " * 100_000, "application/json", 413),
    ],
)
async def test_only_json_of_a_bounded_size_is_read(content, content_type, status):
    headers = {"content-type": content_type} if content_type else {}
    async with served() as (stream, url), client_of(url) as client:
        answer = await client.post("api/silences", content=content, headers=headers)
        assert answer.status_code == status
        assert stream.silences() == []
        assert ("http", "request_failed") not in stream.faults.counts


async def test_one_too_many_is_refused():
    async with served() as (stream, url), client_of(url) as client:
        for _ in range(MAX_SILENCES):
            await stream.silence(Silence(until=datetime(2100, 1, 1, tzinfo=UTC)))
        answer = await client.post("api/silences", json={"duration_seconds": 5})
        assert answer.status_code == 400
        assert "1,000" in answer.json()["error"]


async def test_changes_need_the_token_as_reading_does():
    async with served(token=TOKEN) as (stream, url), client_of(url) as client:
        for method, path in (
            ("GET", "api/silences"),
            ("POST", "api/silences"),
            ("DELETE", "api/silences/x"),
            ("POST", "api/alerts/x/acknowledge"),
        ):
            answer = await client.request(method, path, json={"duration_seconds": 5})
            assert answer.status_code == 401, (method, path)
        bearer = {"authorization": f"Bearer {TOKEN}"}
        answer = await client.post("api/silences", json={"duration_seconds": 5}, headers=bearer)
        assert answer.status_code == 201
        assert len(stream.silences()) == 1


@pytest.mark.parametrize("token", [None, TOKEN])
@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({"sec-fetch-site": "same-origin"}, True),
        ({"sec-fetch-site": "same-origin", "origin": "https://proxy.example"}, True),
        ({"sec-fetch-site": "none"}, True),
        ({"sec-fetch-site": "same-site"}, False),
        ({"sec-fetch-site": "cross-site"}, False),
        ({"sec-fetch-site": "cross-site", "origin": "{own}"}, False),
        ({"origin": "{own}"}, True),
        ({"origin": "http://evil.example"}, False),
        ({"origin": "http://localhost:1"}, False),
        ({"origin": "null"}, False),
        ({}, True),
    ],
)
async def test_no_other_site_can_change_anything_by_a_browser(token, headers, allowed):
    options = {} if token is None else {"token": token}
    async with served(**options) as (stream, url), client_of(url) as client:
        if token:
            cookie = (await client.get(f"?token={token}")).cookies[COOKIE]
            headers = {**headers, "cookie": f"{COOKIE}={cookie}"}
        headers = {name: value.replace("{own}", url.rstrip("/")) for name, value in headers.items()}
        made = await client.post("api/silences", json={"duration_seconds": 5}, headers=headers)
        assert made.status_code == (201 if allowed else 403)
        ended = await client.delete("api/silences/x", headers=headers)
        assert ended.status_code == (404 if allowed else 403)
        assert (await client.get("api/silences", headers=headers)).status_code == 200, "which changes nothing"
        assert stream.faults.counts.get(("http", "other_origin"), 0) == (0 if allowed else 2)
