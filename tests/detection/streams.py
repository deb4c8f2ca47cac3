"""Labelled streams: incidents of every kind at two intensities, and quiet streams with nothing wrong."""

import gzip
import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count

import numpy as np

from kvstream.events.frame import EventFrame
from tests.detection.traffic import Engine, Setting, Traffic, constant

RATES = (0.3, 0.5, 1.0, 3.0, 3.5, 12.0, 40.0)
BATCHED = 3.5  # stands for three a second, those of three seconds at one time
MINUTE = 60.0

TRACE = os.environ.get("KVSTREAM_MOONCAKE_TRACE", "")
"""Path of Mooncake's conversation trace, which is no part of the project; without it, no real streams."""


@dataclass
class Stream:
    """A stream and what there is to find in it.

    Attributes:
        kind: What happens.
        intensity: ``strong`` or ``mild``; empty in a quiet stream.
        frames: Makes the frames of all its sources, in order of time.
        capacity: Blocks of each cache, as it is told to kvstream.
        onset: When it begins, seconds since the start; None in a quiet stream.
        end: When it is over, at the end of the stream where it never is.
        page: Whether somebody should be woken.
        point: Whether it is a point in time, which no alert need cover.
        recurs: Whether it comes and goes, so that it may end meanwhile.
        source: Whose alerts count.
        rate: Requests a second.
        seconds: Length of the stream.
    """

    kind: str
    intensity: str
    frames: Callable[[], Iterator[EventFrame]]
    capacity: int
    rate: float
    seconds: float
    onset: float | None = None
    end: float = 0.0
    page: bool = False
    point: bool = False
    recurs: bool = False
    source: str = "engine"

    @property
    def name(self) -> str:
        return f"{self.kind} {self.intensity} at {self.rate:g}/s".replace("  ", " ")


def step(after: float, onset: float, end: float = math.inf, before: float = 0.0) -> Setting:
    return lambda t: after if onset <= t < end else before


def ramp(low: float, high: float, onset: float, duration: float, end: float = math.inf) -> Setting:
    return lambda t: low + (high - low) * min(1.0, max(0.0, (t - onset) / duration)) if t < end else low


@dataclass
class Usual:
    """A healthy engine at a rate, in proportions that differ from one seed to the next."""

    rate: float
    rng: np.random.Generator
    low: bool = False
    traffic: Traffic = field(init=False)
    engine: Engine = field(init=False)
    capacity: int = field(init=False)

    def __post_init__(self) -> None:
        rng, batch = self.rng, 3.0 if self.rate == BATCHED else 0.0
        rate = 3.0 if batch else self.rate
        prompts = int(rng.integers(20, 30 if rate < 1 else 60))
        blocks = (6, 14) if rate < 1 else (6, 20)
        self.traffic = Traffic(
            rate=constant(rate),
            peak=rate,
            turn_blocks=float(rng.uniform(3.5, 7.0)),
            prompts=constant(prompts),
            prompt_blocks=blocks,
            skew=constant(float(rng.uniform(0.8, 1.2))),
            pause=float(rng.uniform(30.0, 40.0)),
            batch=batch,
            seed=int(rng.integers(2**31)),
        )
        per_second = rate * self.traffic.turn_blocks
        if self.low:
            self.traffic.unique = constant(float(rng.uniform(0.55, 0.75)))
            per_second = rate * 20
        fill = float(rng.uniform(140.0, 240.0))
        self.capacity = int(per_second * fill + prompts * sum(blocks) / 4)
        self.engine = Engine(
            traffic=self.traffic,
            capacity=constant(self.capacity),
            keyed=bool(rng.integers(2)),
            numbered=bool(rng.integers(2)),
        )


def incidents(seed: int, kinds: str = "") -> Iterator[Stream]:
    """Yields each kind of incident at both intensities, at rates that change with the seed."""
    for number, (kind, (make, rates)) in enumerate(_INCIDENTS.items()):
        for i, intensity in enumerate(("strong", "mild")):
            rate = rates[(seed + number + i) % len(rates)]
            rng = np.random.default_rng([seed, number, i])
            if kinds in kind:
                yield make(kind, intensity, rate, rng)
    if TRACE and (kinds in "real"):
        yield from _real_incidents(seed)


