"""All caches of a fleet, the worst first, on a page and by its API."""

import threading
from contextlib import asynccontextmanager, contextmanager

import anyio
import httpx2
import msgspec
import pytest

from kvstream.fleet.address import KafkaAddress
from kvstream.fleet.board import Board
from kvstream.fleet.board_app import board_app
from kvstream.transport.endpoint import Endpoint
from kvstream.web.server import AppServer
from tests.fleet.brokers import PARTITIONS, ck, mock_cluster
from tests.fleet.partitions import engine, partition, records
from tests.fleet.workers import new_worker, wait_until, working, write
from tests.serving import AlertLevel, alert
from tests.waiting import DEADLINE

SUMMARIES = {}


def summary(source, *alerts, **recent):
    """A real summary, but for what is to be looked at."""
    if not SUMMARIES:
        part = partition()
        part.apply(records(engine("x")))
        SUMMARIES["x"] = next(part.summaries())[2]
    known = msgspec.json.decode(SUMMARIES["x"])
    known |= {"source": source, "alerts": [each.to_dict() for each in alerts]}
    known["recent"] |= {"premature_ratio": 0.0, "hit_ratio": 0.9, **recent}
    return msgspec.json.encode(known)


def board(*summaries, published_at=0.0):
    made = Board(KafkaAddress.parse("kafka://127.0.0.1:1/kv"), {"log_level": "0"})
    for text in summaries:
        source = msgspec.json.decode(text)["source"]
        made.put(f"{source}\0gpu".encode(), text, published_at)
    return made


def changed(level, started_at=1.0, **others):
    return msgspec.structs.replace(alert(1, level=level), started_at=started_at, **others)


def test_the_worst_come_first():
    shown = board(
        summary("well"),
        summary("hits unknown", hit_ratio=None),
        summary("premature", premature_ratio=0.4),
        summary("few hits", hit_ratio=0.1),
        summary("warned", changed(AlertLevel.WARNING)),
        summary("critical lately", changed(AlertLevel.CRITICAL, 900.0)),
        summary("critical for long", changed(AlertLevel.WARNING), changed(AlertLevel.CRITICAL, 5.0)),
        summary("silenced", changed(AlertLevel.CRITICAL, silenced_by="maintenance")),
    )
    assert [line.source for line in shown.worst(100)] == [
        *("critical for long", "critical lately", "warned"),
        *("premature", "few hits", "silenced", "well", "hits unknown"),
    ]
    assert [line.source for line in shown.worst(2, 1)] == ["critical lately", "warned"]
    assert [line.source for line in shown.worst(9, text="hits")] == ["few hits", "hits unknown"]
    assert shown.worst(1)[0].alerts == 2
    assert shown.overview().firing == {"critical": 2, "warning": 1}


def test_a_newer_summary_takes_the_place_of_the_older_and_none_takes_both_away():
    shown = board(summary("a", changed(AlertLevel.CRITICAL)), summary("b"))
    shown.put(b"a\0gpu", summary("a"), 9.0)
    assert [(line.level, line.published_at) for line in shown.worst(9, text="a")] == [(None, 9.0)]
    shown.put(b"a\0gpu", None, 9.0)
    assert [line.source for line in shown.worst(9)] == ["b"]
    assert shown.summary("a", "gpu") is None


def test_what_is_no_summary_is_counted_and_changes_nothing():
    shown = board(summary("a"))
    for value in (b"", b"{}", b"\xff"):
        shown.put(b"a\0gpu", value, 1.0)
    assert [line.published_at for line in shown.worst(9)] == [0.0]
    assert shown.faults.counts["summaries", "malformed"] == 3


@asynccontextmanager
async def served(shown, **options):
    server = AppServer(Endpoint(host="127.0.0.1", port=0), shown.faults, **options)
    server.bind()
    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve_app, board_app(shown, **options), lambda: None)
            async with httpx2.AsyncClient(base_url=server.url) as client:
                yield client
            tasks.cancel_scope.cancel()


