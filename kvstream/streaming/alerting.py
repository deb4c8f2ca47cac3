"""StreamAlerts: the firing alerts of a stream, its rules and its silences."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
from anyio.lowlevel import checkpoint

from kvstream.alerts.drops import DropWatch
from kvstream.alerts.heartbeat import heartbeat_alert, heartbeat_rule
from kvstream.alerts.inputs import InputReading, InputWatch
from kvstream.alerts.rule import Rule
from kvstream.alerts.silences import Silence, Silences, exactly
from kvstream.alerts.types import AlertLevel, CacheAlert
from kvstream.engine.limits import StreamLimits
from kvstream.engine.monitor import Monitor
from kvstream.streaming.consumers import Consumers
from kvstream.streaming.event_times import EventTimes
from kvstream.subscriptions.topic import Topic


class StreamAlerts:
    """The alerts of a stream: those of its caches, on what never reaches a cache, and of other streams.

    Args:
        rules: The rules.
        silences: Alerts that nobody is notified of, as the monitors of the consumers have them.
        consumers: The consumers.
        limits: What is refused.
        times: What time it is.
        readings: Returns what inputs are judged by, at a time in seconds since the Unix epoch.
        topic: Where alerts are published.

    Attributes:
        silences: The same.
        drops: What watches events that never reach a cache.
        inputs: What watches whether inputs are connected.
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        silences: Silences,
        consumers: Consumers,
        limits: StreamLimits,
        times: EventTimes,
        readings: Callable[[float], Iterable[InputReading]],
        topic: Topic[CacheAlert],
    ) -> None:
        self.silences = silences
        self.drops = DropWatch(rules, silences, limits.descriptions())
        self.inputs = InputWatch(rules, silences)
        self._heartbeat = heartbeat_rule(rules)
        self._consumers, self._limits, self._times = consumers, limits, times
        self._readings, self._topic = readings, topic
        self._relayed: dict[str, CacheAlert] = {}  # those of other streams that fire, by fingerprint

    def publish(self, alerts: Iterable[CacheAlert]) -> None:
        """Publish alerts that fired or resolved."""
        for alert in alerts:
            self._topic.publish(alert)

    def look(self) -> list[CacheAlert]:
        """Look at what never reaches a cache; return the alerts that fired or resolved."""
        now = self._times.now()
        duplicates = ((each.source, each.duplicates) for each in self._consumers.sources() if each.duplicates)
        alerts = self.drops.look(self._limits.refused, duplicates, now)
        return [*alerts, *self.inputs.look(self._readings(now), now)]

    def firing(self) -> list[CacheAlert]:
        """Return all alerts that fire, also those that are silenced."""
        of_caches = (alert for cache in self._consumers.caches() for alert in cache.rules.firing())
        return [*of_caches, *self.beside_caches(), *self._relayed.values()]

    def heard(self, min_severity: AlertLevel) -> list[CacheAlert]:
        """Return the alerts of a minimum severity that fire and are not silenced."""
        return [
            alert for alert in self.firing() if not alert.silenced_by and alert.level.at_least(min_severity)
        ]

    def beside_caches(self) -> list[CacheAlert]:
        """Return the alerts that fire on what never reaches a cache."""
        return [*self.drops.firing(), *self.inputs.firing()]

    def heartbeat(self, since: float, now: float) -> CacheAlert | None:
        """Return the alert that always fires, since a time, in Unix seconds; None without its rule."""
        return None if self._heartbeat is None else heartbeat_alert(self._heartbeat, since, now)

    def relay(self, alert: CacheAlert) -> None:
        """Take note of an alert of another stream, which fires here until it resolves."""
        if alert.state == "firing":
            self._relayed[alert.fingerprint] = alert
        else:
            self._relayed.pop(alert.fingerprint, None)

    def forget(self, source: str, why: str) -> None:
        """Forget a source, and publish that its alerts end, with a message."""
        self.publish(self._consumers.of(source).at_rest().forget(source, why))
        self.publish(self.drops.forget(source, why, self._times.now()))

    def all_silences(self) -> list[Silence]:
        """Return the silences that are not over, the first to end first."""
        self._consumers.rest()  # as silences are looked at wherever windows close
        if times := self._times.by_source():
            self.silences.drop_ended(min(times.values()), {each.incident for each in self.firing()})
        return self.silences.all()

    async def silence(self, silence: Silence) -> Silence:
        """Begin a silence (``KVStream.silence``)."""
        self.all_silences()  # so that those that are over leave their places
        silence = self.silences.add(silence)
        await self._look_at_silences()
        return silence

    async def acknowledge(self, fingerprint: str, reason: str) -> Silence | None:
        """Silence one incident until it is over (``KVStream.acknowledge``)."""
        alert = next((each for each in self.firing() if each.fingerprint == fingerprint), None)
        if alert is None:
            return None
        return await self.silence(
            Silence(
                rule=exactly(alert.rule),
                source=exactly(alert.source),
                tier=exactly(alert.tier),
                incident=alert.incident,
                reason=reason,
                id=f"ack-{alert.incident}",  # so that it is acknowledged once
            )
        )

    async def unsilence(self, silence_id: str) -> bool:
        """End a silence (``KVStream.unsilence``)."""
        self._consumers.rest()
        removed = self.silences.remove(silence_id)
        await self._look_at_silences()
        return removed

    async def replace_rules(self, rules: Sequence[Rule], silences: Iterable[Silence]) -> None:
        """Judge by other rules from now on (``KVStream.replace_rules``)."""
        self._consumers.rest()
        self.silences.replace_configured(silences)
        self._heartbeat = heartbeat_rule(rules)
        self.publish(self.drops.replace_rules(rules, self._times.now()))
        self.publish(self.inputs.replace_rules(rules, self._times.now()))
        for consumer in self._consumers:
            await self._publish_bit_by_bit(consumer.at_rest_for(lambda monitor: monitor.replace_rules(rules)))
        await self._look_at_silences()

    async def _look_at_silences(self) -> None:
        for consumer in self._consumers:
            await self._publish_bit_by_bit(consumer.at_rest_for(Monitor.look_at_silences))
        await self._publish_bit_by_bit(self.drops.look_at_silences(self._times.now()))
        await self._publish_bit_by_bit(self.inputs.look_at_silences(self._times.now()))

    async def _publish_bit_by_bit(self, parts: Iterable[list[CacheAlert]]) -> None:
        """Publish alerts part by part; each part takes a millisecond or less."""
        for alerts in parts:
            self.publish(alerts)
            await checkpoint()

    def owed(self) -> list[Any]:
        """Return what each destination has not been delivered yet, as plain values."""
        return msgspec.to_builtins(self._topic.owed())  # type: ignore[no-any-return]

    def go_on(self, owed: Sequence[Any], ended: Iterable[CacheAlert]) -> None:
        """Go on from another process, once the state of the caches does.

        Args:
            owed: What ``owed`` returned there.
            ended: Alerts that end with their rule.
        """
        self._topic.go_on(
            msgspec.convert(owed, list[tuple[str, list[CacheAlert]]]), self.heard(AlertLevel.INFO)
        )
        self.publish(ended)
