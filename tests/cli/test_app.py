import json
import os
import pty
import re
import signal
import subprocess
import sys
import textwrap

import pytest

from kvstream.cli.app import command_named
from tests.cli.conftest import CHAT, DEADLINE, running, shown_on_terminal

COMMANDS = [
    *("demo", "run", "analyze", "serve", "top", "report", "rules"),
    *(
        "record",
        "replay",
        "convert",
        "generate",
        "bench",
        "fleet",
        "config",
        "doctor",
        "completion",
        "mark",
        "state",
        "dashboards",
    ),
]


@pytest.mark.parametrize("command", [[], ["schemas"], ["schemas", "write"], *([c] for c in COMMANDS)])
def test_every_command_has_help(kvstream, command):
    ran = kvstream(*command, "--help")
    assert ran.code == 0
    assert "Usage" in ran.out
    if command and command[0] in COMMANDS:
        assert "Examples" in ran.out


def test_help_says_which_results_are_json_where_they_are_piped(kvstream):
    for command in (["doctor"], ["bench"], ["config", "show"]):
        assert "[default: (text)]" in kvstream(*command, "--help", env={"COLUMNS": "200"}).out
    assert kvstream("config", "show").out.startswith("[metrics]")
    assert "JSON where it is piped)]" in kvstream("silence", "list", "--help", env={"COLUMNS": "200"}).out


COLOURS = re.compile(r"\x1b\[[0-9;]*3[0-7]m")


@pytest.mark.parametrize(
    "line",
    [
        "--color never --help",
        "--help --color never",
        "--color never doctor --help",
        "doctor --color never --help",
        "doctor --help --color never",
        "--color always doctor --color never --help",
        "--color never fleet --help",
    ],
)
def test_help_has_no_colours_if_none_are_wanted(line):
    assert not COLOURS.search(shown_on_terminal(*line.split()))


def test_help_has_colours_on_a_terminal_or_if_they_are_wanted(kvstream):
    assert COLOURS.search(shown_on_terminal("doctor", "--help"))
    assert not COLOURS.search(shown_on_terminal("doctor", "--help", NO_COLOR="1"))
    for also in ({}, {"NO_COLOR": "1"}):
        assert COLOURS.search(kvstream("doctor", "--help", "--color", "always", env=also).out)
    assert "\x1b" not in kvstream("doctor", "--help").out


def test_the_last_choice_of_colours_holds_for_help(kvstream):
    for first in ("always", "never"):
        line = ("--color", first, "doctor", "--color", "auto", "--help")
        assert "\x1b" not in kvstream(*line).out
        assert COLOURS.search(shown_on_terminal(*line))
        assert not COLOURS.search(shown_on_terminal(*line, NO_COLOR="1"))


def test_help_that_cannot_be_written_is_no_mistake_of_the_command_line(monkeypatch):
    def leave(*_):
        raise BrokenPipeError(32, "Broken pipe", "standard output")

    command = command_named.__wrapped__("run")
    monkeypatch.setattr(command, "format_help", leave)
    with pytest.raises(SystemExit) as ended:  # as typer makes of it, which the command ends quietly at
        command.main(["--help"], standalone_mode=False)
    assert isinstance(ended.value.__context__, BrokenPipeError)


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (80, "zmq://vllm-0:5557\n       does the engine publish, and what?\n"),
        (120, "zmq://vllm-0:5557                     does the engine publish, and what?\n"),
    ],
)
def test_what_an_example_does_stands_below_it_in_a_narrow_terminal(capsys, monkeypatch, width, shown):
    monkeypatch.setenv("COLUMNS", str(width))
    command_named.__wrapped__("doctor").main(["--help"], standalone_mode=False)
    assert shown in re.sub(" +\n", "\n", capsys.readouterr().out)


def test_a_file_that_may_not_be_read_is_no_mistake_of_the_command_line(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *args, **options: False)
    (tmp_path / "rules.toml").write_text("")
    with command_named("run").make_context(
        "run", [str(CHAT), "--rules", f"{tmp_path}/rules.toml"]
    ) as context:
        assert context.params["rules"] == tmp_path / "rules.toml"


@pytest.mark.parametrize("columns", ["0", "1", "9", "wide"])
def test_a_terminal_of_no_width_is_no_error(kvstream, columns):
    ran = kvstream("doctor", "--help", env={"COLUMNS": columns})
    assert (ran.code, ran.err) == (0, "")


@pytest.mark.parametrize(
    "command",
    ["generate chat --format wire", f"convert {CHAT} - --format kvlog", f"record {CHAT} -o - --format kvlog"],
)
def test_no_binary_format_is_written_to_a_terminal(command):
    parent, child = pty.openpty()
    try:
        with running(*command.split(), stdout=child, stderr=subprocess.PIPE) as process:
            _, err = process.communicate(timeout=DEADLINE)
            assert process.returncode == 1
    finally:
        os.close(parent)
        os.close(child)
    assert re.fullmatch(rb"kvstream: (wire|kvlog) is binary; name a file, or pipe it\n", err)


def test_warnings_of_libraries_are_not_shown():
    code = """
        import warnings
        from kvstream.cli import app
        app._contain_background_errors()
        warnings.warn('deep', RuntimeWarning)
    """
    for variable in ("", "1"):
        env = {**os.environ, "KVSTREAM_TRACEBACK": variable}
        command = [sys.executable, "-c", textwrap.dedent(code)]
        ran = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
        assert ("deep" in ran.stderr) is bool(variable)


