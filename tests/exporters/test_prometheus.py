"""The exposition, against the client library, promtool and a real Prometheus."""

import itertools
import json
import re
import shutil
import subprocess
import tempfile
import time
from collections import Counter, defaultdict
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import httpx2
import msgspec
import numpy as np
import pytest
from anyio.lowlevel import checkpoint
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder, generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from kvstream import EventFrame, KVStream, Labels, MetricsConfig, StreamConfig
from kvstream.engine import contents
from kvstream.engine.inputs import InputStatistics
from kvstream.exporters.metric_families import FAMILIES
from kvstream.exporters.prometheus import PrometheusCollector, _Metrics, _Text, exposition, native_histogram
from kvstream.metrics.buckets import VLLM_BUCKETS_SECONDS
from kvstream.metrics.histogram import ExponentialHistogram
from kvstream.sources.synthetic import generate
from kvstream.stream import consumers_of
from kvstream.streaming import turns
from kvstream.streaming.accounts import StreamAccounts
from tests.ports import free_port
from tests.serving import DEADLINE, send_chat, served
from tests.text.test_escape import HOSTILE_NAMES
from tests.waiting import note_calls, numbered_turns

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
DASHBOARDS = ROOT / "kvstream" / "exporters" / "dashboards"
ODD = 'vllm "0"\\\n/dp0'
PLAIN = ""
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
NATIVE = "application/openmetrics-text; version=2.0.0"


def tool(name):
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"needs {name}: apt-get install prometheus prometheus-alertmanager")
    return found


@asynccontextmanager
async def filled():
    """A stream with two sources, an odd name, labels, an alert, a loss and a fault."""
    config = StreamConfig(metrics=MetricsConfig(capacity=512))
    with tempfile.TemporaryDirectory() as state:
        async with KVStream(config, state=state) as stream:
            await fill(stream)
            yield stream


async def fill(stream):
    stream.on_alert(print)
    await send_chat(stream, 20_000)
    labels = Labels(tenant="acme", lora="sql")
    await stream.producer(ODD).allocated(range(10), labels=labels, keys=range(1, 11))
    await stream.producer(ODD).accessed([1, 1, 2])
    stream.producer(ODD).drop("queue_full", 3)
    stream.faults.note("frames", "bad_token", "wrong token")
    away = InputStatistics(input=f"zmq://{ODD}:1", state="not connected", since=1.7e9, batches=3)
    stream.watch_inputs(lambda: [away])
    await stream.producer(ODD, "cpu").allocated(5)
    await share_content(stream)
    await stream.flush()


async def share_content(stream):
    """The same content in two engines, and moved to a slower tier in one."""
    for engine in ("shared-0", "shared-1"):
        await stream.producer(engine).allocated(range(8), keys=range(100, 108))
        await stream.producer(engine).accessed(1)
    await stream.producer("shared-0", "cpu").allocated(range(4), keys=range(100, 104))
    await stream.producer("shared-0").evicted(range(4))


def steady(body):
    """The lines of an exposition but for samples that change by themselves from one to the next."""
    changing = (b"kvstream_process_", b"kvstream_input_age_seconds", b"kvstream_state_age_seconds")
    return [line for line in body.splitlines() if not line.startswith(changing)]


@pytest.mark.parametrize("accept", [PLAIN, OPENMETRICS, NATIVE])
async def test_the_text_is_what_the_client_library_writes(accept):
    async with filled() as stream:
        body, content_type = await exposition(stream, accept)
        registry = CollectorRegistry()
        registry.register(PrometheusCollector(stream, native=accept == NATIVE))
        encoder, expected = choose_encoder(accept)
        assert content_type == expected
        assert steady(body) == steady(encoder(registry))
        exported = set(re.findall(r"^(\w+?)(?:_total|_count)?[{ ]", body.decode(), re.MULTILINE))
        assert {family.name for family in FAMILIES} <= exported


