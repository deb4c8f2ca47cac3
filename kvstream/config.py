"""Settings of the metrics and of the stream: immutable Structs, checked when they are made."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import msgspec

from kvstream.errors import ConfigError

OverflowPolicy = Literal["block", "drop_newest", "drop_oldest", "sample"]
POLICIES: tuple[OverflowPolicy, ...] = get_args(OverflowPolicy)

_RECENT_SECONDS = 60.0
_MOST_RECENT = 600  # windows, as each of them is added up for every summary
_LONGEST_SECONDS = 365 * 86_400.0


def _require(ok: bool, name: str, value: object, rule: str) -> None:
    if not ok:
        raise ConfigError(f"{name} must be {rule}, not {value!r}")


def _whole(name: str, value: object, low: int, high: int) -> None:
    ok = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
    _require(ok, name, value, f"a whole number from {low:,} to {high:,}")


def _real(name: str, value: object, low: float, high: float, rule: str) -> None:
    """Require a number above ``low`` and at most ``high``, which NaN is not."""
    ok = isinstance(value, (int, float)) and not isinstance(value, bool) and low < value <= high
    _require(ok, name, value, rule)


def _seconds(name: str, value: object, *, off: str = "") -> None:
    """Require seconds above 0 and of a year at most; 0, too, if that means something."""
    if off and value == 0 and not isinstance(value, bool):
        return
    allowed = f"0 ({off}) or more seconds" if off else "above 0 seconds"
    _real(name, value, 0.0, _LONGEST_SECONDS, f"{allowed}, at most {_LONGEST_SECONDS:,.0f} (a year)")


class MetricsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is measured, how finely, and how much of it is kept.

    Attributes:
        sample_rate: Share of generations with measured lifetimes and gaps, 0 < rate ≤ 1.
            Counters always count everything.
        history_size: Eviction and alert records kept for the ``drain_*`` calls; older ones go first.
        trend_window: Windows that a trend is fitted over.
        anomaly_threshold: Robust z-score (median and MAD of the windows kept with distributions) beyond
            which ``detect_anomalies`` reports the lifetimes of a window. Alert rules do not use it.
        enable_detailed: Make a ``KVCacheEvictionEvent`` of each eviction in the synchronous collectors.
        export_interval: Seconds between periodic summaries of a stream; 0 turns them off.
        window_seconds: Length of one window.
        windows: Windows kept with their counts, so that ``window_seconds * windows`` is how far back a
            history goes; those of the last minute, or of ``trend_window``, are kept with distributions.
        capacity: Blocks that the cache has room for, if known.
        block_tokens: Tokens in a block, if known and not said by the events.
        block_bytes: Bytes of a block, if known; of one of ``block_tokens`` where that is given.
        remembered_evictions: Newest evictions of each cache of which the content is remembered, so that a
            later lookup of it shows that its eviction was premature. 0 turns that off.
        curve_keys: Content keys that the miss-ratio curve follows in each cache; 0 turns the curve off.
        curve_half_life_seconds: Seconds after which a lookup counts half in the curve. 0 is for ever, as for
            a recording that is analysed as a whole; then the curve follows every lookup of its contents.
        content_sample: Times of arrivals and evictions kept in each cache, of contents chosen by hash. Causes
            of misses, ways through the tiers and what engines share are of these. 0 turns them off.
        max_caches: Sources and tiers that are followed, one to three megabytes each; events of any more
            are dropped (``too_many_caches``).
        max_live_blocks: Blocks live at once in all caches, some 100 bytes each; allocations of any more are
            dropped (``too_many_blocks``).
        forget_seconds: Seconds without events after which a stream forgets a source, so that it leaves its
            place to others; its counts stay in those of all sources. 0 is never. They are seconds of the
            clock, so that a file that is read faster forgets nothing.
        label_sets: Label sets that are followed in each cache; any more together are ``other``.
            0 passes over labels.
    """

    sample_rate: float = 1.0
    history_size: int = 1000
    trend_window: int = 60
    anomaly_threshold: float = 6.0
    enable_detailed: bool = True
    export_interval: float = 10.0
    window_seconds: float = 1.0
    windows: int = 600
    capacity: int | None = None
    block_tokens: int | None = None
    block_bytes: int | None = None
    remembered_evictions: int = 65_536
    curve_keys: int = 2048
    curve_half_life_seconds: float = 300.0
    content_sample: int = 4096
    max_caches: int = 4096
    max_live_blocks: int = 50_000_000
    forget_seconds: float = 3600.0
    label_sets: int = 64

    def __post_init__(self) -> None:
        _real("sample_rate", self.sample_rate, 0.0, 1.0, "above 0 and at most 1")
        _whole("history_size", self.history_size, 1, 10_000_000)
        _whole("trend_window", self.trend_window, 4, 600)
        _real("anomaly_threshold", self.anomaly_threshold, 0.0, 1e6, "above 0 and at most 1,000,000")
        _require(isinstance(self.enable_detailed, bool), "enable_detailed", self.enable_detailed, "a bool")
        _seconds("export_interval", self.export_interval, off="off")
        _real("window_seconds", self.window_seconds, 1e-3, 86400.0, "above 0.001 and at most 86400")
        _whole("windows", self.windows, 2, 100_000)
        for name in ("capacity", "block_tokens", "block_bytes"):
            if (value := getattr(self, name)) is not None:
                _whole(name, value, 1, 2**40)
        _whole("remembered_evictions", self.remembered_evictions, 0, 2**27)
        _whole("curve_keys", self.curve_keys, 0, 2**20)
        _seconds("curve_half_life_seconds", self.curve_half_life_seconds, off="for ever")
        _require(self.content_sample != 1, "content_sample", self.content_sample, "0 (off) or more than 1")
        _whole("content_sample", self.content_sample, 0, 2**24)
        _whole("max_caches", self.max_caches, 1, 10_000_000)
        _whole("max_live_blocks", self.max_live_blocks, 1, 2**40)
        _seconds("forget_seconds", self.forget_seconds, off="never")
        _whole("label_sets", self.label_sets, 0, 4096)
        _require(self.trend_window <= self.windows, "trend_window", self.trend_window, "at most `windows`")

    @property
    def recent_windows(self) -> int:
        """Return windows that the recent figures look back on: those of a minute, 600 at the most."""
        return max(1, min(self.windows, _MOST_RECENT, round(_RECENT_SECONDS / self.window_seconds)))

    @property
    def window_ns(self) -> int:
        """Length of one window in nanoseconds."""
        return round(self.window_seconds * 1e9)


class StreamConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How events travel from producers to state, and how results reach subscribers.

    Attributes:
        metrics: Settings of what is measured.
        recorded: Events are a recording, given in order of time: silence is judged by event time, never by
            the clock, and no source is forgotten, so that the same events give the same alerts. It takes
            one consumer.
        consumers: Consumer tasks, each with a queue of its own; a source belongs to exactly one. One applies
            everything on the event loop, several apply large batches in a worker thread each, at once.
        queue_events: Events a queue holds before its producers' overflow policies apply, in at most 65,536
            frames and label sets together.
        overflow: Policy of producers that name none. ``block`` waits; ``drop_newest`` drops the frame
            that does not fit; ``drop_oldest`` drops the producer's own oldest frames instead, and the
            new one if it has none there; ``sample`` keeps whole blocks, fewer each time the queue is full.
        frame_events: Events after which a producer closes a frame.
        flush_seconds: Seconds after which a producer's unfinished frame is sent on.
        shutdown_timeout: Seconds that leaving the stream may take to drain.
        delivery_timeout: Seconds without a success after which leaving the stream no longer waits for a
            handler.
        subscriber_buffer: Items a subscription holds before its own policy applies.
    """

    metrics: MetricsConfig = MetricsConfig()
    recorded: bool = False
    consumers: int = 1
    queue_events: int = 262_144
    overflow: OverflowPolicy = "block"
    frame_events: int = 4096
    flush_seconds: float = 0.05
    shutdown_timeout: float = 5.0
    delivery_timeout: float = 6.0
    subscriber_buffer: int = 1024

    def __post_init__(self) -> None:
        _require(isinstance(self.recorded, bool), "recorded", self.recorded, "a bool")
        _whole("consumers", self.consumers, 1, 1024)
        if self.recorded:
            _require(self.consumers == 1, "consumers", self.consumers, "1 where events are recorded")
        _whole("queue_events", self.queue_events, 1, 2**31)
        _require(self.overflow in POLICIES, "overflow", self.overflow, f"one of {', '.join(POLICIES)}")
        _whole("frame_events", self.frame_events, 1, 2**20)
        _seconds("flush_seconds", self.flush_seconds)
        _seconds("shutdown_timeout", self.shutdown_timeout)
        _seconds("delivery_timeout", self.delivery_timeout)
        _whole("subscriber_buffer", self.subscriber_buffer, 1, 2**31)


C = TypeVar("C", MetricsConfig, StreamConfig)


def load_config(
    kind: type[C],
    path: str | Path | None = None,
    environ: Mapping[str, str] | None = None,
    **flags: Any,
) -> C:
    """Build a config from a TOML file, then ``KVSTREAM_*`` variables, then flags; later ones win.

    Args:
        kind: ``MetricsConfig`` or ``StreamConfig``.
        path: TOML file with the fields at top level (``[metrics]`` for the nested ones).
        environ: Variables to look in, by default the process's: ``KVSTREAM_SAMPLE_RATE=0.1``.
        **flags: Fields set by the caller; None means not set.

    Raises:
        ConfigError: If the file cannot be read or a value cannot be used.
    """
    values: dict[str, Any] = {}
    if path is not None:
        import tomllib  # only who has a file pays for it

        try:
            values.update(tomllib.loads(Path(path).read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"{path}: {error}") from error
    environ = os.environ if environ is None else environ
    for name in kind.__struct_fields__:
        if (text := environ.get(f"KVSTREAM_{name.upper()}")) is not None:
            values[name] = text
    values.update((name, value) for name, value in flags.items() if value is not None)
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(str(error)) from error
