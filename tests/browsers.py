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
async def open_page(**options):
    """A page, and what it complained about."""
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        page = await chromium.new_page(**options)
        page.set_default_timeout(DEADLINE * 1000)
        complaints = []
        page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        yield page, complaints
        await chromium.close()
