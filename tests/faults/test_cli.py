"""Every command over what can be wrong with its inputs and outputs: one line, and the right exit code."""

import json
import os
import pty
import resource
import select
import signal
import subprocess
import sys
import time
from typing import NamedTuple

import pytest

from tests.cli.conftest import COMMAND, DEADLINE, ROOT, SCAN, running
from tests.forked import CLOSED, PIPE, Kvstream
from tests.terminals import shown_until_closed

EVENTS = "".join(
    f'{{"type":"alloc","block":{i},"ts":{1767225600 * 10**9 + 2 * i}}}\n'
    f'{{"type":"evict","block":{i},"ts":{1767225600 * 10**9 + 2 * i + 1}}}\n'
    for i in range(2000)
).encode()
FULL, LEAVES = "full", "leaves"


class Ended(NamedTuple):
    code: int
    out: bytes
    err: str

    @property
    def lines(self):
        return self.err.splitlines()


def ended(arguments, stdout=None, stdin=b"", stderr=None, **kwargs):
    """Run a command with a standard output that is full, closed, or read by one who leaves after a byte."""
    with open("/dev/full", "wb") as full:
        pipes = {FULL: full, CLOSED: CLOSED}
        streams = {
            "stdin": CLOSED if stdin == CLOSED else PIPE,
            "stdout": pipes.get(stdout, PIPE),
            "stderr": pipes.get(stderr, PIPE),
        }
        with Kvstream(arguments, **streams, **kwargs) as process:
            if stdout == LEAVES:
                process.stdout.read(1)
                process.stdout.close()
                process.stdin.close()
                out, err = b"", process.stderr.read()
                process.wait()
            else:
                out, err = process.communicate(stdin)
    return Ended(process.returncode, out or b"", (err or b"").decode(errors="replace"))


@pytest.fixture
def folder(tmp_path):
    """A log, and things that are none."""
    (tmp_path / "log.jsonl").write_bytes(EVENTS)
    (tmp_path / "empty").touch()
    (tmp_path / "directory").mkdir()
    (tmp_path / "garbage").write_bytes(bytes((i * 7919 + i // 251) % 256 for i in range(20_000)))
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(500))
    (tmp_path / "readme").write_text("# Title\n\nWords.\n" * 200)
    (tmp_path / "table.csv").write_text("a,b,c\n" + "1,2,3\n" * 200)
    (tmp_path / "page.html").write_text("<!DOCTYPE html>\n<html>\n</html>\n")
    (tmp_path / "pointer").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:5e\nsize 3\n")
    (tmp_path / "rules.toml").write_text("")
    return tmp_path


# Commands that write to standard output; {log} is a recording.
PRINTING = {
    "run": ["run", "{log}", "--json"],
    "run --evictions": ["run", "{log}", "--evictions"],
    "analyze": ["analyze", "{log}"],
    "report": ["report", "{log}"],
    "report md": ["report", "{log}", "--format", "md"],
    "convert": ["convert", "{log}", "-"],
    "convert kvlog": ["convert", "{log}", "-", "--format", "kvlog"],
    "generate": ["generate", "chat", "--events", "5000"],
    "record": ["record", "{log}", "-o", "-"],
    "rules list": ["rules", "list"],
    "rules check": ["rules", "check", "{folder}/rules.toml"],
    "rules test": ["rules", "test", "{folder}/rules.toml", "--on", str(SCAN), "--capacity", "256"],
    "schemas write": ["schemas", "write", "{folder}/schemas"],
    "schemas check": ["schemas", "check", "schemas"],
    "bench": ["bench", "--events", "1000", "--repeats", "1", "--no-latency", "--json"],
    "help": ["--help"],
    "run help": ["run", "--help"],
    "version": ["--version"],
    "serve": ["serve", "--listen", "unix:{folder}/socket", "--json", "--summary-every", "0.1"],
}
SLOWLY = set(PRINTING) - {"run --evictions", "report", "convert", "help"}
printing = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOWLY else name for name in PRINTING]
)


def filled(arguments, folder):
    return [argument.format(log=folder / "log.jsonl", folder=folder) for argument in arguments]


@printing
@pytest.mark.parametrize(("stdout", "says"), [(FULL, "No space left"), (CLOSED, "Bad file descriptor")])
def test_output_that_cannot_be_written_is_one_line_and_exit_code_one(folder, name, stdout, says):
    if name == "serve" and stdout == FULL:
        pytest.skip("goes on and tries again: below")
    done = ended(filled(PRINTING[name], folder), stdout)
    assert (done.code, len(done.lines)) == (1, 1), done.err
    assert says in done.err


@printing
def test_a_reader_that_leaves_ends_it_quietly(folder, name):
    if name == "serve":
        pytest.skip("has nothing to read at once")
    done = ended(filled(PRINTING[name], folder), LEAVES)
    assert done.code == 0
    assert done.err == "" or name in ("record", "schemas check")


