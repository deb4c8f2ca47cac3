import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.forked import PIPE, Kvstream
from tests.waiting import DEADLINE

ROOT = Path(__file__).parent.parent
INCIDENT, CHAT = "examples/data/incident.kvlog.gz", "examples/data/chat.kvlog.gz"
ENV = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def run(*command, **options):
    done = subprocess.run(
        command, cwd=ROOT, env=ENV, capture_output=True, text=True, timeout=DEADLINE, check=True, **options
    )
    return done.stdout


def test_alert_handler_hears_of_the_incident():
    out = run(sys.executable, "examples/alert_handler.py", INCIDENT)
    assert "firing critical: vllm-1: hit ratio fell" in out
    assert "balanced: True" in out


@pytest.mark.parametrize(
    ("recording", "critical"), [(CHAT, 0), pytest.param(INCIDENT, 2, marks=pytest.mark.slow)]
)
def test_pipe_prints_what_is_critical(recording, critical):
    with (ROOT / recording).open("rb") as log:
        out = run("sh", "examples/pipe.sh", stdin=log)
    said = re.findall(r"^(wake someone|at the end)", out, re.M)
    assert said == [*["wake someone"] * critical, "at the end"]


def test_embedded_server_answers_with_the_figures_of_its_engine():
    process = subprocess.Popen(
        [sys.executable, "examples/embed_server.py", "--port", "0"],
        cwd=ROOT,
        env=ENV,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            url = re.search(r"http://\S+", process.stdout.readline())[0].removesuffix("/kv")
            for prompt in (0, 100, 0, 200, 0):
                urllib.request.urlopen(f"{url}/generate/{prompt}", timeout=DEADLINE).read()
            summary = json.load(urllib.request.urlopen(f"{url}/kv", timeout=DEADLINE))
        finally:
            process.terminate()
    assert summary["blocks_live"] == 24
    assert summary["accesses"] == 16
    assert summary["hit_rate_estimate"] == 0.4


def test_hooks_are_converted_to_an_event_log(tmp_path):
    hooks = tmp_path / "hooks.jsonl"
    calls = [("alloc", 1), ("access", 1), ("evict", 1), ("alloc", 2), ("reset", -1)]
    hooks.write_text(
        "".join(json.dumps({"t_ns": i, "op": op, "block_id": b}) + "\n" for i, (op, b) in enumerate(calls))
    )
    run(sys.executable, "examples/convert_hooks.py", str(hooks), str(tmp_path / "x.kvlog"), "--source", "v")
    with Kvstream(["run", tmp_path / "x.kvlog"], stdout=PIPE) as process:
        out, _ = process.communicate()
    summary = json.loads(out.splitlines()[-1])
    assert summary["accounts"]["allocations"] == 2
    assert summary["evictions_by_reason"]["capacity"] == 1
    assert summary["evictions_by_reason"]["cleared"] == 1


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.name)
def test_examples_say_what_they_are_for(path):
    assert path.read_text().startswith('"""')
