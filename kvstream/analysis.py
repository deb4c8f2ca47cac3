"""Analysis: why a cache does what it does, and what would help, in words and figures."""

import msgspec

from kvstream.alerts.types import CacheAlert
from kvstream.blocks.state import HotBlock
from kvstream.config import MetricsConfig
from kvstream.events.frame import EventFrame
from kvstream.metrics.summary import ALL, CacheMetricsSummary
from kvstream.monitor import Monitor
from kvstream.recorded import RecordedTime
from kvstream.tier import Outcome, TierMonitor

_HARDLY = 0.02  # of hit ratio: less is not worth speaking of
_CONTENTS = 8192
_HOT_BLOCKS = 10
_MUCH_ASKED_ONCE = 0.5
_MANY_EVICTED = 0.2
_OWNER = {"tenant": "Tenant", "lora": "Adapter", "model": "Model", "group": "Group"}
_MUCH_ROOM = 0.1  # of all block time
_LITTLE_USE = 0.5  # of the hits that its share of room would have


class CacheAnalysis(msgspec.Struct, frozen=True, kw_only=True, tag="analysis"):
    """What there is to say of one source and tier.

    Attributes:
        source: Cache instance.
        tier: Tier.
        verdict: The answer, a sentence each.
        block_bytes: Bytes of a block, if known.
        hottest: The live blocks that were accessed most.
        longest_held: The live blocks that were held for the longest time.
        summary: All figures.
    """

    source: str
    tier: str
    verdict: list[str]
    block_bytes: int | None
    hottest: list[HotBlock]
    longest_held: list[HotBlock]
    summary: CacheMetricsSummary


class Analysis:
    """Takes in frames and says what they tell.

    Args:
        config: What is measured; ``capacity`` is the size that there is. The miss-ratio curve is of all
            that is taken in, and of as much content as it takes.
        block_bytes: Bytes of a block, if known.
    """

    def __init__(self, config: MetricsConfig | None = None, block_bytes: int | None = None) -> None:
        whole = msgspec.structs.replace(
            config or MetricsConfig(), curve_contents=_CONTENTS, curve_lookups=0, curve_half_life=0.0
        )
        self.monitor = Monitor(whole)
        self._time = RecordedTime(self.monitor)
        self._block_bytes = block_bytes

    def process(self, frame: EventFrame, records: bool = False) -> Outcome:
        """Takes in a frame; ``records`` asks for what was evicted."""
        changed = self._time.reach([frame])
        outcome = self.monitor.process(frame, records)
        return msgspec.structs.replace(outcome, alerts=changed + outcome.alerts) if changed else outcome

    def end(self) -> list[CacheAlert]:
        """Judge the silence of every cache up to the newest event of all; return the alerts that changed."""
        return self._time.end()

    def results(self) -> list[CacheAnalysis]:
        """One analysis for each source and tier, in order of name."""
        tiers = sorted(self.monitor.tiers(), key=lambda tier: (tier.source, tier.tier))
        return [self._result(tier) for tier in tiers]

    def _result(self, tier: TierMonitor) -> CacheAnalysis:
        summary = self.monitor.summary(tier.source, tier.tier)
        return CacheAnalysis(
            source=tier.source,
            tier=tier.tier,
            verdict=verdict(summary, self._block_bytes),
            block_bytes=self._block_bytes,
            hottest=tier.table.hottest(_HOT_BLOCKS, tier.last_ts),
            longest_held=tier.table.longest_held(_HOT_BLOCKS, tier.last_ts),
            summary=summary,
        )


def verdict(summary: CacheMetricsSummary, block_bytes: int | None = None) -> list[str]:
    """What the figures say, a sentence each.

    Args:
        summary: Of one source and tier; of all of them there is less to say.
        block_bytes: Bytes of a block, if known.
    """
    said = []
    premature, accounts, sizes = summary.premature, summary.accounts, summary.sizes
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
    if sizes.points and sizes.asked_once > _MUCH_ASKED_ONCE:
        said.append(f"{sizes.asked_once:.0%} of the content was asked for only once.")
    said += _of_idle(summary)
    if ALL not in (summary.source, summary.tier):
        said += _of_size(summary, block_bytes)
    said += _of_owners(summary)
    falling = [name.replace("_", " ") for name, t in summary.trends.items() if t.direction == "falling"]
    if falling:
        said.append(f"Falling of late: {', '.join(falling)}.")
    if accounts.lost_frames:
        said.append(f"{accounts.lost_frames:,} frames are missing, so that figures are too low.")
    return said


def _of_size(summary: CacheMetricsSummary, block_bytes: int | None) -> list[str]:
    """What other sizes of cache would do."""
    curve, wanted = summary.sizes.points, summary.sizes.blocks_for_90
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
