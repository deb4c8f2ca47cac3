"""The application over real HTTP."""

import base64
import json
import socket
from contextlib import asynccontextmanager
from itertools import product
from urllib.parse import quote

import anyio
import httpx2
import msgspec
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

import kvstream.web.events as events_module
from kvstream import KVStream
from kvstream.errors import ConfigError
from kvstream.events.types import Op
from kvstream.metrics.summary import PROBLEM_COUNTS
from kvstream.reports import overview
from kvstream.sources.synthetic import generate
from kvstream.transport.endpoint import Endpoint
from kvstream.web import create_app
from kvstream.web.server import HttpServer
from tests.serving import DEADLINE, alert, publish, send_chat, served


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


async def test_every_route_tells_what_the_stream_knows(monkeypatch):
    monkeypatch.setattr("kvstream.engine.cache._SILENT_WINDOWS", 10**9)  # the clock closes no window
    async with served() as (stream, url), httpx2.AsyncClient(base_url=url, timeout=DEADLINE) as client:
        await send_chat(stream)
        summary = (await client.get("api/summary")).json()
        assert summary == json.loads(json.dumps(stream.summary_nowait().to_dict()))
        one = (await client.get("api/summary", params={"source": "vllm-0", "tier": "gpu"})).json()
        assert one["source"] == "vllm-0"
        assert one["sizes"]["points"]
        state = (await client.get("api/state")).json()
        (cache,) = state["caches"]
        assert (cache["source"], cache["tier"], cache["blocks"]) == ("vllm-0", "gpu", 512)
        assert cache["level"] == "info", "occupancy_high"
        assert (cache["capacity"], cache["rule"]) == (512, "occupancy_high")
        assert cache["hit_ratio"] == pytest.approx(summary["recent"]["hit_ratio"], abs=0.03)
        assert 0 <= cache["age_seconds"] < DEADLINE
        assert state["now"] >= summary["timestamp"]
        assert [each["rule"] for each in state["incidents"]] == ["occupancy_high"]
        assert state["summary"]["alerts"] == [], "they are the incidents"
        assert state["summary"]["accounts"]["processed"] == 20_000
        assert state["problem_counts"] == ["malformed", *PROBLEM_COUNTS]
        assert set(state["problem_counts"]) < set(state["summary"]["accounts"])
        lines = (await client.get("api/sparklines")).json()
        (line,) = lines["caches"]
        levels = [level for level in base64.b64decode(line["hit_ratio"]) if level != 255]
        assert len(levels) > 0
        assert max(levels) <= 250
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
        assert (welcome.status_code, welcome.headers["location"]) == (303, "./")
        assert "HttpOnly" in welcome.headers["set-cookie"]
        assert "s3cret" not in str(welcome.headers)
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
    with pytest.raises(ConfigError, match="empty"):
        HttpServer(KVStream(), Endpoint(host="127.0.0.1", port=0), token="")


def test_a_port_that_is_taken_is_told():
    with socket.create_server(("127.0.0.1", 0)) as other:
        server = HttpServer(KVStream(), Endpoint(host="127.0.0.1", port=other.getsockname()[1]))
        with pytest.raises(ConfigError, match="cannot listen"):
            server.bind()


async def test_it_mounts_in_another_application():
    stream = KVStream()
    app = Starlette(routes=[Mount("/kvstream", create_app(stream, token="s3cret"))])
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
        assert welcome.headers["location"] == "./"
        assert (await client.get("/kvstream/api/summary")).json()["blocks_live"] == 2
        assert 'src="static/app.js"' in (await client.get("/kvstream/")).text


async def test_alerts_and_states_are_sent_as_they_come():
    async with served() as (stream, url), following(url, source="vllm-0", tier="gpu") as events:
        await first(events, "hello")
        _, state = await first(events, "state")
        assert json.loads(state)["summary"]["accounts"]["processed"] == 0
        await send_chat(stream, 5_000)
        await publish(stream, alert(1))
        number, data = await first(events, "alert")
        assert json.loads(data) == json.loads(json.dumps(alert(1).to_dict()))
        assert number.endswith("-1")
        _, state = await first(events, "state")
        shown = json.loads(state)
        assert shown["summary"]["source"] == "vllm-0"
        assert shown["summary"]["accounts"]["allocations"] > 0
        assert shown["history"]["ts"]


