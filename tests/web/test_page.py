"""The dashboard in a real browser: each state that it can be in, and what a person does with it."""

import json
import re
import time
from contextlib import asynccontextmanager
from urllib.parse import quote

import msgspec
import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import expect

from kvstream import Labels, MetricsConfig, StreamConfig
from kvstream.alerts.types import AlertLevel
from kvstream.text.escape import for_terminal, for_unicode
from tests.alerts.test_silences import config, fill
from tests.serving import DEADLINE, alert, publish, send_chat, served
from tests.text.test_escape import HOSTILE_NAMES
from tests.waiting import until
from tests.web.fleets import START, fall_silent, send_drop, send_hits, stay_fresh

expect.set_options(timeout=DEADLINE * 1000)
pytestmark = pytest.mark.asyncio(loop_scope="session")  # that of the browser


@asynccontextmanager
async def no_axe_findings(page):
    """Check with axe-core what is on the page at the end."""
    yield
    found = await Axe().run(page)
    assert len(found.response["passes"]) > 10
    assert found.violations_count == 0, found.generate_report()


# What is so, at the top


async def test_it_waits_where_it_listens_and_then_shows_figures_as_they_come(browser):
    async with served(listening=["unix:/run/kv.sock"]) as (stream, url), browser() as (page, complaints):
        async with no_axe_findings(page):
            await page.goto(url)
            await expect(page.locator("#headline")).to_have_text("Waiting for the first event")
            await expect(page.locator("#why")).to_contain_text("Listening at unix:/run/kv.sock")
            await expect(page.locator("#connection")).to_contain_text("Listening")
            await expect(page.locator("#start code").first).to_contain_text(
                "KVSTREAM_ENDPOINT=unix:/run/kv.sock vllm serve"
            )
            await expect(page.locator("#stats")).to_be_hidden()
        await send_chat(stream, 10_000)
        await stay_fresh(stream)
        await expect(page.locator("#connection")).to_contain_text("Live")
        await expect(page.locator("#start")).to_be_hidden()
        await expect(page.locator("#accounts-line")).to_contain_text("10,000 events received, all processed")
        await expect(page.locator("#ratio-chart canvas")).to_have_count(1)
        await send_chat(stream, 10_000, start_ns=START + 100 * 10**9)
        await expect(page.locator("#accounts-line")).to_contain_text("20,000")
        await expect(page.locator("#curve-chart .plot")).to_have_attribute(
            "aria-label", re.compile(r"^Hit ratio 0\.\d\d with today's 512 blocks")
        )
        await expect(page.locator("#findings li").first).to_contain_text("of evictions were premature")
        await expect(page.locator("#findings")).to_contain_text("Causes of misses: ")
        await expect(page.locator(".heat td").first).to_be_visible()
        assert "cache=vllm-0%2Fgpu" in page.url, "the only cache chooses itself"
        assert complaints == []


async def test_every_count_that_is_a_problem_stands_out_in_the_accounts(browser):
    async with served() as (stream, url), browser() as (page, complaints):
        producer = stream.producer("engine-0")
        await producer.allocated([1, 2, 3])
        await producer.evicted([7, 8])
        await stream.flush()
        await stay_fresh(stream)
        await page.goto(url)
        await page.locator("#accounts-line").click()
        rows = page.locator("#accounts div")
        await expect(rows.filter(has_text="Unknown evictions").locator("dd")).to_have_class("t-warning")
        await expect(rows.filter(has_text="Blocks in the cache").locator("dd")).not_to_have_class("t-warning")
        assert complaints == []


