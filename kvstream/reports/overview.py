"""State: what the dashboard shows of one source and tier, or of all, worked out once for everybody."""

import math
from collections import OrderedDict
from collections.abc import Awaitable, Sequence
from time import perf_counter
from typing import NamedTuple, TypeVar

import anyio
import msgspec
import numpy as np
from anyio.lowlevel import checkpoint

from kvstream.alerts.types import AlertLevel, CacheAlert
from kvstream.blocks.heat_map import BlockMap
from kvstream.blocks.state import HotBlock
from kvstream.engine.cache import CacheMonitor
from kvstream.events.types import Labels
from kvstream.metrics.distribution import Distribution, distributions
from kvstream.metrics.history import History, HistoryBuilder
from kvstream.metrics.measurements import Measurements
from kvstream.metrics.summary import PROBLEM_COUNTS, CacheMetricsSummary, SavedState
from kvstream.reports.incidents import OpenIncident, open_incidents
from kvstream.reports.verdict import verdict
from kvstream.stream import KVStream, consumers_of, keeper_of
from kvstream.text.json import encode_json
from kvstream.text.numbers import percent, time_of_day

EVERY_SECONDS = 1.0
_SHARE_OF_TIME = 20  # a state is worked out anew after twenty times what it took, so that it never takes over
_SELECTIONS_KEPT = 64
_NEWEST_WINDOWS = 10
_HOT_BLOCKS = 20
_INPUTS_SHOWN = 5
_INCIDENTS_SHOWN = 100
_LATE_WINDOWS = 10  # that a total waits for a cache; what is later is not waited for
_ENOUGH = 500  # lookups, or evictions, of a minute: of fewer nothing is said
_HARDLY_ANY = 0.05  # of the lookups
_MANY = 0.3  # of the evictions
_STEPS = 60  # of a sparkline
_SPARK_SECONDS = 900.0

T = TypeVar("T")


class Selection(NamedTuple):
    """The caches of a source and tier; None is any."""

    source: str | None
    tier: str | None


