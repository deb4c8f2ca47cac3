"""State: what the dashboard shows of one source and tier, or of all, worked out once for everybody."""

from collections import OrderedDict
from time import perf_counter
from typing import NamedTuple

import anyio
import msgspec

from kvstream.alerts.types import AlertLevel
from kvstream.blocks.heat_map import BlockMap
from kvstream.blocks.state import HotBlock
from kvstream.engine.cache import CacheMonitor
from kvstream.events.types import Labels
from kvstream.metrics.distribution import Distribution, distributions
from kvstream.metrics.history import History, HistoryBuilder
from kvstream.metrics.measurements import Measurements
from kvstream.metrics.summary import CacheMetricsSummary, SavedState
from kvstream.reports.verdict import verdict
from kvstream.stream import KVStream, caches_in_turn, caches_of
from kvstream.text.json import encode_json
from kvstream.text.numbers import time_of_day

EVERY_SECONDS = 1.0
_SHARE_OF_TIME = 20  # a state is worked out anew after twenty times what it took, so that it never takes over
_PLACES_KEPT = 64
_NEWEST_WINDOWS = 10
_HOT_BLOCKS = 20
_INPUTS_SHOWN = 5


class Place(NamedTuple):
    """A source and tier; None is any."""

    source: str | None
    tier: str | None


class CacheNow(msgspec.Struct, frozen=True, kw_only=True):
    """One source and tier in a line.

    Attributes:
        source: Cache instance.
        tier: Tier.
        blocks: Blocks live.
        hit_ratio: In its last closed window; None without lookups, or where hits are unknown.
        eviction_rate: Evictions a second in it.
        level: The worst level of its alerts that fire, unless inhibited or silenced; None if none does.
    """

    source: str
    tier: str
    blocks: int
    hit_ratio: float | None
    eviction_rate: float
    level: AlertLevel | None


class State(msgspec.Struct, frozen=True, kw_only=True, tag="state"):
    """What there is to see now.

    Attributes:
        caches: Every source and tier, by name.
        summary: The summary of the one that was chosen.
        verdict: Which inputs are not connected, and what the summary says, a sentence each.
        history: Its newest windows.
    """

    caches: list[CacheNow]
    summary: CacheMetricsSummary
    verdict: list[str]
    history: History


class ShownBlock(msgspec.Struct, frozen=True, kw_only=True):
    """A block as browsers can show it: its number as text, as theirs hold only 53 bits (see ``HotBlock``)."""

    block_id: str
    accesses: int
    held_seconds: float | None
    idle_seconds: float | None
    labels: Labels | None


class Blocks(msgspec.Struct, frozen=True, kw_only=True):
    """The blocks that are live now.

    Attributes:
        hottest: Those accessed most.
        longest_held: Those held for the longest time.
        map: All of them by age and accesses.
    """

    hottest: list[ShownBlock]
    longest_held: list[ShownBlock]
    map: BlockMap


class States:
    """The state of each place that somebody looks at, as JSON, at most a second old.

    Args:
        stream: The stream.
    """

    def __init__(self, stream: KVStream) -> None:
        self._stream = stream
        self._made: OrderedDict[Place, _Made] = OrderedDict()

    async def get(self, place: Place) -> bytes:
        """Return the state of a place as JSON."""
        made = self._made.setdefault(place, _Made())
        self._made.move_to_end(place)
        if len(self._made) > _PLACES_KEPT:
            self._made.popitem(last=False)
        async with made.lock:
            if anyio.current_time() >= made.stale_at:
                begun = perf_counter()
                made.text = encode_json(await state_of(self._stream, place))
                pause = max(EVERY_SECONDS, _SHARE_OF_TIME * (perf_counter() - begun))
                made.stale_at = anyio.current_time() + pause * 0.9  # a little less than who waits that long
        return made.text


class _Made:
    """A state that was worked out."""

    def __init__(self) -> None:
        self.lock = anyio.Lock()
        self.stale_at = -1.0
        self.text = b""


async def state_of(stream: KVStream, place: Place) -> State:
    """Return the state of a place now."""
    summary = await stream.summary(*place)
    return State(
        caches=[_cache_now(tier) for tier in sorted(caches_of(stream), key=_name)],
        summary=summary,
        verdict=[
            *_not_connected(stream),
            *_not_saved(stream.statistics().state),
            *(verdict(summary) if summary.accounts.allocations else []),
        ],
        history=await history(stream, place, _NEWEST_WINDOWS),
    )


def _not_connected(stream: KVStream) -> list[str]:
    """Return a sentence for each input that is not connected."""
    away = [seen for seen in stream.inputs() if seen.state in ("not connected", "error")]
    said = [
        f"{seen.input} is not connected since {time_of_day(seen.since)}"
        + (f": {seen.error}" if seen.error else "")
        for seen in away[:_INPUTS_SHOWN]
    ]
    more = len(away) - len(said)
    return [*said, f"{more:,} more inputs are not connected"] if more else said


def _not_saved(state: SavedState | None) -> list[str]:
    """Return what is wrong with the saved state, a sentence each."""
    if state is None:
        return []
    said = []
    if state.error:
        since = "not yet" if state.saved_at is None else f"last at {time_of_day(state.saved_at)}"
        said.append(f"the state cannot be saved ({since}): {state.error}")
    if state.degraded:
        names = ", ".join(state.degraded[:_INPUTS_SHOWN])
        said.append(f"the state of {len(state.degraded):,} sources was lost, and is not whole yet: {names}")
    return said


def _name(tier: CacheMonitor) -> tuple[str, str]:
    return tier.source, tier.tier


def _cache_now(tier: CacheMonitor) -> CacheNow:
    levels = [alert.level for alert in tier.rules.firing() if not alert.silenced_by]
    last = next(iter(tier.ring.last(1)), None)
    lookups = last.accesses + last.allocations if last and tier.hits_are_known else 0
    return CacheNow(
        source=tier.source,
        tier=tier.tier,
        blocks=tier.table.live_count,
        hit_ratio=last.accesses / lookups if last and lookups else None,
        eviction_rate=last.evictions / tier.config.window_seconds if last else 0.0,
        level=max(levels, key=lambda level: level.severity, default=None),
    )


async def history(stream: KVStream, place: Place, windows: int) -> History:
    """Return the last windows of a place."""
    builder = HistoryBuilder(stream.config.metrics.window_seconds)
    async for tier in caches_in_turn(stream, *place):
        builder.add(tier.ring.last(windows), tier.hits_are_known)
    return builder.history()


async def recent_distributions(stream: KVStream, place: Place) -> dict[str, Distribution]:
    """Return lifetimes, idle times and reuse gaps of the last minute."""
    config = stream.config.metrics
    total = Measurements.empty()
    async for tier in caches_in_turn(stream, *place):
        total.merge(tier.recent(config.recent_windows))
    return distributions(total)


def blocks(stream: KVStream, place: Place) -> Blocks | None:
    """Return the blocks of a place; None if it is not one source and tier."""
    tiers = caches_of(stream, *place)
    if len(tiers) != 1:
        return None
    (tier,) = tiers
    return Blocks(
        hottest=[_shown(block) for block in tier.table.hottest(_HOT_BLOCKS, tier.last_ts)],
        longest_held=[_shown(block) for block in tier.table.longest_held(_HOT_BLOCKS, tier.last_ts)],
        map=tier.table.block_map(tier.last_ts),
    )


def _shown(block: HotBlock) -> ShownBlock:
    return ShownBlock(**{**msgspec.structs.asdict(block), "block_id": str(block.block_id)})
