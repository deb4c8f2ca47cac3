"""The pages of the documentation say what the code does."""

import re
from pathlib import Path

import pytest

from kvstream import default_rules
from kvstream.alerts.rules_file import builtin_text

DOCS = Path(__file__).parent.parent / "docs"
ALERTS = (DOCS / "alerts.md").read_text(encoding="utf-8")
PAGES = sorted(DOCS.glob("*.md"))


def test_every_rule_has_a_section_and_every_section_a_rule():
    names = re.findall(r"^\[(\w+)\]$", builtin_text(), re.M)
    assert re.findall(r"^## (\w+)$", ALERTS, re.M) == names


def test_the_table_of_alerts_has_the_level_and_cause_of_each_rule():
    rows = re.findall(r"^\| \[(\w+)\]\(#\w+\) \| ([\w, ]+) \| (\w+) \|$", ALERTS, re.M)
    rules = {rule.name: rule for rule in default_rules()}
    expected = [
        (name, f"{rule.level}{', then critical' if rule.page else ''}", rule.cause)
        for name, rule in rules.items()
    ]
    assert rows == expected


@pytest.mark.parametrize("name", [rule.name for rule in default_rules()])
def test_every_section_says_why_and_what_to_do(name):
    section = ALERTS.split(f"\n## {name}\n")[1].split("\n## ")[0]
    assert "**Why.**" in section
    assert "**What to do.**" in section


def anchors(page):
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [DOCS.parent / "README.md", *PAGES], ids=lambda page: page.name)
def test_links_lead_to_files_and_sections_that_there_are(page):
    for target, anchor in re.findall(r"\]\((?!https?://)([^)#\s]*)(#[^)\s]+)?\)", page.read_text()):
        there = page if not target else (page.parent / target)
        assert there.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor[1:] in anchors(there), f"{page.name}: {target}{anchor}"
