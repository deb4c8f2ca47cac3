"""Real wheels of AIPerf, Dynamo and LMCache: formats in both directions, and hits of their simulators."""

import enum
import json
import logging
import sys
import types

import numpy as np
import pytest

from kvstream.engine.monitor import Monitor
from kvstream.events.frame import EventFrame
from kvstream.sinks.event_log import EventLogWriter
from kvstream.sources.options import ReadOptions
from kvstream.sources.reader import EventReader
from kvstream.sources.vllm_cache import ServiceTime
from tests.wheels import Wheel

pytestmark = pytest.mark.slow
BLOCK_TOKENS = 512
ENDLESS = 100_000  # blocks
GAP_MS = 10_000  # between requests, so that no two run at a time


def lookups(seed=1, count=400):
    """Hashes that each request asks for: those of its conversation so far, and some more."""
    rng = np.random.default_rng(seed)
    conversations = [[int(rng.integers(1 << 62))] for _ in range(40)]
    requests = []
    for _ in range(count):
        conversation = conversations[int(rng.zipf(1.5)) % 40]
        conversation += [int(each) for each in rng.integers(1 << 62, size=rng.integers(1, 4))]
        requests.append(list(conversation))
        if len(conversation) > 20:
            del conversation[1:]
    return requests


def frames_of(text, **options):
    reader = EventReader("trace.jsonl", ReadOptions(**options))
    items = [*reader.feed(text), *reader.finish()]
    assert all(isinstance(item, EventFrame) for item in items)
    return items


def summary_of(text, **options):
    monitor = Monitor()
    for frame in frames_of(text, **options):
        monitor.process(frame)
    return monitor.summary()


@pytest.fixture
def trace(tmp_path):
    """A Mooncake trace that kvstream wrote, of lookups that went through a small cache."""
    rows = [{"timestamp": number * GAP_MS, "hash_ids": ids} for number, ids in enumerate(lookups())]
    text = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    path = tmp_path / "trace.jsonl"
    with EventLogWriter(str(path), "mooncake", block_tokens=BLOCK_TOKENS) as writer:
        for frame in frames_of(text, capacity=7):
            writer.write(frame)
    return path


@pytest.fixture(scope="module")
def dynamo(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        wheel = Wheel("ai_dynamo_runtime", patch)
        return wheel.load_extension("dynamo._core", "dynamo/_core.abi3.so", tmp_path_factory.mktemp("dynamo"))


def reused_blocks(dynamo, trace, capacity, **options):
    """Blocks that Dynamo's simulated vLLM finds as it replays a trace."""
    engine = {
        "backend": "vllm",
        "num_gpu_blocks": capacity,
        "block_size": BLOCK_TOKENS,
        "max_num_batched_tokens": 1 << 20,
        "timing_model": {"type": "fixed", "prefill_ms": 1.0, "decode_ms": 1.0},
    }
    replay = dynamo.run_mocker_trace_replay(
        [str(trace)], {"engine": engine}, trace_block_size=BLOCK_TOKENS, capture_per_request=True, **options
    )
    return sum(request["reused_input_tokens"] for request in replay.per_request) // BLOCK_TOKENS


@pytest.mark.parametrize("capacity", [50, 100, 300, 5_000])
def test_dynamos_simulated_engine_finds_the_same_hits(dynamo, trace, capacity):
    found = reused_blocks(dynamo, trace, capacity)
    text = trace.read_bytes()
    assert summary_of(text, capacity=capacity).accesses == found > 0
    # vLLM reports block 0 as one of its pool, and never hands it out.
    assert summary_of(text, capacity=capacity + 1, engine="vllm").accesses == found


def added_rows(seed, outputs):
    """Rows of 25 sessions that hold what was added to them, some of which begin alike."""
    rng = np.random.default_rng(seed)
    ids = iter(range(1, 100_000))
    heads = [[next(ids) for _ in range(n)] for n in (1, 2, 4)]
    begun, rows = set(), []
    for number in range(200):
        session = int(rng.integers(25))
        hashes = [] if session in begun else list(heads[session % 3])
        begun.add(session)
        hashes += [next(ids) for _ in range(int(rng.integers(1, 6)))]
        tokens = len(hashes) * BLOCK_TOKENS - int(rng.choice([0, int(rng.integers(BLOCK_TOKENS))]))
        about = {"session_id": f"s{session}", "timestamp": number * 10_000_000, "hash_ids": hashes}
        rows.append({**about, "input_length": tokens, "output_length": int(rng.choice(outputs))})
    return rows


@pytest.mark.parametrize("outputs", [[1], [1, 100, 700, 1_500]])
@pytest.mark.parametrize("capacity", [100, 400, ENDLESS])
def test_dynamo_finds_the_same_hits_in_rows_that_hold_what_was_added(dynamo, tmp_path, capacity, outputs):
    path = tmp_path / "trace.jsonl"
    path.write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in added_rows(1, outputs)))
    found = reused_blocks(dynamo, path, capacity, trace_format="mooncake-delta")
    reading = {"rows": "added", "service": ServiceTime(prefill_rate=1e6, decode_rate=1_000.0)}
    text = path.read_bytes()
    assert summary_of(text, capacity=capacity + 1, engine="vllm", **reading).accesses == found > 0
    if capacity == ENDLESS and outputs == [1]:  # no output fills a block
        assert summary_of(text, capacity=capacity, **reading).accesses == found


