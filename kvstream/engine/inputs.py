"""The inputs of a stream: what came over each, and whether it is connected."""

from collections.abc import Iterator
from typing import Literal

import msgspec

from kvstream.alerts.inputs import InputReading
from kvstream.alerts.types import MetricType

ConnectionState = Literal["connecting", "connected", "not connected", "error"]


class InputStatistics(msgspec.Struct, frozen=True, kw_only=True, tag="input"):
    """An input's accounts at one moment.

    Attributes:
        input: Its URL.
        state: ``connecting`` at first; ``connected``; ``not connected``, as nobody answers or has left; or
            ``error``, as it cannot be used. Where publishers connect to us, ``connected`` while one is.
        since: Since when it has been in this state, seconds since the Unix epoch.
        error: Why it is not connected, where that is known; empty otherwise.
        messages: Messages received live.
        batches: Batches decoded, including replayed ones.
        replayed: Batches received by replay.
        lost_batches: Batches that were missed, and that no replay had.
        duplicates: Batches that came twice.
        restarts: Restarts of publishers.
        unknown_events: Events of unknown types, skipped.
        malformed: Messages and events that could not be decoded.
        lag_seconds: From the time of the last batch until it was decoded, by the two machines' clocks.
        refused: What was not accepted, by reason. These count as ``malformed``: ``parts`` (a message with
            other parts than topic, number and payload), ``topic`` (too long), ``number`` (not 8 bytes, or
            higher than a publisher can reach), ``jump`` (a number far ahead that the next did not confirm),
            ``batch`` and ``event`` (not decodable), ``replay`` (answers in an unknown layout), ``metrics``
            (of an engine: not decodable, or more than engines have). Others:
            ``no_memory`` (to decode a batch), ``too_many_publishers``.
        publishers: Publishers that are followed.
        forgotten_publishers: Publishers that were forgotten, as they sent nothing for long.
        shared_topics: Topics under which several publishers send.
        source: The source that an engine's own metrics are compared with; empty for other inputs.
        drift: How far the events of that source differ from those metrics, as a share; None if not known.
        drift_detail: In what they differ, in words.
    """

    input: str
    state: ConnectionState
    since: float
    error: str = ""
    messages: int = 0
    batches: int = 0
    replayed: int = 0
    lost_batches: int = 0
    duplicates: int = 0
    restarts: int = 0
    unknown_events: int = 0
    malformed: int = 0
    lag_seconds: float = 0.0
    refused: dict[str, int] = {}
    publishers: int = 0
    forgotten_publishers: int = 0
    shared_topics: list[str] = []
    source: str = ""
    drift: float | None = None
    drift_detail: str = ""


def readings_of(seen: InputStatistics, now: float) -> Iterator[InputReading]:
    """Yield what rules judge an input by, at a time in seconds since the Unix epoch."""
    away = max(0.0, now - seen.since) if seen.state in ("not connected", "error") else 0.0
    is_known = seen.state != "connecting"  # else an alert would end by a restart of this process
    yield InputReading(MetricType.NOT_CONNECTED, seen.input, away if is_known else None, seen.error)
    topics = ", ".join(f"'{topic}'" for topic in seen.shared_topics)
    yield InputReading(MetricType.SHARED_TOPICS, seen.input, float(len(seen.shared_topics)), topics)
    if seen.source:
        yield InputReading(MetricType.DRIFT, seen.source, seen.drift, seen.drift_detail)
