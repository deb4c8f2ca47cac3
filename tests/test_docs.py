"""The pages of the documentation say what the code does."""

import re
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
import yaml

from kvstream import default_rules
from kvstream.alerts.rules_file import builtin_text
from kvstream.cli.app import app

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
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


def test_every_metric_of_a_fleet_has_a_row_and_every_row_a_metric():
    pytest.importorskip("confluent_kafka")
    from kvstream.fleet import agent, notifier, worker, worker_metrics

    errors = SimpleNamespace(counts={})
    written = dict.fromkeys(("offered", "written", "waiting", "frames", "written_bytes", "malformed"), 0)
    log = SimpleNamespace(statistics=lambda: SimpleNamespace(dropped={}, **written), faults=errors)
    workers = SimpleNamespace(counts=dict.fromkeys(worker.COUNTS, 0), faults=errors, statistics=list)
    relay = SimpleNamespace(counts=dict.fromkeys(notifier._COUNTS, 0))
    handlers = SimpleNamespace(statistics=lambda: SimpleNamespace(subscribers=()))
    samples = (agent.samples(log, []), worker_metrics.samples(workers), notifier.samples(relay, handlers))
    expected = [(name, ", ".join(labels), text) for each in samples for name, text, _, labels in each]
    page = (DOCS / "fleet.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(kvstream_\w+)` \| ([\w, ]*) \| (.+) \|$", page, re.M) == expected


@pytest.mark.parametrize(
    ("page", "file"), [("dashboard.md", "kvstream.rules.yml"), ("fleet.md", "kvstream.fleet.rules.yml")]
)
def test_every_alert_of_prometheus_has_a_row_and_every_row_an_alert(page, file):
    text = (ROOT / "kvstream" / "exporters" / "dashboards" / file).read_text(encoding="utf-8")
    names = re.findall(r"^ *- alert: (KVStream\w+)$", text, re.M)
    assert names
    assert re.findall(r"^\| `(KVStream\w+)` \|", (DOCS / page).read_text(encoding="utf-8"), re.M) == names


def test_every_command_has_a_row_and_every_row_a_command():
    rows = re.findall(r"^\| `kvstream (\w+)` \|", (DOCS / "commands.md").read_text(), re.M)
    assert rows == typer.main.get_command(app).list_commands(None)


def test_every_extra_has_a_row_and_every_row_an_extra():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    rows = re.findall(r"^\| (`kvstream\[.*\]`) \|", (DOCS / "quickstart.md").read_text(), re.M)
    named = re.findall(r"kvstream\[(\w+)\]", " ".join(rows))
    assert sorted(named) == sorted(extras.keys() - {"test", "lint", "docs"})


def test_every_page_is_in_the_navigation():
    class Loader(yaml.SafeLoader):
        """Reads the file as far as it is plain YAML."""

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
    text = (ROOT / "mkdocs.yml").read_text()
    nav = yaml.load(text, Loader)["nav"]
    named = re.findall(r"[\w-]+\.md", str(nav))
    assert sorted(named) == [page.name for page in PAGES]


def anchors(page):
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES], ids=lambda page: page.name
)
def test_links_lead_to_files_and_sections_that_there_are(page):
    for target, anchor in re.findall(r"\]\((?!https?://)([^)#\s]*)(#[^)\s]+)?\)", page.read_text()):
        there = page if not target else (page.parent / target)
        assert there.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor[1:] in anchors(there), f"{page.name}: {target}{anchor}"
