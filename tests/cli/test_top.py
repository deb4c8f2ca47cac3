"""The screen, driven by textual's pilot."""

import os
import pty
import re
import select
import termios
from contextlib import ExitStack

import anyio
import anyio.to_thread
import httpx2
import pytest

from kvstream import KVStream, MetricsConfig, StreamConfig, connect
from kvstream.cli.server_client import ServerClient
from kvstream.cli.top import ServerWatch, StreamWatch
from kvstream.cli.top_app import TopApp
from kvstream.errors import KVStreamError
from kvstream.reports.overview import Selection
from tests.cli.conftest import COMMAND
from tests.ports import answering, free_port
from tests.serving import DEADLINE, alert, publish, send_chat, served

MARKUP = "[red]vllm-1[/red]"
FIRST = ["state", "cache", "hit ratio", "occupancy"]


@pytest.fixture
def stream():
    return KVStream(StreamConfig(metrics=MetricsConfig(capacity=512)))


def text(app, selector):
    """What a part of the screen shows."""
    widget = app.query_one(selector)
    return "\n".join("".join(s.text for s in widget.render_line(y)) for y in range(widget.size.height))


def rows(app):
    table = app.query_one("#caches")
    return [[str(cell) for cell in table.get_row_at(n)] for n in range(table.row_count)]


async def until(pilot, app, condition):
    """Looks until something is so."""
    with anyio.fail_after(DEADLINE):
        while not condition():
            await app.look_now()
            await pilot.pause()


@pytest.mark.parametrize("size", [(130, 45), (70, 30)])
async def test_it_shows_caches_figures_and_alerts(stream, size):
    watch = StreamWatch(stream)
    app = TopApp(watch, "test", every=0.01)
    async with stream, app.run_test(size=size) as pilot:
        await until(pilot, app, lambda: "waiting for the first events" in text(app, "#status"))
        await send_chat(stream, 20_000)
        await send_chat(stream, 3_000, source=MARKUP, seed=2)
        await publish(stream, alert(7, "resolved"))
        await until(pilot, app, lambda: len(rows(app)) == 2 and "lasted 7.0 s" in text(app, "#incidents"))
        assert {row[1] for row in rows(app)} == {f"{MARKUP} · gpu", "vllm-0 · gpu"}
        (vllm,) = [row for row in rows(app) if "vllm-0" in row[1]]
        assert vllm[3].split() == ["■■■■■■■■", "100%"]
        assert "no incident" in text(app, "#status")
        assert "figures as of" in text(app, "#status")
        assert "open incidents  " in text(app, "#incidents")
        assert "23,000 events" in " ".join(text(app, "#summary").split())
        assert "scale 0 to 1.00" in " ".join(text(app, "#hit-ratio").split())


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (160, [*FIRST, "premature", "evictions/s", "last event", "incident"]),
        (80, [*FIRST, "incident"]),
        (40, FIRST[:-1]),
    ],
)
async def test_the_columns_that_fit_are_shown_the_most_important_ones_first(stream, width, shown):
    app = TopApp(StreamWatch(stream), "test", every=3600)
    async with stream, app.run_test(size=(width, 24)) as pilot:
        await send_chat(stream, 20_000, source="vllm-prod-0")
        table = app.query_one("#caches")
        await until(pilot, app, lambda: len(rows(app)) == 1)
        assert [str(column.label) for column in table.ordered_columns] == shown
        assert table.virtual_size.width <= width
        await pilot.resize_terminal(160, 24)
        await until(pilot, app, lambda: len(table.ordered_columns) == 8)


async def test_history_is_there_from_the_first_look_on(stream):
    async with stream:
        await send_chat(stream, 60_000)  # half a minute
        app = TopApp(StreamWatch(stream), "test", every=3600)
        async with app.run_test(size=(130, 45)) as pilot:
            await until(pilot, app, lambda: "scale" in text(app, "#hit-ratio"))
            assert len(app._history.ts) > 20


