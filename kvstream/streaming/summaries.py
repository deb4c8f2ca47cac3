"""StreamSummaries: summaries of the caches of a stream, with its alerts and accounts."""

from anyio.lowlevel import checkpoint

from kvstream.config import MetricsConfig
from kvstream.engine.cache import CacheMonitor
from kvstream.engine.gathering import Gathering
from kvstream.metrics.summary import CacheMetricsSummary
from kvstream.streaming.accounts import StreamAccounts
from kvstream.streaming.alerting import StreamAlerts
from kvstream.streaming.consumers import Consumers
from kvstream.streaming.saved import SavedStream


class StreamSummaries:
    """Makes summaries of a source and tier of a stream, None for any.

    Args:
        config: What is measured.
        consumers: Its consumers.
        alerts: Its alerts.
        accounts: Its accounts.
        saved: Its saved state.
    """

    def __init__(
        self,
        config: MetricsConfig,
        consumers: Consumers,
        alerts: StreamAlerts,
        accounts: StreamAccounts,
        saved: SavedStream,
    ) -> None:
        self._config, self._consumers = config, consumers
        self._alerts, self._accounts, self._saved = alerts, accounts, saved
        self._are_final = False

    def end(self) -> bool:
        """Make summaries from now on final ones, as the stream has ended; return False if they were."""
        is_first, self._are_final = not self._are_final, True
        return is_first

    async def summary(self, source: str | None, tier: str | None) -> CacheMetricsSummary:
        """Return a summary cache by cache, while other tasks go on."""
        gathering, caches = self._gathering(source, tier)
        async for cache in self._consumers.in_turn(caches):
            gathering.expect(cache)
        async for cache in self._consumers.in_turn(caches):
            gathering.add(cache)
        for _ in gathering.compare():
            await checkpoint()
        await checkpoint()
        return self._made(gathering, source, tier)

    def summary_nowait(self, source: str | None, tier: str | None) -> CacheMetricsSummary:
        """Return a summary at once."""
        gathering, _ = self._gathering(source, tier)
        gathering.add_all()
        return self._made(gathering, source, tier)

    def _gathering(self, source: str | None, tier: str | None) -> tuple[Gathering, list[CacheMonitor]]:
        caches = self._consumers.caches(source, tier)
        gathering = Gathering(self._config, caches)
        for monitor in self._consumers.monitors if source is None and tier is None else ():
            gathering.add_forgotten(monitor.forgotten)
        return gathering, caches

    def _made(self, gathering: Gathering, source: str | None, tier: str | None) -> CacheMetricsSummary:
        summary = gathering.summary(source, tier, self._accounts.of(source, tier), self._are_final)
        if tier is None:
            alerts = (alert for alert in self._alerts.beside_caches() if source in (None, alert.source))
            summary.alerts.extend(alert.to_dict() for alert in alerts)
        if source is None and tier is None:
            summary.state = self._saved.statistics()
        return summary