def test_no_command_is_forgotten(kvstream):
    assert set(re.findall(r"^│ (\w+) ", kvstream("--help").out, re.M)) == {*COMMANDS, "schemas", "silence"}


def test_version_is_printed(kvstream):
    assert kvstream("--version").out.startswith("kvstream 0.")


BENCH = ("bench", "--events", 2000, "--repeats", 1, "--no-latency")


def test_bench_measures_every_part_beside_the_plain_collectors(kvstream, tmp_path):
    document = json.loads(kvstream(*BENCH, "--json").out)
    report = document["throughput"]
    results = {r["part"]: r for r in report["results"]}
    assert results["plain collector, 100 %"]["of_plain"] == 1.0
    assert results["plain collector, 1 % (the rival)"]["of_sampled"] == 1.0
    assert results["plain collector, 1 % (the rival)"]["net_of_sampled"] == 1.0
    assert sum(r["net_of_sampled"] is not None for r in results.values()) == 6
    assert len(results) == 23
    assert all(r["ns_per_event"] > 0 for r in results.values())
    facts = {"python", "numpy", "core", "system", "processor", "cores"}
    assert report["machine"].keys() == facts
    compare(kvstream, document, tmp_path / "before.json")


def compare(kvstream, document, earlier):
    """Measures again, against a document that says another thing."""
    for result in document["throughput"]["results"]:
        result["of_plain"] *= 0.001 if result["part"] == "encode frames" else 1000
    earlier.write_text(json.dumps(document))
    ran = kvstream(*BENCH, "--compare", earlier)
    assert ran.code == 3
    assert re.findall("slower: (.*) costs", ran.err) == ["encode frames"]
    assert "events/s" in ran.out  # beside its M, or below where other columns are wide
    assert "before" in ran.out


def test_bench_says_what_it_cannot_compare_with(kvstream, tmp_path):
    other = tmp_path / "before.json"
    other.write_text("{}")
    ran = kvstream(*BENCH, "--compare", other)
    assert ran.code == 1
    assert "not the JSON of kvstream bench" in ran.err


def test_core_imports_without_the_command_lines_packages():
    code = (
        "import sys\n"
        "for name in ('typer', 'rich', 'zstandard'): sys.modules[name] = None\n"
        "import kvstream.__main__, kvstream\n"
        "sys.argv = ['kvstream', 'run']\n"
        "kvstream.__main__.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode == 1
    assert "pip install 'kvstream[cli]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_reading_zstd_without_its_package_says_what_to_install(tmp_path):
    code = (
        "import sys; sys.modules['zstandard'] = None\n"
        "from kvstream.sources.reader import EventReader\n"
        "list(EventReader('x').feed(b'\\x28\\xb5\\x2f\\xfd0000'))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=DEADLINE)
    assert "pip install 'kvstream[zstd]'" in done.stderr


@pytest.mark.parametrize(
    ("module", "arguments", "extra"),
    [
        ("starlette", ["demo"], "web"),
        ("uvicorn", ["serve", "--listen", "unix:nowhere.sock", "--http", "127.0.0.1:0"], "web"),
        ("prometheus_client", ["demo"], "prometheus"),
        ("pyarrow", ["report", CHAT, "--evictions", "nowhere.parquet"], "pyarrow"),
        ("opentelemetry", ["run", CHAT, "--otlp", "http://127.0.0.1:4318"], "otel"),
        ("httpx2", ["run", CHAT, "--webhook", "http://127.0.0.1/"], "webhook"),
        (
            "standardwebhooks",
            ["run", CHAT, "--webhook", "http://h/", "--webhook-secret-file", __file__],
            "webhook",
        ),
        ("apprise", ["run", CHAT, "--apprise", f"@{__file__}"], "apprise"),
        ("zmq", ["run", "zmq://127.0.0.1:5557"], "zmq"),
    ],
)
def test_what_needs_an_extra_says_which(kvstream, module, arguments, extra):
    ran = kvstream(*arguments, without=module)
    assert ran.code == 1
    assert f"pip install 'kvstream[{extra}]'" in ran.err
    assert "Traceback" not in ran.err


def ended_by(command):
    """The exit code and standard error of a command that is this Python code."""
    code = f"""
import os, signal, sys, threading, time
import anyio
from kvstream.cli import app

signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's job in the background ignores

def command(**_):
{textwrap.indent(textwrap.dedent(command), "    ")}

app.app = command
sys.exit(app.run_app())
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=DEADLINE, check=False)
    return ran.returncode, ran.stderr.decode()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_comes_where_nothing_can_be_raised_ends_the_command_all_the_same(number):
    command = f"""
    class Last:
        def __del__(self):
            os.kill(os.getpid(), {int(number)})  # what its handler raises is ignored here
    Last()
    time.sleep({DEADLINE})
    """
    assert ended_by(command) == (128 + number, "")


def test_sigterm_while_a_worker_thread_starts_leaves_no_thread_behind_that_is_waited_for():
    command = """
    start = threading.Thread.start
    def start_and_stop(thread):
        start(thread)
        os.kill(os.getpid(), signal.SIGTERM)
    threading.Thread.start = start_and_stop
    anyio.run(anyio.to_thread.run_sync, time.sleep, 0.1)
    """
    assert ended_by(command) == (143, "")
