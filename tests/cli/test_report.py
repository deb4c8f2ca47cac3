import json

import pyarrow.parquet

from tests.cli.conftest import SCAN


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


def test_malformed_pieces_are_told_with_their_place_and_left_out(kvstream, tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"type":"alloc","block":1,"ts":1}\nnonsense\n{"type":"access","block":1,"ts":2}\n')
    ran = kvstream("report", path, "--format", "json")
    assert ran.code == 0
    assert "line 2" in ran.err
    assert (json.loads(ran.out)["events"], json.loads(ran.out)["malformed"]) == (2, 1)
