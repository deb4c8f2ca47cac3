import json
import resource

import pyarrow.parquet
import pytest

from tests.cli.conftest import CHAT, INCIDENT, SCAN
from tests.forked import PIPE, Kvstream


def test_a_report_is_written_in_the_format_of_its_name(kvstream, tmp_path):
    for name, beginning in (
        ("r.html", "<!doctype html>"),
        ("r.md", "# kvstream report"),
        ("r.json", '{"type"'),
    ):
        ran = kvstream("report", SCAN, "-o", tmp_path / name, "--capacity", 256)
        assert ran.code == 0, ran.err
        assert (tmp_path / name).read_text().startswith(beginning)
        assert "150,000 events" in ran.err
    report = json.loads((tmp_path / "r.json").read_text())
    (cache,) = report["caches"]
    assert cache["analysis"]["summary"]["total_evictions"] == 39_147
    assert [alert["rule"] for alert in cache["alerts"]] == ["occupancy_high"]


def test_evictions_are_exported_beside_it(kvstream, tmp_path):
    ran = kvstream("report", SCAN, "--format", "md", "--evictions", tmp_path / "e.parquet")
    assert ran.code == 0, ran.err
    assert ran.out.startswith("# kvstream report")
    assert pyarrow.parquet.read_table(tmp_path / "e.parquet").num_rows == 39_147


def test_what_cannot_be_done_is_said(kvstream, tmp_path):
    for arguments, said in (
        (["zmq://127.0.0.1:5557"], "record what is live first"),
        ([tmp_path / "none.kvlog"], "No such file"),
        ([SCAN, "-o", tmp_path / "none" / "r.html"], "No such file"),
        ([SCAN, "--evictions", tmp_path / "e.xlsx"], ".parquet"),
    ):
        ran = kvstream("report", *arguments)
        assert ran.code == 1
        assert said in ran.err
        assert "Traceback" not in ran.err


def test_a_csv_of_every_eviction_needs_no_pyarrow(kvstream, tmp_path):
    ran = kvstream("report", CHAT, "--evictions", tmp_path / "e.csv", without="pyarrow")
    assert ran.code == 0, ran.err
    header, *rows = (tmp_path / "e.csv").read_text().splitlines()
    assert header.startswith("source,tier,block,evicted_at,")
    assert f"{len(rows):,} evictions" in ran.err
    assert len(rows) > 1_000


def test_malformed_pieces_are_told_with_their_place_and_left_out(kvstream, tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"type":"alloc","block":1,"ts":1}\nnonsense\n{"type":"access","block":1,"ts":2}\n')
    ran = kvstream("report", path, "--format", "json")
    assert ran.code == 0
    assert "line 2" in ran.err
    assert (json.loads(ran.out)["events"], json.loads(ran.out)["malformed"]) == (2, 1)


def test_two_spans_of_a_recording_are_compared(kvstream, tmp_path):
    ran = kvstream("report", INCIDENT, "--compare", "3m..9m", "10m..15m", "--format", "json")
    assert ran.code == 0, ran.err
    comparison = json.loads(ran.out)
    assert (comparison["before"], comparison["after"]) == ("3m..9m", "10m..15m")
    verdicts = {
        cache["source"]: {change["name"]: change["verdict"] for change in cache["changes"]}
        for cache in comparison["caches"]
    }
    assert verdicts["vllm-1"]["hit ratio"] == "lower"
    assert verdicts["vllm-1"]["never-reused evictions"] == "higher"
    assert verdicts["vllm-0"]["hit ratio"] == "no change beyond chance"
    (hit,) = [
        change["change"]
        for cache in comparison["caches"]
        for change in cache["changes"]
        if (cache["source"], change["name"]) == ("vllm-1", "hit ratio")
    ]
    assert hit["low"] <= hit["after"] - hit["before"] <= hit["high"] < -0.5


@pytest.mark.slow
def test_a_recording_does_not_differ_from_itself(kvstream, tmp_path):
    for name, beginning in (("c.html", "<!doctype html>"), ("c.md", "# kvstream comparison")):
        ran = kvstream("report", "--compare", INCIDENT, INCIDENT, "-o", tmp_path / name)
        assert ran.code == 0, ran.err
        text = (tmp_path / name).read_text()
        assert text.startswith(beginning)
        assert text.count("Nothing has changed by more than chance.") == 2
        assert "Sokal 1997" in text


def test_caches_of_other_names_are_compared_where_there_is_one_each(kvstream):
    ran = kvstream("report", "--compare", SCAN, CHAT)
    assert ran.code == 0
    assert ran.out.startswith("# kvstream comparison")
    assert "## vllm-scan / gpu" in ran.out
    assert "spans are too short" in ran.out


def test_figures_of_spans_are_those_of_the_events_in_them(kvstream, tmp_path):
    lines = []
    for second in range(200):
        asked = 4 if second < 100 else 2
        for n in range(asked):
            block, ts = 10 * second + n, (10**6 + second) * 10**9 + n
            lines.append({"type": "alloc", "block": block, "ts": ts})
            lines.append({"type": "access", "block": block, "ts": ts + 10})
            lines.append({"type": "evict", "block": block, "ts": ts + 500_000_000})
    lines.sort(key=lambda event: event["ts"])
    path = tmp_path / "steps.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    ran = kvstream("report", path, "--compare", "0..100", "100..200", "--format", "json")
    (cache,) = json.loads(ran.out)["caches"]
    found = {change["name"]: change["change"] for change in cache["changes"]}
    assert (found["allocations a second"]["before"], found["allocations a second"]["after"]) == (4.0, 2.0)
    assert (found["lookups a second"]["before"], found["lookups a second"]["after"]) == (8.0, 4.0)
    assert (found["hit ratio"]["before"], found["hit ratio"]["after"]) == (0.5, 0.5)
    assert found["lifetime, mean"]["before"] == found["lifetime, mean"]["after"] == 0.5


def test_a_table_that_finds_no_room_says_so_in_the_systems_words(tmp_path):
    limits = {resource.RLIMIT_FSIZE: 100}
    arguments = ["report", CHAT, "--format", "md", "--evictions", tmp_path / "e.parquet"]
    with Kvstream(arguments, stdout=PIPE, stderr=PIPE, limits=limits) as process:
        _, err = process.communicate()
    assert process.returncode == 1
    assert err.decode() == f"kvstream: {tmp_path}/e.parquet: File too large\n"
    assert list(tmp_path.iterdir()) == []
