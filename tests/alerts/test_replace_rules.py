"""Rules that are replaced while the stream goes on."""

import pytest
from msgspec.structs import replace

from kvstream import KVStream, default_rules
from kvstream.alerts.types import AlertLevel
from tests.alerts.test_silences import config, fill

RULES = {rule.name: rule for rule in default_rules()}


def with_rule(name, **changes):
    return tuple({**RULES, name: replace(RULES[name], **changes)}.values())


async def heard(alerts, count):
    return [await anext(alerts) for _ in range(count)]


async def test_what_fires_by_an_unchanged_rule_goes_on():
    async with KVStream(config()) as stream:
        alerts = stream.alerts()
        await fill(stream)
        (before,) = stream.firing()
        await stream.replace_rules(with_rule("hit_ratio_drop", threshold=0.5))
        await fill(stream, start=10)
        (after,) = stream.firing()
        assert (after.rule, after.incident) == ("occupancy_high", before.incident)
    assert [each.state async for each in alerts] == ["firing"]


@pytest.mark.parametrize(
    ("changes", "why"), [({"enabled": False}, "removed"), ({"level": AlertLevel.WARNING}, "changed")]
)
async def test_what_fires_by_a_rule_that_is_gone_or_changed_ends(changes, why):
    async with KVStream(config()) as stream:
        alerts = stream.alerts()
        await fill(stream)
        await stream.replace_rules(with_rule("occupancy_high", **changes))
        _, resolved = await heard(alerts, 2)
        assert (resolved.state, resolved.message) == ("resolved", f"its rule was {why}")
        assert stream.firing() == []
        await fill(stream, start=10)
        levels = [each.level for each in stream.firing()]
        assert levels == ([AlertLevel.WARNING] if why == "changed" else [])
        await fill(stream, "new")
        assert [each.level for each in stream.firing()][1:] == levels, "of sources that come later, too"


async def test_new_rules_judge_the_caches_that_there_are():
    new = replace(RULES["occupancy_high"], name="half_full", threshold=0.5, clear=0.4)
    async with KVStream(config(), rules=()) as stream:
        await fill(stream)
        assert stream.firing() == []
        await stream.replace_rules([new])
        await fill(stream, start=10)
        assert [each.rule for each in stream.firing()] == ["half_full"]
