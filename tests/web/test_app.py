"""The application over real HTTP."""

import json
import socket
from contextlib import asynccontextmanager

import anyio
import httpx2
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

import kvstream.web.events as events_module
from kvstream import KVStream
from kvstream.errors import ConfigError
from kvstream.events.types import Op
from kvstream.link import Endpoint
from kvstream.sources.synthetic import generate
from kvstream.web.server import HttpServer
from tests.serving import DEADLINE, alert, send_chat, served, tell


@asynccontextmanager
async def following(url, last_event_id=None, **query):
    """An iterator of (event, id, data) as the server sends them."""
    headers = {"last-event-id": last_event_id} if last_event_id else {}
    async with (
        httpx2.AsyncClient(timeout=DEADLINE) as client,
        client.stream("GET", f"{url}events", params=query, headers=headers) as answer,
    ):
        assert answer.status_code == 200

        async def events():
            fields = {}
            async for line in answer.aiter_lines():
                if line and not line.startswith(":"):
                    name, _, value = line.partition(": ")
                    fields[name] = value
                elif "event" in fields:
                    yield fields["event"], fields.get("id"), fields.get("data")
                    fields = {}

        yield events()


async def first(events, kind):
    with anyio.fail_after(DEADLINE):
        async for event, number, data in events:
            if event == kind:
                return number, data
    raise AssertionError(f"no {kind}")