async def test_a_server_that_is_gone_is_the_largest_thing_on_the_page(browser):
    async with browser() as (page, _):
        async with served() as (stream, url):
            await send_chat(stream, 5_000)
            await page.goto(url)
            await expect(page.locator("#accounts-line")).to_contain_text("5,000")
            size = await page.locator("#headline").evaluate("node => getComputedStyle(node).fontSize")
        await expect(page.locator("#headline")).to_contain_text(
            re.compile(r"No answer from kvstream for \d+ s")
        )
        await expect(page.locator("#connection")).to_contain_text("No connection")
        await expect(page.locator("#asof")).to_contain_text(re.compile(r"Last figures 2026-01-01 .* UTC\+0"))
        await expect(page.locator("#stats")).to_contain_text(re.compile(r"at \d\d:\d\d:\d\d"))
        await expect(page).to_have_title(re.compile("No connection"))
        larger = await page.locator("#headline").evaluate("node => getComputedStyle(node).fontSize")
        assert float(larger[:-2]) > float(size[:-2])
        await expect(page.locator("#headline")).to_be_in_viewport()
        async with no_axe_findings(page):
            await expect(page.locator("#accounts-line")).to_contain_text("5,000")
        await expect(page.get_by_role("button", name="Try now")).to_be_visible()
        async with served(port=int(url.rstrip("/").rsplit(":", 1)[1])) as (stream, _):
            await send_chat(stream, 7_000)
            await stay_fresh(stream)
            # Unless the page has tried again by itself: it does so every few seconds.
            await page.evaluate("document.querySelector('#why button')?.click()")
            await expect(page.locator("#connection")).to_contain_text("Live")
            await expect(page.locator("#accounts-line")).to_contain_text("7,000")


async def test_an_incident_lasts_no_longer_than_the_newest_figures_say(browser):
    async with browser() as (page, _):
        async with served() as (stream, url):
            await send_drop(stream)
            await stay_fresh(stream)
            await page.goto(url)
            await expect(page.locator("#headline")).to_contain_text("Hit ratio fell")
        await expect(page.locator("#headline")).to_contain_text("No answer from kvstream for")
        said = await page.locator("#headline").inner_text()
        lasted = await page.locator(".incident .duration b").first.inner_text()
        await expect(page.locator("#headline")).not_to_have_text(said)  # seconds go on there
        assert await page.locator(".incident .duration b").first.inner_text() == lasted != ""


async def test_a_stream_that_is_silent_is_not_live(browser):
    async with served() as (stream, url), browser() as (page, complaints):
        await send_hits(stream)
        await stay_fresh(stream)
        await page.goto(url)
        await expect(page.locator("#connection")).to_contain_text("Live")
        await fall_silent(stream, 3600 + 75)
        await expect(page.locator("#headline")).to_contain_text(re.compile(r"No events for (\d\d s|\d min)"))
        await expect(page.locator("#connection")).to_contain_text("Silent")
        await expect(page.locator("#stats .big").first).to_contain_text("–")
        await send_hits(stream, start=START + 100 * 10**9)
        await stay_fresh(stream)
        await expect(page.locator("#connection")).to_contain_text("Live")
        assert complaints == []


async def test_what_is_wrong_since_when_and_what_to_try_stands_at_the_top(browser):
    async with served() as (stream, url), browser() as (page, complaints):
        await send_drop(stream)
        await stay_fresh(stream)
        await page.goto(url)
        await expect(page.locator("#verdict")).to_have_class(re.compile("critical"))
        await expect(page.locator("#headline")).to_contain_text("Hit ratio fell to 0.00 from 0.75")
        await expect(page.locator("#since")).to_contain_text(
            re.compile(r"Critical for \d+ min.*, since \d\d:\d\d:\d\d UTC\+0")
        )
        await expect(page.locator("#try")).to_contain_text("Look for a scan")
        await expect(page.locator("#evidence li").first).to_be_visible()
        await expect(page.locator("#stats .critical")).to_contain_text("Hit ratio")
        await expect(page).to_have_title("1 critical · vllm-0 · gpu · kvstream")
        assert complaints == []


async def test_nothing_is_steady_that_is_bad_in_absolute_terms(browser):
    async with served() as (stream, url), browser() as (page, _):
        await send_hits(stream)
        await stay_fresh(stream)
        await page.goto(url)
        await expect(page.locator("#headline")).to_contain_text("Steady")
        await stream.producer("vllm-0").evicted(range(100), ts=START + 30 * 10**9)
        producer = stream.producer("vllm-0")
        for second in range(40, 90):  # nothing is ever found, and no rule that looks at the past minds
            producer.allocated_nowait(range(20), ts=START + second * 10**9)
            producer.evicted_nowait(range(20), ts=START + second * 10**9 + 10**6)
        await stream.flush()
        await stay_fresh(stream)
        await expect(page.locator("#headline")).to_contain_text("No incident, but hit ratio 0.00")
        await expect(page.locator("#verdict")).to_have_class(re.compile("info"))


