"""The dashboard in a real browser."""

import json
import re
from urllib.parse import quote

import msgspec
import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import expect

from kvstream import Labels
from kvstream.alerts.types import AlertLevel
from kvstream.text.escape import for_terminal, for_unicode
from tests.alerts.test_silences import config, fill
from tests.serving import DEADLINE, alert, send_chat, served, tell
from tests.text.test_escape import HOSTILE_NAMES
from tests.waiting import until

expect.set_options(timeout=DEADLINE * 1000)


async def test_it_says_that_it_waits_and_then_shows_figures_as_they_come(browser):
    async with served() as (stream, url), browser() as (page, complaints):
        await page.goto(url)
        await expect(page.locator("#health-word")).to_have_text("Waiting for the first events")
        await expect(page.locator("#ratio-chart .plot")).to_have_text("Nothing has happened yet.")
        await expect(page.locator("#connection")).to_have_text("live")
        await send_chat(stream, 10_000)
        await expect(page.locator("#health-word")).to_contain_text("Healthy")
        await expect(page.locator("#accounts")).to_contain_text("10,000")
        await expect(page.locator("#ratio-chart canvas")).to_have_count(1)
        await send_chat(stream, 10_000, start_ns=1_767_225_700_000_000_000)
        await expect(page.locator("#accounts")).to_contain_text("20,000")
        await expect(page.locator("#curve-chart .plot")).to_have_attribute(
            "aria-label", re.compile(r"^Hit ratio 0\.\d\d with today's 512 blocks")
        )
        await expect(page.locator("#verdict li").first).to_contain_text("of evictions were premature")
        await expect(page.locator("#verdict")).to_contain_text("Causes of misses: ")
        await expect(page.locator("#tiles")).to_contain_text(re.compile(r"\d % never stored"))
        await expect(page.locator("#map td").first).to_be_visible()
        assert complaints == []


async def test_a_cache_is_chosen_and_alerts_are_filtered(browser):
    async with served() as (stream, url), browser() as (page, complaints):
        await send_chat(stream, 8_000, source="vllm-0")
        await send_chat(stream, 4_000, source="vllm-1", seed=2)
        await tell(stream, alert(1), alert(2, level=AlertLevel.CRITICAL), alert(3, level=AlertLevel.INFO))
        await page.goto(url)
        await expect(page.locator("#accounts")).to_contain_text("12,000")
        await expect(page.locator("#map-empty")).to_be_visible()
        await expect(page.locator("#alerts tbody tr")).to_have_count(
            3 + len(firing(stream)), timeout=DEADLINE * 1000
        )
        await page.select_option("#level", "critical")
        await expect(page.locator("#alerts tbody tr")).to_have_count(1)
        await expect(page.locator("#alerts tbody tr")).to_contain_text("message 2")
        await expect(page.locator("#caches tbody tr")).to_have_count(2)
        await page.get_by_role("button", name="vllm-1 / gpu").click()
        await expect(page.locator("#place")).to_have_value('["vllm-1","gpu"]')
        await expect(page.locator("#alerts tbody tr")).to_have_count(0)
        held = f"{stream.summary_nowait('vllm-1', 'gpu').accounts.allocations:,}"
        await expect(page.locator("#accounts")).to_contain_text(held)
        await expect(page.locator("#hot tbody tr")).to_have_count(20)
        await page.reload()
        await expect(page.locator("#place")).to_have_value('["vllm-1","gpu"]')
        assert complaints == []


def firing(stream):
    """Alerts that the stream has fired by itself."""
    return stream.summary_nowait().alerts


