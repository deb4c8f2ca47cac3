"""Sections: what a stream saves of each source, and of itself, and how it goes on from there.

Sources are saved one after the other, between which events are applied. So each section is true at a time of
its own, that of the sequence numbers in it: from there on its input is asked again. What is of no source is
saved last, and says which of the sections it goes with: the counts of a source that was forgotten meanwhile
are in it already.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from kvstream.alerts.drops import DropWatch
from kvstream.alerts.inputs import InputWatch
from kvstream.alerts.silences import Silences
from kvstream.alerts.types import CacheAlert
from kvstream.engine.limits import StreamLimits
from kvstream.engine.monitor import DAMAGES, Monitor
from kvstream.engine.source import SourceMonitor
from kvstream.errors import StateError
from kvstream.state.progress import InputProgress
from kvstream.state.resumption import SavedInput, add_saved
from kvstream.state.snapshot import Section

_SOURCE, _STREAM = "source", "stream"


class StreamParts(msgspec.Struct, frozen=True, eq=False):
    """The state of a stream, in its parts.

    Attributes:
        monitors: The sources of each consumer.
        limits: What all of them may hold.
        silences: Alerts that nobody is notified of.
        drops: What watches events that never reach a cache.
        others: Returns what else the stream has to go on from, in plain values, which ``restore`` gives back.
        inputs: How far the inputs have come that can be read again.
        input_watch: What watches whether inputs are connected.
    """

    monitors: Sequence[Monitor]
    limits: StreamLimits
    silences: Silences
    drops: DropWatch
    others: Callable[[], dict[str, Any]] = dict
    inputs: InputProgress = msgspec.field(default_factory=InputProgress)
    input_watch: InputWatch = msgspec.field(default_factory=lambda: InputWatch((), Silences()))

    def source(self, name: str) -> SourceMonitor | None:
        """Return a source; None if it is not there now."""
        return next((found for each in self.monitors if (found := each.sources.get(name)) is not None), None)

    def sources(self) -> dict[str, SourceMonitor]:
        """Return the sources that are there now, by name."""
        return {name: source for monitor in self.monitors for name, source in monitor.sources.items()}


class Restored(msgspec.Struct, frozen=True):
    """What came of restoring a stream.

    Attributes:
        sources: Sources that go on.
        alerts: Alerts that end, as their rule is gone or another one now.
        problems: Why other sources begin with nothing, in words, by source.
        others: What ``StreamParts.others`` returned when it was saved.
        inputs: From where inputs go on, by name.
        is_lost: Whether there was something to restore, of which nothing could be.
    """

    sources: list[str] = []
    alerts: list[CacheAlert] = []
    problems: dict[str, str] = {}
    others: dict[str, Any] = {}
    inputs: dict[str, SavedInput] = {}
    is_lost: bool = False


def source_section(
    source: SourceMonitor, inputs: InputProgress | None = None, *, with_tables: bool = True
) -> Section:
    """Return the state of a source, between two batches of its frames; some milliseconds a cache.

    Args:
        source: The source.
        inputs: How far the inputs have come that can be read again.
        with_tables: Also its blocks, which ``SourceMonitor.save_tables`` adds otherwise.

    Raises:
        RuntimeError: If a batch is being applied.
    """
    body = source.save() if with_tables else source.save_all_but_tables()
    if inputs is not None:
        body["inputs"] = inputs.of_source(source.source)
    return Section(_SOURCE, source.source, body)


def stream_section(parts: StreamParts, saved: Mapping[str, SourceMonitor]) -> Section:
    """Return the state of the stream itself, after its sources were saved.

    Args:
        parts: The stream.
        saved: The sources with sections before it.
    """
    now = parts.sources()
    names = [name for name, source in saved.items() if now.get(name) is source]
    body = {
        "sources": names,
        "monitors": [monitor.save() for monitor in parts.monitors],
        "refused": parts.limits.save(),
        "silences": parts.silences.save(),
        "drops": parts.drops.save(),
        "input_watch": parts.input_watch.save(),
        "others": parts.others(),
        "inputs": parts.inputs.of_others(set(names)),
    }
    return Section(_STREAM, "", body)


def restore(
    parts: StreamParts,
    sections: Sequence[Section],
    monitor_of: Callable[[str], Monitor],
    now: float,
) -> Restored:
    """Go on from the sections of a snapshot; in a new stream.

    A source that cannot be restored begins with nothing, the others go on.

    Args:
        parts: The stream, in which there is nothing yet.
        sections: All sections of one snapshot; kinds that are unknown are passed over.
        monitor_of: Returns the monitor that a source belongs to.
        now: Seconds since the Unix epoch.

    Raises:
        StateError: If the section of the stream is missing or is none; nothing is changed then.
    """
    of_sources = {section.name: section.body for section in sections if section.kind == _SOURCE}
    stream = next((section.body for section in sections if section.kind == _STREAM), None)
    if stream is None:
        raise StateError("the section of the stream is missing")
    try:
        first, silences = parts.monitors[0], Silences()
        names, others = list(stream["sources"]), dict(stream.get("others", {}))
        inputs: dict[str, SavedInput] = {}
        add_saved(inputs, stream.get("inputs", {}), None)
        drops = DropWatch(first.rules, silences, {})
        tried = StreamParts(
            [Monitor(first.config, first.rules)],
            StreamLimits(first.config),
            silences,
            drops,
            input_watch=InputWatch(first.rules, silences),
        )
        _restore_stream(tried, stream, now)  # so that what cannot be restored changes nothing
        alerts = _restore_stream(parts, stream, now)
    except DAMAGES as error:
        raise StateError(f"the section of the stream cannot be restored: {error!r}") from error
    restored = Restored([], alerts, {}, others, inputs)
    for name in names:
        try:
            if name not in of_sources:
                raise StateError(f"source {name!r}: its section is missing")
            add_saved(inputs, of_sources[name].get("inputs", {}), name)
            restored.alerts.extend(monitor_of(name).restore_source(name, of_sources[name]))
        except StateError as error:
            restored.problems[name] = str(error)
        except DAMAGES as error:
            restored.problems[name] = f"source {name!r}: its places in inputs cannot be restored: {error!r}"
        else:
            restored.sources.append(name)
    return restored


def _restore_stream(parts: StreamParts, stream: Mapping[str, Any], now: float) -> list[CacheAlert]:
    """Restore what is of no source; return the alerts that end."""
    parts.silences.restore(stream["silences"])
    ended = parts.drops.restore(stream["drops"], now)
    ended += parts.input_watch.restore(stream.get("input_watch", []), now)
    parts.limits.restore(stream["refused"])
    for saved in stream["monitors"]:
        parts.monitors[0].restore(saved)
    return ended