async def test_what_is_unknown_is_said_and_never_zero(browser):
    async with (
        served(config=StreamConfig(metrics=MetricsConfig())) as (stream, url),
        browser() as (page, complaints),
    ):
        producer = stream.producer("vllm-0")
        for second in range(5):
            producer.allocated_nowait(range(20), ts=START + second * 10**9)
        await stream.flush()
        await stay_fresh(stream)
        await page.goto(url)
        await expect(page.locator("#headline")).to_contain_text("No incident; hits are not reported")
        await expect(page.locator("#stats .stat").first).to_contain_text("–unknown")
        await expect(page.locator("#stats")).to_contain_text("capacity unknown")
        await expect(page.locator("#ratio-chart")).to_contain_text("the hit ratio is unknown")
        assert complaints == []


@pytest.mark.slow
async def test_a_capacity_that_cannot_be_turns_off_what_rests_on_it(browser):
    async with (
        served(config=StreamConfig(metrics=MetricsConfig(capacity=256))) as (stream, url),
        browser() as (page, _),
    ):
        await send_hits(stream, blocks=400, seconds=30)
        await stay_fresh(stream)
        await page.goto(url)
        await expect(page.locator("#headline")).to_contain_text(
            "Capacity is set too low: 400 blocks live, 256 given"
        )
        await expect(page.locator("#stats")).to_contain_text("the given capacity is wrong")


@pytest.mark.slow
async def test_what_came_while_nobody_looked_is_asked_for(browser):
    async with served() as (stream, url), browser() as (page, complaints):
        await page.goto(url)
        await expect(page.locator("#headline")).to_have_text("Waiting for the first event")
        await send_hits(stream, seconds=300)  # at once, as what a publisher replays
        rows = page.locator("#rate-chart details tr")
        await page.locator("#rate-chart summary").click()
        await expect(rows).to_have_count(21)
        await expect(rows.last).to_contain_text("100")
        assert complaints == []


# Many caches


@pytest.mark.slow
async def test_the_worst_caches_stand_first_and_one_is_opened(browser):
    async with served() as (stream, url), browser() as (page, complaints):
        for number in range(25):
            await send_hits(stream, f"eu/vllm-{number:02}", seconds=1300)
        await send_drop(stream, "us/vllm-x")
        await stay_fresh(stream)
        async with no_axe_findings(page):
            await page.goto(url)
            await expect(page.locator("#headline")).to_contain_text("1 of 26 caches is critical")
            await expect(page.locator("#why")).to_contain_text("us/vllm-x · gpu: Hit ratio fell to 0.00")
            rows = page.locator("#caches tbody tr[role=row]")
            await expect(rows).to_have_count(20)
            await expect(rows.first).to_contain_text("us/vllm-x")
            ratios = page.locator("#fleet-tiles figure").first
            await expect(ratios).to_contain_text("worst 0.00")
            shown = re.compile(r"p95 of caches 1\.00, blocks 0\.\d+, p5 of caches 1\.00, worst 0\.00")
            await expect(ratios.locator(".plot")).to_have_attribute("aria-label", shown)
        await page.locator("#more-caches").click()
        await expect(rows).to_have_count(26)
        await page.locator("[data-column=name] button").click()
        await expect(rows.first).to_contain_text("eu/vllm-00")
        await page.keyboard.press("Escape")
        await page.locator("main").focus()
        await page.keyboard.press("/")
        await page.keyboard.type("hit<0.5")
        await expect(rows).to_have_count(1)
        await expect(page.locator("#caches-shown")).to_have_text("1 of 26 match")
        assert "q=hit%3C0.5" in page.url
        await page.keyboard.press("Enter")
        await expect(page.locator("#headline")).to_contain_text("Hit ratio fell")
        await expect(page.locator("#crumbs b")).to_have_text("us/vllm-x · gpu")
        await page.go_back()
        await expect(rows).to_have_count(1)
        await page.reload()
        await expect(rows).to_have_count(1)
        assert complaints == []