async def test_rows_are_sorted_and_filtered(stream):
    app = TopApp(StreamWatch(stream), "test", every=3600)
    async with stream, app.run_test(size=(130, 45)) as pilot:
        for number in range(3):
            await send_chat(stream, 1_000 * (3 - number), source=f"vllm-{number}")
        await until(pilot, app, lambda: len(rows(app)) == 3)
        await pilot.press("s")  # by name
        assert [row[1] for row in rows(app)] == ["vllm-0 · gpu", "vllm-1 · gpu", "vllm-2 · gpu"]
        await pilot.press("r")
        assert [row[1] for row in rows(app)] == ["vllm-2 · gpu", "vllm-1 · gpu", "vllm-0 · gpu"]
        await pilot.press("slash", *"vllm-1")
        await until(pilot, app, lambda: [row[1] for row in rows(app)] == ["vllm-1 · gpu"])
        await pilot.press("escape")
        await until(pilot, app, lambda: len(rows(app)) == 3)
        await pilot.press("question_mark")
        assert app.query_one("#help").display


async def test_keys_choose_a_cache_pause_and_leave(stream):
    app = TopApp(StreamWatch(stream), "test", every=3600)
    async with stream, app.run_test(size=(130, 45)) as pilot:
        await send_chat(stream, 5_000, source="vllm-0")
        await send_chat(stream, 3_000, source="vllm-1")
        await until(pilot, app, lambda: len(rows(app)) == 2)
        await pilot.press("s", "down", "enter")
        await until(pilot, app, lambda: "vllm-1 / gpu" in text(app, "#status"))
        assert "vllm-1 / gpu" in text(app, "#summary")
        await pilot.press("a")
        await until(pilot, app, lambda: "all caches" in text(app, "#status"))
        await pilot.press("p")
        await until(pilot, app, lambda: "PAUSED" in text(app, "#status"))
        await pilot.press("q")
    assert app.return_code == 0


class SlowWatch(StreamWatch):
    """Answers once the screen has gone."""

    def __init__(self, stream):
        super().__init__(stream)
        self.asked, self.answers = anyio.Event(), anyio.Event()

    async def state(self, selection):
        self.asked.set()
        with anyio.CancelScope(shield=True):
            await self.answers.wait()
        return await super().state(selection)


async def test_a_look_that_outlasts_the_screen_fails_nothing(stream):
    watch = SlowWatch(stream)
    app = TopApp(watch, "test", every=3600)
    async with stream, anyio.create_task_group() as tasks:
        async with app.run_test(size=(130, 45)):
            await watch.asked.wait()
            tasks.start_soon(app.look_now)
            await app.screen.remove_children()
            watch.answers.set()
    assert app.return_code in (None, 0)


async def test_what_is_wrong_stands_in_the_first_line(stream):
    app = TopApp(StreamWatch(stream), "test", every=3600)
    async with stream, app.run_test(size=(130, 45)) as pilot:
        producer = stream.producer("vllm-0")
        producer.drop("closed", 5)  # a loss that nobody asked for
        for second in range(3):
            await producer.allocated(second, ts=10**18 + second * 10**9)
        await stream.flush()
        await until(pilot, app, lambda: "WARNING" in text(app, "#status"))
        assert re.search(r"for [\d.]+ s, since \d\d:\d\d:\d\d", text(app, "#status"))
        assert rows(app)[0][0] == "warning"


def watch(url, client):
    return ServerWatch(ServerClient(url, None, "$KVSTREAM_TOKEN", DEADLINE), client)


