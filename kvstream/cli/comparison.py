"""Two recordings, or two spans of one, read to be compared: ``kvstream report --compare``."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from kvstream.cli.command import Attempts
from kvstream.cli.recordings import read_in_windows, recordings
from kvstream.config import MetricsConfig
from kvstream.errors import ConfigError
from kvstream.reports.comparison import Comparison, SpanCounter, compare
from kvstream.sources.options import ReadOptions
from kvstream.text.quantities import duration_in_seconds

_WHY = "what is compared is read from files"


class _Span(NamedTuple):
    """A span of a recording.

    Attributes:
        text: As it was given.
        start: Its start in seconds: since the Unix epoch, or since the first event where it is ``relative``.
        end: Its end.
        relative: Whether its times are since the first event.
    """

    text: str
    start: float
    end: float
    relative: bool


def compared(
    files: Sequence[str], first: str, second: str, config: MetricsConfig, options: ReadOptions
) -> Comparison:
    """Read and compare two recordings, or two spans of the recordings that ``files`` names.

    Args:
        files: Recordings of which spans are compared; none where ``first`` and ``second`` are recordings.
        first: A recording, or a span ``START..END``: times with a zone, or durations since the first event.
        second: Likewise.
        config: What is measured.
        options: How to read.

    Raises:
        ConfigError: If a span is none, or a recording cannot be used.
        OSError: If a recording cannot be read.
        UnreadableInputError: If nothing or nearly nothing of one could be read.
    """
    if not files:
        counters = [_counted([name], config, options) for name in (first, second)]
        before, after = [counter.series(*counter.span()) for counter in counters]
        return compare((first, before), (second, after))
    with Attempts() as attempt:
        spans = [attempt(_span, text) for text in (first, second)]
    counter = _counted(files, config, options)
    begun, _ = counter.span()
    before, after = [
        counter.series(*((begun + span.start, begun + span.end) if span.relative else (span.start, span.end)))
        for span in spans
    ]
    for span, series in zip(spans, (before, after), strict=True):
        if not series:
            raise ConfigError(f"{span.text}: nothing happened in this span")
    return compare((spans[0].text, before), (spans[1].text, after))


def _counted(names: Sequence[str], config: MetricsConfig, options: ReadOptions) -> SpanCounter:
    counter = SpanCounter(config)
    read_in_windows(recordings(names, _WHY), options, config, counter.process)
    counter.end()
    return counter


def _span(text: str) -> _Span:
    start, is_span, end = text.partition("..")
    wanted = "write START..END, as 10m..20m or 2027-01-01T06:00:00Z..2027-01-01T07:00:00Z"
    if not is_span:
        raise ConfigError(f"{text!r} is no span of the recording: {wanted}; two recordings are named alone")
    try:
        times = _Span(text, duration_in_seconds(start), duration_in_seconds(end), relative=True)
    except ValueError:
        try:
            times = _Span(text, _time(start), _time(end), relative=False)
        except ValueError:
            raise ConfigError(f"{text!r} is no span: {wanted}") from None
    if times.end <= times.start:
        raise ConfigError(f"{text!r} ends before it begins")
    return times


def _time(text: str) -> float:
    time = datetime.fromisoformat(text)
    return (time if time.tzinfo is not None else time.replace(tzinfo=UTC)).timestamp()
