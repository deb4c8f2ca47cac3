"""Analysis: why a cache does what it does, and what would help, in words and figures."""

from collections.abc import Sequence

import msgspec
import numpy as np

from kvstream.blocks.hashing import are_hashes
from kvstream.blocks.state import HotBlock
from kvstream.config import MetricsConfig
from kvstream.events.frame import I64, EventFrame
from kvstream.events.types import Op
from kvstream.metrics.miss_ratio import MissRatioCurve
from kvstream.metrics.summary import CacheMetricsSummary
from kvstream.monitor import Monitor

FACTORS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 8.0, 16.0)
"""Sizes of cache that are looked at, by the size that there is."""

_HARDLY = 0.02  # of hit ratio: less is not worth speaking of
_WANTED = 0.9
_HOT_BLOCKS = 10
_MUCH_ASKED_ONCE = 0.5
_MANY_EVICTED = 0.2
_OWNER = {"tenant": "Tenant", "lora": "Adapter", "model": "Model", "group": "Group"}
_MUCH_ROOM = 0.1  # of all block time
_LITTLE_USE = 0.5  # of the hits that its share of room would have


class CurvePoint(msgspec.Struct, frozen=True):
    """What a cache of another size would do.

    Attributes:
        factor: Its size by today's.
        blocks: Its size.
        hit_ratio: Accesses that an LRU cache of that size would have found.
    """

    factor: float
    blocks: int
    hit_ratio: float


class CacheAnalysis(msgspec.Struct, frozen=True, kw_only=True, tag="analysis"):
    """What there is to say of one source and tier.

    Attributes:
        source: Cache instance.
        tier: Tier.
        verdict: The answer, a sentence each.
        blocks: Blocks there is room for: as given, or the most that were live.
        block_bytes: Bytes of a block, if known.
        curve: Hit ratios at other sizes; empty where content or hits are not known.
        blocks_for_90: Blocks that would give a hit ratio of 0.9; None where none would, or it is not known.
        rate: Share of the content that the curve rests on.
        asked_once: Share of the content that was asked for only once; None where content is not known.
        hottest: The live blocks that were accessed most.
        longest_held: The live blocks that were held for the longest time.
        summary: All figures.
    """

    source: str
    tier: str
    verdict: list[str]
    blocks: int
    block_bytes: int | None
    curve: list[CurvePoint]
    blocks_for_90: int | None
    rate: float
    asked_once: float | None
    hottest: list[HotBlock]
    longest_held: list[HotBlock]
    summary: CacheMetricsSummary


class _Tier:
    """What is known of one source and tier beside its monitor."""

    def __init__(self) -> None:
        self.curve = MissRatioCurve()
        self.peak = 0
        self._content: dict[int, int] = {}  # of slots, where allocations carry keys

    def contents(self, frame: EventFrame, by_hash: bool) -> I64:
        """Content of each allocation, store and access, in order; where it is not known, none."""
        wanted = (frame.ops == Op.ALLOC) | (frame.ops == Op.ACCESS) | (frame.ops == Op.STORE)
        blocks = frame.blocks.compress(wanted)
        if by_hash:
            return blocks.compress(are_hashes(blocks))
        if frame.keys is None and not self._content:
            return np.empty(0, dtype=np.int64)
        keys = (np.zeros(len(frame), np.int64) if frame.keys is None else frame.keys).compress(wanted)
        found = []
        rows = zip(frame.ops.compress(wanted).tolist(), blocks.tolist(), keys.tolist(), strict=True)
        for op, block, key in rows:
            if op == Op.ALLOC:
                self._content[block] = key
            content = self._content.get(block, 0)
            if content:
                found.append(content)
        return np.array(found, dtype=np.int64)


class Analysis:
    """Takes in frames and says what they tell.

    Args:
        config: What is measured; ``capacity`` is the size that there is.
        block_bytes: Bytes of a block, if known.
    """

    def __init__(self, config: MetricsConfig | None = None, block_bytes: int | None = None) -> None:
        self.monitor = Monitor(config)
        self._block_bytes = block_bytes
        self._tiers: dict[tuple[str, str], _Tier] = {}

    def process(self, frame: EventFrame) -> None:
        """Takes in a frame."""
        self.monitor.process(frame)
        table = self.monitor.source(frame.source).tiers[frame.tier].table
        tier = self._tiers.setdefault((frame.source, frame.tier), _Tier())
        tier.peak = max(tier.peak, table.live_count)
        contents = tier.contents(frame, table.by_hash)
        if len(contents):
            tier.curve.access(contents)

    def results(self) -> list[CacheAnalysis]:
        """One analysis for each source and tier, in order of name."""
        return [self._result(source, tier) for source, tier in sorted(self._tiers)]

    def _result(self, source: str, tier: str) -> CacheAnalysis:
        of, summary = self._tiers[source, tier], self.monitor.summary(source, tier)
        blocks = summary.capacity or of.peak
        points: list[CurvePoint] = []
        wanted = None
        # Where no hit was ever reported, accesses are misses only, of which no size makes hits.
        if of.curve.accesses and summary.accesses and blocks:
            sizes = [(factor, max(1, round(blocks * factor))) for factor in FACTORS]
            points = [CurvePoint(factor, size, of.curve.hit_ratio(size)) for factor, size in sizes]
            wanted = of.curve.blocks_for(_WANTED)
        asked_once = of.curve.asked_once if points else None
        (monitor,) = self.monitor.tiers(source, tier)
        return CacheAnalysis(
            source=source,
            tier=tier,
            verdict=_verdict(summary, points, wanted, self._block_bytes, asked_once),
            blocks=blocks,
            block_bytes=self._block_bytes,
            curve=points,
            blocks_for_90=wanted,
            rate=of.curve.rate,
            asked_once=asked_once,
            hottest=monitor.table.hottest(_HOT_BLOCKS, monitor.last_ts),
            longest_held=monitor.table.longest_held(_HOT_BLOCKS, monitor.last_ts),
            summary=summary,
        )