async def test_what_is_wrong_since_when_and_what_to_try_stands_at_the_top(browser):
    async with served() as (stream, url), browser() as (page, complaints):
        producer = stream.producer("vllm-0")
        start = 1_767_225_600_000_000_000
        for second in range(900):
            producer.allocated_nowait(range(10), ts=start + second * 10**9)
            producer.accessed_nowait(list(range(10)) * 3, ts=start + second * 10**9 + 10**6)
            producer.evicted_nowait(range(10), ts=start + second * 10**9 + 2 * 10**6)
        for second in range(900, 1300):  # nothing is found again
            producer.allocated_nowait(range(40), ts=start + second * 10**9)
            producer.evicted_nowait(range(40), ts=start + second * 10**9 + 2 * 10**6)
        await stream.flush()
        await page.goto(url)
        await expect(page.locator("#health")).to_have_class("critical")
        await expect(page.locator("#health-word")).to_contain_text("Critical since")
        await expect(page.locator("#health-why")).to_contain_text("hit ratio fell to 0.00")
        await expect(page.locator("#health-try")).to_contain_text("Try: ")
        assert complaints == []


async def test_after_a_restart_of_the_server_it_goes_on_with_the_new_run(browser):
    async with browser() as (page, _):
        async with served() as (stream, url):
            await send_chat(stream, 5_000)
            await tell(stream, alert(1))
            await page.goto(url)
            await expect(page.locator("#accounts")).to_contain_text("5,000")
            await expect(page.locator("#alerts")).to_contain_text("message 1")
        await expect(page.locator("#connection")).to_contain_text("no connection; figures of")
        await expect(page.locator("body")).to_have_class("stale")
        await expect(page.locator("#accounts")).to_contain_text("5,000")
        async with served(port=int(url.rstrip("/").rsplit(":", 1)[1])) as (stream, _):
            await send_chat(stream, 7_000)
            await expect(page.locator("#connection")).to_have_text("live")
            await expect(page.locator("#accounts")).to_contain_text("7,000")
            await expect(page.locator("#alerts")).not_to_contain_text("message 1")


async def test_ten_thousand_alerts_do_it_no_harm(browser):
    async with served() as (stream, url), browser() as (page, complaints):
        await page.goto(url)
        await expect(page.locator("#connection")).to_have_text("live")
        for start in range(0, 10_000, 100):
            await tell(stream, *map(alert, range(start, start + 100)))
            await until(lambda end=start + 100: stream.statistics().subscribers[0].delivered >= end)
        await expect(page.locator("#alert-count")).to_contain_text("showing 200 of 10,000")
        await expect(page.locator("#alerts tbody tr")).to_have_count(200)
        await expect(page.locator("#alerts tbody tr").first).to_contain_text("message 9999")
        await send_chat(stream, 2_000)
        await expect(page.locator("#accounts")).to_contain_text("2,000")
        assert complaints == []


async def test_it_fits_a_narrow_screen_in_the_dark_and_works_by_keyboard(browser):
    narrow = {"viewport": {"width": 400, "height": 800}, "color_scheme": "dark"}
    async with served() as (stream, url), browser(**narrow) as (page, complaints):
        await stream.producer("engine-0").allocated(range(10), labels=Labels(tenant="acme"))
        await send_chat(stream, 5_000)
        await page.goto(url)
        await expect(page.locator("#labels")).to_contain_text("tenant: acme")
        # The page's own policy forbids page scripts to be evaluated; attributes and boxes tell the same.
        await expect(page.locator("html")).to_have_attribute("data-theme", "dark")
        for part in ("main", "#alerts-title", "#ratio-chart canvas", "#tiles"):
            box = await page.locator(part).bounding_box()
            assert box["x"] >= 0, part
            assert box["x"] + box["width"] <= 400, part
        await page.keyboard.press("Tab")
        await expect(page.locator(".skip")).to_be_focused()
        await page.keyboard.press("Tab")
        await expect(page.locator("#place")).to_be_focused()
        await page.locator("#theme").select_option("light")
        await expect(page.locator("html")).to_have_attribute("data-theme", "light")
        summary = page.locator("#ratio-chart summary")
        await summary.focus()
        await page.keyboard.press("Enter")
        await expect(page.locator("#ratio-chart details td").first).to_be_visible()
        for name in ("#ratio-chart", "#rate-chart", "#distribution-chart"):
            await expect(page.locator(f"{name} .plot")).to_have_attribute("aria-label", re.compile(r"\w"))
        assert complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing_that_would_shut_anybody_out(browser, scheme):
    async with served() as (stream, url), browser(color_scheme=scheme) as (page, _):
        await stream.producer("engine-0").allocated(range(10), labels=Labels(tenant="acme"))
        await send_chat(stream, 20_000)
        await tell(stream, alert(1), alert(2, level=AlertLevel.CRITICAL), alert(3, state="resolved"))
        await page.goto(url)
        await page.select_option("#place", label="vllm-0 / gpu")
        await expect(page.locator("#map td").first).to_be_visible()
        await expect(page.locator("#alerts")).to_contain_text("message 3")
        found = await Axe().run(page)
        assert len(found.response["passes"]) > 20
        assert found.violations_count == 0, found.generate_report()