async def test_what_comes_while_a_state_is_worked_out_is_not_missed(monkeypatch):
    monkeypatch.setattr(events_module, "EVERY_SECONDS", 2 * DEADLINE)
    working, go_on = anyio.Event(), anyio.Event()
    get = overview.States.get

    async def slow(self, selection):
        working.set()
        await go_on.wait()
        return await get(self, selection)

    monkeypatch.setattr(overview.States, "get", slow)
    async with KVStream() as stream:
        app = create_app(stream)
        events = app.state.live._events(overview.Selection(None, None), 0)
        assert b"event: hello" in await anext(events)
        seen = []

        async def follow():
            seen.extend([event async for event in events])

        with anyio.fail_after(DEADLINE):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(follow)
                await working.wait()
                await publish(stream, alert(1))
                app.state.live.end()
                go_on.set()
    kinds = [event.split(b"\r\n")[-4].removeprefix(b"event: ") for event in seen]
    assert kinds == [b"state", b"end"]


async def test_a_state_that_has_not_changed_is_not_sent_again(monkeypatch):
    monkeypatch.setattr(overview, "_SHARE_OF_TIME", 1e9)  # so that one state stays for as long as it likes
    async with served() as (_, url), following(url) as events:
        await first(events, "state")
        with anyio.fail_after(DEADLINE):
            assert [(await anext(events))[0] for _ in range(2)] == ["same", "same"]


@pytest.mark.slow
async def test_a_thousand_caches_are_a_state_of_200_kilobytes():
    async with served() as (stream, url), httpx2.AsyncClient(base_url=url, timeout=DEADLINE) as client:
        start = 1_767_225_600_000_000_000
        for number in range(1000):
            producer = stream.producer(f"eu-west-1/llama-3-70b-{number:04}")
            for second in range(3):
                ts = start + second * 10**9
                producer.allocated_nowait(range(second * 150, second * 150 + 150), ts=ts)
                producer.accessed_nowait(range(150), ts=ts + 1)
                producer.evicted_nowait(range(second * 150, second * 150 + 45), ts=ts + 2)
        await stream.flush()
        state = (await client.get("api/state")).content
        assert len(json.loads(state)["caches"]) == 1000
        assert len(state) < 200_000


async def test_who_comes_again_gets_what_was_missed_and_no_more():
    async with served() as (stream, url):
        async with following(url) as events:
            boot = (await first(events, "hello"))[1]
            await publish(stream, alert(1))
            assert (await first(events, "alert"))[0] == f"{boot}-1"
        await publish(stream, alert(2), alert(3))
        async with following(url, last_event_id=f"{boot}-1") as events:
            assert [(await first(events, "alert"))[0] for _ in range(2)] == [f"{boot}-2", f"{boot}-3"]
        async with following(url, last_event_id="00000000-7") as events:  # of a run before this one
            assert (await first(events, "alert"))[0] == f"{boot}-1"
        async with httpx2.AsyncClient(base_url=url, timeout=DEADLINE) as client:
            answer = (await client.get("api/alerts")).json()
        assert [each["message"] for each in answer["alerts"]] == ["message 3", "message 2", "message 1"]
        assert answer["last_event_id"] == f"{boot}-3"


async def test_alerts_that_are_no_longer_kept_are_counted_as_missed():
    async with served() as (stream, url):
        async with following(url) as events:
            boot = (await first(events, "hello"))[1]
        for start in range(0, 1_500, 500):
            await publish(stream, *map(alert, range(start, start + 500)))
            with anyio.fail_after(DEADLINE):
                while stream.statistics().subscribers[0].delivered < start + 500:  # noqa: ASYNC110
                    await anyio.sleep(0.001)
        async with following(url, last_event_id=f"{boot}-0") as events:
            assert (await first(events, "missed"))[1] == "500"
            assert (await first(events, "alert"))[0] == f"{boot}-501"


