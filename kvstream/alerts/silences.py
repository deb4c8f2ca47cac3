"""Silences: alerts that nobody wants to be told of until a time."""

import datetime
import math
from collections.abc import Iterable
from fnmatch import fnmatchcase

import msgspec

from kvstream.alerts.types import CacheAlert
from kvstream.errors import ConfigError


class Silence(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which alerts to say nothing of. What still fires when the silence ends is told then.

    Attributes:
        until: Its end, in event time, with a time zone.
        rule: Pattern of the rule's name, as shells have it: ``lifetime_*``.
        source: Pattern of the source.
        tier: Pattern of the tier.
        reason: Why, for those who wonder.
    """

    until: datetime.datetime
    rule: str = "*"
    source: str = "*"
    tier: str = "*"
    reason: str = "silenced"

    def __post_init__(self) -> None:
        if self.until.tzinfo is None:
            raise ConfigError(f"silence: until ({self.until}) needs a time zone, such as Z at its end")
        if not self.reason:
            raise ConfigError("silence: reason must say something, or be left out")

    def covers(self, alert: CacheAlert, now: float) -> bool:
        """Whether it covers an alert at a time, in seconds since the Unix epoch."""
        return (
            now < self.until.timestamp()
            and fnmatchcase(alert.rule, self.rule)
            and fnmatchcase(alert.source, self.source)
            and fnmatchcase(alert.tier, self.tier)
        )


class Silences:
    """The silences of a stream; more can be added while it runs."""

    def __init__(self, silences: Iterable[Silence] = ()) -> None:
        self._silences = list(silences)

    def add(self, silence: Silence) -> None:
        """Begins a silence."""
        self._silences.append(silence)

    def __len__(self) -> int:
        return len(self._silences)

    def next_end(self, now: float) -> float:
        """The time after ``now`` at which the first silence ends, in seconds; infinity if none does."""
        ends = (silence.until.timestamp() for silence in self._silences)
        return min((end for end in ends if end > now), default=math.inf)

    def reason(self, alert: CacheAlert, now: float) -> str:
        """Why nobody is to be told of an alert; empty if no silence covers it."""
        return next((silence.reason for silence in self._silences if silence.covers(alert, now)), "")