async def test_every_route_tells_what_the_stream_knows():
    async with served() as (stream, url), httpx2.AsyncClient(base_url=url, timeout=DEADLINE) as client:
        await send_chat(stream)
        summary = (await client.get("api/summary")).json()
        assert summary == json.loads(json.dumps(stream.summary().to_dict()))
        one = (await client.get("api/summary", params={"source": "vllm-0", "tier": "gpu"})).json()
        assert one["source"] == "vllm-0"
        assert one["sizes"]["points"]
        state = (await client.get("api/state")).json()
        (cache,) = state["caches"]
        assert (cache["source"], cache["tier"], cache["blocks"]) == ("vllm-0", "gpu", 512)
        assert cache["level"] == "info", "occupancy_high"
        assert state["summary"]["accounts"]["processed"] == 20_000
        history = (await client.get("api/history")).json()
        frames = list(generate("chat", 20_000, blocks=512, rate=2_000, source="vllm-0"))
        last = int(frames[-1].ts[-1]) // 10**9
        for column, op in (
            ("allocation_rate", Op.ALLOC),
            ("access_rate", Op.ACCESS),
            ("eviction_rate", Op.EVICT),
        ):
            in_closed = sum(int(((f.ops == op) & (f.ts // 10**9 < last)).sum()) for f in frames)
            assert sum(history[column]) == in_closed
        assert history["ts"] == sorted(history["ts"])
        short = (await client.get("api/history", params={"windows": "3"})).json()
        assert short["ts"] == history["ts"][-3:]
        found = (await client.get("api/blocks", params={"source": "vllm-0", "tier": "gpu"})).json()
        assert sum(map(sum, found["map"]["blocks"])) == summary["blocks_live"]
        assert found["hottest"][0]["accesses"] == stream.hottest("vllm-0")[0].accesses
        distributions = (await client.get("api/distributions")).json()
        assert sum(distributions["lifetime"]["counts"]) == summary["lifetime"]["count"]
        assert (await client.get("readyz")).status_code == 200
        assert (await client.get("healthz")).json()["clients"]["connected"] == 0
        metrics = await client.get("metrics")
        assert 'kvstream_allocations_total{source="vllm-0",tier="gpu"}' in metrics.text
        assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")


async def test_a_wrong_question_is_answered_with_what_was_wrong():
    async with served() as (stream, url), httpx2.AsyncClient(base_url=url, timeout=DEADLINE) as client:
        await send_chat(stream, 1_000)
        await send_chat(stream, 1_000, source="vllm-1")
        refused = await client.get("api/history", params={"windows": "many"})
        assert (refused.status_code, "windows" in refused.json()["error"]) == (400, True)
        refused = await client.get("api/blocks")
        assert (refused.status_code, "source" in refused.json()["error"]) == (404, True)
        assert (await client.get("api/blocks", params={"source": "nobody"})).status_code == 404
        assert (await client.get("nothing")).status_code == 404
        assert (await client.get("static/../app.py")).status_code == 404
        nobody = (await client.get("api/summary", params={"source": "nobody"})).json()
        assert nobody["accounts"]["allocations"] == 0


async def test_without_the_token_nothing_is_told():
    async with (
        served(token="s3cret") as (_, url),
        httpx2.AsyncClient(base_url=url, timeout=DEADLINE) as client,
    ):
        for path in ("", "metrics", "api/summary", "api/alerts", "events", "static/app.js", "?token=wrong"):
            refused = await client.get(path)
            assert refused.status_code == 401, path
            assert "token" in refused.text
        assert (await client.get("healthz")).status_code == 200
        assert (await client.get("readyz")).status_code == 200
        assert (await client.get("api/summary", headers={"authorization": "Bearer wrong"})).status_code == 401
        assert (
            await client.get("api/summary", headers={"authorization": "Bearer s3cret"})
        ).status_code == 200
        welcome = await client.get("", params={"token": "s3cret"})
        assert (welcome.status_code, welcome.headers["location"]) == (303, "/")
        assert "HttpOnly" in welcome.headers["set-cookie"]
        assert "s3cret" not in welcome.headers["location"]
        assert (await client.get("api/summary")).status_code == 200, "by the cookie"


async def test_pages_may_load_nothing_from_elsewhere():
    async with served() as (_, url), httpx2.AsyncClient(base_url=url, timeout=DEADLINE) as client:
        for path in ("", "static/app.js", "api/summary"):
            answer = await client.get(path)
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
        page = (await client.get("")).text
        assert "http://" not in page
        assert "https://" not in page


def test_others_than_this_machine_need_a_token():
    with pytest.raises(ConfigError, match="set a token"):
        HttpServer(KVStream(), Endpoint(host="0.0.0.0", port=0))
    HttpServer(KVStream(), Endpoint(host="0.0.0.0", port=0), token="s3cret")
    HttpServer(KVStream(), Endpoint(host="0.0.0.0", port=0), insecure=True)


def test_a_port_that_is_taken_is_told():
    with socket.create_server(("127.0.0.1", 0)) as other:
        server = HttpServer(KVStream(), Endpoint(host="127.0.0.1", port=other.getsockname()[1]))
        with pytest.raises(ConfigError, match="cannot listen"):
            server.bind()


async def test_it_mounts_in_another_application():
    stream = KVStream()
    app = Starlette(routes=[Mount("/kvstream", stream.asgi(token="s3cret"))])
    transport = httpx2.ASGITransport(app=app)
    async with (
        stream,
        httpx2.AsyncClient(transport=transport, base_url="http://x", timeout=DEADLINE) as client,
    ):
        await stream.producer("engine-0").allocated([1, 2])
        await stream.flush()
        assert (await client.get("/kvstream/healthz")).status_code == 200
        assert (await client.get("/kvstream/api/summary")).status_code == 401
        welcome = await client.get("/kvstream/", params={"token": "s3cret"})
        assert welcome.headers["location"] == "/kvstream/"
        assert (await client.get("/kvstream/api/summary")).json()["blocks_live"] == 2
        assert 'src="static/app.js"' in (await client.get("/kvstream/")).text


async def test_alerts_and_states_are_sent_as_they_come():
    async with served() as (stream, url), following(url, source="vllm-0", tier="gpu") as events:
        await first(events, "hello")
        _, state = await first(events, "state")
        assert json.loads(state)["summary"]["accounts"]["processed"] == 0
        await send_chat(stream, 5_000)
        await tell(stream, alert(1))
        number, data = await first(events, "alert")
        assert json.loads(data) == json.loads(json.dumps(alert(1).to_dict()))
        assert number.endswith("-1")
        _, state = await first(events, "state")
        told = json.loads(state)
        assert told["summary"]["source"] == "vllm-0"
        assert told["summary"]["accounts"]["allocations"] > 0
        assert told["history"]["ts"]


async def test_who_comes_again_gets_what_was_missed_and_no_more():
    async with served() as (stream, url):
        async with following(url) as events:
            boot = (await first(events, "hello"))[1]
            await tell(stream, alert(1))
            assert (await first(events, "alert"))[0] == f"{boot}-1"
        await tell(stream, alert(2), alert(3))
        async with following(url, last_event_id=f"{boot}-1") as events:
            assert [(await first(events, "alert"))[0] for _ in range(2)] == [f"{boot}-2", f"{boot}-3"]
        async with following(url, last_event_id="00000000-7") as events:  # of a run before this one
            assert (await first(events, "alert"))[0] == f"{boot}-1"
        async with httpx2.AsyncClient(base_url=url, timeout=DEADLINE) as client:
            told = (await client.get("api/alerts")).json()
        assert [each["message"] for each in told["alerts"]] == ["message 3", "message 2", "message 1"]
        assert told["last_event_id"] == f"{boot}-3"


async def test_of_more_alerts_than_are_kept_the_number_is_told():
    async with served() as (stream, url):
        async with following(url) as events:
            boot = (await first(events, "hello"))[1]
        for start in range(0, 1_500, 500):
            await tell(stream, *map(alert, range(start, start + 500)))
            with anyio.fail_after(DEADLINE):
                while stream.statistics().subscribers[0].delivered < start + 500:  # noqa: ASYNC110
                    await anyio.sleep(0.001)
        async with following(url, last_event_id=f"{boot}-0") as events:
            assert (await first(events, "missed"))[1] == "500"
            assert (await first(events, "alert"))[0] == f"{boot}-501"


async def test_one_client_too_many_is_turned_away_and_counted():
    async with (
        served(max_clients=1) as (_, url),
        httpx2.AsyncClient(base_url=url, timeout=DEADLINE) as client,
    ):
        async with following(url) as events:
            await first(events, "hello")
            refused = await client.get("events")
            assert refused.status_code == 503
            assert refused.headers["retry-after"]
            told = (await client.get("healthz")).json()["clients"]
            assert told == {"connected": 1, "refused": 1, "dropped": 0}
        with anyio.fail_after(DEADLINE):
            while (await client.get("healthz")).json()["clients"]["connected"]:  # noqa: ASYNC110
                await anyio.sleep(0.01)
        async with following(url) as events:
            await first(events, "hello")


async def test_a_client_that_takes_nothing_is_dropped_and_delays_nobody(monkeypatch):
    monkeypatch.setattr(events_module, "_SLOW_SECONDS", 0.3)
    async with served() as (stream, url), httpx2.AsyncClient(base_url=url, timeout=DEADLINE) as client:
        port = int(url.rstrip("/").rsplit(":", 1)[1])
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect(("127.0.0.1", port))
            slow.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
            with anyio.fail_after(DEADLINE):
                while (await client.get("healthz")).json()["clients"]["dropped"] == 0:
                    await tell(stream, *map(alert, range(500)))
                    await send_chat(stream, 500)
                    await anyio.sleep(0.01)
        assert stream.summary().accounts.balanced
        assert (await client.get("healthz")).json()["clients"]["connected"] == 0