async def test_one_client_too_many_displaces_the_one_that_has_followed_for_the_longest_time():
    async with (
        served(max_clients=1) as (stream, url),
        httpx2.AsyncClient(base_url=url, timeout=DEADLINE) as client,
    ):
        async with following(url) as displaced:
            number, _ = await first(displaced, "hello")
            async with following(url) as events:
                await first(events, "hello")
                with anyio.fail_after(DEADLINE):
                    assert "end" not in [kind async for kind, *_ in displaced], "it comes again by itself"
                clients = (await client.get("healthz")).json()["clients"]
                assert clients == {"connected": 1, "displaced": 1, "dropped": 0}
                assert stream.faults.counts["http", "too_many_clients"] == 1
                await publish(stream, alert(1))
                await first(events, "alert")
        with anyio.fail_after(DEADLINE):
            while (await client.get("healthz")).json()["clients"]["connected"]:  # noqa: ASYNC110
                await anyio.sleep(0.01)
        async with following(url, last_event_id=number) as events:
            assert (await first(events, "alert"))[0].endswith("-1"), "what it missed while it was away"


async def test_clients_that_stay_silent_keep_no_browser_out():
    async with served(max_clients=8) as (stream, url):
        port = int(url.rstrip("/").rsplit(":", 1)[1])
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(16)]
        for each in silent:
            each.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for _ in range(3):
            async with following(url) as events:
                await first(events, "hello")
                await publish(stream, alert(1))
                await first(events, "alert")
        for each in silent:
            each.close()


IDS = (
    *(
        "",
        "-",
        "²",
        "{boot}-²",
        "{boot}-٣",
        "{boot}-",
        "{boot}--1",
        "{boot}-1e9",
        "{boot}-0x1",
        "é",
        "%",
        "\x00",
    ),
    *("{boot}-" + "9" * 18, "{boot}-" + "9" * 5000, "x" * 9000, "{boot}-1,{boot}-2", " {boot}-1 ", "\udcff"),
)


async def test_an_event_id_of_any_form_is_answered():
    async with served() as (stream, url), httpx2.AsyncClient(base_url=url, timeout=DEADLINE) as client:
        boot = (await client.get("api/alerts")).json()["last_event_id"].partition("-")[0]
        for text in IDS:
            given = quote(text.format(boot=boot), errors="surrogateescape")
            async with client.stream("GET", f"events?last_event_id={given}") as answer:
                assert answer.status_code == 200, text
            header = text.format(boot=boot).encode("utf-8", "surrogateescape")
            if b"\x00" not in header and header == header.strip():  # else it is no header of HTTP
                async with client.stream("GET", "events", headers={b"last-event-id": header}) as answer:
                    assert answer.status_code == 200, text
        assert not stream.faults.counts


async def test_an_event_id_of_the_future_misses_no_alert():
    async with served() as (stream, url):
        async with following(url) as events:
            boot = (await first(events, "hello"))[1]
        async with following(url, last_event_id=f"{boot}-{'9' * 18}") as events:
            await first(events, "hello")
            await publish(stream, alert(1))
            assert (await first(events, "alert"))[0] == f"{boot}-1"


ACCEPTED = (
    *(
        "*/*",
        "text/html;q=NaN",
        "text/plain;version=²",
        "text/plain;version=",
        "text/plain;version=1.x.0;q=-1",
    ),
    *("application/openmetrics-text;version=", "application/openmetrics-text;version=9" * 200, ",,;;==", "é"),
    *(
        "application/openmetrics-text;version=1.0.0é;q=1e999",
        "application/openmetrics-text;version=" + "9" * 5000,
    ),
    *("application/openmetrics-text;version=-1", "application/openmetrics-text; escaping=\x01;version=2.0.0"),
    *(
        "application/openmetrics-text;version=2.0.0;escaping=é",
        "a" * 9000,
        'text/plain;version=1.0.0;escaping="',
    ),
)