@printing
def test_standard_error_that_cannot_be_written_changes_nothing(folder, name):
    if name == "serve":
        pytest.skip("does not end")
    arguments = filled(PRINTING[name], folder)
    done = ended(arguments, stderr=FULL)
    assert done.code == 0
    assert done.out
    if name == "convert":
        assert done.out == EVENTS
        assert ended(arguments, stderr=CLOSED) == done


# Commands that read {input}.
READING = {
    "run": ["run", "{input}"],
    "analyze": ["analyze", "{input}"],
    "report": ["report", "{input}"],
    "convert": ["convert", "{input}", "{folder}/made.kvlog"],
    "record": ["record", "{input}", "-o", "{folder}/made.kvlog"],
    "rules test": ["rules", "test", "{folder}/rules.toml", "--on", "{input}"],
    "replay": ["replay", "{input}", "--to", "unix:{folder}/nobody", "--wait", "0.1"],
}
UNREADABLE = {
    "missing": "No such file",
    "directory": "Is a directory",
    "garbage": "",
    "picture.png": "a PNG image",
    "readme": "Markdown",
    "table.csv": "CSV",
    "page.html": "an HTML page",
    "pointer": "git lfs pull",
}
DEFAULT = {("run", "missing"), ("record", "directory"), ("convert", "pointer"), ("report", "readme")}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param(name, kind, marks=() if (name, kind) in DEFAULT else pytest.mark.slow)
        for name in READING
        for kind in UNREADABLE
        if (name, kind) != ("replay", "garbage")
    ],
)
def test_an_input_of_which_nothing_can_be_read_is_an_error_that_names_it(folder, name, kind):
    arguments = [part.format(input=folder / kind, folder=folder) for part in READING[name]]
    done = ended(arguments)
    assert done.code == 1, done.err
    assert kind in done.lines[-1]
    assert UNREADABLE[kind] in done.lines[-1]
    assert done.out.count(b'"summary"') == 0
    said = ("malformed", "kvstream: further malformed pieces are counted only")
    assert all(line.startswith(said) for line in done.lines[:-1] if name != "record"), done.err
    assert not (folder / "made.kvlog").exists() or name == "record"


@pytest.mark.parametrize(
    "name", [name if name == "run" else pytest.param(name, marks=pytest.mark.slow) for name in READING]
)
def test_an_empty_input_is_no_error_but_said(folder, name):
    if name == "replay":
        pytest.skip("nobody listens")
    arguments = [part.format(input=folder / "empty", folder=folder) for part in READING[name]]
    done = ended(arguments)
    assert done.code == 0, done.err
    assert "empty: no events" in done.err


def test_standard_input_that_is_closed_is_said(folder):
    done = ended(["run", "-"], stdin=CLOSED)
    assert (done.code, done.lines) == (1, ["kvstream: standard input: Bad file descriptor"])


# Commands that write the file {output}.
WRITING = {
    "convert": ["convert", "{log}", "{output}", "--format", "jsonl"],
    "record": ["record", "{log}", "-o", "{output}", "--format", "jsonl"],
    "generate": ["generate", "chat", "--events", "5000", "-o", "{output}", "--format", "kvlog"],
    "report": ["report", "{log}", "-o", "{output}"],
    "evictions": ["report", "{log}", "--format", "md", "--evictions", "{output}.csv"],
    "evictions arrow": ["report", "{log}", "--format", "md", "--evictions", "{output}.arrow"],
    "evictions parquet": ["report", "{log}", "--format", "md", "--evictions", "{output}.parquet"],
    "convert gz": ["convert", "{log}", "{output}.jsonl.gz"],
    "convert zst": ["convert", "{log}", "{output}.jsonl.zst"],
}
UNWRITABLE = {"directory": "Is a directory", "missing/out": "No such file", "/dev/full": "No space left"}
DEFAULT = {
    ("convert", "directory"),
    ("record", "/dev/full"),
    ("report", "missing/out"),
    ("report", "/dev/full"),
}


@pytest.mark.parametrize(
    ("name", "where"),
    [
        pytest.param(name, where, marks=() if (name, where) in DEFAULT else pytest.mark.slow)
        for name, arguments in WRITING.items()
        for where in UNWRITABLE
        if where != "/dev/full" or "{output}" in arguments
    ],
)
def test_an_output_that_cannot_be_written_is_one_line_and_exit_code_one(folder, name, where):
    for ending in (".csv", ".arrow", ".parquet", ".jsonl.gz", ".jsonl.zst"):
        (folder / f"directory{ending}").mkdir()
    log, output = folder / "log.jsonl", folder / where
    done = ended([part.format(log=log, output=output) for part in WRITING[name]])
    assert (done.code, len(done.lines)) == (1, 1), done.err
    assert where in done.err
    assert UNWRITABLE[where] in done.err
    assert not list(folder.glob(".kvstream-*"))


