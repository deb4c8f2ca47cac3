"""How long an alert takes from the record that causes it to its handler, under load."""

import time
from itertools import count

import anyio
import msgspec
import numpy as np

from kvstream.alerts.rule import Rule
from kvstream.alerts.types import CacheAlert, MetricType
from kvstream.config import StreamConfig
from kvstream.stream import KVStream

_CALL_EVENTS = 256
_WINDOW_CALLS = 200  # so that a window closes, and an alert begins or ends, every 50 ms at a million events/s
_ALTERNATING = Rule(
    name="alternating",
    metric=MetricType.HIT_RATIO,
    condition="below",
    cause="reuse",
    threshold=0.5,
    clear=0.5,
    clear_seconds=0.0,
    message="{value}",
)


class Latency(msgspec.Struct, frozen=True):
    """Milliseconds from the call that records the first event past a bad window to the alert's handler.

    Attributes:
        alerts: Alerts measured.
        offered_per_second: Events recorded a second, as reached.
        p50: Median.
        p99: 99th percentile.
        worst: The longest.
    """

    alerts: int
    offered_per_second: float
    p50: float
    p99: float
    worst: float


async def measure_latency(seconds: float = 5.0, rate: float = 1_000_000.0) -> Latency:
    """Record at ``rate`` from a thread, with default settings; every window fires or resolves an alert.

    Event time is made to run so that a window (a second of it) closes every 50 ms or so.
    """
    causes: dict[float, float] = {}  # end of the window that an alert is about -> when it was caused
    delays: list[float] = []

    async def heard(alert: CacheAlert) -> None:
        if alert.timestamp in causes:  # the last window is closed by the stream's end
            delays.append(time.perf_counter() - causes[alert.timestamp])

    async with KVStream(StreamConfig(), rules=[_ALTERNATING]) as stream:
        stream.on_alert(heard)
        producer = stream.producer("bench")
        window_ns = stream.config.metrics.window_ns
        slots = np.arange(_CALL_EVENTS, dtype=np.int64)
        started = time.perf_counter()

        def record() -> int:
            for call in count():
                due = started + call * _CALL_EVENTS / rate
                if (ahead := due - time.perf_counter()) > 0:
                    time.sleep(ahead)
                window, step = divmod(call, _WINDOW_CALLS)
                if not step:
                    if time.perf_counter() - started >= seconds:
                        return call * _CALL_EVENTS
                    causes[float(window)] = time.perf_counter()
                ts = window * window_ns + step * (window_ns // _WINDOW_CALLS)
                bad = window % 2 and step
                (producer.allocated_nowait if bad or not call else producer.accessed_nowait)(slots, ts)
            return 0

        recorded = await anyio.to_thread.run_sync(record)
        reached = recorded / (time.perf_counter() - started)
        await stream.flush()
    milliseconds = np.array(delays) * 1e3
    p50, p99, worst = np.quantile(milliseconds, (0.5, 0.99, 1.0)).tolist()
    return Latency(len(delays), reached, p50, p99, worst)