async def test_a_running_server_is_watched_through_restarts():
    port = free_port()
    url = f"http://127.0.0.1:{port}/"
    async with httpx2.AsyncClient(timeout=DEADLINE) as client:
        app = TopApp(watch(url, client), url, every=3600)
        async with app.run_test(size=(130, 45)) as pilot:
            await until(pilot, app, lambda: "No answer from" in text(app, "#status"))
            async with served(port=port) as (stream, _):
                await send_chat(stream, 5_000)
                await publish(stream, alert(1), alert(2, "resolved"))
                await until(pilot, app, lambda: len(rows(app)) == 1 and "lasted" in text(app, "#incidents"))
                messages = [each.message for each in await app._watched.alerts()]
                assert messages.index("message 1") < messages.index("message 2")
            await until(pilot, app, lambda: "No answer from" in text(app, "#status"))
            assert len(rows(app)) == 1, "what was seen last stays"
            assert "Last figures of" in text(app, "#status")
            async with served(port=port) as (stream, _):
                await send_chat(stream, 1_000, source="vllm-9")
                await until(pilot, app, lambda: [row[1] for row in rows(app)] == ["vllm-9 · gpu"])


async def test_a_server_that_wants_a_token_or_is_none_of_ours_says_so():
    async with served(token="s3cret") as (_, url), httpx2.AsyncClient() as client:
        with pytest.raises(KVStreamError, match="KVSTREAM_TOKEN"):
            await watch(url, client).state(Selection(None, None))
        with pytest.raises(KVStreamError, match="token"):
            await watch(f"{url}elsewhere", client).alerts()
    async with httpx2.AsyncClient() as client:
        with pytest.raises(KVStreamError, match="connection refused"):
            await watch(url, client).state(Selection(None, None))


def test_without_a_terminal_it_says_what_to_use(kvstream):
    ran = kvstream("top", "examples/data/chat.kvlog.gz")
    assert ran.code == 1
    assert "needs a terminal" in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(("body", "says"), [(None, b"connection refused"), (b"<html>", b"is not that of")])
async def test_a_server_that_does_not_answer_at_the_start_is_said_without_a_screen(body, says):
    with ExitStack() as exits:
        url = f"http://127.0.0.1:{free_port()}"
        if body is not None:
            url = exits.enter_context(answering(lambda path: (200, body)))
        terminal, end = pty.openpty()
        command = [*COMMAND, "top", url]
        process = await anyio.open_process(command, stdin=end, stdout=end, stderr=end, start_new_session=True)
        os.close(end)
        drawn = await anyio.to_thread.run_sync(seen_on, terminal, b"\n")
        os.close(terminal)
        with anyio.fail_after(DEADLINE):
            assert await process.wait() == 1
    assert drawn.startswith(b"kvstream: " + url.encode())
    assert says in drawn
    assert drawn.count(b"\n") == 1


def seen_on(terminal, wanted):
    """Reads what a program draws until it has drawn something."""
    drawn = b""
    while wanted not in drawn:
        ready, _, _ = select.select([terminal], [], [], DEADLINE)
        assert ready, drawn[-2000:]
        drawn += os.read(terminal, 65_536)
    return drawn


async def test_in_a_terminal_it_takes_frames_at_a_socket_until_q(tmp_path):
    endpoint = f"unix:{tmp_path}/kv.sock"
    terminal, end = pty.openpty()
    termios.tcsetwinsize(end, (40, 120))
    command = [*COMMAND, "top", endpoint]
    process = await anyio.open_process(command, stdin=end, stdout=end, stderr=end, start_new_session=True)
    os.close(end)
    try:
        await anyio.to_thread.run_sync(seen_on, terminal, b"waiting for the first events")
        async with connect(endpoint) as remote:
            await remote.producer("engine-7").allocated(range(123))
            await anyio.to_thread.run_sync(seen_on, terminal, b"engine-7")
        os.write(terminal, b"q")
        drawn = await anyio.to_thread.run_sync(seen_on, terminal, b"123 live")
        assert b"123 allocated" in drawn
        with anyio.fail_after(DEADLINE):
            assert await process.wait() == 0
    finally:
        os.close(terminal)
        await process.aclose()
