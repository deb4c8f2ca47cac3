"""What an engine says of itself, held against what its events say."""

import anyio
import pytest
from msgspec.structs import replace

from kvstream.alerts.rules_file import default_rules
from kvstream.errors import ConfigError
from kvstream.sources.engine_metrics import (
    EngineCounts,
    EngineMetrics,
    EventCounts,
    differences_now,
    differences_since,
    event_counts,
    read_counts,
)
from kvstream.stream import KVStream
from tests.ports import answering, free_port
from tests.waiting import DEADLINE, until


def vllm(engine=0, *, usage=0.0, queries=0, hits=0, requests=0, blocks=256, size=32, running=0):
    """As vLLM writes it."""
    labels = f'engine="{engine}",model_name="m"'
    return (
        f'vllm:cache_config_info{{block_size="{size}",engine="{engine}",num_gpu_blocks="{blocks}"}} 1.0\n'
        f"vllm:kv_cache_usage_perc{{{labels}}} {usage}\n"
        f"vllm:num_requests_running{{{labels}}} {running}\n"
        "# TYPE vllm:prefix_cache_queries counter\n"
        f"vllm:prefix_cache_queries_total{{{labels}}} {queries}\n"
        "# TYPE vllm:prefix_cache_hits counter\n"
        f"vllm:prefix_cache_hits_total{{{labels}}} {hits}\n"
        f'vllm:request_success_total{{{labels},finished_reason="stop"}} {requests - requests // 3}\n'
        f'vllm:request_success_total{{{labels},finished_reason="length"}} {requests // 3}\n'
    )


def test_vllm_is_read_rank_by_rank():
    text = vllm(0, usage=0.5, queries=3200, hits=320, requests=9, running=4) + vllm(1, usage=1.0)
    assert read_counts(text) == {
        "0": EngineCounts(256, 120, 3200, 320, 9, 32),
        "1": EngineCounts(256, 256, 0, 0, 0, 32),
    }


def test_sglang_is_read_of_one_tensor_parallel_rank():
    def rank(tp):
        labels = f'{{model_name="m",tp_rank="{tp}",dp_rank="0"}}'
        return (
            f"sglang:page_size{labels} 64.0\nsglang:max_total_num_tokens{labels} 6400.0\n"
            f"sglang:kv_evictable_tokens{labels} 640.0\nsglang:token_usage{labels} 0.2\n"
        )

    server = (
        'sglang:prompt_tokens_total{model_name="m",is_streaming="true"} 1000.0\n'
        'sglang:prompt_tokens_total{model_name="m",is_streaming="false"} 24.0\n'
        'sglang:cached_tokens_total{model_name="m",cache_source="device"} 64.0\n'
        'sglang:num_requests_total{model_name="m",is_streaming="true"} 3.0\n'
    )
    assert read_counts(rank(0) + rank(1) + server) == {"0": EngineCounts(100, 10, 1024, 64, 3, 64)}


@pytest.mark.parametrize(("labelled", "rank"), [("", "0"), ('{dp_rank="3"}', "3")])
def test_what_names_no_rank_is_of_the_only_one(labelled, rank):
    text = f"sglang:page_size{labelled} 64.0\nsglang:max_total_num_tokens 6400.0\n"
    assert read_counts(text) == {rank: EngineCounts(100, None, None, None, None, 64)}


def test_metrics_that_are_not_wanted_are_not_read():
    text = vllm(usage=0.5, queries=320)
    others = 'vllm:e2e_request_latency_seconds_bucket{engine="0",le="1"} not a number\n# TYPE x y\n'
    assert read_counts(others + text + others) == read_counts(text)
    assert read_counts(others) == {}