async def test_with_a_token_it_opens_by_the_link_alone(browser):
    async with served(token="s3cret") as (stream, url), browser() as (page, _):
        await send_chat(stream, 1_000)
        await page.goto(f"{url}?token=s3cret")
        await expect(page.locator("#accounts")).to_contain_text("1,000")
        assert "s3cret" not in page.url


async def test_hostile_names_are_shown_as_text(browser):
    names = [name for name in HOSTILE_NAMES.values() if len(name) <= 256 and "\\ud" not in for_unicode(name)]
    async with served() as (stream, url), browser() as (page, complaints):
        dialogs = []
        page.on("dialog", lambda dialog: dialogs.append(dialog))
        for name in names:
            await stream.producer(name, name).allocated(range(10), labels=Labels(tenant=name))
        await stream.flush()
        told = [
            msgspec.structs.replace(alert(n), source=name, tier=name, rule=name, message=name, hint=name)
            for n, name in enumerate(names)
        ]
        await tell(stream, *told)
        await page.goto(url)
        await expect(page.locator("#alerts tbody tr").first).to_be_visible()
        for name in names:
            shown = for_terminal(name)
            for selector in ("#caches button", "#place option", "#labels td", "#alerts td"):
                await expect(page.locator(selector, has_text=shown)).not_to_have_count(0)
        assert await page.locator("main script, main b, [onmouseover]").count() == 0
        hostile = json.dumps([names[0], names[0]])
        for query in (
            f"?place={quote(hostile)}",
            "?place=%5B",
            "?place=[1,2]",
            "?place={}",
            "?place=%FF%00<script>",
        ):
            await page.goto(url + query)
            await expect(page.locator("#connection")).to_have_text("live")
        assert dialogs == []
        assert complaints == []


async def test_an_alert_that_fires_is_silenced_or_acknowledged_by_a_button(browser):
    async with served(config=config()) as (stream, url), browser() as (page, complaints):
        for source in ("a[1]", "b"):
            await fill(stream, source)
        await page.goto(url)
        rows = page.locator("#alerts tbody tr")
        await expect(rows).to_have_count(2)
        await rows.filter(has_text="a[1]").get_by_role("button", name="Silence 1 h").click()
        await expect(page.locator("#alert-done")).to_have_text(
            "occupancy_high of a[1] / gpu is silenced for an hour"
        )
        await expect(rows.filter(has_text="a[1]")).to_contain_text("silenced: silenced on the page")
        assert [alert.source for alert in stream.firing()] == ["b"]
        await rows.filter(has_text="b / gpu").get_by_role("button", name="Acknowledge").focus()
        await page.keyboard.press("Enter")
        await expect(rows.filter(has_text="b / gpu")).to_contain_text("silenced: acknowledged")
        assert stream.firing() == []
        await expect(rows.get_by_role("button")).to_have_count(0)
        assert complaints == []


async def test_buttons_work_by_the_cookie_and_shut_nobody_out(browser):
    async with served(config=config(), token="s3cret") as (stream, url), browser() as (page, _):
        await fill(stream)
        await page.goto(f"{url}?token=s3cret")
        button = page.get_by_role("button", name="Acknowledge")
        await expect(button).to_be_visible()
        found = await Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        await button.click()
        await expect(page.locator("#alert-done")).to_contain_text("is acknowledged until it is over")
        (silence,) = stream.silences()
        assert silence.incident
