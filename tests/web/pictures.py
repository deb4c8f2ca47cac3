"""The pictures of the documentation: ``python -m tests.web.pictures`` makes them, from simulated engines."""

import time
from pathlib import Path

import anyio

from kvstream import MetricsConfig, StreamConfig
from tests.browsers import open_page, started_chromium
from tests.serving import served
from tests.web.fleets import BLOCKS, go_on, send_fleet

IMAGES = Path(__file__).parents[2] / "docs" / "images"
PICTURES = (("dashboard", "", ".fleet a.name"), ("cache", "?cache=eu-west-1/llama-000/gpu", ".heat td"))
CACHES, SCANNED = 12, 2
SECONDS, MORE_SECONDS = 900, 300  # the past, and while pictures are taken
SIZE = {"width": 1280, "height": 1180}


async def main() -> None:
    """Fill a stream with the past of a fleet, go on with it, and take a picture of each view."""
    metrics = MetricsConfig(capacity=BLOCKS, windows=SECONDS + 600, block_tokens=16, block_bytes=5 * 2**20)
    async with (
        served(config=StreamConfig(metrics=metrics)) as (stream, url),
        anyio.create_task_group() as tasks,
        started_chromium() as chromium,
    ):
        began = time.time()
        frames = await send_fleet(stream, CACHES, SECONDS, SCANNED, then=MORE_SECONDS)
        await stream.flush()
        tasks.start_soon(go_on, stream, frames)
        for name, query, ready in PICTURES:
            async with open_page(chromium, viewport=SIZE, color_scheme="light") as (page, complaints):
                await page.goto(url + query)
                await page.locator(ready).first.wait_for()
                await anyio.sleep(2.0)
                await page.screenshot(path=IMAGES / f"{name}.png")
                print(f"{name}.png after {time.time() - began:.0f} s", *complaints)
        tasks.cancel_scope.cancel()


if __name__ == "__main__":
    anyio.run(main)