@pytest.mark.parametrize(
    "page",
    [
        'vllm:prefix_cache_queries_total{engine="0",a="' + '\\"' * 8_000_000 + '"} 1\n',
        'vllm:prefix_cache_queries_total{engine="0"} 1\n' * 360_000,
        "# TYPE vllm:prefix_cache_queries counter\n" * 400_000,
        "vllm:prefix_cache_queries_total" + "{" * 16_000_000,
    ],
)
async def test_a_page_of_more_than_an_engine_has_is_refused_before_it_is_parsed(page, monkeypatch):
    parsed = []
    monkeypatch.setattr(
        "prometheus_client.parser.text_string_to_metric_families", lambda text: parsed.append(len(text)) or []
    )
    with answering(lambda path: (200, page.encode())) as url, anyio.fail_after(DEADLINE):
        metrics = EngineMetrics("vllm", url, lambda source: None, every_seconds=3600)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(metrics.deliver, None)
            await until(lambda: metrics.statistics()[0].malformed)
            tasks.cancel_scope.cancel()
    [seen] = metrics.statistics()
    assert (seen.state, seen.refused) == ("error", {"metrics": 1})
    assert "is not understood" in seen.error
    assert parsed == [0]  # when it was made


def test_what_is_not_said_is_not_known():
    assert read_counts("up 1.0\n") == {}
    assert read_counts('vllm:kv_cache_usage_perc{engine="0"} 0.5\n') == {
        "0": EngineCounts(None, None, None, None, None, None)
    }
    assert differences_now(EngineCounts(*[None] * 6), EventCounts(1, 1, 1)) == []
    nothing = (EngineCounts(*[None] * 6), EventCounts(0, 0, 0))
    assert differences_since(nothing, nothing) == []


START = (EngineCounts(256, 0, 0, 0, 0, 32), EventCounts(0, 0, 0))


def apart(engine, events):
    """The shares of what is found in counts since the start."""
    found = differences_since(START, (engine, events))
    return None if found is None else [round(each.share, 2) for each in found]


def test_two_captures_of_vllm_agree_with_its_own_counters():
    # Queries and hits of the runs' own metrics, requests as its histograms count them; stores of the events.
    chat = EngineCounts(256, 0.0, 2_368_783, 1_747_136, 7_221, 32)
    assert apart(chat, EventCounts(249, 17_430, 0)) == [0, 0]
    scan = EngineCounts(256, 0.0, 3_917_280, 2_278_304, 7_681, 32)
    assert apart(scan, EventCounts(15, 51_698, 0)) == [0, 0]
    # Seen by the hooks, every hit is there: 54,598 are just what the engine counts.
    assert apart(chat, EventCounts(249, 24_418, 54_598)) == [0, 0]


def test_events_that_are_lost_or_misread_show_in_each_count():
    chat = EngineCounts(256, 0.0, 2_368_783, 1_747_136, 7_221, 32)
    assert apart(chat, EventCounts(249, 6_000, 0)) == [0.51, 0]
    copies = EventCounts(249, 17_430, 109_196)  # each hit twice, as if copies were hits
    assert apart(chat, copies) == [0, 0.5]


def test_little_evidence_is_none():
    assert apart(EngineCounts(256, 0.0, 32_000, 0, 10, 32), EventCounts(9, 9, 0)) is None


@pytest.mark.parametrize(
    ("cached", "live", "shares"), [(128, 128, [0, 0]), (128, 64, [0.25, 0]), (0, 320, [0, 0.25])]
)
def test_blocks_that_are_cached_are_known_and_no_more_than_there_is_room_for(cached, live, shares):
    engine = EngineCounts(256, cached, None, None, None, None)
    assert [each.share for each in differences_now(engine, EventCounts(live, 0, 0))] == shares


