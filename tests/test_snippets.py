"""Every snippet of the README and of the pages of the documentation runs, or is read by what it is for."""

import contextlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
import textwrap
import tomllib
import urllib.request
from functools import cache
from pathlib import Path

import pytest
import typer
import yaml

from kvstream import default_rules, load_rules
from kvstream.alerts.labelled import read_labels
from kvstream.cli.app import app, command_named
from kvstream.cli.config_file import check_all
from kvstream.events.codec import decode_line
from kvstream.sources.targets import read_targets
from tests.ports import free_port
from tests.test_deployment import answer, running
from tests.waiting import DEADLINE

ROOT = Path(__file__).parent.parent
PAGES = {
    path.name: path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *ROOT.glob("docs/*.md"))
}
ENV = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "COLUMNS": "112",
}


def found(*languages):
    """(page, text) of each snippet in one of these languages, as parameters of a test."""
    pattern = rf"^( *)```({'|'.join(languages)})\n(.*?)^ *```$"
    return [
        pytest.param(page, textwrap.dedent(text), id=f"{page}-{number}")
        for page, content in PAGES.items()
        for number, (_, _, text) in enumerate(re.findall(pattern, content, re.M | re.S))
    ]


def in_page(page, language):
    return [each.values[1] for each in found(language) if each.values[0] == page]


def test_every_language_is_looked_at():
    languages = {language for text in PAGES.values() for language in re.findall(r"^ *```(\w+)$", text, re.M)}
    assert languages <= {"python", "sh", "console", "json", "toml", "yaml", "ini", "nginx", "text"}


FASTAPI = [each for each in found("python") if "import FastAPI" in each.values[1]]


@pytest.mark.parametrize(("page", "code"), [each for each in found("python") if each not in FASTAPI])
def test_python_runs_and_prints_what_its_comments_say(page, code):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, page, "exec"), {"__name__": "__main__"})
    for printed in re.findall(r"^ *print\(.*\)  # (\d+)$", code, re.M):
        assert printed in out.getvalue().splitlines()


