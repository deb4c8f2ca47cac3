"""Synthetic streams: requests on a simulated prefix cache, seeded and of any length.

A cache of ``blocks`` slots keeps content blocks in LRU order. Each request asks for a list of content
blocks: those found are accessed, the others evict the least recently used and take their slots.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import count
from typing import Literal

import numpy as np
import numpy.typing as npt

from kvstream.events.frame import EventFrame
from kvstream.events.types import Op

Workload = Literal["chat", "scan", "mixed", "incidents"]
WORKLOADS: tuple[Workload, ...] = ("chat", "scan", "mixed", "incidents")
SCANNED = 1 << 43
"""Keys from here on are of documents that a scan reads."""
START_NS = 1_767_225_600_000_000_000  # 2026-01-01T00:00:00Z, so that a seed gives the same bytes always

_STRETCH = 2000  # requests

_Request = list[int]


def generate(
    workload: Workload,
    events: int | None,
    *,
    blocks: int = 4096,
    rate: float = 20_000.0,
    seed: int = 0,
    source: str = "synthetic",
    tier: str = "gpu",
    start_ns: int = START_NS,
    frame_events: int = 4096,
) -> Iterator[EventFrame]:
    """Yield frames with exactly ``events`` events, or for ever.

    Args:
        workload: ``chat``: conversations that grow over shared prompts; ``scan``: hot documents, then
            a scan of more than fits from half way on; ``mixed``: chat with scans in between;
            ``incidents``: chat, and a scan beside it for 2,000 of every 10,000 requests.
        events: Events in all; None is no end, and no progress towards it.
        blocks: Blocks that the cache holds.
        rate: Events a second of event time, about.
        seed: The same seed gives the same stream.
        source: Source of the frames.
        tier: Tier of the frames.
        start_ns: Time of the first event, ns since the Unix epoch.
        frame_events: Events a frame.
    """
    rng = np.random.default_rng(seed)
    requests = _REQUESTS[workload](rng, blocks)
    cache: OrderedDict[int, int] = OrderedDict()  # content -> slot, least recently used first
    free = list(range(blocks - 1, -1, -1))
    ops: list[int] = []
    ids: list[int] = []
    ts: list[int] = []
    keys: list[int] = []
    now, made, seq = float(start_ns), 0, 0
    while events is None or made < events:
        before = len(ops)
        for content in requests(made / events if events else 0.0):
            at = int(now) + (len(ops) - before) * 500
            slot = cache.get(content)
            if slot is not None:
                cache.move_to_end(content)
                row = [(Op.ACCESS, slot, 0)]
            elif free:
                slot = cache[content] = free.pop()
                row = [(Op.ALLOC, slot, content)]
            else:
                slot = cache[content] = cache.popitem(last=False)[1]
                row = [(Op.EVICT, slot, 0), (Op.ALLOC, slot, content)]
            for op, block, key in row:
                ops.append(op)
                ids.append(block)
                ts.append(at)
                keys.append(key)
        made += len(ops) - before
        now += float(rng.exponential((len(ops) - before) / rate)) * 1e9 + (len(ops) - before) * 500
        beyond = max(0, made - events) if events else 0
        while len(ops) >= frame_events or (events and made >= events and ops):
            n = min(frame_events, len(ops) - beyond)
            if n <= 0:
                return
            yield EventFrame(
                np.array(ops[:n], np.uint8),
                np.array(ids[:n], np.int64),
                np.array(ts[:n], np.int64),
                source,
                tier,
                np.array(keys[:n], np.int64),
                None,
                start_ns,
                seq,
            )
            seq += 1
            del ops[:n], ids[:n], ts[:n], keys[:n]


def _zipf(n: int) -> npt.NDArray[np.float64]:
    """Return probabilities of n things, the i-th in proportion to 1 / i."""
    weights: npt.NDArray[np.float64] = 1.0 / np.arange(1, n + 1)
    weights /= weights.sum()
    return weights


def _chat(rng: np.random.Generator, blocks: int) -> Callable[[float], _Request]:
    """Make conversations: a shared system prompt, then turns that make each request longer."""
    fresh = count(1 << 40)
    prompts = [[next(fresh) for _ in range(int(rng.integers(4, 16)))] for _ in range(12)]
    popularity = _zipf(len(prompts))
    sessions: list[_Request] = []

    def request(_: float) -> _Request:
        if not sessions or (len(sessions) < blocks // 16 and rng.random() < 0.3):
            sessions.append(list(prompts[int(rng.choice(len(prompts), p=popularity))]))
        chosen = int(rng.integers(len(sessions)))
        conversation = sessions[chosen]
        conversation.extend(next(fresh) for _ in range(int(rng.integers(1, 5))))
        if len(conversation) > 64 or rng.random() < 0.1:
            sessions.pop(chosen)
        return conversation

    return request


def _scan(rng: np.random.Generator, blocks: int) -> Callable[[float], _Request]:
    """Hot documents that fit, then documents read once in turn, twice as many as fit."""
    length = 16
    hot = [[i << 20 | j for j in range(length)] for i in range(1, max(2, blocks // (2 * length)))]
    popularity = _zipf(len(hot))
    documents = max(2, 2 * blocks // length)
    turn = count()

    def request(progress: float) -> _Request:
        if progress < 0.5:
            own = int(rng.integers(1 << 41, 1 << 42))
            return [*hot[int(rng.choice(len(hot), p=popularity))], own, own + 1]
        document = SCANNED + (next(turn) % documents << 20)
        return list(range(document, document + length))

    return request


def _mixed(rng: np.random.Generator, blocks: int) -> Callable[[float], _Request]:
    """Chat; in every fifth part of the stream a scan runs beside it."""
    chat, scan = _chat(rng, blocks), _scan(rng, blocks)

    def request(progress: float) -> _Request:
        scanning = int(progress * 10) % 5 == 4
        return scan(1.0) if scanning and rng.random() < 0.7 else chat(progress)

    return request


def _incidents(rng: np.random.Generator, blocks: int) -> Callable[[float], _Request]:
    """Chat; in the fourth of every five stretches a scan runs beside it."""
    chat, scan = _chat(rng, blocks), _scan(rng, blocks)
    turn = count()

    def request(progress: float) -> _Request:
        scanning = next(turn) // _STRETCH % 5 == 3
        return scan(1.0) if scanning and rng.random() < 0.7 else chat(progress)

    return request


_REQUESTS: dict[Workload, Callable[[np.random.Generator, int], Callable[[float], _Request]]] = {
    "chat": _chat,
    "scan": _scan,
    "mixed": _mixed,
    "incidents": _incidents,
}