def _verdict(
    summary: CacheMetricsSummary,
    curve: Sequence[CurvePoint],
    wanted: int | None,
    block_bytes: int | None,
    asked_once: float | None,
) -> list[str]:
    said = []
    premature, accounts = summary.premature, summary.accounts
    if not summary.total_evictions:
        said.append("Nothing was evicted: the cache holds all that is asked of it.")
    elif premature.count:
        said.append(
            f"{premature.share:.0%} of evictions were premature: their content was wanted again, half of it "
            f"{_within(premature.return_time.p50)}. {premature.extra_blocks_p50:,} more blocks"
            f"{_in_bytes(premature.extra_blocks_p50, block_bytes)} would have kept half of it, "
            f"{premature.extra_blocks_p90:,} would have kept 90%."
        )
    if summary.accesses and summary.zero_access_rate > 0.5:
        said.append(
            f"{summary.zero_access_rate:.0%} of evicted blocks were never used after they were filled."
        )
    if asked_once is not None and asked_once > _MUCH_ASKED_ONCE:
        said.append(f"{asked_once:.0%} of the content was asked for only once.")
    said += _of_idle(summary)
    said += _of_size(summary, curve, wanted, block_bytes)
    said += _of_owners(summary)
    falling = [name.replace("_", " ") for name, t in summary.trends.items() if t.direction == "falling"]
    if falling:
        said.append(f"At the end, falling: {', '.join(falling)}.")
    if accounts.lost_frames:
        said.append(f"{accounts.lost_frames:,} frames are missing, so that figures are too low.")
    return said


def _of_size(
    summary: CacheMetricsSummary, curve: Sequence[CurvePoint], wanted: int | None, block_bytes: int | None
) -> list[str]:
    """What other sizes of cache would do."""
    if not curve:
        if not summary.accesses:
            return ["No hit was reported, so that hit ratios are not known."]
        return ["Content is not known, so that what more memory would give cannot be told."]
    now = next(point for point in curve if point.factor == 1.0)
    most = curve[-1].hit_ratio - now.hit_ratio
    if most < _HARDLY:
        said = [
            f"More memory would hardly help: {curve[-1].factor:g}× would lift the hit ratio from "
            f"{now.hit_ratio:.2f} to {curve[-1].hit_ratio:.2f}."
        ]
    else:
        enough = next(point for point in curve if point.hit_ratio - now.hit_ratio >= most / 2)
        said = [
            f"{enough.factor:g}× the memory{_in_bytes(enough.blocks, block_bytes)} would lift the hit ratio "
            f"from {now.hit_ratio:.2f} to {enough.hit_ratio:.2f}."
        ]
    smaller = next(point for point in curve if now.hit_ratio - point.hit_ratio < _HARDLY / 2)
    if smaller.factor < 1.0:
        said.append(f"{smaller.factor:g}× the memory would do as well as what there is.")
    if wanted is not None:
        said.append(f"A hit ratio of 0.9 takes {wanted:,} blocks{_in_bytes(wanted, block_bytes)}.")
    return said


def _of_idle(summary: CacheMetricsSummary) -> list[str]:
    """After what idle time blocks are hardly used again, where many are kept for longer."""
    many = _MANY_EVICTED * summary.total_evictions
    for of in summary.reuse_by_idle:
        if of.idle_seconds and of.reuse_share < _HARDLY and of.evicted > many:
            kept = of.evicted / summary.total_evictions
            return [
                f"Of blocks that were idle for more than {of.idle_seconds:.3g} s only {of.reuse_share:.1%} "
                f"were used again; {kept:.0%} of the evicted ones were kept so long."
            ]
    return []


def _of_owners(summary: CacheMetricsSummary) -> list[str]:
    """Whose blocks take far more room than they are of use."""
    return [
        f"{_OWNER[name]} {usage.value} holds {usage.residency_share:.0%} of block time for "
        f"{usage.hit_share:.0%} of hits."
        for name, values in summary.labels.items()
        for usage in values
        if usage.value is not None
        and usage.residency_share >= _MUCH_ROOM
        and usage.hit_share < _LITTLE_USE * usage.residency_share
    ]


def _within(seconds: float) -> str:
    return f"within {seconds:.2g} s" if seconds >= 0.001 else "at once"


def _in_bytes(blocks: int, block_bytes: int | None) -> str:
    return f" ({blocks * block_bytes / 2**30:,.2f} GiB)" if block_bytes else ""