@pytest.mark.slow
async def test_caches_that_are_idle_count_in_the_memory_of_all(browser):
    async with served() as (stream, url), browser() as (page, _):
        await send_hits(stream, "busy", seconds=60)
        await send_hits(stream, "idle", seconds=2)
        await page.goto(url)
        memory = page.locator("#fleet-tiles figure").nth(3)
        await expect(memory.locator(".big")).to_contain_text("200")
        await expect(memory.locator(".plot")).to_have_attribute("aria-label", "Memory in use: blocks 200")


async def test_caches_in_the_same_trouble_are_one_incident(browser):
    async with served(config=config()) as (stream, url), browser() as (page, _):
        for number in range(6):
            await fill(stream, f"vllm-{number}")
        await page.goto(url)
        rows = page.locator("#incident-rows .incident")
        await expect(rows).to_have_count(1)
        await expect(rows).to_contain_text("6 of 6 caches")
        await rows.locator("summary").click()
        await expect(rows.locator(".members li")).to_have_count(6)


@pytest.mark.slow
async def test_past_incidents_stand_apart_however_many_there_are(browser):
    async with served() as (stream, url), browser() as (page, complaints):
        await send_hits(stream)
        await stay_fresh(stream)
        await page.goto(url)
        await expect(page.locator("#connection")).to_contain_text("Live")
        for start in range(0, 5_000, 100):
            several = [
                msgspec.structs.replace(alert(n, "resolved"), incident=str(n))
                for n in range(start, start + 100)
            ]
            await publish(stream, *several)
            await until(lambda end=start + 100: stream.statistics().subscribers[0].delivered >= end)
        await expect(page.locator("#which button").nth(1)).to_have_text("Past 1000")
        await expect(page.locator("#incident-rows .incident")).to_have_count(0)
        await page.locator("#which button").nth(1).click()
        await expect(page.locator("#incident-rows .incident")).to_have_count(8)
        await page.locator("#more-incidents").click()
        await expect(page.locator("#incident-rows .incident")).to_have_count(58)
        await expect(page.locator("#incident-rows")).to_contain_text("lasted")
        assert complaints == []


# Charts and choices


async def test_the_worst_incident_of_each_time_shades_the_charts(browser):
    async with served() as (stream, url), browser() as (page, _):
        await send_hits(stream)
        await stay_fresh(stream)
        await page.goto(url)
        await expect(page.locator("#connection")).to_contain_text("Live")
        for number, (level, began, ended) in enumerate(
            [
                ("warning", 0, 20),
                ("critical", 10, 15),
                ("info", 5, 40),
                ("warning", 20, 25),
                ("critical", 30, 35),
            ]
        ):
            resolved = alert(number, "resolved")
            await publish(
                stream,
                msgspec.structs.replace(
                    resolved,
                    incident=str(number),
                    level=AlertLevel(level),
                    started_at=START / 1e9 + began,
                    timestamp=START / 1e9 + ended,
                ),
            )
        await expect(page.locator("#which button").nth(1)).to_have_text("Past 5")
        bands = await page.evaluate("kvIncidents.bands()")
        assert [(band["level"], band["from"] - START / 1e9, band["to"] - START / 1e9) for band in bands] == [
            ("warning", 0, 10),
            ("critical", 10, 15),
            ("warning", 15, 25),
            ("critical", 30, 35),
        ]