@pytest.mark.parametrize(
    "name", [name if name == "report" else pytest.param(name, marks=pytest.mark.slow) for name in WRITING]
)
def test_a_disk_that_fills_up_leaves_the_file_of_before(folder, name):
    arguments = [part.format(log=folder / "log.jsonl", output=folder / "made") for part in WRITING[name]]
    if name == "record":
        pytest.skip("is appended to")
    assert ended(arguments).code == 0
    (made,) = folder.glob("made*")
    good = made.read_bytes()

    done = ended(arguments)
    assert (done.code, "--force" in done.err) == (1, True)
    done = ended([*arguments, "--force"], limits={resource.RLIMIT_FSIZE: len(good) // 2})
    assert (done.code, len(done.lines)) == (1, 1), done.err
    assert "File too large" in done.err
    assert made.read_bytes() == good
    assert not list(folder.glob(".kvstream-*"))


NOT_UTF8 = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}


def test_a_terminal_that_is_not_utf8_gets_names_escaped(tmp_path):
    event = {"type": "alloc", "block": 1, "ts": 10**18, "source": "\x1b]0;title\x07é"}
    name = "größe-\udcff.jsonl"
    labelled = {**event, "source": "other", "labels": {"tenant": "[/red]"}}
    (tmp_path / name).write_text(f"{json.dumps(event)}\nnonsense\n{json.dumps(labelled)}\n")
    parent, child = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "200", **NOT_UTF8}
    process = subprocess.Popen(
        [*COMMAND, "run", name], cwd=tmp_path, stdin=child, stdout=child, stderr=child, env=environment
    )
    os.close(child)
    shown = shown_until_closed(parent)
    assert process.wait(DEADLINE) == 0, shown
    assert shown.isascii()
    assert b"[/red]: " in shown
    assert rb"\x1b]0;title\x07\xe9 / gpu" in shown
    assert b"\x1b]0;" not in shown
    assert rb"e-\udcff.jsonl: line 2" in shown


def test_a_torn_last_line_is_ended_before_more_is_written(folder):
    out = folder / "out.jsonl"
    out.write_text('{"type":"sum')
    with out.open("ab") as file:
        with running("run", folder / "log.jsonl", stdout=file) as process:
            assert process.wait() == 0
    torn, *lines = out.read_text().splitlines()
    assert torn == '{"type":"sum'
    assert json.loads(lines[-1])["accounts"]["processed"] == 4000


def test_an_unexpected_error_is_one_line_and_its_traceback_there_on_request():
    code = (
        "import kvstream.cli.app as app, kvstream.__main__, sys\n"
        "def fail(*_, **__): raise {error}\n"
        "app.app = fail\n"
        "kvstream.__main__.main()\n"
    )
    for error, says in (("KeyError('x')", "unexpected error: KeyError"), ("MemoryError()", "out of memory")):
        run = [sys.executable, "-c", code.format(error=error)]
        done = subprocess.run(run, capture_output=True, text=True, timeout=DEADLINE)
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
        assert says in done.stderr
    asked = {**os.environ, "KVSTREAM_TRACEBACK": "1"}
    done = subprocess.run(run, capture_output=True, text=True, timeout=DEADLINE, env=asked)
    assert "Traceback" in done.stderr


def test_a_named_pipe_is_read_to_the_end_of_its_writer(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with running("run", pipe, "--json") as process:
        with pipe.open("wb") as writer:  # waits for the reader
            writer.write(EVENTS)
        out, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0
    assert json.loads(out.splitlines()[-1])["accounts"]["processed"] == 4000


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
@pytest.mark.parametrize("follow", [[], ["--follow"]])
def test_a_signal_ends_what_waits_for_the_writer_of_a_pipe(tmp_path, number, follow):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with running("run", pipe, "--json", *follow) as process:
        with pipe.open("wb", buffering=0) as writer:
            if not follow:
                writer.write(EVENTS)
                time.sleep(0.05)
                process.send_signal(number)
                process.wait(DEADLINE)
        if follow:  # the writer has left, and another may come
            process.send_signal(number)
        assert process.wait(DEADLINE) == 128 + number


def test_a_service_goes_on_while_the_disk_is_full(tmp_path):
    with open("/dev/full", "wb") as full:
        serve = ["serve", "--listen", f"unix:{tmp_path}/s", "--json", "--summary-every", "0.1"]
        with running(*serve, stdout=full, stderr=PIPE) as process:
            said = b""
            while b"No space left" not in said:
                assert select.select([process.stderr], [], [], DEADLINE)[0]
                said += os.read(process.stderr.fileno(), 65536)
            process.send_signal(signal.SIGTERM)
            said += process.stderr.read()
            assert process.wait(DEADLINE) == 143
    assert b"lines could not be written" in said
    assert b"Traceback" not in said