def quiet_streams(seed: int, kinds: str = "") -> Iterator[Stream]:
    """Yields each kind of quiet stream."""
    for number, (kind, (make, rates)) in enumerate(_QUIET.items()):
        rng = np.random.default_rng([seed, 100 + number])
        if kinds in kind:
            yield make(kind, rates[(seed + number) % len(rates)], rng)
    if TRACE and (kinds in "real"):
        yield from _real_quiet(seed)


def _times(
    rate: float, rng: np.random.Generator, minutes: float, after: float = 8.0
) -> tuple[float, float, float]:
    """Onset, end and length of the stream in seconds."""
    onset = (15 if rate < 1 else 10) * MINUTE + float(rng.uniform(0, 2 * MINUTE))
    end = onset + minutes * MINUTE
    return onset, end, end + after * MINUTE


def _stream(
    kind: str, intensity: str, usual: Usual, seconds: float, onset: float, end: float, **flags: bool
) -> Stream:
    return Stream(
        kind,
        intensity,
        lambda: usual.engine.frames(seconds),
        usual.capacity,
        usual.rate,
        seconds,
        onset,
        min(end, seconds),
        **flags,
    )


# Incidents. Each takes (kind, intensity, rate, rng).


def _affinity(kind: str, intensity: str, rate: float, rng: np.random.Generator) -> Stream:
    usual = Usual(rate, rng)
    onset, end, seconds = _times(rate, rng, 10)
    usual.traffic.elsewhere = step(0.95 if intensity == "strong" else 0.6, onset, end)
    return _stream(kind, intensity, usual, seconds, onset, end, page=True)


def _deploy(kind: str, intensity: str, rate: float, rng: np.random.Generator) -> Stream:
    usual = Usual(rate, rng)
    onset, end, seconds = _times(rate, rng, 10)
    if intensity == "strong":
        end = seconds
        usual.traffic.unique = step(1.0, onset)
    else:
        usual.traffic.unique = step(1 / 3, onset, end)
    return _stream(kind, intensity, usual, seconds, onset, end, page=True)


def _scan(kind: str, intensity: str, rate: float, rng: np.random.Generator) -> Stream:
    usual = Usual(rate, rng)
    onset, end, seconds = _times(rate, rng, 10)
    share = 1.0 if intensity == "strong" else 0.5
    usual.traffic.scan = step(share * usual.traffic.peak, onset, end)
    usual.traffic.scan_blocks = int(rng.integers(30, 45))
    return _stream(kind, intensity, usual, seconds, onset, end, page=True)


def _leak(kind: str, intensity: str, rate: float, rng: np.random.Generator) -> Stream:
    usual = Usual(rate, rng)
    onset, _, seconds = _times(rate, rng, 14, 0)
    left = 0.25 if intensity == "strong" else 0.45
    usual.engine.capacity = step(int(left * usual.capacity), onset, before=usual.capacity)
    return _stream(kind, intensity, usual, seconds, onset, seconds, page=True)


def _smaller_restart(kind: str, intensity: str, rate: float, rng: np.random.Generator) -> Stream:
    usual = Usual(rate, rng)
    onset, _, seconds = _times(rate, rng, 15, 0)
    left = 0.25 if intensity == "strong" else 0.4
    away = float(rng.uniform(10, 40))
    usual.engine.silent = lambda t: onset <= t < onset + away
    usual.engine.restarts = (onset + away,)
    usual.engine.capacity = step(int(left * usual.capacity), onset, before=usual.capacity)
    return _stream(kind, intensity, usual, seconds, onset, seconds, page=True)


def _low_ratio(kind: str, intensity: str, rate: float, rng: np.random.Generator) -> Stream:
    usual = Usual(rate, rng, low=True)
    onset, end, seconds = _times(rate, rng, 10)
    before = usual.traffic.unique(0.0)
    after = 0.97 if intensity == "strong" else 0.9
    usual.traffic.unique = step(after, onset, end, before)
    return _stream(kind, intensity, usual, seconds, onset, end, page=True)


def _busy_hang(kind: str, intensity: str, rate: float, rng: np.random.Generator) -> Stream:
    usual = Usual(rate, rng)
    onset, end, seconds = _times(rate, rng, 5 if intensity == "strong" else 1.5)
    usual.engine.silent = lambda t: onset <= t < end
    return _stream(kind, intensity, usual, seconds, onset, end, page=True)


