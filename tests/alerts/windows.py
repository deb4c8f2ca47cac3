"""Windows as they would be measured, and what the built-in rules say of them."""

import numpy as np

from kvstream.alerts.evaluator import Evaluator
from kvstream.alerts.rules_file import default_rules
from kvstream.metrics.measurements import Measurements
from kvstream.metrics.window import Window

RULES = {rule.name: rule for rule in default_rules()}


def window(
    index, lookups=200, hit_ratio=0.8, evicted=None, lifetime=10.0, live=95, premature=0, lost=0, **more
):
    """A window of a second with a hit ratio; lifetimes all alike, in seconds."""
    seen = Measurements.empty(4)
    seen.accesses = round(lookups * hit_ratio)
    seen.allocations = lookups - seen.accesses
    evicted = seen.allocations if evicted is None else evicted
    seen.evictions[0] = evicted
    seen.lifetime.record(np.full(evicted, int(lifetime * 1e9)))
    seen.return_time.record(np.full(premature, 10**9))
    seen.time_regressions = more.get("regressions", 0)
    seen.clears = more.get("clears", 0)
    seen.cleared = more.get("cleared", 0)
    return Window(index, seen, live, lost, more.get("restarts", 0), more.get("clock_step", False))


def empty(index):
    return Window(index, Measurements.empty(4), live=95)


def stretch(start, end, noise=0.0, every=1, seed=1, **what):
    """A window every so many seconds, with a hit ratio that varies from one to the next."""
    rng = np.random.default_rng(seed)
    ratio = what.pop("hit_ratio", 0.8)
    return [
        window(i, hit_ratio=float(np.clip(rng.normal(ratio, noise), 0.0, 1.0)) if noise else ratio, **what)
        for i in range(start, end, every)
    ]


def evaluator(*names, capacity=None, silences=None, **changes):
    """An evaluator of some built-in rules, by default of all."""
    rules = [RULES[name] for name in names] if names else list(RULES.values())
    return Evaluator(rules, "s", "gpu", 1.0, capacity, silences)


def said(judge, windows):
    """(rule, state, level, timestamp) of every notification."""
    return [
        (alert.rule, alert.state, alert.level.value, alert.timestamp)
        for each in windows
        for alert in judge.close(each)
    ]
