import math

import anyio
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kvstream import ConfigError, EventFrame, KVStream, Labels, MetricsConfig, StreamConfig, load_config
from kvstream.alerts.rule import Page, Rule
from kvstream.alerts.types import MetricType
from kvstream.engine.monitor import Monitor
from tests.strategies import fewer


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sample_rate", 0),
        ("sample_rate", 1.01),
        ("sample_rate", float("nan")),
        ("sample_rate", "half"),
        ("history_size", 0),
        ("history_size", 1.5),
        ("trend_window", 3),
        ("trend_window", 601),
        ("anomaly_threshold", 0),
        ("enable_detailed", "yes"),
        ("export_interval", -1),
        ("window_seconds", 0),
        ("windows", 1),
        ("capacity", 0),
    ],
)
def test_metrics_config_names_the_field_it_rejects(field, value):
    with pytest.raises(ConfigError, match=field):
        MetricsConfig(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("consumers", 0),
        ("queue_events", 0),
        ("overflow", "explode"),
        ("frame_events", 2**21),
        ("flush_seconds", 0),
        ("shutdown_timeout", 0),
        ("subscriber_buffer", 0),
    ],
)
def test_stream_config_names_the_field_it_rejects(field, value):
    with pytest.raises(ConfigError, match=field):
        StreamConfig(**{field: value})


def test_later_settings_win_file_environment_flags(tmp_path):
    path = tmp_path / "kvstream.toml"
    path.write_text("sample_rate = 0.5\nwindows = 100\ntrend_window = 50\nhistory_size = 7\n")
    environ = {"KVSTREAM_WINDOWS": "200", "KVSTREAM_HISTORY_SIZE": "8"}
    config = load_config(MetricsConfig, path, environ, history_size=9, capacity=None)
    assert (config.sample_rate, config.windows, config.history_size, config.capacity) == (0.5, 200, 9, None)


@pytest.mark.parametrize("text", ["sample_rate = 2", "sample_rat = 1", "windows = 'many'", "= ="])
def test_config_file_with_an_error_is_a_config_error(tmp_path, text):
    path = tmp_path / "kvstream.toml"
    path.write_text(text)
    with pytest.raises(ConfigError):
        load_config(MetricsConfig, path, {})


def test_missing_config_file_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match=r"nothing\.toml"):
        load_config(MetricsConfig, tmp_path / "nothing.toml", {})


NUMBERS = [
    *(-math.inf, -1e300, -1, -1e-300, 0, 5e-324, 1e-9, 0.0011, 0.5, 1, 2, 3.5, 4, 8, 60, 64, 600, 1000, 4096),
    *(65_536, 86_400.0, 10**6, 2**20, 10**7, 31_536_000.0, 2**27, 2**31, 10**10, 2**40, 10**15, 2**63, 2**64),
    *(1e300, 10**400, math.inf, math.nan),
]


def accepted(make, field):
    """The numbers that can be a field's value; others are refused by its name, be they what they are."""
    found = []
    for number in NUMBERS:
        try:
            make(**{field: number})
        except ConfigError as error:
            if field not in str(error):
                raise
        else:
            found.append(number)
    if any(not math.isfinite(number) for number in found):
        raise AssertionError(f"{field} can be {found}")
    return st.sampled_from(found)


def numeric(kind):
    """A strategy for each numeric field of a config."""
    defaults = {name: getattr(kind(), name) for name in kind.__struct_fields__}
    return {
        name: accepted(kind, name)
        for name, value in defaults.items()
        if (isinstance(value, (int, float)) and not isinstance(value, bool)) or name == "capacity"
    }


def rule(condition="drop", **fields):
    bounds = {"threshold": 1.0, "clear": fields.get("threshold", 1.0)}
    if "clear" in fields and "threshold" not in fields:
        bounds["threshold"] = fields["clear"]
    return Rule(
        name="r",
        metric=MetricType.HIT_RATIO,
        condition=condition,
        cause="c",
        message="{value:.0f} {threshold}",
        **{**bounds, **fields},
    )


def rule_numbers():
    names = ("threshold", "for_seconds", "clear_seconds", "recovery_seconds")
    return {name: accepted(rule, name) for name in names}


@st.composite
def some_of(draw, strategies):
    """Values for a few of the fields."""
    names = draw(st.lists(st.sampled_from(sorted(strategies)), unique=True, max_size=4))
    return {name: draw(strategies[name]) for name in names}


def eventful_frames():
    """A busy minute, a pause, and another minute, of slots and of content, with labels, keys and a clear."""
    second = 10**9
    for source, factor in (("slots", 1), ("content", 2**40 + 1)):
        for start in (10**6, 10**6 + 10_000, 10):
            n = 40
            rng = np.random.default_rng(start)
            ops = rng.choice([0, 0, 1, 1, 2, 4], n).astype(np.uint8)
            ops[20] = 3
            blocks = rng.integers(0, 50, n) * factor
            ts = start * second + np.arange(n) * (second * 3 // 2)
            yield EventFrame(
                ops,
                blocks,
                ts,
                source,
                keys=blocks + 1,
                labels=(Labels(tenant="a"), Labels(tenant="b")),
                label_of=(np.arange(n) % 3).astype(np.uint16),
            )


METRICS, STREAM, RULE = numeric(MetricsConfig), numeric(StreamConfig), rule_numbers()


@fewer
@given(
    some_of(METRICS),
    some_of(RULE),
    st.sampled_from(["above", "below", "drop", "occurs", "silent", "restarted", "premature"]),
)
def test_any_metrics_config_and_rule_that_is_accepted_can_be_used(fields, numbers, condition):
    numbers = {**numbers, "clear": numbers.get("threshold", 1.0)}
    fields.pop("max_caches", None)
    try:
        config = MetricsConfig(**fields)
        made = rule(condition, **{"threshold": 1.0, **numbers})
    except ConfigError:
        assume(False)
    monitor = Monitor(config, rules=[*Monitor(config).rules, made])
    for frame in eventful_frames():
        monitor.process(frame, records=True)
        assert monitor.summary().accounts.balanced
    for tier in monitor.caches():
        tier.pass_time(2**70)
        assert tier.trends()
    assert monitor.finish() is not None
    assert monitor.summary("slots").to_dict()


@fewer
@given(some_of(STREAM), some_of(METRICS))
def test_any_stream_config_that_is_accepted_can_be_used(fields, metrics):
    metrics.pop("max_caches", None)
    try:
        config = StreamConfig(**fields, metrics=MetricsConfig(**metrics))
    except ConfigError:
        assume(False)

    async def main():
        async with KVStream(config) as stream:
            summaries = stream.summaries()
            await stream.producer("p").allocated([1, 2, 3])
            for frame in eventful_frames():
                await stream.send(frame)
            await stream.flush()
        assert stream.accounts().balanced
        assert [summary async for summary in summaries]

    anyio.run(main)


@pytest.mark.parametrize(
    "page", [{"threshold": math.nan}, {"after_seconds": -1.0}, {"after_seconds": math.inf}]
)
def test_an_alert_becomes_critical_at_numbers_within_bounds_only(page):
    with pytest.raises(ConfigError, match="page"):
        rule(page=Page(**page))
