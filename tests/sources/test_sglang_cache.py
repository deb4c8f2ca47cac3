"""The radix cache of a real wheel of SGLang, which splits nodes and evicts leaves, as its events show it."""

import hashlib
import sys
import types
from array import array

import msgspec
import numpy as np
import pytest

from kvstream.engine.monitor import Monitor
from kvstream.sources.kv_events import KVEventDecoder
from tests.wheels import Wheel

pytestmark = pytest.mark.slow
PAGE = 4  # tokens in a block
CAPACITY = 60 * PAGE
LEFT_OUT = """
    kernels.ops.kvcache.mla_buffer srt.environ srt.mem_cache.allocator srt.mem_cache.memory_pool
    srt.mem_cache.unified_cache.component_type srt.observability.metrics_collector srt.runtime_context
    srt.utils.common
"""


class Tensor(np.ndarray):
    """As much of PyTorch's as a radix cache without a device uses."""

    def clone(self):
        return self.copy()


class Anything:
    """What is named in annotations alone."""

    def __class_getitem__(cls, item):
        return cls


def page_hashes(key, prior_digest, page_size):
    """Return a chained SHA-256 of each page, which SGLang has in C++."""
    hashes, digest = [], prior_digest or b""
    for start in range(0, len(key), page_size):
        digest = hashlib.sha256(digest + key.token_ids[start : start + page_size].tobytes()).digest()
        hashes.append(digest.hex())
    return hashes


@pytest.fixture
def sglang(monkeypatch):
    wheel = Wheel("sglang", monkeypatch)
    wheel.stand_in(
        "torch",
        Tensor=Tensor,
        device=str,
        int64=np.int64,
        empty=lambda shape, dtype, device: np.empty(shape, dtype).view(Tensor),
        tensor=lambda values, dtype: np.array(values, dtype).view(Tensor),
        distributed=types.SimpleNamespace(ProcessGroup=Anything),
    )
    for name in LEFT_OUT.split():
        wheel.stand_in(f"sglang.{name}", __getattr__=lambda _: Anything)
    wheel.stand_in("psutil", Process=Anything)
    wheel.stand_in("sglang.srt.mem_cache.cpp_utils.native_hash", get_native_hash=page_hashes)
    wheel.load("sglang.srt.utils.network")
    wheel.load("sglang.srt.disaggregation.kv_events")
    for name in ("evict_policy", "utils", "events", "cache_init_params", "base_prefix_cache", "radix_cache"):
        wheel.load(f"sglang.srt.mem_cache.{name}")
    known = ("disaggregation.kv_events", "mem_cache.base_prefix_cache", "mem_cache.radix_cache")
    return [sys.modules[f"sglang.srt.{name}"] for name in known]


def prompts(seed=1, count=400):
    """Tokens of each request: its conversation so far and some more, which often ends inside a block."""
    rng = np.random.default_rng(seed)
    conversations = [rng.integers(1 << 20, size=9).tolist() for _ in range(12)]
    for _ in range(count):
        place = int(rng.zipf(1.5)) % 12
        conversations[place] += rng.integers(1 << 20, size=rng.integers(1, 20)).tolist()
        yield list(conversations[place])
        if len(conversations[place]) > 100:
            del conversations[place][30:]


def test_what_its_events_leave_cached_is_what_it_holds(sglang):
    kv_events, calls, radix_cache = sglang
    allocator = types.SimpleNamespace(device="cpu", free_segment=lambda indices, start_pos: None)
    cache = radix_cache.RadixCache.create_simulated(
        mock_allocator=allocator, page_size=PAGE, enable_kv_cache_events=True
    )
    decoder, monitor = KVEventDecoder("sglang"), Monitor()
    stored = evicted = premature = 0
    gone = set()
    for second, prompt in enumerate(prompts()):
        key = radix_cache.RadixKey(array("q", prompt))
        found = cache.match_prefix(calls.MatchPrefixParams(key)).device_prefix_len
        stored += (len(prompt) - found) // PAGE
        cache.insert(calls.InsertParams(key))
        size = cache.total_size()
        cache.evict(calls.EvictParams(max(0, size - CAPACITY)))
        evicted += (size - cache.total_size()) // PAGE
        events = cache.kv_events.take()
        for event in events:
            if isinstance(event, kv_events.BlockStored):
                premature += len(gone.intersection(event.block_hashes))
                gone.difference_update(event.block_hashes)
            elif isinstance(event, kv_events.BlockRemoved):
                gone.update(event.block_hashes)
        decoder.add(msgspec.msgpack.encode(kv_events.KVEventBatch(ts=float(second), events=events)))
        for frame in decoder.frames():
            monitor.process(frame)
        if second % 40 == 39:
            assert monitor.summary().blocks_live == cache.total_size() // PAGE
    summary = monitor.summary()
    assert (summary.accounts.allocations, summary.total_evictions) == (stored, evicted)
    assert summary.premature.count == premature > 0
    assert (summary.accounts.unknown_evictions, summary.hits_reported) == (0, "none")
