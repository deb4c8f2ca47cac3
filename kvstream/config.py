"""Settings of the metrics and of the stream: immutable Structs, checked when they are made."""

from collections.abc import Sequence
from typing import Literal, get_args

import msgspec

from kvstream.errors import ConfigError

OverflowPolicy = Literal["block", "drop_newest", "drop_oldest", "sample"]
POLICIES: tuple[OverflowPolicy, ...] = get_args(OverflowPolicy)

_RECENT_SECONDS = 60.0
_MOST_RECENT = 600  # windows, as each of them is added up for every summary
_LONGEST_SECONDS = 365 * 86_400.0


class SettingsError(ConfigError):
    """Raised when settings have values that cannot be used.

    Attributes:
        problems: (name of a setting, what is wrong with it), all of them.
    """

    def __init__(self, problems: Sequence[tuple[str, str]]) -> None:
        super().__init__(*(what for _, what in problems))
        self.problems = problems


class _Checks:
    """Checks settings one by one, and raises a single error for all that are wrong."""

    def __init__(self, settings: msgspec.Struct) -> None:
        self._settings = settings
        self._problems: list[tuple[str, str]] = []

    def require(self, name: str, ok: bool, rule: str) -> None:
        """Note that a setting is wrong unless it is ``ok``."""
        if not ok:
            value = getattr(self._settings, name)
            self._problems.append((name, f"{name} must be {rule}, not {value!r}"))

    def boolean(self, name: str) -> None:
        """Require true or false."""
        self.require(name, isinstance(getattr(self._settings, name), bool), "true or false")

    def whole(self, name: str, low: int, high: int) -> None:
        """Require a whole number."""
        value = getattr(self._settings, name)
        ok = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        self.require(name, ok, f"a whole number from {low:,} to {high:,}")

    def real(self, name: str, low: float, high: float, rule: str) -> None:
        """Require a number above ``low`` and at most ``high``, which NaN is not."""
        value = getattr(self._settings, name)
        ok = isinstance(value, (int, float)) and not isinstance(value, bool) and low < value <= high
        self.require(name, ok, rule)

    def seconds(self, name: str, *, off: str = "") -> None:
        """Require seconds above 0, at most a year; also 0 where ``off`` says what that means."""
        value = getattr(self._settings, name)
        if off and value == 0 and not isinstance(value, bool):
            return
        allowed = f"0 ({off}) or more seconds" if off else "above 0 seconds"
        self.real(name, 0.0, _LONGEST_SECONDS, f"{allowed}, at most {_LONGEST_SECONDS:,.0f} (a year)")

    def done(self) -> None:
        """Finish the checks.

        Raises:
            SettingsError: If any setting is wrong.
        """
        if self._problems:
            raise SettingsError(self._problems)


class MetricsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is measured, how finely, and how much of it is kept.

    Attributes:
        sample_rate: Share of generations for which lifetimes and gaps are measured, 0 < rate ≤ 1.
            Counters always count everything.
        history_size: Eviction and alert records kept for the ``drain_*`` calls; the oldest are dropped first.
        trend_window: Windows over which a trend is fitted.
        anomaly_threshold: Robust z-score (median and MAD of the windows kept with distributions) beyond
            which ``detect_anomalies`` reports the lifetimes of a window. Alert rules do not use it.
        enable_detailed: Make a ``KVCacheEvictionEvent`` for each eviction in the synchronous collectors.
        export_interval: Seconds between periodic summaries of a stream; 0 turns them off.
        window_seconds: Length of a window, in seconds.
        windows: Windows kept one by one. Those of the last minute, or of ``trend_window``, keep their
            distributions. The counts of 3,600 earlier windows are kept ten by ten, and those of 21,600
            before them sixty by sixty: about seven hours in all with windows of one second.
        capacity: Blocks that the cache has room for, if known.
        block_tokens: Tokens in a block, if known; only used where the events do not give it.
        block_bytes: Bytes of a block, if known; with ``block_tokens``, of a block of that many tokens.
        remembered_evictions: Newest evictions of each cache for which the content is remembered, so that a
            later lookup shows that the eviction was premature. 0 turns that off.
        curve_keys: Content keys that the miss-ratio curve follows in each cache; 0 turns the curve off.
        curve_half_life_seconds: Seconds after which a lookup counts half in the curve. 0 means that all
            lookups count alike, and that the curve follows every lookup of its contents, as for the analysis
            of a whole recording.
        content_sample: Times of arrivals and evictions kept in each cache, for contents chosen by hash.
            Causes of misses, figures of tiers and what engines share are estimated from them. 0 turns these
            off.
        max_caches: Caches (one source and tier each) that are followed, some four megabytes each. Events of
            further ones are dropped (``too_many_caches``).
        max_live_blocks: Blocks live at once in all caches, up to 100 bytes each. Further allocations are
            dropped (``too_many_blocks``).
        forget_seconds: Seconds without events after which a stream forgets a source, to make room for
            others; its counts stay in the totals. 0 means never. This is time of the clock, so that a file
            that is read fast forgets nothing.
        label_sets: Label sets that are followed in each cache; further ones count together as ``other``.
            0 ignores labels.
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
        checks = _Checks(self)
        checks.real("sample_rate", 0.0, 1.0, "above 0 and at most 1")
        checks.whole("history_size", 1, 10_000_000)
        checks.whole("trend_window", 4, 600)
        checks.real("anomaly_threshold", 0.0, 1e6, "above 0 and at most 1,000,000")
        checks.boolean("enable_detailed")
        checks.seconds("export_interval", off="off")
        checks.real("window_seconds", 1e-3, 86400.0, "above 0.001 and at most 86400")
        checks.whole("windows", 2, 100_000)
        for name in ("capacity", "block_tokens", "block_bytes"):
            if getattr(self, name) is not None:
                checks.whole(name, 1, 2**40)
        checks.whole("remembered_evictions", 0, 2**27)
        checks.whole("curve_keys", 0, 2**20)
        checks.seconds("curve_half_life_seconds", off="for ever")
        checks.whole("content_sample", 0, 2**24)
        checks.require("content_sample", self.content_sample != 1, "0 (off) or more than 1")
        checks.whole("max_caches", 1, 10_000_000)
        checks.whole("max_live_blocks", 1, 2**40)
        checks.seconds("forget_seconds", off="never")
        checks.whole("label_sets", 0, 4096)
        if isinstance(self.trend_window, int) and isinstance(self.windows, int):
            checks.require("trend_window", self.trend_window <= self.windows, "at most `windows`")
        checks.done()

    @property
    def recent_windows(self) -> int:
        """Return how many windows the recent figures span: those of the last minute, at most 600."""
        return max(1, min(self.windows, _MOST_RECENT, round(_RECENT_SECONDS / self.window_seconds)))

    @property
    def window_ns(self) -> int:
        """Return the length of one window, ns."""
        return round(self.window_seconds * 1e9)


class StreamConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How events travel from producers to state, and how results reach subscribers.

    Attributes:
        metrics: Settings of what is measured.
        recorded: Whether the events are a recording, given in order of time. Silence is then judged by event
            time, never by the clock, and no source is forgotten, so that the same events give the same
            alerts. It needs ``consumers=1``.
        consumers: Consumer tasks, each with a queue of its own; a source belongs to exactly one. A single
            consumer applies everything on the event loop. Several apply large batches at the same time,
            each in a worker thread.
        queue_events: Events that a queue holds before its producers' overflow policies apply. It also holds
            at most 65,536 frames and label sets together.
        overflow: Policy of producers that name none. ``block`` waits; ``drop_newest`` drops the frame
            that does not fit; ``drop_oldest`` drops the producer's own oldest frames instead, or the
            new one if the queue holds none of them; ``sample`` drops whole blocks, more of them each time
            the queue is full.
        frame_events: Events after which a producer closes a frame.
        flush_seconds: Seconds after which a producer's unfinished frame is sent on.
        shutdown_timeout: Seconds that draining may take when the stream is left.
        delivery_timeout: Seconds for which leaving the stream waits for a handler that has no success.
        subscriber_buffer: Items that a subscription holds before its own policy applies.
    """

    metrics: MetricsConfig = MetricsConfig()
    recorded: bool = False
    consumers: int = 1
    queue_events: int = 1_048_576
    overflow: OverflowPolicy = "block"
    frame_events: int = 4096
    flush_seconds: float = 0.05
    shutdown_timeout: float = 5.0
    delivery_timeout: float = 6.0
    subscriber_buffer: int = 1024

    def __post_init__(self) -> None:
        checks = _Checks(self)
        checks.boolean("recorded")
        checks.whole("consumers", 1, 1024)
        if self.recorded is True:
            checks.require("consumers", self.consumers == 1, "1 where events are recorded")
        checks.whole("queue_events", 1, 2**31)
        checks.require("overflow", self.overflow in POLICIES, f"one of {', '.join(POLICIES)}")
        checks.whole("frame_events", 1, 2**20)
        for name in ("flush_seconds", "shutdown_timeout", "delivery_timeout"):
            checks.seconds(name)
        checks.whole("subscriber_buffer", 1, 2**31)
        checks.done()