def _slow_hang(kind: str, intensity: str, rate: float, rng: np.random.Generator) -> Stream:
    usual = Usual(rate, rng)
    onset, end, seconds = _times(rate, rng, 4 if rate >= 3 else 10)
    usual.engine.silent = lambda t: onset <= t < end
    return _stream(kind, intensity, usual, seconds, onset, end, page=True)


def _oscillating(kind: str, intensity: str, rate: float, rng: np.random.Generator) -> Stream:
    usual = Usual(rate, rng)
    onset, end, seconds = _times(rate, rng, 10)
    period, share = (40.0, 3.0) if intensity == "strong" else (120.0, 1.2)
    usual.traffic.scan = lambda t: (
        share * usual.traffic.peak if onset <= t < end and (t - onset) % period < period / 2 else 0.0
    )
    return _stream(kind, intensity, usual, seconds, onset, end, page=True)


def _two_at_once(kind: str, intensity: str, rate: float, rng: np.random.Generator) -> Stream:
    usual = Usual(rate, rng)
    onset, end, seconds = _times(rate, rng, 15)
    middle = onset + 6 * MINUTE
    if intensity == "strong":
        usual.traffic.scan = step(usual.traffic.peak, onset, end)
        usual.engine.capacity = step(int(0.4 * usual.capacity), middle, end, usual.capacity)
    else:
        usual.traffic.elsewhere = step(0.7, onset, end)
        usual.traffic.growth = step(4.0, middle, end, 1.0)
    return _stream(kind, intensity, usual, seconds, onset, end, page=True)


def _low_traffic(kind: str, intensity: str, rate: float, rng: np.random.Generator) -> Stream:
    usual = Usual(rate, rng)
    onset, _, seconds = _times(rate, rng, 15, 0)
    usual.traffic.unique = step(1.0 if intensity == "strong" else 0.65, onset)
    return _stream(kind, intensity, usual, seconds, onset, seconds, page=True)


def _one_of_eight(kind: str, intensity: str, rate: float, rng: np.random.Generator) -> Stream:
    onset, end, seconds = _times(rate, rng, 10)
    usuals = [Usual(rate, rng) for _ in range(8)]
    for i, usual in enumerate(usuals):
        usual.engine.source = f"engine-{i}"
    usuals[3].traffic.unique = step(1.0 if intensity == "strong" else 0.6, onset, end)
    return _several(kind, intensity, usuals, "engine-3", seconds, onset, end)


def _one_of_four_silent(kind: str, intensity: str, rate: float, rng: np.random.Generator) -> Stream:
    onset, end, seconds = _times(rate, rng, 8)
    usuals = [Usual(rate, rng) for _ in range(4)]
    for i, usual in enumerate(usuals):
        usual.engine.source = f"engine-{i}"
    until = end if intensity == "strong" else seconds
    usuals[2].engine.silent = lambda t: onset <= t < until
    return _several(kind, intensity, usuals, "engine-2", seconds, onset, until)


def _several(
    kind: str,
    intensity: str,
    usuals: list[Usual],
    source: str,
    seconds: float,
    onset: float | None,
    end: float,
) -> Stream:
    def frames() -> Iterator[EventFrame]:
        heads = []
        for place, usual in enumerate(usuals):
            parts = usual.engine.frames(seconds)
            if (first := next(parts, None)) is not None:
                heads.append((int(first.ts[0]), place, first, parts))
        while heads:
            head = min(heads, key=lambda h: h[:2])
            heads.remove(head)
            yield head[2]
            if (frame := next(head[3], None)) is not None:
                heads.append((int(frame.ts[0]), head[1], frame, head[3]))

    capacity = max(usual.capacity for usual in usuals)
    return Stream(
        kind,
        intensity,
        frames,
        capacity,
        usuals[0].rate,
        seconds,
        onset,
        end,
        page=onset is not None,
        source=source,
    )


def _slow_leak(kind: str, intensity: str, rate: float, rng: np.random.Generator) -> Stream:
    usual = Usual(rate, rng)
    onset, _, seconds = _times(rate, rng, 25, 0)
    left = 0.12 if intensity == "strong" else 0.3
    usual.engine.capacity = ramp(usual.capacity, left * usual.capacity, onset, 15 * MINUTE)
    return _stream(kind, intensity, usual, seconds, onset, seconds)


