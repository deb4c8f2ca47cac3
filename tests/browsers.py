"""Chromium for the tests of pages."""

import shutil
from contextlib import asynccontextmanager

from playwright.async_api import async_playwright

from tests.serving import DEADLINE

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
async def started_chromium():
    """A Chromium for many pages, as to start it takes much longer than a page."""
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield chromium
        await chromium.close()


@asynccontextmanager
async def open_page(chromium, **options):
    """A page that shares nothing with others, and what it complained about."""
    page = await chromium.new_page(**options)
    page.set_default_timeout(DEADLINE * 1000)
    complaints = []
    page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page, complaints
    await page.unroute_all(
        behavior="ignoreErrors"
    )  # of the page's last requests; they fail the next page otherwise
    await page.close()