@pytest.mark.slow
async def test_a_long_range_shows_what_is_older_than_the_windows_kept_one_by_one(browser):
    config = StreamConfig(metrics=MetricsConfig(windows=60))
    async with served(config=config) as (stream, url), browser() as (page, complaints):
        seconds = 1200
        start = (int(time.time()) - seconds) * 10**9
        producer = stream.producer("vllm-0")
        await producer.allocated(range(10), ts=start)
        for second in range(seconds):
            await producer.accessed(range(10), ts=start + second * 10**9)
        await stream.flush()
        await page.goto(f"{url}?cache=vllm-0/gpu&range=1h")
        figure = page.locator("#rate-chart")
        await figure.locator("summary").click()
        async with page.expect_download() as download:
            await figure.get_by_role("button", name="Save as CSV").click()
        head, *rows = (await (await download.value).path()).read_text().splitlines()
        assert head == "time,accesses,allocations,evictions"
        assert len(rows) >= 55, "of twenty minutes, not of one"
        assert {float(row.split(",")[1]) for row in rows[1:-1]} == {10.0}
        assert complaints == []


@pytest.mark.slow
async def test_dragging_zooms_every_chart_and_the_address_says_so(browser):
    async with served() as (stream, url), browser() as (page, complaints):
        await send_chat(stream, 60_000)
        await page.goto(url)
        plot = page.locator("#ratio-chart .u-over")
        await expect(plot).to_be_visible()
        await page.get_by_role("button", name="5 m", exact=True).click()
        assert "range=5m" in page.url
        box = await plot.bounding_box()
        middle = box["y"] + box["height"] / 2
        await page.mouse.move(box["x"] + box["width"] * 0.93, middle)
        await page.mouse.down()
        await page.mouse.move(box["x"] + box["width"] * 0.97, middle, steps=4)
        await page.mouse.up()
        await expect(page.locator("#live")).to_be_visible()
        assert re.search(r"from=1767225\d+\.\d&to=1767225\d+", page.url)
        await page.mouse.move(box["x"] + box["width"] * 0.5, middle)
        for name in ("ratio", "rate"):  # one cursor over all charts
            await expect(page.locator(f"#{name}-chart th.at")).to_have_text(re.compile(r"at \d\d:\d\d:\d\d"))
        await page.reload()
        await expect(page.locator("#live")).to_be_visible()
        await page.locator("#live").click()
        await expect(page.locator("#live")).to_be_hidden()
        assert "from=" not in page.url
        assert complaints == []


async def test_marks_that_people_make_are_among_what_happened(browser):
    async with served() as (stream, url), browser(timezone_id="UTC") as (page, complaints):
        await send_hits(stream)
        await stay_fresh(stream)
        stream.mark("vLLM 0.34", timestamp=stream.event_time() - 2)
        await page.goto(url)
        shown = page.locator("#marks")
        await expect(shown).to_contain_text(re.compile(r"^Marks: \d\d:\d\d:\d\d vLLM 0\.34$"))
        stream.mark("\u202erollback<b>", timestamp=stream.event_time() - 1)
        await send_hits(stream)
        await expect(page.locator("#marks")).to_contain_text("vLLM 0.34 · ")
        await expect(page.locator("#marks")).to_contain_text("rollback<b>")
        assert "\u202e" not in await page.locator("#marks").inner_text()
        assert complaints == []


async def test_alerts_that_came_too_fast_are_counted_where_they_are_missing(browser):
    async with served() as (stream, url), browser() as (page, _):
        await send_hits(stream)
        await stay_fresh(stream)
        await page.goto(url)
        await expect(page.locator("#incident-foot")).to_be_hidden()
        await page.evaluate("() => { kvStream.model.missed = 3; kvIncidents.draw(); }")
        await expect(page.locator("#missed")).to_have_text(
            "3 alerts came faster than they could be sent here."
        )


async def test_the_next_cache_is_that_of_the_order_just_chosen(browser):
    async with served() as (stream, url), browser() as (page, _):
        for number, blocks in enumerate((300, 100, 200)):
            await send_hits(stream, f"vllm-{number}", blocks=blocks)
        await stay_fresh(stream)
        await page.goto(url)
        await expect(page.locator("#caches tbody tr[role=row]")).to_have_count(3)
        names = "() => kvFleet.inOrder().map((cache) => cache.source)"
        by_name = page.locator("#caches thead button", has_text="Cache").first
        await by_name.click()
        assert await page.evaluate(names) == ["vllm-0", "vllm-1", "vllm-2"]
        await by_name.click()
        assert await page.evaluate(names) == ["vllm-2", "vllm-1", "vllm-0"]