def _context_growth(kind: str, intensity: str, rate: float, rng: np.random.Generator) -> Stream:
    usual = Usual(rate, rng)
    onset, _, seconds = _times(rate, rng, 20, 0)
    usual.traffic.growth = ramp(
        1.0, 6.0 if intensity == "strong" else 4.0, onset, rng.uniform(8, 10) * MINUTE
    )
    return _stream(kind, intensity, usual, seconds, onset, seconds)


def _adapters(kind: str, intensity: str, rate: float, rng: np.random.Generator) -> Stream:
    usual = Usual(rate, rng)
    onset, end, seconds = _times(rate, rng, 10)
    before, skew = usual.traffic.prompts(0.0), usual.traffic.skew(0.0)
    usual.traffic.prompts = step(before * (30 if intensity == "strong" else 12), onset, end, before)
    usual.traffic.skew = step(0.0, onset, end, skew)
    return _stream(kind, intensity, usual, seconds, onset, end)


def _traffic_growth(kind: str, intensity: str, rate: float, rng: np.random.Generator) -> Stream:
    usual = Usual(rate, rng)
    onset, _, seconds = _times(rate, rng, 25, 0)
    factor = 4.5 if intensity == "strong" else 3.0
    usual.traffic.rate = ramp(usual.traffic.peak, factor * usual.traffic.peak, onset, 18 * MINUTE)
    usual.traffic.peak *= factor
    usual.capacity = int(0.75 * usual.capacity)
    usual.engine.capacity = constant(usual.capacity)
    return _stream(kind, intensity, usual, seconds, onset, seconds)


def _decline(kind: str, intensity: str, rate: float, rng: np.random.Generator) -> Stream:
    usual = Usual(rate, rng)
    onset, end, seconds = _times(rate, rng, 20)
    usual.traffic.unique = ramp(0.0, 0.9 if intensity == "strong" else 0.5, onset, 15 * MINUTE, end)
    return _stream(kind, intensity, usual, seconds, onset, end)


def _mild_drop(kind: str, intensity: str, rate: float, rng: np.random.Generator) -> Stream:
    usual = Usual(rate, rng)
    onset, _, seconds = _times(rate, rng, 20, 0)
    usual.traffic.unique = step(0.3 if intensity == "strong" else 0.2, onset)
    return _stream(kind, intensity, usual, seconds, onset, seconds)


def _periodic(kind: str, intensity: str, rate: float, rng: np.random.Generator) -> Stream:
    usual = Usual(rate, rng)
    onset, end, seconds = _times(rate, rng, 20)
    period = float(rng.uniform(300, 360))
    length, share = (120.0, 2.0) if intensity == "strong" else (60.0, 1.5)
    usual.traffic.scan = lambda t: (
        share * usual.traffic.peak if onset <= t < end and (t - onset) % period < length else 0.0
    )
    return _stream(kind, intensity, usual, seconds, onset, end, recurs=True)


def _bad_start(kind: str, intensity: str, rate: float, rng: np.random.Generator) -> Stream:
    usual = Usual(rate, rng)
    seconds = 25 * MINUTE
    if intensity == "strong":
        usual.traffic.unique = step(1.0, 2 * MINUTE)
        return _stream(kind, intensity, usual, seconds, 2 * MINUTE, seconds)
    usual.capacity = int(0.15 * usual.capacity)
    usual.engine.capacity = constant(usual.capacity)
    return _stream(kind, intensity, usual, seconds, 0.0, seconds)


def _restart(kind: str, intensity: str, rate: float, rng: np.random.Generator) -> Stream:
    usual = Usual(rate, rng)
    onset, _, seconds = _times(rate, rng, 0, 12)
    away = float(rng.uniform(10, 40))
    usual.engine.silent = lambda t: onset <= t < onset + away
    if intensity == "strong":
        usual.engine.restarts = (onset + away,)
    else:
        usual.engine.clears = (onset + away,)
    return _stream(kind, intensity, usual, seconds, onset, onset + away, point=True)


def _gap(kind: str, intensity: str, rate: float, rng: np.random.Generator) -> Stream:
    usual = Usual(rate, rng)
    onset, _, seconds = _times(rate, rng, 0, 12)
    length = 60 if intensity == "strong" else 12
    usual.engine.numbered = True
    usual.engine.dropped = lambda t: onset <= t < onset + length
    return _stream(kind, intensity, usual, seconds, onset, onset + length, point=True)


