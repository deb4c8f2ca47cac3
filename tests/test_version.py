"""A version is named alike wherever it stands, and a tag publishes only what has its name."""

import os
import re
import subprocess
import sys
import tomllib
from datetime import date
from pathlib import Path

import pytest
import yaml

from kvstream import __version__
from kvstream.events.codec import FRAME_VERSION
from kvstream.events.log import MAGIC
from kvstream.state.snapshot import VERSION as STATE_VERSION

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / ".github/workflows").glob("*")}


def test_the_newest_version_of_the_changelog_is_this_one():
    heads = re.findall(r"^## \[(.+?)\](?: - (.+))?$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    newest, day = next(head for head in heads if head[0] != "Unreleased")
    assert newest == __version__
    assert date.fromisoformat(day)


def test_formats_has_the_versions_that_are_written():
    text = (ROOT / "docs/formats.md").read_text()
    table = dict(re.findall(r"^\| ([^|]+) \| (\d+) \|", text, re.M))
    versions = {name.split(" (")[0]: int(version) for name, version in table.items()}
    assert versions["encoded frame"] == FRAME_VERSION
    assert versions["`.kvlog` file"] == MAGIC[6]
    assert versions["snapshot of a server's state"] == STATE_VERSION


@pytest.mark.parametrize(("tag", "code"), [(f"v{__version__}", 0), (__version__, 1), ("v999.0.0", 1)])
def test_a_tag_that_is_not_of_this_version_is_not_published(tag, code):
    (check,) = [
        step for step in WORKFLOWS["wheels"]["jobs"]["sdist"]["steps"] if "GITHUB_REF_NAME" in str(step)
    ]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "GITHUB_REF_NAME": tag}
    done = subprocess.run(["bash", "-e", "-c", check["run"]], cwd=ROOT, env=environment, capture_output=True)
    assert done.returncode == code, done.stderr
    assert "sdist" in WORKFLOWS["wheels"]["jobs"]["publish"]["needs"]


def test_every_python_that_is_named_is_tested_and_has_a_wheel():
    named = re.findall(r":: Python :: (3\.\d+)", "\n".join(PROJECT["project"]["classifiers"]))
    assert WORKFLOWS["ci"]["jobs"]["test"]["strategy"]["matrix"]["python"] == named
    built = PROJECT["tool"]["cibuildwheel"]["build"].split()
    assert built == [f"cp{python.replace('.', '')}-*" for python in named]
    assert PROJECT["project"]["requires-python"] == f">={named[0]}"