async def test_values_are_those_of_the_summary():
    async with filled() as stream:
        body, _ = await exposition(stream, OPENMETRICS)
        samples = {
            (s.name, *sorted(s.labels.items())): s.value
            for family in text_string_to_metric_families(body.decode())
            for s in family.samples
        }
        one = (("source", "vllm-0"), ("tier", "gpu"))
        summary = stream.summary_nowait("vllm-0", "gpu")
        assert samples["kvstream_blocks", *one] == summary.blocks_live
        assert samples["kvstream_allocations_total", *one] == summary.accounts.allocations
        assert samples["kvstream_accesses_total", *one] == summary.accesses
        reason = (("reason", "capacity"), *one)
        assert samples["kvstream_evictions_total", *reason] == summary.evictions_by_reason["capacity"]
        assert samples["kvstream_premature_evictions_total", *one] == summary.premature.count
        assert samples["kvstream_block_lifetime_seconds_count", *one] == summary.lifetime.count
        assert samples["kvstream_block_lifetime_seconds_sum", *one] == pytest.approx(
            summary.lifetime.mean * summary.lifetime.count
        )
        bounds = [
            float(dict(key[1:])["le"])
            for key in samples
            if key[0] == "kvstream_block_lifetime_seconds_bucket"
        ]
        assert sorted(set(bounds)) == [*VLLM_BUCKETS_SECONDS, float("inf")]
        assert samples["kvstream_events_processed_total",] == stream.summary_nowait().accounts.processed
        assert samples["kvstream_events_dropped_total", ("reason", "queue_full")] == 3
        odd = (("source", ODD), ("tier", "gpu"))
        assert samples["kvstream_label_blocks", ("label", "tenant"), *odd, ("value", "acme")] == 10
        assert samples["kvstream_label_accesses_total", ("label", "lora"), *odd, ("value", "sql")] == 3


async def test_what_contents_show_is_that_of_the_summary():
    async with filled() as stream:
        body, _ = await exposition(stream, OPENMETRICS)
        summary = stream.summary_nowait()
    samples = {
        (s.name, *sorted(s.labels.values())): s.value
        for family in text_string_to_metric_families(body.decode())
        for s in family.samples
    }
    misses, shared = summary.misses, summary.shared
    causes = ("never_stored", "evicted", "cleared", "unknown")
    assert {cause: samples["kvstream_miss_cause_ratio", cause] for cause in causes} == {
        cause: getattr(misses, cause) for cause in causes
    }
    assert samples["kvstream_miss_cause_ratio", "other_tier"] == sum(misses.other_tier.values())
    assert ("kvstream_miss_cause_ratio", "other_salt") not in samples  # no salt was seen
    assert samples["kvstream_content_followed_ratio",] == misses.rate
    assert [samples["kvstream_tier_hit_ratio", tier.tier] for tier in summary.tiers] == [
        tier.hit_share for tier in summary.tiers
    ]
    demoted = [tier.demoted for tier in summary.tiers if tier.tier == "cpu"]
    assert [samples.get(("kvstream_tier_content_ratio", "cpu", "demoted"))] == demoted
    assert [samples["kvstream_shared_content_ratio", str(n)] for n in (1, 2)] == shared.held_by
    assert samples["kvstream_sharing_gain_ratio", "routing"] == shared.routing_gain > 0


async def test_what_kvstream_itself_takes_and_how_far_it_is_behind_is_exposed():
    async with KVStream(StreamConfig(consumers=2)) as stream:
        await stream.producer("live").allocated(1)
        await stream.producer("old").allocated(1, ts=10**18)
        await stream.flush()
        body, _ = await exposition(stream, OPENMETRICS)
    samples = {
        (s.name, *s.labels.values()): s.value
        for family in text_string_to_metric_families(body.decode())
        for s in family.samples
    }
    assert 0 < samples["kvstream_process_cpu_seconds_total",] <= time.process_time()
    assert samples["kvstream_process_resident_bytes",] > 2**20
    assert [samples["kvstream_queue_fill_ratio", str(i)] for i in range(2)] == [0, 0]
    for source in ("live", "old"):
        assert 0 <= samples["kvstream_input_age_seconds", source] < DEADLINE
    assert 0 <= samples["kvstream_event_lag_seconds", "live"] < DEADLINE
    assert samples["kvstream_event_lag_seconds", "old"] > time.time() - 10**9 - DEADLINE