@pytest.mark.slow
def test_fastapi_serves_what_is_pasted_and_drains_as_it_stops(tmp_path):
    pytest.importorskip("fastapi")  # of kvstream[test]
    (snippet,) = FASTAPI
    (tmp_path / "server.py").write_text(snippet.values[1])
    port = free_port()
    (command,) = re.findall(r"`(uvicorn server:app)`", PAGES["embedding.md"])
    (token,) = re.findall(r"/kvstream/\?token=(\w+)", PAGES["embedding.md"])
    with subprocess.Popen(
        [sys.executable, "-m", *command.split(), "--port", str(port)],
        cwd=tmp_path,
        env={**ENV, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            lines = iter(server.stderr.readline, "")
            assert any("Uvicorn running" in line for line in lines)
            url, headers = f"http://127.0.0.1:{port}", {"Authorization": f"Bearer {token}"}
            request = urllib.request.Request(
                f"{url}/generate", b"[1, 2, 3]", {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=DEADLINE) as reply:
                assert json.load(reply) == {"blocks": 3}
            request = urllib.request.Request(f"{url}/kvstream/api/summary", headers=headers)
            summary = {"capacity": None, "blocks_live": 0}
            # Until the producer's frame was applied, and before the summary was begun.
            while summary["capacity"] is None or summary["blocks_live"] < 3:
                with urllib.request.urlopen(request, timeout=DEADLINE) as reply:
                    summary = json.load(reply)
        finally:
            server.terminate()
        assert any("Application shutdown complete" in line for line in lines)
    assert summary["capacity"] == 4096


@pytest.mark.slow
def test_quick_start_shows_the_blocks_of_the_engine_that_a_recording_plays():
    ports = {port: str(free_port()) for port in ("5557", "5558", "9109")}
    text = "\n".join(in_page("quickstart.md", "sh"))
    text = re.sub(r"(?<=:)(5557|5558|9109)\b", lambda port: ports[port[0]], text)
    (replay,) = re.findall(r"^kvstream (replay .*)$", text, re.M)
    follow, *_ = re.findall(r"^kvstream (serve .*)$", text, re.M)
    with running(shlex.split(replay)), running(shlex.split(follow)):
        answer(f"http://127.0.0.1:{ports['9109']}/api/summary", "none", r'"blocks_live":[1-9]')


# Elsewhere the shell needs an engine, a server or a package that is not here: there, options are checked.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "code"),
    [each for each in found("sh") if each.values[0] in ("README.md", "reports.md", "rules.md")],
)
def test_shell_runs_and_prints_what_stands_below_it(page, code):
    done = subprocess.run(
        ["sh", "-c", f"set -e\n{code}"], cwd=ROOT, env=ENV, capture_output=True, text=True, timeout=DEADLINE
    )
    assert done.returncode == 0, done.stderr
    expected = re.search(
        re.escape(textwrap.dedent(code)) + r"```\n+```text\n(.*?)^```", PAGES[page], re.M | re.S
    )
    assert_in_order(expected[1] if expected else "", done.stdout)


def assert_in_order(expected, printed):
    """Each line that is expected is printed, in this order; others may be between them."""
    lines = iter(line.rstrip() for line in printed.splitlines())
    for line in expected.splitlines():
        assert line in lines, line


COMMANDS = typer.main.get_command(app)
command_of = cache(command_named)
COMMAND = re.compile(r"`(kvstream [^`]+)`")


def commands():
    """(page, words) of each command line: in snippets, in sentences, and among a command's examples."""
    for each in found("sh", "console", "ini"):
        page, text = each.values
        for line in text.replace("\\\n", " ").splitlines():
            yield from ((page, part) for part in parts_of(line))
    for page, text in PAGES.items():
        prose = re.sub(r"^( *)```.*?^ *```$", "", text, flags=re.M | re.S)
        yield from ((page, words) for line in COMMAND.findall(prose) for words in parts_of(line))
    for name in COMMANDS.list_commands(None):
        for example in re.findall(r"^  (\S.*kvstream .*|kvstream .*)$", command_of(name).epilog or "", re.M):
            yield from (("--help", words) for words in parts_of(re.split(r" {3,}", example)[0]))


def parts_of(line):
    """The words after ``kvstream`` of each command in a line."""
    lexer = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    words = []
    for word in [*lexer, "|"]:
        if set(word) <= set("|&;<>"):
            names = [Path(each).name.removeprefix("ExecStart=") for each in words]
            if "kvstream" in names and words[0] not in ("vllm", "pip", "docker"):
                yield tuple(words[names.index("kvstream") + 1 :])
            words = []
        else:
            words.append(word)


@pytest.mark.parametrize(("page", "words"), sorted(set(commands())), ids=lambda value: str(value)[:60])
def test_every_command_that_is_shown_has_such_options(page, words):
    words = list(words)
    if not words or words[0] in ("--version", "COMMAND"):
        return
    command = command_of(words.pop(0))
    while words and hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    parser = command.make_parser(command.make_context(command.name, [], resilient_parsing=True))
    _, left, _ = parser.parse_args(words)
    assert set(left) <= {"…"}


def test_addresses_that_are_shown_are_quoted_where_a_shell_would_read_a_pattern():
    """zsh refuses a word with ``?`` or ``*`` that no file fits."""
    shown = [each.values[1] for each in found("sh", "console", "ini")]
    epilogs = [each.epilog or "" for name in COMMANDS.list_commands(None) for each in with_subcommands(name)]
    lines = re.findall(r"^.*\bkvstream .*$", "\n".join(shown + epilogs), re.M)
    assert lines
    assert not [line for line in lines if re.search(r"://\S*[?*]", re.sub(r"'[^']*'|\"[^\"]*\"", "", line))]


def with_subcommands(name):
    command = command_of(name)
    return [command, *getattr(command, "commands", {}).values()]


def exit_codes(command):
    """What the help of a command says of its exit codes; empty if it says nothing."""
    return (command.epilog or "").partition("[bold]Exit codes[/bold]")[2]


@pytest.mark.parametrize(
    "command",
    [each for name in COMMANDS.list_commands(None) for each in with_subcommands(name) if exit_codes(each)],
    ids=lambda command: command.name,
)
def test_the_exit_codes_in_the_help_of_a_command_name_only_options_that_it_has(command):
    options = {option for each in command.params for option in each.opts}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", exit_codes(command))) <= options


def test_json_of_a_page_is_read_by_what_it_is_for(tmp_path):
    (event,) = in_page("concepts.md", "json")
    assert decode_line(event).block == json.loads(event)["block"]
    path = tmp_path / "targets.json"
    (targets,) = in_page("engines.md", "json")
    path.write_text(targets)
    assert read_targets(path) == [each for group in json.loads(targets) for each in group["targets"]]
    path = tmp_path / "labels.jsonl"
    (labels,) = in_page("rules.md", "json")
    path.write_text(labels)
    (incident,) = read_labels(path, 0.0, 2_000.0)
    assert (incident.start, incident.end) == (600, 1200)
    assert len(found("json")) == 3


def test_toml_of_a_page_is_read_by_what_it_is_for(tmp_path):
    path = tmp_path / "kvstream.toml"
    (rules,) = in_page("rules.md", "toml")
    path.write_text(rules)
    assert (
        load_rules(path, default_rules())[0][0].threshold
        == tomllib.loads(rules)["hit_ratio_drop"]["threshold"]
    )
    (settings,) = in_page("settings.md", "toml")
    path.write_text(settings)
    assert 0 not in check_all(path).values()
    assert len(found("toml")) == 2


@pytest.mark.parametrize(("page", "text"), found("yaml"))
def test_yaml_can_be_read(page, text):
    assert list(yaml.safe_load_all(text))