async def test_times_are_local_unless_utc_is_chosen(browser):
    async with served() as (stream, url), browser(timezone_id="Asia/Kolkata") as (page, _):
        await send_hits(stream)
        await stay_fresh(stream)
        await page.goto(url)
        await expect(page.locator("#asof")).to_contain_text(re.compile(r"as of 05:\d\d:\d\d UTC\+5:30"))
        await page.keyboard.press("t")
        await expect(page.locator("#asof")).to_contain_text(re.compile(r"as of 00:\d\d:\d\d UTC\+0"))
        assert "tz=utc" in page.url


@pytest.mark.slow
async def test_it_fits_a_narrow_screen_in_the_dark_and_works_by_keyboard(browser):
    narrow = {"viewport": {"width": 400, "height": 800}, "color_scheme": "dark"}
    async with served() as (stream, url), browser(**narrow) as (page, complaints):
        await stream.producer("engine-0").allocated(range(10), labels=Labels(tenant="acme"), ts=START)
        await send_chat(stream, 5_000)
        await publish(stream, alert(1))
        async with no_axe_findings(page):
            await page.goto(url)
            await expect(page.locator("#caches tbody tr[role=row]")).to_have_count(2)
            await expect(page.locator("#labels")).to_contain_text("tenant: acme")
            for part in ("main", "#incidents", "#fleet-tiles canvas >> nth=0", "#caches", "#labels"):
                box = await page.locator(part).bounding_box()
                assert box["x"] >= 0, part
                assert box["x"] + box["width"] <= 400, part
        await page.keyboard.press("Tab")
        await expect(page.locator(".skip")).to_be_focused()
        await page.locator("#theme").click()
        await expect(page.locator("html")).to_have_attribute("data-theme", "light")
        await page.locator("#caches a.name").first.focus()
        await page.keyboard.press("Enter")
        await expect(page.locator("#ratio-chart canvas")).to_be_visible()
        for part in ("#stats", "#ratio-chart canvas", "#labels-card"):
            box = await page.locator(part).bounding_box()
            assert box is None or box["x"] + box["width"] <= 400, part
        summary = page.locator("#rate-chart summary")
        await summary.focus()
        await page.keyboard.press("Enter")
        await expect(page.locator("#rate-chart details td").first).to_be_visible()
        await page.keyboard.press("?")
        await expect(page.locator("#help")).to_be_visible()
        assert complaints == []


async def test_axe_finds_nothing_that_would_shut_anybody_out(browser):
    async with served() as (stream, url), browser(color_scheme="light") as (page, _):
        await send_drop(stream)
        await stream.producer("vllm-0").allocated(range(50, 60), labels=Labels(tenant="acme"))
        await publish(stream, alert(1), alert(2, level=AlertLevel.CRITICAL), alert(3, state="resolved"))
        async with no_axe_findings(page):
            await page.goto(url)
            await expect(page.locator(".heat td").first).to_be_visible()
            await page.locator("#incident-rows summary").first.click()
            await expect(page.locator(".members li").first).to_be_visible()
        async with no_axe_findings(page):
            await page.emulate_media(color_scheme="dark")
            await expect(page.locator(".members li").first).to_be_visible()


@pytest.mark.slow
async def test_figures_that_it_does_not_know_and_calls_that_are_not_there_do_not_break_it(browser):
    async with served() as (stream, url), browser() as (page, complaints):
        await send_chat(stream, 5_000)

        async def more(route):
            answer = await route.fetch()
            known = await answer.json()
            known |= {"misses_by_planet": [[1, 2] for _ in known["ts"]], "note": "new"}
            await route.fulfill(json=known)

        await page.route("**/api/history*", more)
        await page.route("**/api/sparklines", lambda route: route.fulfill(status=404, body="{}"))
        await page.goto(url)
        await expect(page.locator("#ratio-chart canvas")).to_have_count(1)
        await expect(page.locator("#accounts-line")).to_contain_text("5,000")
        assert [each for each in complaints if "404" not in each] == []


# Who may look, and what comes from outside


