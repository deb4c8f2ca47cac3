"""The plugin against stand-ins for vLLM's modules; examples/vllm_engine.py runs it in the real engine."""

import hashlib
import logging
import os
import sys
import types
from collections import deque
from dataclasses import dataclass

import anyio
import msgspec
import pytest
from anyio import to_thread

from kvstream.config import MetricsConfig, StreamConfig
from kvstream.integrations.vllm import BackgroundConnection, StreamingCollector, content_keys, register
from kvstream.sources.kv_events import KVEventDecoder
from kvstream.stream import KVStream
from kvstream.transport.endpoint import Endpoint
from kvstream.transport.server import FrameServer
from tests.transport.test_server import DEADLINE, serving


@dataclass
class Block:
    block_id: int
    block_hash: bytes | None = None


class Slotted:
    """A block that holds its hash as vLLM's do."""

    __slots__ = ("_block_hash",)

    def __init__(self, block_hash):
        self._block_hash = block_hash


class Inner:
    """A collector with vLLM's interface that samples every block with an even id."""

    def __init__(self, sample_rate=0.01):
        self.sample_rate = sample_rate
        self.block_metrics = {}
        self.events = []

    def on_block_allocated(self, block):
        if block.block_id % 2 == 0:
            self.block_metrics[block.block_id] = 0

    def on_block_accessed(self, block):
        if block.block_id in self.block_metrics:
            self.block_metrics[block.block_id] += 1

    def on_block_evicted(self, block):
        if block.block_id in self.block_metrics:
            self.events.append((block.block_id, self.block_metrics.pop(block.block_id)))

    def reset(self):
        self.block_metrics.clear()
        self.events.clear()

    def drain_events(self):
        events, self.events = self.events, []
        return events


def run_engine(collector, steps=200, blocks=50):
    """A block pool that hands out blocks in turn and finds each once; what vLLM would have recorded."""
    drained, free = [], deque(Block(i) for i in range(blocks))
    for _ in range(steps):
        for _ in range(10):
            block = free.popleft()
            collector.on_block_evicted(block)
            collector.on_block_allocated(block)
            collector.on_block_accessed(block)
            free.append(block)
        drained += collector.drain_events()
    return drained


async def test_every_event_is_streamed_and_the_inner_collector_goes_on(tmp_path):
    async with serving(f"unix:{tmp_path}/kv.sock") as (stream, server):
        connection = BackgroundConnection(str(server.endpoint), None).open()
        collector = StreamingCollector(Inner(0.5), connection.producer("vllm/dp0"))
        drained = await to_thread.run_sync(run_engine, collector)
        assert collector.sample_rate == 0.5
        assert drained == [(block, 1) for block, _ in drained]
        assert len(drained) == 25 * 39
        collector.reset()
        await to_thread.run_sync(connection.close)
        await stream.flush()
        summary = stream.summary_nowait("vllm/dp0", "gpu")
        accounts = summary.accounts
        assert (accounts.allocations, summary.accesses) == (2_000, 2_000)
        assert (summary.total_evictions, accounts.unknown_evictions) == (1_950, 50)
        assert (accounts.cleared, accounts.live, accounts.time_regressions) == (50, 0, 0)
        assert stream.summary_nowait().accounts.lost_frames == 0


def vllm_hash(content, group=0):
    """A hash as vLLM's blocks hold it: 32 bytes, and four of the cache group."""
    return hashlib.sha256(str(content).encode()).digest() + group.to_bytes(4, "big")


def test_keys_are_the_ids_that_kv_events_give_to_the_same_blocks():
    digest = hashlib.sha256(b"7").digest()
    event = ["BlockStored", [digest], None, [], 16, None, "GPU", None, None]  # group_idx comes after these
    found = []
    for group in (0, 3):
        payload = msgspec.msgpack.encode([1.0, [[*event, group]], None])
        decoder = KVEventDecoder("vllm")
        decoder.add(payload)
        (frame,) = decoder.frames()
        found.append(int(frame.blocks[0]) % 2**64)
    blocks = [Block(1, vllm_hash(7)), Block(2, vllm_hash(7, group=3)), Block(3)]
    assert [key % 2**64 for key in content_keys(blocks).tolist()] == [*found, 0]
    assert content_keys(blocks[:1]).tolist() == content_keys([Slotted(blocks[0].block_hash)]).tolist()


async def test_blocks_that_the_scheduler_filled_in_a_step_have_their_content_as_key(tmp_path):
    async with serving(f"unix:{tmp_path}/kv.sock") as (stream, server):
        connection = BackgroundConnection(str(server.endpoint), None).open()
        collector = StreamingCollector(Inner(0.5), connection.producer("vllm/dp0"))
        slots = [Block(slot) for slot in range(4)]

        def run_scan():
            for step in range(40):
                block = slots[step % 4]
                collector.on_block_evicted(block)
                block.block_hash = None
                collector.on_block_allocated(block)
                block.block_hash = vllm_hash(step % 8)  # once the scheduler has filled it
                collector.drain_events()

        await to_thread.run_sync(run_scan)
        await to_thread.run_sync(connection.close)
        await stream.flush()
        summary = stream.summary_nowait("vllm/dp0", "gpu")
        assert (summary.total_evictions, summary.premature.count) == (36, 32)