async def test_the_api_answers():
    async with served(board(summary("a/b"), summary("c", changed(AlertLevel.CRITICAL)))) as client:
        shown = (await client.get("api/caches", params={"limit": 1})).json()
        assert [line["source"] for line in shown["caches"]] == ["c"]
        assert shown["overview"]["caches"] == 2
        assert shown["overview"]["late"] == 2
        one = await client.get("api/summary", params={"source": "a/b", "tier": "gpu"})
        assert one.json()["source"] == "a/b"
        assert (await client.get("api/summary", params={"source": "z"})).status_code == 404
        assert (await client.get("api/caches", params={"limit": "0"})).status_code == 400
        assert (await client.get("api/caches", params={"offset": "-1"})).status_code == 400
        assert (await client.get("readyz")).status_code == 503
        assert (await client.get("healthz")).json() == {"status": "ok"}
        for path in ("", "fleet.js", "static/style.css"):
            assert (await client.get(path)).status_code == 200


async def test_with_a_token_nothing_is_shown_without_it():
    async with served(board(summary("a")), token="s3cret") as client:
        assert (await client.get("api/caches")).status_code == 401
        allowed = await client.get("api/caches", headers={"authorization": "Bearer s3cret"})
        assert [line["source"] for line in allowed.json()["caches"]] == ["a"]


@pytest.mark.asyncio(loop_scope="session")  # that of the browser
async def test_the_page_shows_names_as_text(browser):
    name = "<img src=x onerror=alert(1)>"
    async with served(board(summary(name, changed(AlertLevel.CRITICAL)), summary("b"))) as client:
        async with browser() as (page, complaints):
            await page.goto(str(client.base_url))
            await page.wait_for_selector("#caches tr:nth-child(2)")
            cells = await page.locator("#caches tr:nth-child(1) td").all_inner_texts()
            assert cells[:3] == ["critical", name, "gpu"]
            await page.fill("#text", "b")
            await page.wait_for_selector("#caches tr:nth-child(2)", state="detached")
            assert complaints == []


@contextmanager
def reading(shown):
    """A board that reads in a thread."""
    stop = threading.Event()
    thread = threading.Thread(target=shown.run, args=[stop])
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(DEADLINE)


def test_all_is_read_also_where_summaries_are_written_all_the_time():
    """Then no fetch finds a partition at its end, which is what the client reports."""

    class NeverAtTheEnd:
        def __init__(self, consumer):
            self._consumer = consumer

        def __getattr__(self, name):
            return getattr(self._consumer, name)

        def poll(self, seconds):
            message = self._consumer.poll(seconds)
            is_end = message is not None and message.error() is not None and message.offset() > 0
            return None if is_end else message

    with mock_cluster() as broker:
        address = KafkaAddress.parse(broker.url())
        producer = ck.Producer({"bootstrap.servers": broker.address, "log_level": 0})
        for number in range(PARTITIONS - 1):  # the last one is empty
            for source in ("a", "b", "c"):
                name = f"{source}{number}"
                producer.produce(address.summaries, summary(name), f"{name}\0gpu".encode(), number)
        assert producer.flush(DEADLINE) == 0
        shown = Board(address, {"log_level": "0"})
        shown.connect()
        shown._consumer = NeverAtTheEnd(shown._consumer)
        with reading(shown):
            wait_until(lambda: shown.is_whole)
            assert shown.overview().caches == 3 * (PARTITIONS - 1)


@pytest.mark.slow
def test_what_workers_publish_is_shown(broker, tmp_path):
    url = broker.url()
    write(broker, url, [*engine("a"), *engine("b", seed=1)])
    shown = Board(KafkaAddress.parse(url), {"log_level": "0"})
    shown.connect()
    with reading(shown):
        with working(new_worker(url, tmp_path)):
            wait_until(lambda: {line.source for line in shown.worst(9)} == {"a", "b"})
            wait_until(lambda: shown.overview().is_whole)
        assert shown.overview().caches == 2
        assert msgspec.json.decode(shown.summary("a", "gpu"))["accounts"]["processed"] > 0
