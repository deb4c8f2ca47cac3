"""The README is short, and says what the commands really print; its snippets are in test_snippets."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.test_snippets import assert_in_order
from tests.waiting import DEADLINE

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
QUICKSTART = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
ENV = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "COLUMNS": "170",  # a wide terminal, where no line is broken
}


def test_readme_can_be_read_in_one_go():
    assert len(README.splitlines()) <= 150


def test_first_command_prints_what_is_shown():
    (command,) = re.findall(r"^\$ .*(\.venv/bin/kvstream run .*)$", README, re.M)
    command = command.replace(".venv/bin/", "")
    done = subprocess.run(
        ["sh", "-c", f"{command} --output text"],
        cwd=ROOT,
        env=ENV,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert "366,677 events = 366,677 processed" in done.stdout
    assert "366,677 events" in README
    for page in (README, QUICKSTART):
        (shown,) = re.findall(r"^```text\n(.*?)^```$", page, re.M | re.S)
        assert_in_order(shown, done.stdout)


def test_performance_is_a_part_of_the_table_of_the_page():
    table = r"^\| [^|]+ \| ([\d.]+) \| (?:[\d.]+ \| )?([\d.]+) \|(?: [\d.]+ \|)?$"
    rows = set(re.findall(table, (ROOT / "docs" / "performance.md").read_text(encoding="utf-8"), re.M))
    short = re.findall(table, README, re.M)
    assert len(short) == 6
    assert set(short) <= rows


def test_detection_is_what_was_measured():
    page = (ROOT / "docs" / "detection.md").read_text(encoding="utf-8")
    (found,) = re.findall(r"^\| incidents found \| ([\d.]+) \|", page, re.M)
    (delay,) = re.findall(r"^\| median delay, to page \| (\d+) s \|", page, re.M)
    (incidents, hours) = re.search(r"(\d+) incidents at .* and (\d+)\.\d hours in which", page).groups()
    (false,) = re.findall(r"^\| false alerts an hour of quiet \| ([\d.]+) \|", page, re.M)
    text = " ".join(README.split())
    assert f"the rules find {float(found):.0%} of {incidents} incidents".replace("%", " %") in text
    assert f"a median delay of {delay} seconds for those worth a page" in text
    alerts = round(float(false) * int(hours))
    said = "one false alert" if alerts == 1 else f"{alerts} false alerts"
    assert f"raise {said} in {hours} quiet hours" in text
