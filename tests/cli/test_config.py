import os
import tomllib
from pathlib import Path

import pytest

FILE = """\
[metrics]
capacity = 16384

[stream]
consumers = 2

[rules.engine_stalled]
enabled = false

[[silences]]
source = "batch-*"
until = 2030-12-01T06:00:00Z

[alerts]
min_severity = "warning"
alert_log = "alerts.jsonl"

[run]
summary_every = "5m"
evictions = true

[serve]
listen = ["unix:kvstream.sock"]
http = ":9109"
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    path = tmp_path / "kvstream.toml"
    path.write_text(FILE)
    monkeypatch.chdir(tmp_path)
    return path


def test_a_right_file_is_summed_up(kvstream, file):
    ran = kvstream("config", "check", "kvstream.toml")
    assert (ran.code, ran.out) == (0, "kvstream.toml: 2 settings, 1 changed rule, 1 silence, 6 options\n")


def test_all_that_is_wrong_with_a_file_is_said_with_lines(kvstream, file):
    text = FILE.replace("capacity", "capcity").replace("consumers = 2", "consumers = 0")
    text = text.replace('"warning"', '"warnin"').replace("engine_stalled", "engine_staled")
    text = text.replace('"5m"', '"soon"').replace("http", "htp").replace('batch-*"', 'batch-*"\nrul = "x"')
    file.write_text(text)
    ran = kvstream("config", "check", "kvstream.toml")
    assert ran.code == 1
    starts = [line.removeprefix("kvstream: kvstream.toml:") for line in ran.err.splitlines()]
    expected = [
        "2: unknown setting capcity; did you mean capacity?",
        "5: consumers must be a whole number",
        "7: rule engine_staled: there is no such rule; did you mean engine_stalled?",
        "12: silence: unknown field rul; did you mean rule?",
        "16: min_severity: 'warnin' is not info, warning or critical",
        "20: summary_every: 'soon' is not a duration",
        "25: unknown option htp; did you mean http?",
    ]
    assert len(starts) == len(expected)
    for line, start in zip(starts, expected, strict=True):
        assert line.startswith(start)


def test_show_prints_a_file_that_can_be_read_again_with_where_each_setting_is_from(kvstream, file):
    env = {"KVSTREAM_WINDOWS": "300"}
    ran = kvstream("config", "show", "--config", "kvstream.toml", env=env)
    assert "capacity = 16384  # kvstream.toml:2\n" in ran.out
    assert "windows = 300  # $KVSTREAM_WINDOWS\n" in ran.out
    assert "sample_rate = 1.0\n" in ran.out
    assert tomllib.loads(ran.out)["stream"]["consumers"] == 2
    Path("again.toml").write_text(ran.out)
    assert kvstream("config", "check", "again.toml").code == 0
    (shown,) = kvstream("config", "show", "--config", "again.toml", "--json").results
    assert (shown["consumers"], shown["metrics"]["windows"]) == (2, 300)


def test_a_command_takes_settings_rules_and_options_from_the_file(kvstream, file, troubles):
    plain = kvstream("run", troubles, "--capacity", 20)
    assert {alert["rule"] for alert in plain.of_type("alert")} == {"occupancy_high", "engine_stalled"}
    assert not plain.of_type("eviction")
    ran = kvstream("run", troubles, "--config", "kvstream.toml")
    assert ran.code == 0
    assert ran.of_type("eviction")
    assert not ran.of_type("alert")  # of info, or of the rule that is off
    assert ran.results[-1]["capacity"] == 2 * 16_384
    assert os.path.getsize("alerts.jsonl") == 0


def test_the_command_line_wins_over_variables_and_these_over_the_file(kvstream, file, troubles):
    env = {"KVSTREAM_CONFIG": "kvstream.toml", "KVSTREAM_CAPACITY": "100"}
    assert kvstream("run", troubles, env=env).results[-1]["capacity"] == 200
    ran = kvstream("run", troubles, "--capacity", 50, "--min-severity", "info", env=env)
    assert ran.results[-1]["capacity"] == 100


def test_a_file_is_never_read_without_being_named(kvstream, file, troubles):
    file.write_text("[[[")
    assert kvstream("run", troubles).code == 0


def test_help_names_the_variables(kvstream):
    assert "$KVSTREAM_TOKEN" in kvstream("--help").out
    wide = {"COLUMNS": "200"}
    assert "[$KVSTREAM_CAPACITY]" in kvstream("run", "--help", env=wide).out
    assert "KVSTREAM_CONFIG" in kvstream("run", "--help", env=wide).out


def test_first_lines_of_the_help_say_how_commands_differ(kvstream):
    for name, words in {
        "run": "once and print what happened",
        "analyze": "why a cache behaves as it does, what would help",
        "report": "on one page",
        "serve": "Keep watching engines until stopped",
    }.items():
        assert words in kvstream(name, "--help", env={"COLUMNS": "200"}).out


def test_completion_prints_a_script_and_answers_it(kvstream):
    assert "_KVSTREAM_COMPLETE" in kvstream("completion", "bash").out
    assert kvstream("completion", "tcsh").code == 2

    def completed(words):
        env = {
            "_KVSTREAM_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split(" ")) - 1),
        }
        return kvstream(env=env).out.split()

    assert completed("kvstream re") == ["report", "record", "replay"]
    assert completed("kvstream run --min-severity ") == ["info", "warning", "critical"]
    assert "--capacity" in completed("kvstream run --cap")
