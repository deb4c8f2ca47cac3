"""A real server of a real stream, and a real browser to look at it."""

import shutil
from contextlib import asynccontextmanager

import anyio
import pytest
from playwright.async_api import async_playwright

from kvstream import KVStream, MetricsConfig, StreamConfig
from kvstream.link import Endpoint
from kvstream.sources.synthetic import generate
from kvstream.web.server import HttpServer

DEADLINE = 60
CHROMIUM = shutil.which("chromium")
# Chromium asks Google for updates otherwise, and cannot have a sandbox of its own inside of another.
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@asynccontextmanager
async def served(port=0, config=None, rules=None, **options):
    """An open stream, and the URL of its dashboard."""
    stream = KVStream(config or StreamConfig(metrics=MetricsConfig(capacity=512)), rules)
    server = HttpServer(stream, Endpoint(host="127.0.0.1", port=port), **options)
    server.bind()
    async with stream, anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve)
        yield stream, server.url
        tasks.cancel_scope.cancel()


async def send_chat(stream, events=20_000, source="vllm-0", **options):
    """Puts a chat workload with prefix reuse into a stream."""
    for frame in generate("chat", events, blocks=512, rate=2_000, source=source, **options):
        await stream.send(frame)
    await stream.flush()


@pytest.fixture
def browser():
    """A context manager of a page in Chromium, and of what it complained about."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")

    @asynccontextmanager
    async def open_page(**options):
        async with async_playwright() as playwright:
            chromium = await playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
            page = await chromium.new_page(**options)
            page.set_default_timeout(DEADLINE * 1000)
            complaints = []
            page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
            page.on("pageerror", lambda error: complaints.append(str(error)))
            yield page, complaints
            await chromium.close()

    return open_page