async def test_native_histograms_come_with_openmetrics_2():
    async with filled() as stream:
        body, content_type = await exposition(stream, NATIVE)
        assert "version=2.0.0" in content_type
        seen = consumers_of(stream).sources()[0].tiers["gpu"].measurements().lifetime
        line = next(
            line
            for line in body.decode().splitlines()
            if line.startswith('kvstream_block_lifetime_seconds{source="vllm-0"')
        )
        assert f"count:{seen.count}," in line
        assert "schema:4" in line


def test_a_native_histogram_has_the_same_buckets():
    rng = np.random.default_rng(1)
    histogram = ExponentialHistogram()
    histogram.record(
        np.concatenate([rng.integers(0, 10**12, 500), rng.integers(1, 100, 50), np.zeros(7)]).astype(int)
    )
    native = native_histogram(histogram)
    index, count, found = 0, 0, {}
    deltas = iter(native.pos_deltas)
    for span in native.pos_spans:
        index += span.offset
        for _ in range(span.length):
            count += next(deltas)
            found[2.0 ** (index / 2**native.schema)] = count  # by upper bound
            index += 1
    assert next(deltas, None) is None
    expected = [(bound, n) for bound, n in histogram.buckets() if bound]
    assert found == pytest.approx(dict(expected))
    assert (native.count_value, native.zero_count) == (557, histogram.zero_count)


async def test_promtool_finds_nothing_to_complain_about():
    async with filled() as stream:
        body, _ = await exposition(stream)
    promtool = tool("promtool")
    checked = await anyio.run_process([promtool, "check", "metrics"], input=body, check=False)
    said = (checked.stdout + checked.stderr).decode()
    assert (checked.returncode, said) == (0, "")


def test_the_rules_do_what_they_say():
    promtool, here = tool("promtool"), Path(__file__).parent
    for command in (
        ["check", "config", EXAMPLES / "prometheus" / "prometheus.yml"],
        ["check", "config", "--syntax-only", EXAMPLES / "prometheus" / "fleet.yml"],
        ["check", "rules", DASHBOARDS / "kvstream.rules.yml", DASHBOARDS / "kvstream.fleet.rules.yml"],
        ["test", "rules", here / "kvstream.rules.test.yml", here / "kvstream.fleet.rules.test.yml"],
    ):
        done = subprocess.run([promtool, *map(str, command)], capture_output=True, timeout=DEADLINE)
        assert done.returncode == 0, done.stdout + done.stderr


