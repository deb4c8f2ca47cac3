"""Messages of the HTTP API that nothing else has: what requests bring, and what wraps answers."""

import datetime
from typing import Annotated

import msgspec

from kvstream.alerts.silences import Silence
from kvstream.alerts.types import CacheAlert
from kvstream.engine.inputs import InputStatistics
from kvstream.metrics.marks import Mark

MAX_SILENCE_SECONDS = 366 * 86_400.0

_Time = Annotated[datetime.datetime, msgspec.Meta(tz=True)]
# The rest is documented alone: ``Mark`` and ``Silence`` refuse it, and say why.
_Text = Annotated[str, msgspec.Meta(extra_json_schema={"minLength": 1, "maxLength": 256})]
_Pattern = Annotated[str, msgspec.Meta(extra_json_schema={"maxLength": 1024})]
_Reason = Annotated[str, msgspec.Meta(extra_json_schema={"minLength": 1, "maxLength": 1000})]
_Seconds = Annotated[
    float, msgspec.Meta(extra_json_schema={"exclusiveMinimum": 0, "maximum": MAX_SILENCE_SECONDS})
]


class MarkRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What ``POST /api/marks`` takes.

    Attributes:
        text: What happened, in 1 to 256 characters.
        time: When, with a time zone; by default now, in event time.
        source: Pattern of the sources that it concerns.
    """

    text: _Text
    time: _Time | None = None
    source: _Text = "*"


class SilenceRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What ``POST /api/silences`` takes: which alerts, and either when it ends or how long it lasts.

    Attributes:
        rule: Pattern of the rule's name.
        source: Pattern of the source.
        tier: Pattern of the tier.
        until: Its end, in event time, with a time zone.
        duration_seconds: How long it lasts from now, in event time; at most 366 days.
        reason: Why, for those who wonder.
    """

    rule: _Pattern = "*"
    source: _Pattern = "*"
    tier: _Pattern = "*"
    until: _Time | None = None
    duration_seconds: _Seconds | None = None
    reason: _Reason = "silenced"


class AcknowledgeRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What ``POST /api/alerts/FINGERPRINT/acknowledge`` takes."""

    reason: _Reason = "acknowledged"


class Alerts(msgspec.Struct, frozen=True, kw_only=True):
    """The last alerts.

    Attributes:
        last_event_id: Where ``/events`` goes on after them.
        newest: Number of the newest.
        alerts: The newest first.
    """

    last_event_id: str
    newest: int
    alerts: list[CacheAlert]


class Inputs(msgspec.Struct, frozen=True, kw_only=True):
    """Inputs, with what is connected, since when not, and what came over each."""

    inputs: list[InputStatistics]


class Silences(msgspec.Struct, frozen=True, kw_only=True):
    """Silences that have not ended."""

    silences: list[Silence]


class Marks(msgspec.Struct, frozen=True, kw_only=True):
    """Marks, the oldest first."""

    marks: list[Mark]


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """Why a request was not answered.

    Attributes:
        error: In words.
    """

    error: str