def _clock(kind: str, intensity: str, rate: float, rng: np.random.Generator) -> Stream:
    usual = Usual(rate, rng)
    onset, _, seconds = _times(rate, rng, 0, 12)
    usual.engine.clock = step(-300.0 if intensity == "strong" else -45.0, onset)
    return _stream(kind, intensity, usual, seconds, onset, onset, point=True)


_ALL, _BUSY, _SLOW = RATES, (12.0, 40.0), (0.5, 1.0, 3.0)
_MOST = (0.5, 1.0, 3.0, BATCHED, 12.0)
_INCIDENTS = {
    "affinity lost": (_affinity, _ALL),
    "deploy changes prompt": (_deploy, _ALL),
    "tenant scan": (_scan, _ALL),
    "capacity leak": (_leak, _ALL),
    "restart, smaller cache": (_smaller_restart, _MOST),
    "low ratio degrades": (_low_ratio, _ALL),
    "busy engine hangs": (_busy_hang, _BUSY),
    "slow engine hangs": (_slow_hang, _SLOW),
    "oscillating scan": (_oscillating, _MOST),
    "two at once": (_two_at_once, _MOST),
    "low traffic loses prefixes": (_low_traffic, (0.3, 0.5)),
    "one engine of 8": (_one_of_eight, (0.5, 1.0, 3.0)),
    "one engine of 4 silent": (_one_of_four_silent, (0.5, 1.0, 3.0)),
    "slow leak": (_slow_leak, _MOST),
    "context growth": (_context_growth, _MOST),
    "adapter churn": (_adapters, _ALL),
    "traffic growth": (_traffic_growth, (0.5, 1.0, 3.0, 12.0)),
    "slow decline": (_decline, _ALL),
    "mild permanent drop": (_mild_drop, _ALL),
    "periodic batch": (_periodic, _MOST),
    "bad from the start": (_bad_start, _ALL),
    "restart": (_restart, _ALL),
    "publisher gap": (_gap, _ALL),
    "clock step": (_clock, _ALL),
}


# Quiet streams. Each takes (kind, rate, rng).


def _quiet(kind: str, usual: Usual, minutes: float = 30.0) -> Stream:
    seconds = minutes * MINUTE
    return Stream(kind, "", lambda: usual.engine.frames(seconds), usual.capacity, usual.rate, seconds)


def _roomy(usual: Usual, factor: float) -> Usual:
    usual.capacity = int(factor * usual.capacity)
    usual.engine.capacity = constant(usual.capacity)
    return usual


def _steady(kind: str, rate: float, rng: np.random.Generator) -> Stream:
    return _quiet(kind, Usual(rate, rng), 40)


def _day(kind: str, rate: float, rng: np.random.Generator) -> Stream:
    usual = _roomy(Usual(rate, rng), 2.5)
    base = usual.traffic.peak
    usual.traffic.rate = lambda t: base * (1.0 + 0.6 * math.sin(2 * math.pi * t / 2400))
    usual.traffic.peak = 1.6 * base
    return _quiet(kind, usual, 40)


def _bursts(kind: str, rate: float, rng: np.random.Generator) -> Stream:
    usual = _roomy(Usual(rate, rng), 1.5)
    base = usual.traffic.peak
    usual.traffic.rate = lambda t: 5 * base if t % 240 < 10 else base
    usual.traffic.peak = 5 * base
    return _quiet(kind, usual)


def _clustered(kind: str, rate: float, rng: np.random.Generator) -> Stream:
    usual = Usual(rate, rng)
    base = usual.traffic.peak
    usual.traffic.rate = lambda t: 2.5 * base if t % 30 < 10 else 0.25 * base
    usual.traffic.peak = 2.5 * base
    return _quiet(kind, usual)


def _doubling(kind: str, rate: float, rng: np.random.Generator) -> Stream:
    usual = _roomy(Usual(rate, rng), 2.5)
    base = usual.traffic.peak
    usual.traffic.rate = step(2 * base, 900, before=base)
    usual.traffic.peak = 2 * base
    return _quiet(kind, usual)


