"""What looking costs: ``python -m tests.web`` measures scrapes of many sources, a page of
as many caches, and ingest under browsers."""

import itertools
import json
import statistics
import time

import anyio

from kvstream import EventFrame, KVStream, MetricsConfig, StreamConfig
from kvstream.exporters.prometheus import exposition
from kvstream.sources.synthetic import generate
from kvstream.transport.endpoint import Endpoint
from kvstream.web.server import HttpServer
from tests.browsers import open_page, started_chromium
from tests.serving import served
from tests.web.fleets import go_on, send_fleet

BROWSERS, SOURCES = 5, 1000
ROUND_SECONDS, ROUNDS = 4.0, 6


def recorded(source, events=200_000):
    return list(generate("chat", events, blocks=4096, rate=20_000, source=source))


async def ingest(stream, frames, seconds):
    """Events a second that the stream takes in at full speed."""
    begun, sent = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        frame = next(frames)
        await stream.send(frame)
        sent += len(frame)
    await stream.flush()
    return sent / (time.perf_counter() - begun)


def endless(frames):
    """The frames over and over, each time later than the time before."""
    span = int(frames[-1].ts[-1]) - int(frames[0].ts[0]) + 1_000_000
    for turn in itertools.count():
        for frame in frames:
            yield EventFrame(
                frame.ops, frame.blocks, frame.ts + turn * span, frame.source, frame.tier, frame.keys
            )


async def with_browsers():
    """Alternates rounds without anybody who looks and rounds with five browsers and a scrape a second."""
    stream = KVStream(StreamConfig(metrics=MetricsConfig(capacity=4096)))
    server = HttpServer(stream, Endpoint(host="127.0.0.1", port=0))
    server.bind()
    frames = endless(recorded("vllm-0"))
    alone, watched = [], []

    async def scrape():
        while True:
            await exposition(stream)
            await anyio.sleep(1.0)

    async with stream, anyio.create_task_group() as tasks, started_chromium() as chromium:
        tasks.start_soon(server.serve)
        await ingest(stream, frames, ROUND_SECONDS)
        for _ in range(ROUNDS):
            alone.append(await ingest(stream, frames, ROUND_SECONDS))
            pages = [await chromium.new_page() for _ in range(BROWSERS)]
            for page in pages:
                await page.goto(server.url)
                await page.locator("#stats .big").first.wait_for()
            async with anyio.create_task_group() as scraping:
                scraping.start_soon(scrape)
                watched.append(await ingest(stream, frames, ROUND_SECONDS))
                scraping.cancel_scope.cancel()
            for page in pages:
                await page.close()
            await anyio.sleep(0.5)
        tasks.cancel_scope.cancel()
    before, after = statistics.median(alone), statistics.median(watched)
    print(
        f"ingest alone {before / 1e6:.2f} M events/s, with {BROWSERS} browsers {after / 1e6:.2f}: "
        f"{after / before - 1:+.1%}"
    )


async def many_sources():
    """A scrape of a thousand sources, and how long it holds the event loop at a time, by CPU time."""
    async with KVStream(StreamConfig(metrics=MetricsConfig(capacity=500, export_interval=0.0))) as stream:
        frames = list(generate("chat", 3_000, blocks=500, rate=500, frame_events=500))
        for n in range(SOURCES):
            for f in frames:
                await stream.send(EventFrame(f.ops, f.blocks, f.ts, f"vllm-{n}", f.tier, f.keys))
        await stream.flush()
        took, held = [], []

        async def tick():
            while True:
                begun = time.thread_time()
                await anyio.sleep(0.001)
                held.append(time.thread_time() - begun)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tick)
            for _ in range(10):
                begun = time.perf_counter()
                body, _ = await exposition(stream)
                took.append(time.perf_counter() - begun)
                await anyio.sleep(0.2)
            tasks.cancel_scope.cancel()
        print(
            f"/metrics of {SOURCES:,} sources: {len(body) / 1e6:.1f} MB "
            f"in {statistics.median(took) * 1e3:.0f} ms (worst {max(took) * 1e3:.0f}); "
            f"the loop is held for {max(held) * 1e3:.0f} ms at a time at most"
        )


async def many_caches_on_a_page(seconds=10.0):
    """A page of a thousand caches: its longest task while it is used, by CPU time, and what it is sent."""
    async with (
        served() as (stream, url),
        anyio.create_task_group() as tasks,
        started_chromium() as chromium,
        open_page(chromium, viewport={"width": 1440, "height": 900}) as (page, complaints),
    ):
        later = await send_fleet(stream, SOURCES, 15, bad=3, then=120, rate=20.0)
        tasks.start_soon(go_on, stream, later)
        received = []
        devtools = await page.context.new_cdp_session(page)
        await devtools.send("Network.enable")
        devtools.on("Network.dataReceived", lambda event: received.append(event["dataLength"]))

        async def load():
            await page.goto(url)
            await page.locator("#caches a.name").first.wait_for()
            await anyio.sleep(2.0)
            received.clear()

        async def show_all():
            await page.locator("#more-caches").click()
            for _ in range(5):
                await page.mouse.wheel(0, 3000)
                await anyio.sleep(0.3)

        async def look_for():
            await page.locator("#filter").press_sequentially("hit<0.9 llama", delay=100)
            await page.locator("[data-column=hit] button").click()

        async def open_cache():
            await page.locator("#caches a.name").first.click()
            await anyio.sleep(2.0)

        for name, act in (
            ("loads", load),
            ("is looked at", lambda: anyio.sleep(seconds)),
            ("is scrolled", show_all),
            ("is filtered and sorted", look_for),
            ("opens a cache", open_cache),
        ):
            longest = await longest_task(page, act)
            sent = f"{sum(received) / 1e3:.0f} kB"
            print(f"a page of {SOURCES:,} caches {name}: longest task {longest:.0f} ms, {sent}", *complaints)
            received.clear()
        tasks.cancel_scope.cancel()


async def longest_task(page, act):
    """Milliseconds of CPU that the longest task of a page takes meanwhile."""
    chromium = page.context.browser
    await chromium.start_tracing(page=page, categories=["toplevel"])
    await act()
    events = json.loads(await chromium.stop_tracing())["traceEvents"]
    mains = {
        (event["pid"], event["tid"])
        for event in events
        if event["name"] == "thread_name" and event["args"]["name"] == "CrRendererMain"
    }
    return max(
        event.get("tdur", 0) / 1e3
        for event in events
        if event["name"].endswith("RunTask") and (event["pid"], event["tid"]) in mains
    )


if __name__ == "__main__":
    anyio.run(many_sources)
    anyio.run(many_caches_on_a_page)
    anyio.run(with_browsers)
