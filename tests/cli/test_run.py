import gzip
import json
import re
import select
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from kvstream.events.codec import encode_lines
from kvstream.events.frame import EventFrame
from kvstream.events.log import MAGIC, encode_record
from tests.alerting import endpoint
from tests.cli.conftest import CAPACITY, CHAT, DEADLINE, INCIDENT, SCAN, running, shown_on_terminal
from tests.ports import free_port


def lines(count, first_ns=0, step_ns=1000):
    frame = EventFrame(
        np.zeros(count, np.uint8), np.arange(count), first_ns + np.arange(count) * step_ns, "engine-0"
    )
    return encode_lines(frame.to_events())


def wait_for_line(process, wanted):
    """The first line of output that has ``wanted`` in it."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        if select.select([process.stdout], [], [], 1)[0]:
            line = process.stdout.readline()
            if wanted in line:
                return line
            if not line:
                break
    raise AssertionError(f"no line with {wanted!r}")


def test_two_logs_at_once_give_one_summary_and_the_alerts_of_each(kvstream):
    ran = kvstream("run", CHAT, SCAN, "--capacity", 256)
    assert ran.code == 0
    (summary,) = ran.of_type("summary")
    assert summary["final"]
    assert summary["capacity"] == 512
    assert summary["accounts"]["processed"] == 190_000
    fired = {(a["source"], a["rule"]) for a in ran.of_type("alert")}
    assert fired == {("vllm-scan", "occupancy_high"), ("vllm-chat", "occupancy_high")}


def test_an_incident_of_one_engine_is_one_alert_that_rises_and_ends(kvstream):
    ran = kvstream("run", INCIDENT, "--min-severity", "warning", "--fail-on", "critical")
    assert ran.code == 3
    alerts = [(a["source"], a["rule"], a["level"], a["state"]) for a in ran.of_type("alert")]
    assert alerts == [
        ("vllm-1", "hit_ratio_drop", "warning", "firing"),
        ("vllm-1", "hit_ratio_drop", "critical", "firing"),
        ("vllm-1", "hit_ratio_drop", "critical", "resolved"),
    ]


def test_a_source_that_falls_silent_for_good_is_reported_at_the_end_of_the_file(kvstream, tmp_path):
    both = tmp_path / "both.jsonl"
    silent, steady = (
        [
            {"type": "access", "block": 1, "ts": (10**6 + second) * 10**9, "source": source}
            for second in range(seconds)
        ]
        for source, seconds in (("silent", 60), ("steady", 120))
    )
    events = sorted([*silent, *steady], key=lambda event: event["ts"])
    both.write_text("".join(json.dumps(event) + "\n" for event in events))
    (tmp_path / "steady.jsonl").write_text("".join(json.dumps(event) + "\n" for event in steady))
    (tmp_path / "silent.jsonl").write_text("".join(json.dumps(event) + "\n" for event in silent))
    with both.open("rb") as file, running("run", "-", stdin=file) as from_file:
        piped, _ = from_file.communicate()
    stalled = [("silent", "engine_stalled", 10**6 + 91.0)]
    apart = kvstream("run", tmp_path / "silent.jsonl", tmp_path / "steady.jsonl").out
    # A recording that has ended is not an engine that has fallen silent.
    for out, expected in ((kvstream("run", both).out, stalled), (piped.decode(), stalled), (apart, [])):
        results = [json.loads(line) for line in out.splitlines()]
        found = [(r["source"], r["rule"], r["timestamp"]) for r in results if r["type"] == "alert"]
        assert found == expected


def test_standard_input_is_read_when_nothing_is_named(kvstream):
    for args in ([], ["-"]):
        assert kvstream("run", *args, stdin=lines(10)).results[-1]["blocks_live"] == 10
    packed = gzip.compress(lines(10))
    assert kvstream("run", stdin=packed).results[-1]["blocks_live"] == 10


def test_summaries_come_by_recorded_time(kvstream):
    ran = kvstream("run", "--summary-every", 0.5, stdin=lines(40, step_ns=100_000_000))
    summaries = ran.of_type("summary")
    assert [s["blocks_live"] for s in summaries] == [5, 10, 15, 20, 25, 30, 35, 40]
    assert [s["final"] for s in summaries] == [False] * 7 + [True]


def test_evictions_are_written_on_request(kvstream):
    stdin = b'{"type":"alloc","block":7,"ts":0}\n{"type":"evict","block":7,"ts":1500000000}\n'
    ran = kvstream("run", "--evictions", stdin=stdin)
    (event,) = ran.of_type("eviction")
    assert (event["block_id"], event["lifetime_seconds"], event["reason"]) == (7, 1.5, "capacity")
    assert not kvstream("run", stdin=stdin).of_type("eviction")


def test_min_level_hides_lesser_alerts(kvstream, troubles):
    for options, seen in (((), {"info", "warning"}), (("--min-severity", "warning"), {"warning"})):
        ran = kvstream("run", troubles, "--capacity", CAPACITY, *options)
        assert {a["level"] for a in ran.of_type("alert")} == seen


def test_fail_on_exits_with_three_if_such_an_alert_fired(kvstream, troubles):
    assert kvstream("run", troubles, "--fail-on", "warning").code == 3
    assert kvstream("run", troubles, "--fail-on", "critical").code == 0


def test_rules_file_changes_the_alerts(kvstream, tmp_path, troubles):
    rules = tmp_path / "rules.toml"
    rules.write_text("[engine_stalled]\nenabled = false\n")
    ran = kvstream("run", troubles, "--capacity", CAPACITY, "--rules", rules, "--fail-on", "warning")
    assert ran.code == 0
    assert {alert["rule"] for alert in ran.of_type("alert")} == {"occupancy_high"}


def test_malformed_lines_are_listed_by_position_and_the_rest_kept(kvstream):
    ran = kvstream("run", stdin=lines(3) + b"oops\n" + lines(2, 10**6))
    (bad,) = ran.of_type("malformed")
    assert (bad["origin"], bad["unit"], bad["position"]) == ("-", "line", 4)
    accounts = ran.results[-1]["accounts"]
    assert (accounts["processed"], accounts["malformed"], accounts["offered"]) == (5, 1, 6)
    assert ran.code == 0


def test_strict_stops_at_the_first_malformed_line(kvstream):
    ran = kvstream("run", "--strict", stdin=lines(3) + b"oops\n")
    assert ran.code == 1
    assert "-: line 4" in ran.err
    assert "Traceback" not in ran.err
    assert ran.results[-1]["type"] == "summary"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["run", "no-such-file"], "no-such-file: No such file"),
        (["run", "."], "Is a directory"),
        (["run", "--rules", "no.toml", "-"], "no.toml"),
        (["generate", "chat", "-o", "x.bin"], "--format"),
        (["schemas", "check", "no-such-folder"], "out of date"),
    ],
)
def test_errors_are_one_message_and_exit_code_one(kvstream, args, says):
    ran = kvstream(*args)
    assert ran.code == 1
    assert says in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["run", "--capacity", "0", "-"], "--capacity"),
        (["run", "--nonsense"], "--nonsense"),
        (["generate", "chess"], "chess"),
        (["fly"], "fly"),
    ],
)
def test_a_wrong_command_line_exits_with_two_and_says_how_to_get_help(kvstream, args, says):
    ran = kvstream(*args)
    assert ran.code == 2
    assert says in ran.err
    assert "--help" in ran.err
    assert "Traceback" not in ran.err


def test_a_file_of_another_kind_is_refused(kvstream):
    ran = kvstream("run", stdin=b"\x7fELF\x00\x00\x00\x00\x00")
    assert ran.code == 1
    assert "not JSON lines" in ran.err


def test_speed_paces_the_replay(kvstream):
    start = time.monotonic()
    ran = kvstream("run", "--speed", 10, stdin=lines(11, step_ns=10**9))
    assert ran.results[-1]["blocks_live"] == 11
    assert time.monotonic() - start >= 1.0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_drains_and_prints_the_final_summary(number):
    with running("run", "-", "--summary-every", "0.0001", stdin=subprocess.PIPE) as process:
        process.stdin.write(lines(1000))
        wait_for_line(process, b'"type":"summary"')
        process.send_signal(number)
        rest = process.stdout.read()
        assert process.wait(DEADLINE) == 128 + number
    last = json.loads(rest.splitlines()[-1])
    assert last["final"]
    assert last["accounts"]["processed"] == 1000


def test_follow_reads_on_as_the_file_grows_and_is_replaced(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_bytes(lines(10))
    evict = b'{"type":"evict","block":%d,"ts":2000000000,"source":"engine-0"}\n'
    with running("run", path, "--follow", "--evictions", "--summary-every", "1") as process:
        with path.open("ab") as file:
            file.write(evict % 3)
        assert json.loads(wait_for_line(process, b'"type":"eviction"'))["block_id"] == 3
        new = tmp_path / "new"
        new.write_bytes(evict % 4)
        new.rename(path)
        assert json.loads(wait_for_line(process, b'"type":"eviction"'))["block_id"] == 4
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(DEADLINE) == 130


def test_a_closed_pipe_ends_quietly():
    with running("run", SCAN, "--evictions", stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(DEADLINE) == 0


@pytest.mark.parametrize(
    ("colour", "options", "variables"),
    [
        (True, (), {}),
        (True, ("--color", "always"), {"NO_COLOR": "1"}),
        (False, (), {"NO_COLOR": "1"}),
        (False, ("--color", "never"), {}),
    ],
)
def test_a_terminal_sees_tables_and_colours_unless_told_not_to(
    troubles, tmp_path, colour, options, variables
):
    rules = tmp_path / "rules.toml"
    rules.write_text('[occupancy_high]\nlevel = "critical"\n')
    options = ("--capacity", CAPACITY, "--rules", rules, *options)
    text = shown_on_terminal("run", troubles, *options, **variables)
    assert "occupancy_high" in text
    assert "216 events = 216 processed" in text
    assert ("\x1b[1;31m" in text) is colour


@pytest.mark.parametrize(
    "unreadable",
    [b"\x7fELF\x02\x01\x01\x00" * 9, b"nonsense\n" * 3_000, "/proc/self/mem"],
    ids=["unknown format", "no events", "error of the system"],
)
@pytest.mark.parametrize("bad_is_last", [True, False])
def test_an_input_that_cannot_be_read_ends_no_other(kvstream, tmp_path, unreadable, bad_is_last):
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad"
    good.write_bytes(lines(2_000))
    if isinstance(unreadable, bytes):
        bad.write_bytes(unreadable)
    else:
        bad = Path(unreadable)  # its first byte cannot be read
    ran = kvstream("run", *((good, bad) if bad_is_last else (bad, good)), "--json")
    assert ran.code == 1
    assert ran.err.count(f"kvstream: {bad}: ") == 1
    (summary,) = ran.of_type("summary")
    assert summary["final"]
    assert summary["accounts"]["processed"] == 2_000
    for arguments in ((bad, bad), (bad, good, "--strict")):
        ended = kvstream("run", *arguments, "--json")
        assert (ended.code, ended.of_type("summary")) == (1, [])
        assert f"kvstream: {bad}: " in ended.err


@pytest.fixture
def executable(tmp_path):
    path = tmp_path / "executable"
    path.write_bytes(b"\x7fELF\x02\x01\x01\x00")
    return path


@pytest.mark.parametrize(
    ("options", "code"), [((), 1), (("--fail-on", "warning"), 3), (("--on-alert", "false"), 4)]
)
def test_an_unreadable_input_hides_no_other_exit_code(kvstream, troubles, executable, options, code):
    ran = kvstream("run", troubles, executable, "--capacity", CAPACITY, *options)
    assert ran.code == code
    assert f"kvstream: {executable}: " in ran.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_counts_more_than_an_input_that_cannot_be_read(tmp_path, executable, number):
    good = tmp_path / "good.jsonl"
    good.write_bytes(lines(1_000))
    options = ("--follow", "--summary-every", "0.0001")
    with running("run", good, executable, *options, stderr=subprocess.PIPE) as process:
        assert process.stderr.readline().startswith(f"kvstream: {executable}: ".encode())
        wait_for_line(process, b'"type":"summary"')
        process.send_signal(number)
        process.communicate()
        assert process.wait(DEADLINE) == 128 + number


def test_no_figures_are_shown_of_inputs_that_cannot_be_read_beside_one_without_events(
    kvstream, tmp_path, executable
):
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    for arguments in ((executable, empty), (empty, executable)):
        ran = kvstream("run", *arguments)
        assert (ran.code, ran.out) == (1, "")
        assert f"kvstream: {executable}: " in ran.err


def test_no_command_is_advised_for_an_input_that_cannot_be_read(troubles, executable):
    assert f"kvstream analyze {troubles} says why" in shown_on_terminal("run", troubles)
    text = shown_on_terminal("run", executable, troubles, code=1)
    assert "216 events = 216 processed" in text
    assert "kvstream analyze" not in text


def test_a_log_is_read_from_a_pipe(kvstream):
    frames = [
        EventFrame(np.zeros(5, np.uint8), np.arange(5) + 5 * i, np.arange(5), "s", seq=seq)
        for i, seq in enumerate([0, 1, 1, 4])
    ]
    log = MAGIC + b"".join(map(encode_record, frames))
    accounts = kvstream("run", stdin=log).results[-1]["accounts"]
    assert accounts["lost_frames"] == 2
    assert accounts["duplicate_frames"] == 1
    assert accounts["dropped"] == {"duplicate": 5}
    assert accounts["offered"] == 20


def test_alerts_go_to_a_command_a_webhook_and_a_file(kvstream, tmp_path, troubles):
    script = tmp_path / "page.sh"
    script.write_text(f"#!/bin/sh\ncat >> {tmp_path}/paged\n")
    script.chmod(0o755)
    with endpoint(200) as (url, received):
        ran = kvstream(
            *("run", troubles, "--capacity", CAPACITY, "--on-alert", script),
            *("--webhook", url, "--slack", f"{url}/slack", "--alert-log", tmp_path / "log.jsonl"),
        )
    assert ran.code == 0, ran.err
    alerts = ran.of_type("alert")
    assert len(alerts) == 3
    assert [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()] == alerts
    assert [json.loads(line) for line in (tmp_path / "paged").read_text().splitlines()] == alerts
    posted = [json.loads(body) for path, _, body in received if path == "/"]
    assert sorted(a["rule"] for a in posted) == sorted(a["rule"] for a in alerts)
    messages = [json.loads(body)["text"] for path, _, body in received if path == "/slack"]
    assert len(messages) <= len(alerts)
    assert all(any(alert["rule"] in text for text in messages) for alert in alerts)


def test_a_handler_that_fails_is_one_line_and_does_not_stop_the_run(kvstream, troubles):
    ran = kvstream("run", troubles, "--capacity", CAPACITY, "--on-alert", "false", "--json")
    assert ran.code == 4
    assert "kvstream: command false: not delivered: false ended with 1" in ran.err
    assert re.search(r"^not delivered: \d+ alerts to command false$", ran.err, re.MULTILINE)
    assert "Traceback" not in ran.err


def test_a_collector_that_is_not_there_is_said_once_and_exits_with_4(kvstream, troubles):
    url = f"http://127.0.0.1:{free_port()}"
    ran = kvstream(
        "run",
        *(troubles, "--capacity", CAPACITY, "--json", "--otlp", url),
        env={"KVSTREAM_DELIVERY_TIMEOUT": "0.1"},
    )
    assert ran.code == 4
    logged, *listed = ran.err.splitlines()
    assert logged == (
        f"kvstream: OTLP {url}: not delivered, will be tried again: connection refused: nothing listens there"
    )
    assert re.fullmatch(rf"not delivered: \d+ alerts to OTLP {url}", listed[0])
    assert listed[1:] == [f"not delivered: the newest metrics to OTLP {url}"]


def test_the_state_of_a_recording_is_not_kept(kvstream, tmp_path):
    ran = kvstream("run", CHAT, "--state", tmp_path)
    assert ran.code == 1
    assert "the state of a recording is not kept" in ran.err


def test_what_came_through_a_pipe_is_kept_at_its_end(kvstream, tmp_path):
    for count in (1, 2):
        line = json.dumps({"type": "alloc", "block": count, "ts": (10**9 + count) * 10**9, "source": "a"})
        ran = kvstream("run", "-", "--state", tmp_path, stdin=line.encode() + b"\n")
        assert ran.code == 0
        assert ran.results[-1]["blocks_live"] == count
        assert "standard input cannot be read again" in ran.err