def _growing(kind: str, rate: float, rng: np.random.Generator) -> Stream:
    usual = _roomy(Usual(rate, rng), 2.2)
    base = usual.traffic.peak
    usual.traffic.rate = ramp(base, 1.8 * base, 600, 900)
    usual.traffic.peak = 1.8 * base
    return _quiet(kind, usual)


def _blip(kind: str, rate: float, rng: np.random.Generator) -> Stream:
    usual = Usual(rate, rng)
    if rate == 12.0:
        usual.traffic.unique = lambda t: float(t > 600 and t % 300 < 5)
    else:
        usual.traffic.unique = step(1.0, 900, 905)
    return _quiet(kind, usual)


def _short_scan(kind: str, rate: float, rng: np.random.Generator) -> Stream:
    usual = Usual(rate, rng)
    usual.traffic.scan = step(2 * usual.traffic.peak, 900, 906)
    return _quiet(kind, usual)


def _warm_up(kind: str, rate: float, rng: np.random.Generator) -> Stream:
    return _quiet(kind, _roomy(Usual(rate, rng), 4.0))


def _late_evictions(kind: str, rate: float, rng: np.random.Generator) -> Stream:
    return _quiet(kind, _roomy(Usual(rate, rng), 7.0), 40)


def _pauses(kind: str, rate: float, rng: np.random.Generator) -> Stream:
    usual = Usual(rate, rng)
    period = float(rng.uniform(120, 240))
    length = float(rng.choice([8.0, 12.0]))
    usual.engine.silent = lambda t: t % period > period - length
    return _quiet(kind, usual)


def _low(kind: str, rate: float, rng: np.random.Generator) -> Stream:
    return _quiet(kind, Usual(rate, rng, low=True), 40)


def _replaced_slowly(kind: str, rate: float, rng: np.random.Generator) -> Stream:
    usual = Usual(rate, rng)
    usual.traffic.version = ramp(0.0, 2.0, 300, 1500)
    return _quiet(kind, usual)


def _replaced_once(kind: str, rate: float, rng: np.random.Generator) -> Stream:
    usual = Usual(rate, rng)
    usual.traffic.version = step(1.0, 900)
    return _quiet(kind, usual)


def _evening(kind: str, rate: float, rng: np.random.Generator) -> Stream:
    usual = Usual(rate, rng)
    base = usual.traffic.peak

    def rate_at(t: float) -> float:
        if t < 600:
            return base
        if t < 1500:
            return base * max(0.02, 1.0 - (t - 600) / 600)
        return base * min(1.0, max(0.02, (t - 1500) / 600))

    usual.traffic.rate = rate_at
    return _quiet(kind, usual, 40)


def _document(kind: str, rate: float, rng: np.random.Generator) -> Stream:
    usual = Usual(rate, rng)
    usual.traffic.documents = ((1000.0, int(0.3 * usual.capacity)),)
    return _quiet(kind, usual)


def _small_scan(kind: str, rate: float, rng: np.random.Generator) -> Stream:
    usual = Usual(rate, rng)
    usual.traffic.scan = constant(0.1 * usual.traffic.peak)
    return _quiet(kind, usual, 40)


def _four_unequal(kind: str, rate: float, rng: np.random.Generator) -> Stream:
    usuals = [Usual(each, rng) for each in (0.5, 1.0, 3.0, 12.0)]
    for i, usual in enumerate(usuals):
        usual.engine.source = f"engine-{i}"
    return _several(kind, "", usuals, "", 25 * MINUTE, None, 0.0)


def _numbered(kind: str, rate: float, rng: np.random.Generator) -> Stream:
    usual = Usual(rate, rng)
    usual.engine.numbered = True
    return _quiet(kind, usual)


def _joined(kind: str, rate: float, rng: np.random.Generator) -> Stream:
    usual = Usual(rate, rng)
    usual.engine.joined_at = 600.0
    return _quiet(kind, usual, 40)