async def test_a_lasting_difference_is_an_alert_that_ends_when_they_agree_again():
    text = ""
    (drift,) = (rule for rule in default_rules() if rule.name == "engine_drift")
    rules = [replace(drift, for_seconds=0.0, clear_seconds=0.0)]
    with answering(lambda path: (200, text.encode()) if path == "/metrics" else (404, b"")) as url:
        async with KVStream(rules=rules) as stream, anyio.create_task_group() as tasks:
            metrics = EngineMetrics("vllm", f"{url}/metrics", event_counts(stream), every_seconds=0.02)
            stream.watch_inputs(metrics.statistics)
            tasks.start_soon(metrics.deliver, stream.take)
            alerts = []
            stream.on_alert(alerts.append)
            await until(lambda: "no metrics of vLLM" in stream.inputs()[0].error)
            await stream.producer("vllm/dp0").allocated(range(50))
            await stream.flush()
            text = vllm(usage=0.5)
            await until(lambda: stream.inputs()[0].drift == (128 - 50) / 256)
            with anyio.fail_after(DEADLINE):
                await until(lambda: alerts)
            (alert,) = alerts
            assert (alert.state, alert.rule, alert.source) == ("firing", "engine_drift", "vllm/dp0")
            assert "the engine has 128 blocks cached, the events know 50" in alert.message
            await stream.producer("vllm/dp0").allocated(range(50, 130))
            await stream.flush()
            await until(lambda: len(alerts) == 2)
            assert alerts[1].state == "resolved"
            text = "vllm:odd{ 1"
            await until(lambda: stream.inputs()[0].state == "error")
            tasks.cancel_scope.cancel()


async def test_a_rank_that_is_gone_or_goes_by_another_name_is_compared_no_more():
    text, known = vllm(0, usage=0.5) + vllm(1, usage=0.5), {}
    with answering(lambda path: (200, text.encode())) as url:
        metrics = EngineMetrics("vllm", url, known.get, every_seconds=0.02)

        def drifts():
            return {each.source: each.drift for each in metrics.statistics()}

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(metrics.deliver, None)
            await until(lambda: drifts() == {"vllm/dp0": 0.5, "vllm/dp1": 0.5})
            text = vllm(0, usage=0.5)
            await until(lambda: drifts() == {"vllm/dp0": 0.5})
            known["vllm"] = EventCounts(128, 128, 0)  # its events name no rank
            await until(lambda: drifts() == {"vllm": 0.0})
            tasks.cancel_scope.cancel()


async def test_where_nobody_answers_nothing_is_known():
    metrics = EngineMetrics("a", f"http://127.0.0.1:{free_port()}/metrics", lambda source: None)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(metrics.deliver, None)
        await until(lambda: metrics.statistics()[0].state == "not connected")
        assert metrics.statistics()[0].drift is None
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize(
    "text",
    [
        f"vllm:prefix_cache_hits_total 1{'0' * 400}",
        f"vllm:prefix_cache_hits_total 1 1{'0' * 400}",
        "vllm:prefix_cache_hits_total one",
        'vllm:prefix_cache_hits_total{engine="0',
    ],
)
async def test_what_is_no_exposition_is_counted_and_ends_nothing(text):
    with answering(lambda path: (200, text.encode())) as url:
        metrics = EngineMetrics("a", url, lambda source: None)
        await metrics._look()
    (seen,) = metrics.statistics()
    assert (seen.state, seen.refused) == ("error", {"metrics": 1})
    assert "is not understood" in seen.error


async def test_certificates_that_cannot_be_read_end_nothing(no_certificates):
    metrics = EngineMetrics("a", f"https://127.0.0.1:{free_port()}/metrics", lambda source: None)
    await metrics._look()
    (seen,) = metrics.statistics()
    assert seen.state == "not connected"
    assert "the certificates that verify the server cannot be read" in seen.error


async def test_a_proxy_that_cannot_be_used_is_no_answer_that_is_malformed(monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "nonsense://proxy")
    metrics = EngineMetrics("a", "http://10.0.0.1:1/metrics", lambda source: None)
    await metrics._look()
    (seen,) = metrics.statistics()
    assert (seen.state, seen.malformed) == ("not connected", 0)
    assert "the proxy that the environment names cannot be used" in seen.error


@pytest.mark.parametrize(("source", "url"), [("", "http://h/metrics"), ("a", "h:8000/metrics"), ("a", "")])
def test_what_is_no_pair_of_source_and_url_is_refused(source, url):
    with pytest.raises(ConfigError, match="SOURCE="):
        EngineMetrics(source, url, lambda source: None)
