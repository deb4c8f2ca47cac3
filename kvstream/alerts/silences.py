"""Silences: alerts that nobody wants to be notified of, until a time or until an incident is over."""

import datetime
import math
import os
import re
from collections.abc import Callable, Collection, Iterable
from fnmatch import translate
from functools import lru_cache
from typing import Any

import msgspec
from msgspec.structs import replace

from kvstream.alerts.types import CacheAlert
from kvstream.errors import ConfigError

MAX_SILENCES = 1000
"""Silences that are kept at once, as each alert is compared with all of them."""

_LONGEST_PATTERN = 1024  # characters; a name has 256, and each may need three to stand for itself
_LONGEST_REASON = 1000
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_KEPT_PATTERNS = 4 * MAX_SILENCES
_KEPT_ANSWERS = 16_384  # alerts for which it is known which silences cover them


class Silence(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Alerts that nobody is notified of for a time. What still fires when the silence ends is notified then.

    Times are event time: about that of the clock for live sources, and that of the recording in a replay.

    Attributes:
        until: Its end, in event time, with a time zone. None is allowed for a silence of one incident, and
            means the end of that incident.
        rule: Pattern for the name of the rule, as in a shell: ``lifetime_*``.
        source: Pattern for the source.
        tier: Pattern for the tier.
        reason: Why, for others who look at it.
        incident: Id of the only incident that it covers; empty covers any. A silence of one incident also
            covers a rise of its severity, but not the next incident of the same rule.
        id: Id by which to remove it; the stream makes one if it is empty.

    Raises:
        ConfigError: If ``until`` is missing or has no time zone, or a text is empty or too long.
    """

    until: datetime.datetime | None = None
    rule: str = "*"
    source: str = "*"
    tier: str = "*"
    reason: str = "silenced"
    incident: str = ""
    id: str = ""

    def __post_init__(self) -> None:
        if self.until is None:
            if not self.incident:
                raise ConfigError("silence: until is missing; only a silence of one incident can do without")
        elif self.until.tzinfo is None:
            raise ConfigError(f"silence: until ({self.until}) needs a time zone, such as Z at its end")
        if not self.reason:
            raise ConfigError("silence: reason must say something, or be left out")
        for name in ("rule", "source", "tier", "incident"):
            if len(getattr(self, name)) > _LONGEST_PATTERN:
                raise ConfigError(f"silence: {name} must have at most {_LONGEST_PATTERN:,} characters")
        if len(self.reason) > _LONGEST_REASON:
            raise ConfigError(f"silence: reason must have at most {_LONGEST_REASON:,} characters")
        if self.id and not _ID.fullmatch(self.id):
            raise ConfigError("silence: id must be 1 to 64 letters, digits, - and _, or be left out")

    @property
    def ends_at(self) -> float:
        """Return its end in seconds since the Unix epoch; infinite if that is the end of an incident."""
        return math.inf if self.until is None else self.until.timestamp()

    def covers(self, alert: CacheAlert) -> bool:
        """Return whether it covers an alert until it ends."""
        return (
            (not self.incident or self.incident == alert.incident)
            and fits(self.rule, alert.rule)
            and fits(self.source, alert.source)
            and fits(self.tier, alert.tier)
        )


def fits(pattern: str, name: str) -> bool:
    """Return whether a name fits a pattern, as shells have it, by case."""
    return bool(_matcher(pattern)(name))


@lru_cache(maxsize=_KEPT_PATTERNS)
def _matcher(pattern: str) -> Callable[[str], object]:
    """Return what is true of the names that fit; ``fnmatch`` keeps too few patterns for all silences."""
    return re.compile(translate(pattern)).match


def exactly(name: str) -> str:
    """Return the pattern that fits a name and nothing else."""
    return re.sub(r"([*?[])", r"[\1]", name)


class Silences:
    """The silences of a stream; others come and go while it runs.

    Args:
        silences: Those of the rules file, which ``replace_configured`` replaces.

    Raises:
        ConfigError: If there are more than ``MAX_SILENCES``.
    """

    def __init__(self, silences: Iterable[Silence] = ()) -> None:
        self._silences: dict[str, Silence] = {}
        self._configured: set[str] = set()
        self._answers: dict[tuple[str, str, str, str], list[Silence]] = {}  # which cover an alert
        self.replace_configured(silences)

    def add(self, silence: Silence) -> Silence:
        """Begin a silence; return it with its id. One with the same id is replaced.

        Raises:
            ConfigError: If there are ``MAX_SILENCES`` already.
        """
        if silence.id not in self._silences and len(self._silences) >= MAX_SILENCES:
            raise ConfigError(f"silence: there are {MAX_SILENCES:,} already; remove some first")
        if not silence.id:
            silence = replace(silence, id=os.urandom(8).hex())
        for pattern in (silence.rule, silence.source, silence.tier):
            _matcher(pattern)  # now, as the first look at an alert would compile those of all silences
        self._silences[silence.id] = silence
        self._answers.clear()
        return silence

    def remove(self, silence_id: str) -> bool:
        """End a silence; False if there is none with that id."""
        self._configured.discard(silence_id)
        self._answers.clear()
        return self._silences.pop(silence_id, None) is not None

    def replace_configured(self, silences: Iterable[Silence]) -> None:
        """Replace the silences of a rules file; others stay.

        Raises:
            ConfigError: If that would be more than ``MAX_SILENCES``; nothing is changed then.
        """
        configured = list(silences)
        before = {name: each for name, each in self._silences.items() if name in self._configured}
        others = {name: each for name, each in self._silences.items() if name not in before}
        if len(configured) + len(others) > MAX_SILENCES:
            raise ConfigError(f"silences: at most {MAX_SILENCES:,} are kept at once")
        ids = {replace(each, id=""): name for name, each in before.items()}
        self._silences = others
        self._answers.clear()
        # What has not changed keeps its id.
        self._configured = {
            self.add(replace(each, id=each.id or ids.get(each, ""))).id for each in configured
        }

    def save(self) -> list[dict[str, Any]]:
        """Return the silences that were added, not those of the rules file."""
        added = [each for name, each in self._silences.items() if name not in self._configured]
        return msgspec.to_builtins(added)  # type: ignore[no-any-return]

    def restore(self, saved: list[dict[str, Any]]) -> None:
        """Go on with what was added before, as far as there is room beside those of the rules file."""
        for silence in msgspec.convert(saved, list[Silence])[: MAX_SILENCES - len(self)]:
            self.add(silence)

    def drop_ended(self, now: float, incidents: Collection[str]) -> None:
        """Drop what is over.

        Args:
            now: Event time in seconds, of the source that is the furthest behind.
            incidents: Ids of the incidents that are open.
        """
        ended = [
            name
            for name, each in self._silences.items()
            if each.ends_at <= now or (each.until is None and each.incident not in incidents)
        ]
        for name in ended:
            self.remove(name)

    def all(self) -> list[Silence]:
        """Return the silences, the first to end first."""
        return sorted(self._silences.values(), key=lambda silence: silence.ends_at)

    def __len__(self) -> int:
        return len(self._silences)

    def next_end(self, now: float) -> float:
        """Return when the first silence after ``now`` ends, in seconds; infinity if none does."""
        ends = (silence.ends_at for silence in self._silences.values())
        return min((end for end in ends if end > now), default=math.inf)

    def reason(self, alert: CacheAlert, now: float) -> str:
        """Return the reason of the silence that covers an alert; empty if none does.

        It is asked at every look at an alert that fires: which silences cover it is kept until they change.
        """
        key = (alert.rule, alert.source, alert.tier, alert.incident)
        covering = self._answers.get(key)
        if covering is None:
            if len(self._answers) >= _KEPT_ANSWERS:
                self._answers.clear()
            covering = [each for each in self._silences.values() if each.covers(alert)]
            self._answers[key] = covering
        return next((each.reason for each in covering if now < each.ends_at), "")