_QUIET = {
    **{f"steady {rate:g}": (_steady, (rate,)) for rate in RATES},
    "a day with room": (_day, _MOST),
    "bursts of 5x": (_bursts, _MOST),
    "clustered arrivals": (_clustered, (1.0, 3.0, 12.0)),
    "traffic doubles, with room": (_doubling, _MOST),
    "traffic grows 1.8x, with room": (_growing, _MOST),
    "all lost for 5 s, once": (_blip, (40.0,)),
    "all lost for 5 s, every 5 min": (_blip, (12.0,)),
    "a scan of 6 s": (_short_scan, (3.0, 12.0, 40.0)),
    "warm-up of a large cache": (_warm_up, _MOST),
    "first evictions late": (_late_evictions, _MOST),
    "pauses of 8 to 12 s": (_pauses, (3.0, 12.0, 40.0)),
    "low hit ratio": (_low, _ALL),
    "prompts slowly replaced": (_replaced_slowly, _MOST),
    "all prompts replaced once": (_replaced_once, _MOST),
    "an evening that fades": (_evening, (1.0, 3.0, 12.0)),
    "one long document": (_document, _MOST),
    "constant small scan": (_small_scan, _ALL),
    "four unequal engines": (_four_unequal, (3.0,)),
    "numbered frames": (_numbered, _ALL),
    "running when the stream begins": (_joined, _ALL),
}


# Real requests.


def _real_requests(start: float, seconds: float, stretch: float) -> list[tuple[float, list[int]]]:
    rows = []
    with gzip.open(TRACE) as file:
        for line in file:
            row = json.loads(line)
            at = row["timestamp"] / 1000 * stretch - start
            if at >= seconds:
                break
            if at >= 0:
                rows.append((at, row["hash_ids"]))
    return rows


def _real(
    kind: str,
    intensity: str,
    capacity: int,
    start: float,
    seconds: float,
    onset: float | None,
    end: float,
    **how: float,
) -> Stream:
    """Real requests through a cache; ``how``: lost, silent, scan, left."""
    engine = Engine(
        traffic=Traffic(rate=constant(1), peak=1), capacity=constant(capacity), keyed=capacity % 2 == 0
    )
    begin = math.inf if onset is None else onset
    if "left" in how:
        engine.capacity = step(int(how["left"] * capacity), begin, end, capacity)
    if "silent" in how:
        engine.silent = lambda t: begin <= t < end

    def frames() -> Iterator[EventFrame]:
        rng = np.random.default_rng(capacity)
        fresh = count(1 << 40)

        def requests() -> Iterator[tuple[float, list[int]]]:
            for at, contents in _real_requests(start, seconds, how.get("stretch", 1.0)):
                inside = begin <= at < end
                if inside and rng.random() < how.get("lost", 0.0):
                    yield at, [next(fresh) for _ in contents]
                else:
                    yield at, [each + (1 << 20) for each in contents]
                if inside and rng.random() < how.get("scan", 0.0):
                    yield at, [next(fresh) for _ in range(40)]

        return engine.serve(requests())

    rate = 3.3 / how.get("stretch", 1.0)
    return Stream(
        kind, intensity, frames, capacity, round(rate, 1), seconds, onset, end, page=onset is not None
    )


def _real_incidents(seed: int) -> Iterator[Stream]:
    rng = np.random.default_rng([seed, 999])
    whats: list[tuple[str, str, dict[str, float], float]] = [
        ("real: prefixes lost", "strong", {"lost": 1.0}, 15),
        ("real: prefixes lost", "mild", {"lost": 0.5}, 15),
        ("real: hang", "strong", {"silent": 1.0}, 5),
        ("real: hang", "mild", {"silent": 1.0}, 2),
        ("real: scan", "strong", {"scan": 1.0}, 12),
        ("real: scan", "mild", {"scan": 0.5}, 12),
        ("real: leak", "strong", {"left": 0.12}, 15),
    ]
    for kind, intensity, how, minutes in whats:
        capacity = int(rng.choice([5_000, 10_000, 20_000, 50_000]))
        start = float(rng.uniform(0, 900))
        onset = float(rng.uniform(14, 18)) * MINUTE
        yield _real(
            kind,
            intensity,
            capacity,
            start,
            onset + (minutes + 8) * MINUTE,
            onset,
            onset + minutes * MINUTE,
            **how,
        )


def _real_quiet(seed: int) -> Iterator[Stream]:
    rng = np.random.default_rng([seed, 998])
    for capacity in (3_000, 10_001, 30_000):
        yield _real(
            f"real, {capacity:,} blocks", "", capacity, float(rng.uniform(0, 900)), 40 * MINUTE, None, 0.0
        )
    yield _real("real, stretched", "", 10_000, 0.0, 40 * MINUTE, None, 0.0, stretch=2.0)