async def test_an_accept_header_of_any_form_is_answered():
    async with served() as (stream, url), httpx2.AsyncClient(base_url=url, timeout=DEADLINE) as client:
        await send_chat(stream, 500)
        for text in ACCEPTED:
            if not text.isprintable():
                continue
            for path in ("metrics", "", "events", "api/summary"):
                async with client.stream("GET", path, headers={b"accept": text.encode()}) as answer:
                    assert answer.status_code == 200, (path, text)
        assert not stream.faults.counts


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)])
async def test_a_question_of_any_form_is_no_error_of_the_server(every):
    odd = (
        "",
        "%C2%B2",
        "%D9%A3",
        "-1",
        "1e9",
        "%FF",
        "%00",
        "%ED%A0%80",
        "9" * 5000,
        "%",
        "%zz",
        "a=b&=&&",
        "[]",
    )
    async with served() as (stream, url), httpx2.AsyncClient(base_url=url, timeout=DEADLINE) as client:
        await send_chat(stream, 500)
        paths = ("summary", "state", "history", "blocks", "alerts", "distributions")
        names = ("limit", "windows", "source", "tier", "last_event_id")
        for path, name, text in list(product(paths, names, odd))[::every]:
            answer = await client.get(f"api/{path}?{name}={text}")
            assert answer.status_code in (200, 400, 404), (path, name, text)
            answer.json()
        assert not stream.faults.counts


async def test_an_error_ends_its_request_alone_and_is_counted(monkeypatch, caplog, capfd):
    async with served() as (stream, url), httpx2.AsyncClient(base_url=url, timeout=DEADLINE) as client:

        async def summary(*selection):
            raise RuntimeError("\x1b[31mno\udcff")

        monkeypatch.setattr(stream, "summary", summary)
        for _ in range(20):
            assert (await client.get("api/summary", params={"source": "x"})).status_code == 500
        assert (await client.get("healthz")).status_code == 200
        assert stream.faults.counts["http", "request_failed"] == 20
        assert (
            b'kvstream_faults_total{part="http",reason="request_failed"} 20.0'
            in (await client.get("metrics")).content
        )
    assert 1 <= len(caplog.messages) <= 10, "one a second"
    assert all(record.exc_info is None for record in caplog.records)
    assert "\x1b" not in caplog.text
    assert "Traceback" not in capfd.readouterr().err


async def test_text_that_no_encoding_holds_is_shown_escaped():
    async with served() as (stream, url), httpx2.AsyncClient(base_url=url, timeout=DEADLINE) as client:
        await publish(stream, msgspec.structs.replace(alert(1), message="b\udcff"))
        async with following(url, last_event_id="x") as events:
            assert json.loads((await first(events, "alert"))[1])["message"] == "b\\udcff"
        assert (await client.get("api/alerts")).json()["alerts"][0]["message"] == "b\\udcff"


async def test_a_client_that_takes_nothing_is_dropped_and_delays_nobody(monkeypatch):
    monkeypatch.setattr(events_module, "_SLOW_SECONDS", 0.3)
    async with served() as (stream, url), httpx2.AsyncClient(base_url=url, timeout=DEADLINE) as client:
        port = int(url.rstrip("/").rsplit(":", 1)[1])
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect(("127.0.0.1", port))
            slow.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            with anyio.fail_after(DEADLINE):
                while (await client.get("healthz")).json()["clients"]["dropped"] == 0:
                    await publish(stream, *map(alert, range(500)))
                    await send_chat(stream, 500)
                    await anyio.sleep(0.01)
        assert stream.summary_nowait().accounts.balanced
        assert (await client.get("healthz")).json()["clients"]["connected"] == 0
        assert stream.faults.counts["http", "slow_client"] == 1
