"""Labelled streams: incidents of every kind at two intensities, and streams in which nothing is wrong."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from tests.detection.engine import Engine

INTENSITIES = ("mild", "clear")
EACH = 6  # streams a kind


@dataclass
class Stream:
    """A stream and what there is to find in it.

    Attributes:
        kind: What happens.
        intensity: How much of it; empty in a quiet stream.
        engine: The stream.
        onset: When it begins, seconds since the start; None in a quiet stream.
        due: When what is expected happens, if that is later.
        expected: Rules of which one must fire.
        allowed: Other rules that tell the truth if they fire.
    """

    kind: str
    intensity: str
    engine: Engine
    onset: float | None = None
    expected: frozenset[str] = frozenset()
    allowed: frozenset[str] = frozenset()
    due: float = 0.0

    def __post_init__(self) -> None:
        self.due = max(self.due, self.onset or 0.0)


_LOST_HITS = frozenset({"hit_ratio_drop"})
_EARLY = frozenset({"eviction_storm", "lifetime_anomaly", "lifetime_falling"})


def always(value: float) -> Callable[[float], float]:
    """A setting that does not change with time."""
    return lambda t: value


def step(before: float, after: float, at: float) -> Callable[[float], float]:
    """A setting that changes at a time."""
    return lambda t: after if t >= at else before


def _usual(rng: np.random.Generator) -> dict:
    """An engine at work, in proportions that differ from one to the next."""
    return {
        "rate": always(float(rng.uniform(12, 30))),
        "capacity": always(int(rng.integers(500, 800))),
        "prefixes": always(int(rng.integers(20, 36))),
        "skew": float(rng.uniform(0.6, 1.0)),
        "own_blocks": float(rng.uniform(2.0, 5.0)),
        "seed": int(rng.integers(2**31)),
    }


def incidents(seed: int) -> Iterator[Stream]:
    """Each kind of incident ``EACH`` times, at both intensities."""
    for kind, make in _INCIDENTS.items():
        for i in range(EACH):
            for intensity in INTENSITIES:
                rng = np.random.default_rng([seed, list(_INCIDENTS).index(kind), i])
                yield make(_usual(rng), int(rng.integers(70, 100)), intensity == "clear", kind, intensity)


def quiet_streams(seed: int) -> Iterator[Stream]:
    """Each kind of quiet stream ``EACH`` times."""
    for kind, make in _QUIET.items():
        for i in range(EACH):
            rng = np.random.default_rng([seed, 100 + list(_QUIET).index(kind), i])
            yield Stream(kind, "", make(_usual(rng), rng))


def quiet_day(seed: int) -> Engine:
    """Twenty-four hours with a night, a day and a drift of what is asked for, and nothing wrong."""
    return Engine(
        seconds=24 * 3600,
        rate=lambda t: 2.2 - 2.0 * math.cos(2 * math.pi * t / 86_400),
        capacity=lambda t: 600,
        drift=0.002,
        seed=seed,
    )


def _thrash(usual, at, clear, kind, intensity):
    """Many more prefixes are in use than fit."""
    count = usual["prefixes"](0)
    usual["prefixes"] = step(count, count * (8 if clear else 3), at)
    return Stream(kind, intensity, Engine(**usual), at, _LOST_HITS | _EARLY, frozenset({"dead_blocks"}))


def _leak(usual, at, clear, kind, intensity):
    """Blocks are lost to the cache, a few each second, for a minute and a half."""
    blocks, share = usual["capacity"](0), (0.8 if clear else 0.5)
    usual["capacity"] = lambda t: round(blocks * (1 - share * min(1.0, max(0.0, t - at) / 90)))
    usual["prefixes"] = lambda t: 20
    engine = Engine(**usual, seconds=260)
    return Stream(kind, intensity, engine, at, _LOST_HITS | _EARLY, frozenset({"dead_blocks"}))


def _scan(usual, at, clear, kind, intensity):
    """Long documents are read once each."""
    usual["scan"] = step(0.0, 0.6 if clear else 0.15, at)
    expected = _LOST_HITS | _EARLY | {"dead_blocks"}
    return Stream(kind, intensity, Engine(**usual), at, expected)


def _hot_prefix(usual, at, clear, kind, intensity):
    """Prompts begin with something that differs, such as the time, so that nothing is found again."""
    usual["lost_prefix"] = step(0.0, 0.9 if clear else 0.4, at)
    return Stream(kind, intensity, Engine(**usual), at, _LOST_HITS, _EARLY | {"dead_blocks"})


def _stall(usual, at, clear, kind, intensity):
    """The engine hangs."""
    seconds = 30 if clear else 8
    usual["silent"] = lambda t: at <= t < at + seconds
    return Stream(kind, intensity, Engine(**usual), at, frozenset({"engine_stalled"}))


def _restart(usual, at, clear, kind, intensity):
    """The engine starts anew, after a pause or at once."""
    pause = 20 if clear else 0
    usual["silent"] = lambda t: at <= t < at + pause
    engine = Engine(**usual, restarts=(at + pause,))
    allowed = frozenset({"engine_stalled"}) if pause else frozenset()
    return Stream(kind, intensity, engine, at, frozenset({"source_restarted"}), allowed, due=at + pause)


def _clock(usual, at, clear, kind, intensity):
    """The clock is set back."""
    usual["clock"] = step(0.0, -60.0 if clear else -15.0, at)
    return Stream(kind, intensity, Engine(**usual), at, frozenset({"clock_step"}))


_INCIDENTS = {
    "thrash onset": _thrash,
    "leak of capacity": _leak,
    "scan pollution": _scan,
    "hot-prefix loss": _hot_prefix,
    "engine stall": _stall,
    "restart": _restart,
    "clock step": _clock,
}


def _steady(usual, rng):
    """As always."""
    return Engine(**usual)


def _doubling(usual, rng):
    """Twice the requests, at once or within a minute."""
    rate, at = usual["rate"](0), float(rng.uniform(70, 100))
    over = float(rng.choice([1.0, 60.0]))
    usual["rate"] = lambda t: rate * (1 + min(1.0, max(0.0, t - at) / over))
    return Engine(**usual)


def _daily(usual, rng):
    """A day of twenty minutes: a tenth of the requests at night."""
    rate = usual["rate"](0)
    usual["rate"] = lambda t: rate * (0.55 - 0.45 * math.cos(2 * math.pi * t / 1200))
    return Engine(**usual, seconds=1300)


def _night(usual, rng):
    """Fewer and fewer requests, then one every few seconds."""
    rate = usual["rate"](0)
    usual["rate"] = lambda t: max(0.3, rate * math.exp(-max(0.0, t - 60) / 20))
    return Engine(**usual, seconds=300)


def _drifting(usual, rng):
    """What is asked for changes all the time, a prefix every five seconds."""
    return Engine(**usual, drift=0.2)


def _bursty(usual, rng):
    """Requests come five at a time."""
    return Engine(**usual, burst=5)


def _roomy(usual, rng):
    """Everything fits; from some time on, all of it does, and half the requests repeat nothing."""
    usual["capacity"] = lambda t: 20_000
    return Engine(**usual)


def _long_documents(usual, rng):
    """One request in fifty reads a long document once, now as ever."""
    return Engine(**usual, scan=lambda t: 0.02, scan_blocks=150)


def _pauses(usual, rng):
    """All requests come within two of every six seconds."""
    rate = usual["rate"](0)
    usual["rate"] = lambda t: rate * 3 if t % 6 < 2 else 0.0
    return Engine(**usual)


_QUIET = {
    "steady": _steady,
    "doubling without harm": _doubling,
    "daily cycle": _daily,
    "quiet night": _night,
    "drift": _drifting,
    "bursts": _bursty,
    "all fits": _roomy,
    "long documents": _long_documents,
    "pauses": _pauses,
}