def test_when_nobody_listens_drops_are_counted_and_memory_is_bounded(tmp_path):
    connection = BackgroundConnection(f"unix:{tmp_path}/nobody", None).open()
    producer = connection.producer("vllm/dp0")
    run_engine(StreamingCollector(Inner(), producer), steps=80_000)
    statistics = producer.statistics()
    assert statistics.offered == 2_400_000
    assert statistics.buffered + statistics.sent < 2_400_000
    assert statistics.dropped["displaced"] > 0
    connection.close()
    assert sum(producer.statistics().dropped.values()) == 2_400_000


def test_what_fails_in_kvstream_does_not_reach_the_engine(tmp_path, caplog):
    connection = BackgroundConnection(f"unix:{tmp_path}/nobody", None).open()
    producer = connection.producer("vllm/dp0")
    collector = StreamingCollector(Inner(), producer)
    run_engine(collector, steps=3)
    producer._wake_flusher = None  # as good a mistake as any
    producer.statistics()  # takes what is recorded, so that what comes next is news
    producer._flusher_knows = False
    assert len(run_engine(collector, steps=20)) > 0
    collector.reset()
    assert "vLLM's own metrics go on" in caplog.text
    connection.close()


@pytest.fixture
def scheduler(monkeypatch):
    """A stand-in for ``vllm.v1.core.sched.scheduler``, where the plugin finds it."""
    module = types.ModuleType("vllm.v1.core.sched.scheduler")
    module.KVCacheMetricsCollector = Inner

    class Scheduler:
        def __init__(self, vllm_config, log_stats=False):
            self.kv_metrics_collector = module.KVCacheMetricsCollector(0.25)

    module.Scheduler = Scheduler
    parents = ["vllm", "vllm.v1", "vllm.v1.core", "vllm.v1.core.sched"]
    for name in parents:
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    sys.modules["vllm.v1.core.sched"].scheduler = module
    return module


def config(rank):
    return types.SimpleNamespace(parallel_config=types.SimpleNamespace(data_parallel_rank=rank))


async def test_the_plugin_is_switched_on_by_the_environment(scheduler, monkeypatch, tmp_path):
    monkeypatch.delenv("KVSTREAM_ENDPOINT", raising=False)
    register()
    assert scheduler.KVCacheMetricsCollector is Inner
    with anyio.fail_after(DEADLINE):
        metrics = MetricsConfig(export_interval=0.0)
        async with KVStream(StreamConfig(metrics=metrics)) as stream, anyio.create_task_group() as tasks:
            server = FrameServer(stream, Endpoint.parse(f"unix:{tmp_path}/kv.sock"), token="secret")
            await server.bind()
            tasks.start_soon(server.serve)
            monkeypatch.setenv("KVSTREAM_ENDPOINT", str(server.endpoint))
            monkeypatch.setenv("KVSTREAM_TOKEN", "secret")
            monkeypatch.setenv("KVSTREAM_SOURCE", "pod-7")
            register()
            register()  # vLLM may load plugins again
            engine = await to_thread.run_sync(lambda: scheduler.Scheduler(vllm_config=config(3)))
            collector = engine.kv_metrics_collector
            assert isinstance(collector, StreamingCollector)
            assert collector.sample_rate == 0.25
            await to_thread.run_sync(run_engine, collector)
            while stream.summary_nowait("pod-7/dp3").accounts.allocations < 2_000:  # noqa: ASYNC110
                await anyio.sleep(0.005)
            tasks.cancel_scope.cancel()


@pytest.mark.parametrize("endpoint", ["nonsense", "unix:/run/kv.sock"])
def test_an_engine_starts_whatever_is_wrong_with_kvstream(scheduler, monkeypatch, caplog, endpoint):
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("KVSTREAM_ENDPOINT", endpoint)
    if endpoint != "nonsense":
        del scheduler.KVCacheMetricsCollector  # a vLLM without such metrics
        register()
        assert "cannot stream" in caplog.text
        return
    register()
    engine = scheduler.Scheduler(vllm_config=config(0))
    assert isinstance(engine.kv_metrics_collector, Inner)
    assert "not streamed" in caplog.text


def test_the_entry_point_leads_to_the_plugin():
    from importlib.metadata import entry_points

    (found,) = [e for e in entry_points(group="vllm.general_plugins") if e.name == "kvstream"]
    assert found.load() is register
    assert "KVSTREAM_ENDPOINT" not in os.environ