class CacheNow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One source and tier in a line; ratios and rates are of its last minute.

    Attributes:
        source: Cache instance.
        tier: Tier.
        blocks: Blocks live.
        capacity: Blocks there is room for, if known.
        hit_ratio: accesses / (accesses + allocations); None without any, or where hits are unknown.
        premature_ratio: Premature evictions by all evictions; None without any, or if contents are unknown.
        eviction_rate: Evictions a second.
        age_seconds: Seconds since the last frame of its source was applied; None for recordings.
        level: The highest severity of its alerts that fire, unless inhibited or silenced; None if none does.
        rule: Rule of that alert; empty if none fires.
        concern: What is bad whatever it was before, in words; empty if nothing is.
    """

    source: str
    tier: str
    blocks: int
    capacity: int | None = None
    hit_ratio: float | None = None
    premature_ratio: float | None = None
    eviction_rate: float = 0.0
    age_seconds: float | None = None
    level: AlertLevel | None = None
    rule: str = ""
    concern: str = ""


class State(msgspec.Struct, frozen=True, kw_only=True, tag="state"):
    """The state that the dashboard shows.

    Attributes:
        now: Event time now, seconds since the Unix epoch; it goes on with the clock while nothing comes.
        caches: Every source and tier, by name.
        incidents: What is wrong with the selected caches, the most severe first, a hundred at most.
        summary: The summary of these; its alerts are in ``incidents``.
        verdict: Which inputs are not connected, and what the summary says, a sentence each.
        history: Its newest windows.
        listening: Where frames and events are taken.
        problem_counts: Names of the counts in the summary's accounts that are 0 where all is well.
    """

    now: float
    caches: list[CacheNow]
    incidents: list[OpenIncident]
    summary: CacheMetricsSummary
    verdict: list[str]
    history: History
    listening: list[str] = []
    problem_counts: list[str] = []


class Sparkline(msgspec.Struct, frozen=True, kw_only=True):
    """Hit ratios of one cache over time.

    Attributes:
        source: Cache instance.
        tier: Tier.
        hit_ratio: 250 times the hit ratio of each step, uint8, oldest first; 255 where it is unknown.
    """

    source: str
    tier: str
    hit_ratio: bytes


class Sparklines(msgspec.Struct, frozen=True, kw_only=True):
    """Hit ratios of all caches over the same time.

    Attributes:
        start: Of the first step, seconds since the Unix epoch.
        step_seconds: Length of a step.
        caches: Each cache.
    """

    start: float
    step_seconds: float
    caches: list[Sparkline]


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
    """The state of each selection that is viewed, as JSON, at most a second old.

    A summary of a thousand caches takes half a second. It is made anew less often then than the rest of a
    state, so that looking never takes over.

    Args:
        stream: The stream.
        listening: Where its frames are taken, besides its inputs.
    """

    def __init__(self, stream: KVStream, listening: Sequence[str] = ()) -> None:
        self._stream, self._listening = stream, listening
        self._made: OrderedDict[Selection, _Made] = OrderedDict()

    async def get(self, selection: Selection) -> bytes:
        """Return the state of a selection as JSON."""
        made = self._made.setdefault(selection, _Made())
        self._made.move_to_end(selection)
        if len(self._made) > _SELECTIONS_KEPT:
            self._made.popitem(last=False)
        async with made.lock:
            now = anyio.current_time()
            if made.summary is None or now >= made.summary_stale_at:
                made.summary, made.summary_stale_at = await _timed(self._stream.summary(*selection))
            if now >= made.stale_at:
                state, made.stale_at = await _timed(
                    state_of(self._stream, selection, self._listening, made.summary)
                )
                made.text = encode_json(state)
        return made.text


class _Made:
    """A state that was worked out."""

    def __init__(self) -> None:
        self.lock = anyio.Lock()
        self.stale_at = self.summary_stale_at = -1.0
        self.summary: CacheMetricsSummary | None = None
        self.text = b""


async def _timed(made: Awaitable[T]) -> tuple[T, float]:
    """Return what is made, and when it must be made again."""
    begun = perf_counter()
    result = await made
    pause = max(EVERY_SECONDS, _SHARE_OF_TIME * (perf_counter() - begun))
    return result, anyio.current_time() + pause * 0.9  # a little less than who waits that long


async def state_of(
    stream: KVStream,
    selection: Selection,
    listening: Sequence[str] = (),
    summary: CacheMetricsSummary | None = None,
) -> State:
    """Return the state of the selected caches now.

    Args:
        stream: The stream.
        selection: The caches.
        listening: Where frames are taken, besides the stream's inputs.
        summary: Of these, if there is one of a moment ago.
    """
    if summary is None:
        summary = await stream.summary(*selection)
    await checkpoint()  # as the end of a summary is a turn's work
    summary.alerts, summary.pending = [], []  # of a thousand caches, a megabyte
    caches: list[CacheNow] = []
    alerts: list[CacheAlert] = []
    async for cache in consumers_of(stream).caches_in_turn():
        firing = cache.rules.firing()
        caches.append(_cache_now(stream, cache, firing))
        if selection.source in (None, cache.source) and selection.tier in (None, cache.tier):
            alerts += firing
    if selection.tier is None:
        alerts += [alert for alert in stream.drop_alerts() if selection.source in (None, alert.source)]
    keeper = keeper_of(stream)
    return State(
        now=stream.event_time(),
        caches=sorted(caches, key=lambda cache: (cache.source, cache.tier)),
        incidents=open_incidents(alerts, _INCIDENTS_SHOWN),
        summary=summary,
        verdict=[
            *_not_connected(stream),
            *_not_saved(None if keeper is None else keeper.statistics()),
            *(verdict(summary) if summary.accounts.allocations else []),
        ],
        history=await history(stream, selection, _NEWEST_WINDOWS),
        listening=[*listening, *sorted({seen.input for seen in stream.inputs()})[:_INPUTS_SHOWN]],
        problem_counts=["malformed", *PROBLEM_COUNTS],
    )


def _not_connected(stream: KVStream) -> list[str]:
    """Return a sentence for each input that is not connected."""
    away = [seen for seen in stream.inputs() if seen.state in ("not connected", "error")]
    said = [
        f"{seen.input} is not connected since {time_of_day(seen.since)} UTC"
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


def _cache_now(stream: KVStream, cache: CacheMonitor, firing: Sequence[CacheAlert]) -> CacheNow:
    config = cache.config
    heard = [alert for alert in firing if not alert.silenced_by]
    worst = max(heard, key=lambda alert: alert.level.severity, default=None)
    rows = cache.ring.newest(config.recent_windows)
    rows = rows[rows["index"] >= (cache.ring.latest or 0) - config.recent_windows]
    accesses = int(rows["accesses"].sum())
    lookups = accesses + int(rows["allocations"].sum()) if cache.hits_are_known else 0
    evictions, premature = int(rows["evictions"].sum()), int(rows["premature"].sum())
    hit_ratio = round(accesses / lookups, 4) if lookups else None
    premature_ratio = round(premature / evictions, 4) if evictions and cache.premature_is_known else None
    span = (cache.ring.latest or 0) - int(rows["index"][0]) if len(rows) else 0
    return CacheNow(
        source=cache.source,
        tier=cache.tier,
        blocks=cache.table.live_count,
        capacity=config.capacity,
        hit_ratio=hit_ratio,
        premature_ratio=premature_ratio,
        eviction_rate=round(evictions / (max(1, span) * config.window_seconds), 2),
        age_seconds=None if stream.config.recorded else round(stream.input_age(cache.source), 1),
        level=worst.level if worst else None,
        rule=worst.rule if worst else "",
        concern=_concern(hit_ratio, lookups, premature_ratio, evictions),
    )


def _concern(hit_ratio: float | None, lookups: int, premature_ratio: float | None, evictions: int) -> str:
    """Return what is bad in absolute terms, though it may always have been so; empty if nothing is."""
    if hit_ratio is not None and lookups >= _ENOUGH and hit_ratio < _HARDLY_ANY:
        return f"hit ratio {hit_ratio:.2f}: hardly any prefix is found"
    if premature_ratio is not None and evictions >= _ENOUGH and premature_ratio > _MANY:
        return f"{percent(premature_ratio)} of evictions are premature"
    return ""


async def history(
    stream: KVStream, selection: Selection, windows: int | None = None, seconds: float = 0
) -> History:
    """Return the last windows of the selected caches, up to the newest that all have passed.

    Args:
        stream: The stream.
        selection: The caches.
        windows: How many, one by one, of those that are kept so; None is all of them.
        seconds: How far to go back instead, if not 0; rows are as long as those that are kept for so long.
    """
    length = stream.config.metrics.window_seconds
    back = math.ceil(seconds / length)
    asked = back or windows or stream.config.metrics.windows
    builder = HistoryBuilder(length)
    passed, every = [], 1
    async for cache in consumers_of(stream).caches_in_turn(*selection):
        rows, longest = cache.ring.newest(asked + _LATE_WINDOWS), 1
        if back:
            rows, longest = cache.ring.since((cache.ring.latest or 0) - back)
        every = max(every, longest)
        builder.add(rows, cache.hits_are_known, (cache.source, cache.tier), cache.premature_is_known)
        if cache.ring.latest is not None:
            passed.append(cache.ring.latest - (cache.ring.open is not None))
    newest = max(passed, default=0)
    until = min((index for index in passed if index >= newest - _LATE_WINDOWS), default=0)
    seen = builder.history(newest=asked, until=until, every=every)
    first = min(seen.ts, default=math.inf)
    marks = [mark for mark in stream.marks(selection.source) if mark.timestamp >= first]
    return msgspec.structs.replace(seen, marks=marks)


async def sparklines(stream: KVStream) -> Sparklines:
    """Return the hit ratios of every cache over the windows that are kept, a quarter of an hour at most."""
    config = stream.config.metrics
    kept = min(config.windows, max(_STEPS, round(_SPARK_SECONDS / config.window_seconds)))
    each = -(-kept // _STEPS)
    end = int(stream.event_time() / config.window_seconds) // each + 1
    lines = []
    async for cache in consumers_of(stream).caches_in_turn():
        accesses, lookups = np.zeros((2, _STEPS))
        if cache.hits_are_known:
            rows = cache.ring.newest(kept)
            step = rows["index"] // each - end + _STEPS
            is_shown = (step >= 0) & (step < _STEPS)
            rows, step = rows[is_shown], step[is_shown]
            np.add.at(accesses, step, rows["accesses"])
            np.add.at(lookups, step, rows["accesses"] + rows["allocations"])
        levels = np.where(lookups, 250 * accesses // np.maximum(lookups, 1), 255).astype(np.uint8)
        lines.append(Sparkline(source=cache.source, tier=cache.tier, hit_ratio=levels.tobytes()))
    seconds = each * config.window_seconds
    return Sparklines(start=(end - _STEPS) * seconds, step_seconds=seconds, caches=lines)


async def recent_distributions(stream: KVStream, selection: Selection) -> dict[str, Distribution]:
    """Return lifetimes, idle times and reuse gaps of the selected caches in the last minute."""
    config = stream.config.metrics
    total, hits_are_known = Measurements.empty(), True
    async for cache in consumers_of(stream).caches_in_turn(*selection):
        total.merge(cache.recent(config.recent_windows))
        hits_are_known &= cache.hits_are_known
    return distributions(total, hits_are_known)


async def blocks(stream: KVStream, selection: Selection) -> Blocks | None:
    """Return the blocks of a cache, while other tasks go on; None if not exactly one is selected."""
    consumers = consumers_of(stream)
    caches = consumers.caches(*selection)
    if len(caches) != 1:
        return None
    (cache,) = caches
    hottest = [_shown(block) for block in cache.table.hottest(_HOT_BLOCKS, cache.last_ts)]
    await checkpoint()
    consumers.rest()
    longest_held = [_shown(block) for block in cache.table.longest_held(_HOT_BLOCKS, cache.last_ts)]
    await checkpoint()
    consumers.rest()
    return Blocks(hottest=hottest, longest_held=longest_held, map=cache.table.block_map(cache.last_ts))


def _shown(block: HotBlock) -> ShownBlock:
    return ShownBlock(**{**msgspec.structs.asdict(block), "block_id": str(block.block_id)})