@asynccontextmanager
async def prometheus(folder, target):
    """A real Prometheus that scrapes a target ten times a second; a client of its API."""
    port = free_port()
    config = folder / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 100ms, evaluation_interval: 100ms}\n"
        f"rule_files: ['{DASHBOARDS}/kvstream.rules.yml']\n"
        f"scrape_configs: [{{job_name: kvstream, static_configs: [{{targets: ['{target}']}}]}}]\n"
    )
    arguments = [
        f"--config.file={config}",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    process = await anyio.open_process(
        [tool("prometheus"), *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE) as client:
            yield client
    finally:
        process.terminate()
        await process.aclose()


async def answer(client, query, wanted=None):
    """What Prometheus answers, once it is what is wanted (or anything): values by labels."""
    found = {}
    with anyio.move_on_after(DEADLINE):
        while True:
            reply = {"status": "starting"}
            with suppress(httpx2.TransportError):
                response = await client.get("/api/v1/query", params={"query": query})
                if response.status_code != 503:  # which it answers until it has begun
                    reply = response.json()
            if reply["status"] == "error":
                raise AssertionError(f"{query}: {reply['error']}")
            if reply["status"] == "success":
                found = {
                    tuple(sorted(each["metric"].items())): float(each["value"][1])
                    for each in reply["data"]["result"]
                }
                if found if wanted is None else set(found.values()) == {wanted}:
                    return found
            await anyio.sleep(0.05)
    raise AssertionError(f"{query}: {found}, not {wanted}")


async def test_a_real_prometheus_scrapes_exact_counts(tmp_path):
    tool("prometheus")
    async with served() as (stream, url):
        await send_chat(stream, 20_000)
        await send_chat(stream, 10_000, source=ODD, seed=2)
        async with prometheus(tmp_path, url.removeprefix("http://").rstrip("/")) as client:
            summary, both = stream.summary_nowait("vllm-0", "gpu"), stream.summary_nowait()
            one = '{source="vllm-0", tier="gpu"}'
            await answer(client, f"kvstream_allocations_total{one}", summary.accounts.allocations)
            await answer(client, f"kvstream_accesses_total{one}", summary.accesses)
            await answer(client, f"sum(kvstream_evictions_total{one})", summary.total_evictions)
            await answer(client, f"kvstream_block_lifetime_seconds_count{one}", summary.lifetime.count)
            below = consumers_of(stream).sources()[0].tiers["gpu"].classic["lifetime"].cumulative()
            for bound, count in zip(VLLM_BUCKETS_SECONDS, below, strict=False):
                query = f'kvstream_block_lifetime_seconds_bucket{{source="vllm-0", le=~"{bound:g}(.0)?"}}'
                await answer(client, query, count)
            await answer(client, "sum(kvstream_blocks)", both.blocks_live)
            await answer(client, "sum(kvstream_accesses_total)", both.accesses)
            (labels,) = await answer(client, 'kvstream_blocks{source!="vllm-0"}')
            assert dict(labels)["source"] == ODD
            await send_chat(stream, 5_000, source="vllm-2", seed=3)
            await answer(client, "sum(kvstream_events_processed_total)", 35_000)
            await every_panel_has_data(client, stream)


async def every_panel_has_data(client, stream):
    """Each query of the Grafana dashboard and each recording rule finds something."""
    stream.producer("vllm-0").drop("queue_full", 1)
    await stream.producer("vllm-0").allocated([1], labels=Labels(tenant="acme"))
    await share_content(stream)
    await stream.flush()
    dashboard = json.loads((DASHBOARDS / "kvstream.dashboard.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            query = target["expr"].replace("$__rate_interval", "10s")
            query = query.replace("$source", ".*").replace("$tier", ".*")
            await answer(client, query)
    rules = (DASHBOARDS / "kvstream.rules.yml").read_text()
    for name in re.findall(r"record: (\S+)", rules):
        await answer(client, name)


async def test_the_same_source_of_two_consumers_is_scraped_once():
    async with KVStream(StreamConfig(consumers=3)) as stream:
        for n in range(20):
            for frame in generate("chat", 200, blocks=64, source=f"vllm-{n}"):
                await stream.send(msgspec.structs.replace(frame))
        await stream.flush()
        body, _ = await exposition(stream)
    assert body.count(b"\nkvstream_allocations_total{") == 20


NAMES = [*HOSTILE_NAMES.values(), "", " ", "other", "a\\udcffb", "none", "None"]


def series(body):
    """Each sample's name and labels as they stand in the text."""
    pattern = r'^([a-zA-Z_:][\w:]*)(\{(?:[a-zA-Z_]\w*="(?:[^"\\\n]|\\.)*",?)*\})? '
    for line in body.decode().split("\n"):
        if line and not line.startswith("#"):
            yield re.match(pattern, line)[0]


@pytest.mark.parametrize("accept", [PLAIN, OPENMETRICS, NATIVE])
async def test_no_series_is_there_twice_whatever_names_are_given(accept):
    async with KVStream(StreamConfig(metrics=MetricsConfig(capacity=512))) as stream:
        refused = 0
        for name in NAMES:
            for names in ((name, "gpu", "acme"), ("vllm-0", name, "acme"), ("vllm-0", "gpu", name)):
                source, tier, tenant = names
                try:
                    await stream.producer(source, tier).allocated([1, 2], labels=Labels(tenant=tenant))
                except ValueError:
                    refused += 1
                labels = (Labels(tenant=tenant, lora=name),)
                frame = EventFrame(
                    *(np.zeros(2, np.uint8), np.arange(2), np.ones(2, np.int64), source, tier),
                    labels=labels,
                    label_of=np.ones(2, np.uint16),
                )
                try:
                    await stream.send(frame)
                except ValueError:
                    refused += 1
        await stream.producer("vllm-0").allocated([3])
        stream.faults.note("frames", "bad_token", "wrong token")
        await stream.flush()
        assert refused == 3 * 4 + 2 * 4, "lone surrogates, too long ones and the empty one"
        body, content_type = await exposition(stream, accept)
        registry = CollectorRegistry()
        registry.register(PrometheusCollector(stream, native=accept == NATIVE))
        by_library = choose_encoder(accept)[0](registry)
    for text in (body, by_library):
        counts = Counter(series(text))
        assert max(counts.values()) == 1, counts.most_common(3)
    if "openmetrics" in content_type:
        assert body.endswith(b"# EOF\n")
    if accept == OPENMETRICS:
        shown = {
            s.labels.get("source") for f in text_string_to_metric_families(body.decode()) for s in f.samples
        }
        assert HOSTILE_NAMES["brace"] in shown


def test_names_that_only_surrogates_tell_apart_are_one_series():
    family = FAMILIES[0]
    for answer in (_Text(openmetrics=False), _Metrics(native=False)):
        answer.add([(family, ("a\udcff", "gpu"), 1), (family, ("a\\udcff", "gpu"), 2)])
        text = b"".join(answer.parts()) if isinstance(answer, _Text) else generate_latest(answer)
        assert text.count(b"\nkvstream_blocks{") == 1


@pytest.mark.parametrize("accept", [PLAIN, OPENMETRICS, NATIVE])
async def test_each_part_of_a_scrape_has_a_turn_of_its_own(accept, monkeypatch):
    monkeypatch.setattr(turns, "TURN_SECONDS", 0.0)
    async with filled() as stream, numbered_turns() as turn:
        sources = len(consumers_of(stream).sources())
        parts = []
        note_calls(
            monkeypatch,
            lambda: parts.append(turn()),
            (contents.ContentGathering, "expect"),
            (contents.ContentGathering, "add"),
            (contents, "miss_causes"),
            (contents, "tier_uses"),
            (contents, "shared_content"),
            (StreamAccounts, "total"),
            (_Text, "parts"),
        )
        await exposition(stream, accept)
    assert len(parts) >= 2 * sources + 4 + len(FAMILIES)
    by_turn = Counter(parts)
    tiers = max(len(source.tiers) for source in consumers_of(stream).sources())
    assert max(by_turn.values()) <= tiers, "more than one source in a turn"


async def test_scrapes_at_once_are_exact_while_sources_come_and_go(monkeypatch):
    monkeypatch.setattr(turns, "TURN_SECONDS", 0.0)
    async with KVStream() as stream:
        bodies = []

        async def change():
            for turn in itertools.count():
                engine = stream.producer(f"steady-{turn % 5}")
                engine.allocated_nowait([turn])
                if turn > 50:
                    engine.evicted_nowait([turn - 50])
                await stream.producer(f"new-{turn}").allocated([turn])
                if turn >= 10:
                    await stream.forget(f"new-{turn - 10}")
                await stream.flush()

        async def scrape():
            body, _ = await exposition(stream, OPENMETRICS)
            bodies.append(body)

        async with anyio.create_task_group() as changing:
            changing.start_soon(change)
            while len(bodies) < 40:
                async with anyio.create_task_group() as scrapes:
                    scrapes.start_soon(scrape)
                    scrapes.start_soon(scrape)
            changing.cancel_scope.cancel()
    shown = set()
    for body in bodies:
        assert max(Counter(series(body)).values()) == 1
        values = defaultdict(Counter)
        for family in text_string_to_metric_families(body.decode()):
            for sample in family.samples:
                if "tier" in sample.labels:
                    values[sample.labels["source"]][sample.name] += sample.value
        for source, counts in values.items():
            ended = counts["kvstream_evictions_total"]
            assert counts["kvstream_allocations_total"] == counts["kvstream_blocks"] + ended, source
            assert counts["kvstream_block_lifetime_seconds_count"] == ended
        shown |= values.keys()
    assert len(shown) > 20


async def test_a_scrape_that_is_cancelled_changes_nothing(monkeypatch):
    monkeypatch.setattr(turns, "TURN_SECONDS", 0.0)
    async with filled() as stream:
        before, _ = await exposition(stream)
        for turn in range(150):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(exposition, stream)
                for _ in range(turn):
                    await checkpoint()
                tasks.cancel_scope.cancel()
        after, _ = await exposition(stream)
    assert steady(after) == steady(before)
