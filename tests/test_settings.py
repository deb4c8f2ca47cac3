import re
from pathlib import Path

import pytest

import kvstream
from kvstream import ConfigError, MetricsConfig, StreamConfig, load_config
from kvstream.settings import VARIABLES, misspelt_variables


def mistakes(tmp_path, text, environ=None, kind=MetricsConfig, **flags):
    path = tmp_path / "kvstream.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(kind, path, environ or {}, **flags)
    return [line.removeprefix(f"{path}:") for line in caught.value.lines]


def test_all_mistakes_of_a_file_and_of_the_environment_are_said_at_once(tmp_path):
    text = """\
capacity = "10k"
window_seconds = "1s"
windws = 3
[metrics]
sample_rate = 7
enable_detailed = 1
[strem]
a = 1
[stream]
overflow = "blok"
consumers = 0
"""
    environ = {"KVSTREAM_CURVE_KEYS": "x", "KVSTREAM_WINDOWS": "1", "KVSTREAM_RECORDED": "maybe"}
    assert mistakes(tmp_path, text, environ) == [
        "1: capacity must be a whole number, not '10k'; write 10000",
        "2: window_seconds must be a number, not '1s'; write 1 (seconds)",
        "3: unknown setting windws; did you mean windows?",
        "5: sample_rate must be above 0 and at most 1, not 7.0",
        "6: enable_detailed must be true or false, not 1",
        "7: unknown section strem; did you mean stream?",
        "10: overflow blok is not known; did you mean block?",
        "11: consumers must be a whole number from 1 to 1,024, not 0",
        "$KVSTREAM_CURVE_KEYS: 'x' is not a whole number such as 4096, 10k or 16Ki",
        "$KVSTREAM_RECORDED: 'maybe' is not true or false",
        "$KVSTREAM_WINDOWS: windows must be a whole number from 2 to 100,000, not 1",
        "trend_window must be at most `windows`, not 60",
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("= =", "1: no valid TOML"),
        ("capacity = 8\n[metrics", "2: no valid TOML"),
        ("capacity = 8\ncapacity = 9\n", "2: no valid TOML"),
        ("metrics = 3", "1: metrics is no table; write [metrics]"),
        ("[[stream]]\nconsumers = 1", "1: stream is no table; write [stream]"),
    ],
)
def test_a_file_of_another_form_is_refused_with_its_line(tmp_path, text, line):
    assert mistakes(tmp_path, text)[0].startswith(line)


@pytest.mark.parametrize(
    "value",
    ["[" * 5000, "{a = " * 5000, "1" * 5000, "0x" + "f" * 5000],
    ids=["arrays", "tables", "digits", "hex"],
)
def test_a_value_that_python_cannot_read_is_a_mistake_in_the_file(tmp_path, value):
    [line] = mistakes(tmp_path, f"capacity = {value}")
    assert line.startswith(" no TOML that can be read: ")


def test_a_file_that_cannot_be_read_is_named_without_a_number_of_an_error(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load_config(MetricsConfig, tmp_path / "none.toml", {})
    assert str(caught.value) == f"{tmp_path}/none.toml: No such file or directory"
    (tmp_path / "latin.toml").write_bytes(b'overflow = "\xe4"')
    with pytest.raises(ConfigError, match="not valid UTF-8"):
        load_config(MetricsConfig, tmp_path / "latin.toml", {})


def test_one_file_serves_both_configs(tmp_path):
    path = tmp_path / "kvstream.toml"
    path.write_text(
        "consumers = 2\n[metrics]\ncapacity = 8\n[stream]\nframe_events = 16\n[serve]\nhttp = ':1'\n"
    )
    stream = load_config(StreamConfig, path, {})
    assert (stream.consumers, stream.frame_events, stream.metrics.capacity) == (2, 16, 8)
    assert load_config(MetricsConfig, path, {}).capacity == 8
    given = MetricsConfig(capacity=3)
    assert load_config(StreamConfig, path, {}, metrics=given).metrics is given


def test_variables_take_units_and_words(tmp_path):
    environ = {
        "KVSTREAM_CAPACITY": "16Ki",
        "KVSTREAM_BLOCK_BYTES": "2MiB",
        "KVSTREAM_WINDOW_SECONDS": "500ms",
        "KVSTREAM_ENABLE_DETAILED": "false",
        "KVSTREAM_OVERFLOW": "drop_oldest",
    }
    config = load_config(StreamConfig, None, environ)
    metrics = config.metrics
    assert (metrics.capacity, metrics.block_bytes, metrics.window_seconds) == (16_384, 2**21, 0.5)
    assert metrics.enable_detailed is False
    assert config.overflow == "drop_oldest"


def test_a_misspelt_variable_is_found_and_those_of_others_are_not():
    environ = {
        "KVSTREAM_CAPCITY": "8",
        "KVSTREAM_TOKN": "secret",
        "KVSTREAM_CAPACITY": "8",
        "KVSTREAM_SERVICE_HOST": "10.0.0.1",
        "KVSTREAM_PORT_9109_TCP": "tcp://10.0.0.1:9109",
        "KVSTREAM_SERVE_SERVICE_PORT_HTTP": "9109",
        "KVSTREAM_BIN": "/usr/bin/kvstream",
    }
    assert misspelt_variables(environ) == [
        "$KVSTREAM_CAPCITY is no variable of kvstream; did you mean $KVSTREAM_CAPACITY?",
        "$KVSTREAM_TOKN is no variable of kvstream; did you mean $KVSTREAM_TOKEN?",
    ]


def test_every_variable_that_kvstream_reads_is_known():
    """One that is not may be taken for another one, misspelt, and refused."""
    read = re.compile(r"""environ(?:\.get\(|\[)["'](KVSTREAM_\w+)["']|envvar=["'](KVSTREAM_\w+)["']""")
    package = Path(kvstream.__file__).parent
    names = {
        name
        for module in package.rglob("*.py")
        for found in read.findall(module.read_text(encoding="utf-8"))
        for name in found
        if name
    }
    assert names >= {"KVSTREAM_ENDPOINT", "KVSTREAM_TOKEN", "KVSTREAM_LABEL_KEY"}
    assert names <= VARIABLES.keys()


def test_settings_that_do_not_exist_are_refused_as_arguments_too(tmp_path):
    with pytest.raises(ConfigError) as raised:
        load_config(StreamConfig, environ={}, consumer=2, capacity=0)
    assert raised.value.lines == (
        "unknown setting consumer; did you mean consumers?",
        "capacity must be a whole number from 1 to 1,099,511,627,776, not 0",
    )
    metrics = MetricsConfig(capacity=7)
    assert load_config(StreamConfig, environ={}, metrics=metrics).metrics.capacity == 7
