"""Report: all figures of a recording, and how they are gathered."""

from collections import defaultdict
from collections.abc import Mapping

import msgspec

from kvstream.alerts.types import CacheAlert
from kvstream.blocks.heat_map import BlockMap
from kvstream.config import MetricsConfig
from kvstream.engine.cache import CacheMonitor, CacheName, Outcome
from kvstream.events.frame import EventFrame
from kvstream.metrics.distribution import Distribution, distributions
from kvstream.metrics.history import History, HistoryBuilder
from kvstream.reports.verdict import Analysis, CacheAnalysis

_WINDOWS_SHOWN = 1200
_ALERTS_KEPT = 1000


class CacheReport(msgspec.Struct, frozen=True, kw_only=True):
    """The analysis of one source and tier.

    Attributes:
        analysis: Verdict and figures.
        history: What its windows have seen, joined where there are more than 1,200.
        distributions: Lifetimes, idle times, first reuses and reuse gaps of the whole recording.
        map: The blocks that were live at the end.
        alerts: Its alerts, oldest first; the last thousand.
        alerts_left_out: Those before.
    """

    analysis: CacheAnalysis
    history: History
    distributions: dict[str, Distribution]
    map: BlockMap
    alerts: list[CacheAlert]
    alerts_left_out: int


class Report(msgspec.Struct, frozen=True, kw_only=True, tag="report"):
    """The figures of a recording.

    Attributes:
        inputs: What was read.
        events: Events in it.
        malformed: Pieces that could not be decoded.
        caches: One entry a source and tier.
        overall: Verdict and figures of all sources together; None of a single one.
    """

    inputs: list[str]
    events: int
    malformed: int
    caches: list[CacheReport]
    overall: CacheAnalysis | None = None


class ReportBuilder:
    """Takes in the frames of a recording.

    Args:
        config: What is measured.
    """

    def __init__(self, config: MetricsConfig) -> None:
        self._config = config
        self._analysis = Analysis(config)
        self._alerts: defaultdict[CacheName, list[CacheAlert]] = defaultdict(list)
        self._alerts_left_out: defaultdict[CacheName, int] = defaultdict(int)
        self._history: dict[CacheName, HistoryBuilder] = {}
        self._seen: dict[CacheName, int] = {}  # windows that are in the history
        self._events = 0

    def process(self, frame: EventFrame, records: bool = False) -> Outcome:
        """Take in a frame; ``records`` asks for what was evicted.

        A frame must not span more windows than are kept (``config.windows``).
        """
        self._events += len(frame)
        outcome = self._analysis.process(frame, records)
        self._note(outcome.alerts)
        for cache in self._analysis.monitor.caches(frame.source, frame.tier):
            self._add_windows(cache)
        return outcome

    def finish(self, inputs: list[str], malformed: int, simulated: Mapping[str, str] | None = None) -> Report:
        """Return the report, once all is taken in.

        Args:
            inputs: What was read.
            malformed: Pieces that could not be decoded.
            simulated: What the simulation rests on, by source with a simulated cache.
        """
        for source, simulation in (simulated or {}).items():
            self._analysis.mark_simulated(source, simulation)
        self._note(self._analysis.end())
        self._note(self._analysis.monitor.finish())
        for cache in self._analysis.monitor.caches():
            self._add_windows(cache)
        caches = [self._cache(result) for result in self._analysis.results()]
        return Report(
            inputs=inputs,
            events=self._events,
            malformed=malformed,
            caches=caches,
            overall=self._analysis.overall(),
        )

    def _note(self, alerts: list[CacheAlert]) -> None:
        for alert in alerts:
            name = CacheName(alert.source, alert.tier)
            kept = self._alerts[name]
            kept.append(alert)
            if len(kept) > _ALERTS_KEPT:
                del kept[0]
                self._alerts_left_out[name] += 1

    def _add_windows(self, cache: CacheMonitor) -> None:
        name = cache.name
        new = cache.ring.closed_count - self._seen.get(name, 0)
        self._seen[name] = cache.ring.closed_count
        if name not in self._history:
            self._history[name] = HistoryBuilder(self._config.window_seconds)
        rows = cache.ring.newest(new)
        self._history[name].add(rows, cache.hits_are_known, cache.name, cache.premature_is_known)

    def _cache(self, analysis: CacheAnalysis) -> CacheReport:
        name = CacheName(analysis.source, analysis.tier)
        (cache,) = self._analysis.monitor.caches(*name)
        return CacheReport(
            analysis=analysis,
            history=self._history[name].history(_WINDOWS_SHOWN),
            distributions=distributions(cache.measurements(), cache.hits_are_known),
            map=cache.table.block_map(cache.last_ts),
            alerts=self._alerts[name],
            alerts_left_out=self._alerts_left_out[name],
        )
