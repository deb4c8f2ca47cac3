"""vLLM's own block manager, driven by a plain scheduler of single tokens: what ``VLLMCache`` is judged by.

``python -m tests.sources.vllm_block_manager`` writes ``tests/data/vllm_cache.json`` again, with the vLLM that
is installed. It needs no GPU and no model: a CPU build of PyTorch, ``pip install --no-deps vllm``, and the
packages that its imports then miss will do.
"""

import hashlib
import heapq
import json
import random
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

GOLDEN = Path(__file__).parents[1] / "data" / "vllm_cache.json"


@dataclass(frozen=True)
class Arrival:
    at_ns: int
    contents: list[int]  # of full blocks of the prompt
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class Workload:
    """Conversations that share beginnings, in a cache of some blocks."""

    name: str
    seed: int
    requests: int
    capacity: int
    block_tokens: int
    conversations: int
    longest_turn: int  # blocks
    longest_output: int  # tokens
    mean_pause_ns: int
    prefill_rate: float = 10_000.0
    decode_rate: float = 50.0

    def arrivals(self) -> list[Arrival]:
        rng = random.Random(self.seed)
        fresh = count(1)
        histories: list[list[int]] = [[] for _ in range(self.conversations)]
        beginnings = [[next(fresh) for _ in range(rng.randint(1, 4))] for _ in range(3)]
        now, arrivals = 0, []
        for _ in range(self.requests):
            now += 1 + int(rng.expovariate(1 / self.mean_pause_ns))
            place = rng.randrange(self.conversations)
            if rng.random() < 0.1 or not histories[place]:
                histories[place] = list(beginnings[rng.randrange(3)])
            history = histories[place]
            history += [next(fresh) for _ in range(rng.randint(0, self.longest_turn))]
            del history[(self.capacity - 1) // 2 :]
            partial = rng.randrange(self.block_tokens)
            tokens = len(history) * self.block_tokens + partial
            arrivals.append(Arrival(now, list(history), tokens, rng.randint(1, self.longest_output)))
        return arrivals


WORKLOADS = (
    Workload("room for all", 1, 300, 400, 16, 8, 3, 40, 200_000_000),
    Workload("evictions", 2, 600, 120, 16, 12, 4, 60, 900_000_000),
    Workload("waiting", 3, 600, 60, 4, 10, 4, 24, 60_000_000),
    Workload("preemptions", 4, 400, 48, 4, 6, 3, 60, 150_000_000),
    Workload("blocks of one token", 5, 300, 64, 1, 6, 4, 12, 100_000_000),
    Workload("blocks of 512 tokens", 6, 300, 40, 512, 6, 3, 900, 3_000_000_000),
)

Events = list[tuple[str, int, int, int]]  # operation, block, content key, time


@dataclass
class Collector:
    """What vLLM calls as it hands out, finds and takes back blocks."""

    now: int = 0
    events: Events = field(default_factory=list)
    handed_out: set[int] = field(default_factory=set)

    def on_block_allocated(self, block) -> None:
        self.handed_out.add(block.block_id)
        self.events.append(("alloc", block.block_id, 0, self.now))

    def on_block_accessed(self, block) -> None:
        self.events.append(("access", block.block_id, 0, self.now))

    def on_block_evicted(self, block) -> None:  # vLLM says so also of blocks that held nothing
        if block.block_id in self.handed_out:
            self.events.append(("evict", block.block_id, 0, self.now))

    def reset(self) -> None:
        raise NotImplementedError


class Engine:
    """A scheduler of single tokens around vLLM's ``KVCacheManager``, in continuous time."""

    def __init__(self, workload: Workload) -> None:
        import torch
        from vllm.utils.hashing import sha256
        from vllm.v1.core.kv_cache_manager import KVCacheManager
        from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
        from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec

        init_none_hash(sha256)
        self.workload = workload
        self.block_tokens = workload.block_tokens
        self.hasher = get_request_block_hasher(self.block_tokens, sha256)
        spec = FullAttentionSpec(
            block_size=self.block_tokens, num_kv_heads=1, head_size=1, dtype=torch.float32
        )
        self.collector = Collector()
        self.manager = KVCacheManager(
            KVCacheConfig(
                num_blocks=workload.capacity,
                kv_cache_tensors=[],
                kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)],
            ),
            max_model_len=workload.capacity * self.block_tokens,
            scheduler_block_size=self.block_tokens,
            hash_block_size=self.block_tokens,
            enable_caching=True,
            metrics_collector=self.collector,
        )
        self.prefill_ns = 1e9 / workload.prefill_rate
        self.decode_ns = round(1e9 / workload.decode_rate)
        self.waiting, self.running, self.agenda = [], [], []
        self.order, self.fresh, self.preemptions = count(1), count(10**9), 0

    def run(self) -> Events:
        for arrival in self.workload.arrivals():
            self.run_until(arrival.at_ns)
            self.waiting.append(self.request(arrival))
            self.admit(arrival.at_ns)
        while self.agenda:
            self.run_until(self.agenda[0][0])
        return self.collector.events

    def request(self, arrival: Arrival):
        from vllm.sampling_params import SamplingParams
        from vllm.v1.request import Request

        tokens = [content * 1024 + i for content in arrival.contents for i in range(self.block_tokens)]
        tokens += [next(self.fresh) for _ in range(arrival.prompt_tokens - len(tokens))]
        request = Request(
            request_id=str(next(self.order)),
            prompt_token_ids=tokens,
            sampling_params=SamplingParams(max_tokens=arrival.output_tokens),
            pooling_params=None,
            block_hasher=self.hasher,
        )
        request.contents = arrival.contents
        return request

    def run_until(self, at_ns: int) -> None:
        while self.agenda and self.agenda[0][0] <= at_ns:
            now, start, request = heapq.heappop(self.agenda)
            if start != request.start:
                continue
            request.append_output_token_ids(next(self.fresh))
            if request.num_output_tokens == request.max_tokens:
                self.collector.now = now
                self.running.remove(request)
                self.manager.free(request)
                self.admit(now)
            elif self.step(request, now):
                heapq.heappush(self.agenda, (now + self.decode_ns, start, request))

    def step(self, request, now: int) -> bool:
        """Compute one more token; False if the request was preempted for lack of blocks."""
        from vllm.v1.request import RequestStatus

        self.collector.now = now
        while self.manager.allocate_slots(request, 1) is None:
            last = self.running.pop()
            self.preemptions += 1
            self.manager.free(last)
            last.status, last.num_computed_tokens, last.start = RequestStatus.PREEMPTED, 0, 0
            self.waiting.insert(0, last)
            if last is request:
                return False
        request.num_computed_tokens += 1
        return True

    def admit(self, now: int) -> None:
        from vllm.v1.request import RequestStatus

        while self.waiting:
            request = self.waiting[0]
            self.collector.now = now
            found, hits, _ = self.manager.get_computed_blocks(request)
            first = len(self.collector.events)
            missing = request.num_tokens - hits
            if self.manager.allocate_slots(request, missing, hits, found) is None:
                return
            self.name_contents(first, request.contents[hits // self.block_tokens :])
            self.waiting.pop(0)
            self.running.append(request)
            request.status = RequestStatus.RUNNING
            request.num_computed_tokens = request.num_tokens
            at_ns = now + round(missing * self.prefill_ns)
            request.start = next(self.order)
            heapq.heappush(self.agenda, (at_ns, request.start, request))

    def name_contents(self, first: int, contents: list[int]) -> None:
        """Give the allocations since the event ``first`` what was looked up."""
        events = self.collector.events
        allocations = [i for i in range(first, len(events)) if events[i][0] == "alloc"]
        for i, content in zip(allocations, contents, strict=False):
            op, block, _, now = events[i]
            events[i] = (op, block, content, now)


def figures(events: Events, preemptions: int) -> dict:
    """Return counts, and a digest of all events in order."""
    ops = [op for op, *_ in events]
    return {
        "allocations": ops.count("alloc"),
        "accesses": ops.count("access"),
        "evictions": ops.count("evict"),
        "preemptions": preemptions,
        "sha256": hashlib.sha256(repr(events).encode()).hexdigest(),
    }


def main() -> None:
    from vllm import __version__

    found = {"vllm": __version__, "workloads": {}}
    for workload in WORKLOADS:
        engine = Engine(workload)
        found["workloads"][workload.name] = figures(engine.run(), engine.preemptions)
    GOLDEN.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