async def test_with_a_token_it_opens_by_the_link_alone(browser):
    async with served(token="s3cret") as (stream, url), browser() as (page, _):
        await send_chat(stream, 1_000)
        await page.goto(f"{url}?token=s3cret")
        await expect(page.locator("#accounts-line")).to_contain_text("1,000")
        assert "s3cret" not in page.url


async def test_hostile_names_are_shown_as_text(browser):
    names = [name for name in HOSTILE_NAMES.values() if len(name) <= 256 and "\\ud" not in for_unicode(name)]
    async with served() as (stream, url), browser() as (page, complaints):
        dialogs = []
        page.on("dialog", lambda dialog: dialogs.append(dialog))
        for name in names:
            await stream.producer(name, name).allocated(range(10), labels=Labels(tenant=name))
        await stream.flush()
        await stay_fresh(stream)
        several = [
            msgspec.structs.replace(
                alert(n, "resolved"),
                source=name,
                tier=name,
                rule=name,
                message=name,
                hint=name,
                incident=str(n),
            )
            for n, name in enumerate(names)
        ]
        await publish(stream, *several)
        await page.goto(url)
        await page.locator("#which button").nth(1).click()
        await expect(page.locator("#incident-rows .incident").first).to_be_visible()
        if await page.locator("#more-caches").is_visible():
            await page.locator("#more-caches").click()
        if await page.locator("#more-incidents").is_visible():
            await page.locator("#more-incidents").click()
        for name in names:
            shown = for_terminal(name)
            for selector in ("#caches a.name", "#incident-rows .who"):
                await expect(page.locator(selector, has_text=shown)).not_to_have_count(0)
        assert await page.locator("main script, main b b, [onmouseover]").count() == 0
        hostile = f"{names[0]}/{quote(names[0], safe='')}"
        queries = (
            f"?cache={quote(hostile)}",
            "?cache=%2F",
            "?cache=a/%25zz",
            "?cache=[1,2]&range=never&from=x&to=-1&sort=__proto__&tz=mars",
            "?cache=%FF%00<script>/gpu",
            f"?q={quote(json.dumps([names[0]]))}&sort=constructor",
        )
        for query in queries:
            await page.goto(url + query)
            await expect(page.locator("#connection")).to_contain_text(re.compile("Live|Listening"))
        assert dialogs == []
        assert complaints == []


async def test_an_incident_that_is_open_is_silenced_or_acknowledged_by_a_button(browser):
    async with served(config=config()) as (stream, url), browser() as (page, complaints):
        for source in ("a[1]", "b"):
            await fill(stream, source)
        await page.goto(url)
        await page.locator("#incident-rows summary").click()
        members = page.locator("#incident-rows .members li")
        await expect(members).to_have_count(2)
        await members.filter(has_text="a[1]").get_by_role("button", name="Silence 1 h").click()
        await expect(page.locator("#done")).to_have_text(
            "occupancy_high of a[1] / gpu is silenced for an hour"
        )
        await until(lambda: [each.source for each in stream.firing()] == ["b"])
        rows = page.locator("#incident-rows .incident")
        await expect(rows).to_have_count(2)  # the one that is silenced is another row
        still = rows.filter(has=page.locator(".who", has_text="b · gpu"))
        await still.locator("summary").click()
        await still.get_by_role("button", name="Acknowledge").focus()
        await page.keyboard.press("Enter")
        await until(lambda: stream.firing() == [])
        await expect(page.locator("#incident-rows").get_by_role("button")).to_have_count(0)
        assert complaints == []


@pytest.mark.slow
async def test_buttons_work_by_the_cookie_and_shut_nobody_out(browser):
    async with served(config=config(), token="s3cret") as (stream, url), browser() as (page, _):
        await fill(stream)
        await page.goto(f"{url}?token=s3cret")
        await page.locator("#incident-rows summary").click()
        button = page.get_by_role("button", name="Acknowledge")
        async with no_axe_findings(page):
            await expect(button).to_be_visible()
        await button.click()
        await expect(page.locator("#done")).to_contain_text("is acknowledged until it is over")
        (silence,) = stream.silences()
        assert silence.incident
