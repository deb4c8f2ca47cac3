"""Every snippet of the README runs as it is printed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kvstream import default_rules, load_rules
from kvstream.alerts.types import MetricType
from kvstream.events.codec import decode_line
from tests.waiting import DEADLINE

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
ENV = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def snippets(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.M | re.S)


@pytest.mark.parametrize("code", snippets("python"))
def test_python_snippet_runs(code):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert done.returncode == 0, done.stderr


SHELL = list(zip(snippets("sh"), ["exit code 3", "evictions were premature"], strict=True))


@pytest.mark.parametrize(("code", "prints"), [pytest.param(*SHELL[0], marks=pytest.mark.slow), *SHELL[1:]])
def test_shell_snippet_runs(code, prints):
    done = subprocess.run(
        ["sh", "-c", code], cwd=ROOT, env=ENV, capture_output=True, text=True, timeout=DEADLINE
    )
    assert done.returncode == 0, done.stderr
    assert prints in done.stdout


def test_json_snippet_is_an_event():
    (line,) = snippets("json")
    assert decode_line(line).block == json.loads(line)["block"]


def test_toml_snippet_is_a_rules_file(tmp_path):
    (text,) = snippets("toml")
    (tmp_path / "rules.toml").write_text(text)
    assert load_rules(tmp_path / "rules.toml", default_rules())[0][0].threshold == 0.9


def test_first_command_prints_what_is_shown():
    (command,) = re.findall(r"^\$ .*(\.venv/bin/kvstream run .*)$", README, re.M)
    command = command.replace(".venv/bin/", "")
    done = subprocess.run(
        ["sh", "-c", command], cwd=ROOT, env=ENV, capture_output=True, text=True, timeout=DEADLINE
    )
    *alerts, last = map(json.loads, done.stdout.splitlines())
    assert last["accounts"]["processed"] == 366_677
    assert "366,677 events" in README
    for alert in alerts:
        assert (
            f"{alert['state']} {alert['level']}  {alert['rule']}  {alert['source']}/gpu  {alert['message']}"
            in README
        )


def test_every_rule_has_a_row():
    for rule in default_rules():
        assert f"| `{rule.name}` | {rule.level.value} |" in README


def test_metric_names_are_spelled_as_rules_files_spell_them():
    assert {m.value for m in MetricType} >= {"hit_ratio", "lifetime", "never_reused_ratio"}
