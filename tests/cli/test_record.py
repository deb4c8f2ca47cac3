"""record, replay and convert, among themselves and with a real publisher."""

import json
import select
import signal
import subprocess
import time

import msgspec
import pytest

from kvstream.cli.record import record_command
from kvstream.sinks.event_log import RotatingWriter
from tests.cli.conftest import DEADLINE, SCAN, running
from tests.publisher import DATA, Engine, captured

CHAT_WIRE = DATA / "chat.wire.gz"
CHAT_BATCHES = 3_952
CHAT = {"processed": 34_611, "allocations": 17_430, "evicted": 17_181, "live": 249}


def accounts(kvstream, *args):
    ran = kvstream("run", *args)
    assert ran.code == 0, ran.err
    return ran.of_type("summary")[0]["accounts"]


def wait_until_recorded(path, process, enough=lambda data: len(data) > 100):
    """Waits for enough bytes in a file; recordings are flushed every second."""
    end = time.monotonic() + DEADLINE
    while not (path.exists() and enough(path.read_bytes())):
        assert time.monotonic() < end, f"not enough in {path}"
        select.select([process.stdout], [], [], 0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_publisher_is_recorded_and_the_recording_survives_a_kill(kvstream, tmp_path, number):
    log = tmp_path / "run.kvlog"
    with Engine() as engine, running("record", engine.url, "-o", log, stderr=subprocess.PIPE) as process:
        engine.publish(captured("chat"))
        assert engine.subscribed.wait(DEADLINE)
        wait_until_recorded(log, process)
        end = time.monotonic() + DEADLINE
        while accounts(kvstream, log)["processed"] < CHAT["processed"] and time.monotonic() < end:
            pass
        process.send_signal(number)
        _, printed = process.communicate(timeout=DEADLINE)
    found = accounts(kvstream, log)
    assert {name: found[name] for name in CHAT} == CHAT
    assert found["malformed"] == found["lost_frames"] == 0
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert b"34,611 events" in printed


def test_recordings_rotate_by_size_and_are_read_as_one(kvstream, tmp_path):
    ran = kvstream("record", SCAN, "-o", tmp_path / "part.kvlog", "--rotate-mb", "0.5")
    assert ran.code == 0
    parts = sorted(tmp_path.glob("part-*.kvlog"))
    assert parts[0].name == "part-0001.kvlog"
    assert len(parts) >= 4
    assert all(part.stat().st_size < 700_000 for part in parts)
    assert accounts(kvstream, *parts)["processed"] == 150_000


def test_only_the_newest_files_of_a_recording_are_kept(kvstream, tmp_path):
    ran = kvstream("record", SCAN, "-o", tmp_path / "part.kvlog", "--rotate-mb", "0.5", "--keep", 2)
    assert ran.code == 0
    kept = sorted(map(str, tmp_path.glob("part-*.kvlog")))
    assert len(kept) == 2
    assert f" MB in {', '.join(kept)}; " in ran.err
    assert "of the oldest files were removed" in ran.err


def test_an_input_is_closed_by_the_task_that_reads_it_if_it_cannot_be_recorded(
    troubles, tmp_path, monkeypatch, closed_by_reader
):
    def refuse(writer, frame):
        raise OSError("disk full")

    monkeypatch.setattr(RotatingWriter, "write", refuse)
    with pytest.raises(ExceptionGroup) as raised:
        record_command([str(troubles)], str(tmp_path / "day.kvlog"))
    assert raised.group_contains(OSError, match="disk full")
    assert closed_by_reader == [True]


@pytest.mark.parametrize("source", [CHAT_WIRE, "converted"])
def test_a_recording_is_published_as_an_engine_would(kvstream, tmp_path, source):
    if source == "converted":
        source = tmp_path / "chat.kvlog"
        assert kvstream("convert", CHAT_WIRE, source).code == 0
    statistics = {"batches": 0}
    while statistics["batches"] < CHAT_BATCHES:  # the reader was interrupted before all had arrived
        results = published_and_read(source, tmp_path)
        (statistics,) = [result for result in results if result["type"] == "input"]
        assert statistics["batches"] > 0
        assert statistics["lost_batches"] == 0
    found = results[-1]["accounts"]
    assert {name: found[name] for name in CHAT} == CHAT


def published_and_read(source, folder):
    """What a reader prints that is interrupted once the publisher has ended."""
    endpoint = f"zmq+ipc://{folder}/kv"
    to = f"{endpoint}?replay=ipc://{folder}/again"
    with running("replay", source, "--to", to, "--speed", "0", stderr=subprocess.PIPE) as process:
        with running("run", endpoint, "--json", stderr=subprocess.PIPE) as reader:
            _, printed = process.communicate(timeout=DEADLINE)
            assert process.returncode == 0, printed
            reader.send_signal(signal.SIGINT)
            out, _ = reader.communicate(timeout=DEADLINE)
    return [json.loads(line) for line in out.splitlines()]


@pytest.mark.parametrize("ending", ["jsonl", "kvlog", "wire", "jsonl.gz", "kvlog.zst"])
def test_every_format_can_be_converted_to(kvstream, tmp_path, ending):
    made = tmp_path / f"chat.{ending}"
    assert kvstream("convert", CHAT_WIRE, made).code == 0
    found = accounts(kvstream, made)
    assert {name: found[name] for name in CHAT} == CHAT
    back = tmp_path / "back.jsonl"
    assert kvstream("convert", made, back).code == 0
    (first,) = (json.loads(line) for line in back.read_text().splitlines()[:1])
    published = msgspec.msgpack.decode(captured("chat")[0])[1][0]["block_hashes"][0]
    assert (first["type"], first["block"] & 2**64 - 1) == ("prefix", published)
    assert first["source"] == "chat/dp0"


def test_a_hash_trace_runs_through_a_cache_of_the_given_capacity(kvstream, tmp_path):
    trace = tmp_path / "trace.jsonl"
    lines = [
        {"timestamp": n * 100, "input_length": 1, "output_length": 1, "hash_ids": [0, n]} for n in range(9)
    ]
    trace.write_bytes(b"\n".join(map(msgspec.json.encode, lines)))
    ran = kvstream("run", trace)
    assert (ran.code, "--capacity" in ran.err) == (1, True)
    found = accounts(kvstream, trace, "--capacity", 4)
    assert (found["live"], found["allocations"]) == (4, 10)
    assert kvstream("convert", trace, tmp_path / "trace.kvlog", "--capacity", 4).code == 0
    assert accounts(kvstream, tmp_path / "trace.kvlog") == found


def test_what_cannot_be_converted_says_why(kvstream, tmp_path):
    two = tmp_path / "two.jsonl"
    two.write_text(
        '{"type":"alloc","block":1,"ts":1,"source":"a"}\n{"type":"alloc","block":1,"ts":1,"source":"b"}\n'
    )
    ran = kvstream("convert", two, tmp_path / "two.wire")
    assert ran.code == 1
    assert "--source" in ran.err
    assert kvstream("convert", two, tmp_path / "one.wire", "--source", "a").code == 0
    ran = kvstream("convert", "zmq://localhost:1", tmp_path / "x.kvlog")
    assert "record" in ran.err


def test_no_token_is_written_anywhere(tmp_path):
    batch = {
        "type": "BlockStored",
        "block_hashes": [1],
        "token_ids": [987_654_321],
        "extra_keys": ["987654321"],
        "block_size": 32,
    }
    payloads = [msgspec.msgpack.encode([1.7e9, [batch, {**batch, "medium": 7}], 0]), b"\xc1987654321"]
    log = tmp_path / "x.jsonl"
    with Engine() as engine, running("record", engine.url, "-o", log, stderr=subprocess.PIPE) as process:
        engine.publish(payloads)
        wait_until_recorded(log, process, enough=lambda data: b"\n" in data)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=DEADLINE)
    assert b"malformed" in err
    assert b"987654321" not in out + err + log.read_bytes()