def test_a_recording_in_dynamos_own_json_is_read(dynamo):
    tree = dynamo.RadixTree()
    blocks = [{"block_hash": 2**64 - 1, "tokens_hash": 615}, {"block_hash": 12, "tokens_hash": 13}]
    for worker, rank, count in ((7, 0, 2), (8, 1, 1)):
        event = {"stored": {"parent_hash": None, "blocks": blocks[:count]}}
        tree.apply_event(worker, json.dumps({"event_id": 0, "data": event, "dp_rank": rank}).encode())
    lines = [b'{"timestamp":5,"event":%s}\n' % event.encode() for event in tree.dump_tree_as_events()]
    monitor = Monitor()
    for frame in frames_of(b"".join(lines)):
        monitor.process(frame)
    assert monitor.summary("trace/7/dp0", "gpu").blocks_live == 2
    assert monitor.summary("trace/8/dp1", "gpu").blocks_live == 1


@pytest.fixture
def aiperf(monkeypatch):
    import pydantic  # here, as only FastAPI brings it

    class Model(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(extra="allow")

    class Kind(enum.StrEnum):
        MOONCAKE_TRACE = enum.auto()
        MULTI_TURN = enum.auto()
        RANDOM_POOL = enum.auto()
        SINGLE_TURN = enum.auto()

    class Logs:
        def __init__(self, **_):
            pass

    wheel = Wheel("aiperf", monkeypatch)
    media = dict.fromkeys(("Audio", "Image", "Text", "Video"), Model)
    wheel.stand_in("aiperf.common.models", AIPerfBaseModel=Model, **media)
    wheel.stand_in("aiperf.common.mixins", AIPerfLoggerMixin=Logs)
    wheel.stand_in("aiperf.plugin.enums", CustomDatasetType=Kind)
    defaults = types.SimpleNamespace(BLOCK_SIZE=BLOCK_TOKENS)
    wheel.stand_in("aiperf.config.dataset.defaults", InputTokensDefaults=defaults)
    wheel.stand_in("aiperf.config.dataset.trace", SynthesisConfig=object)
    wheel.stand_in("orjson", loads=json.loads)
    for name in ("loader.models", "synthesis.models", "synthesis.radix_tree", "synthesis.prefix_analyzer"):
        wheel.load(f"aiperf.dataset.{name}")
    return sys.modules


def test_aiperf_accepts_each_row_and_finds_the_hits_of_an_endless_cache(aiperf, trace):
    rows = [json.loads(line) for line in trace.read_bytes().splitlines()]
    for number, row in enumerate(rows):
        known = aiperf["aiperf.dataset.loader.models"].MooncakeTrace.model_validate(row)
        assert (known.timestamp, known.input_length) == (
            number * GAP_MS,
            len(known.hash_ids) * BLOCK_TOKENS,
        )
    analyzer = aiperf["aiperf.dataset.synthesis.prefix_analyzer"].PrefixAnalyzer(BLOCK_TOKENS)
    assert analyzer.analyze_file(trace).total_requests == len(rows) == len(lookups())
    shares = analyzer._compute_per_request_hit_rates()
    found = sum(round(share * len(row["hash_ids"])) for share, row in zip(shares, rows, strict=True))
    assert summary_of(trace.read_bytes(), capacity=ENDLESS).accesses == found > 0


def test_lmcaches_own_log_is_read_and_its_simulator_finds_the_hits_of_an_endless_cache(monkeypatch, tmp_path):
    wheel = Wheel("lmcache", monkeypatch)
    wheel.stand_in("lmcache.logging", init_logger=logging.getLogger)
    wheel.stand_in("lmcache.v1.mp_observability.otel_init", register_gauge=lambda *_, **__: None)
    wheel.stand_in("sortedcontainers", SortedList=None)
    events = wheel.load("lmcache.v1.mp_observability.event")
    wheel.load("lmcache.v1.mp_observability.event_bus")
    log = wheel.load("lmcache.v1.mp_observability.subscribers.logging.lookup_hash")
    wheel.load("lmcache.tools.cache_simulator.lru_cache")
    simulator = wheel.load("lmcache.tools.cache_simulator.simulator")

    writer = log.LookupHashLoggingSubscriber(log.LookupHashLogConfig(str(tmp_path)))
    write = writer.get_subscriptions()[events.EventType.MP_LOOKUP]
    for number, ids in enumerate(lookups()):
        about = {
            "request_id": f"request-{number}",
            "model_name": "tiny",
            "chunk_size": 256,
            "seq_len": 256 * len(ids) + 7,
            "dtypes": ["bfloat16"],
            "shapes": [[2, 256, 128]],
            "chunk_hashes": [id_.to_bytes(32) for id_ in ids],
        }
        write(events.Event(events.EventType.MP_LOOKUP, 1_711_929_600.25 + number, about))
    writer.shutdown()

    (path,) = tmp_path.glob("*.jsonl")
    simulated = simulator.simulate(simulator.load_lookup_events([tmp_path]), ENDLESS, 1, fast=True)
    summary = summary_of(path.read_bytes(), capacity=ENDLESS)
    assert 256 * summary.accesses == simulated["total_hit_tokens"] > 0
    assert summary.blocks_live == simulated["cache_size_at_end_chunks"]
    assert summary.timestamp == pytest.approx(1_711_929_600.25 + len(lookups()) - 1)
