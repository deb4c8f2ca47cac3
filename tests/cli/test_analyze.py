import json

from tests.cli.conftest import CHAT, SCAN
from tests.publisher import DATA


def test_each_source_has_its_answer(kvstream):
    ran = kvstream("analyze", CHAT, DATA / "scan.wire.gz")
    assert ran.code == 0
    found = {result["source"]: result for result in ran.of_type("analysis")}
    assert set(found) == {"vllm-chat", "scan/dp0", "*"}
    both = [found[name]["summary"]["accounts"]["processed"] for name in ("vllm-chat", "scan/dp0")]
    assert found["*"]["summary"]["accounts"]["processed"] == sum(both)
    assert found["scan/dp0"]["verdict"][0].startswith("85% of evictions were premature")
    assert found["vllm-chat"]["summary"]["accounts"]["processed"] == 40_000


def test_a_models_configuration_tells_sizes_in_bytes(kvstream, tmp_path):
    config = {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 1, "dtype": "float16"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    log = tmp_path / "chat.kvlog"
    assert kvstream("generate", "chat", "--events", 30_000, "--blocks", 512, "-o", log).code == 0
    ran = kvstream("analyze", log, "--model-config", tmp_path / "config.json", "--block-tokens", 8)
    (result,) = ran.of_type("analysis")
    assert result["summary"]["block_bytes"] == 2 * 1 * 2 * 32 * 2 * 8
    assert any("GiB" in sentence for sentence in result["verdict"])
    summary = result["summary"]
    assert summary["live_bytes"] == summary["blocks_live"] * summary["block_bytes"]
    assert summary["hit_tokens"] == summary["accesses"] * 8
    assert summary["lookup_tokens"] == (summary["accesses"] + summary["accounts"]["allocations"]) * 8


def test_the_size_of_a_block_is_said_once(kvstream, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    ran = kvstream("analyze", SCAN, "--model-config", tmp_path / "config.json", "--block-bytes", 9)
    assert ran.code == 1
    assert "--model-config and --block-bytes" in ran.err


def test_what_has_no_end_is_not_analyzed(kvstream):
    for name in ("zmq://localhost:1", "-"):
        ran = kvstream("analyze", name)
        assert ran.code == 1
        assert "record" in ran.err
    assert kvstream("analyze", SCAN, "--model-config", "/nowhere.json").code == 1


def test_rows_that_hold_what_was_added_are_put_together_where_that_is_said(kvstream, tmp_path):
    trace = tmp_path / "trace.jsonl"
    rows = [{"session_id": "a", "timestamp": t, "hash_ids": [2 * t, 2 * t + 1]} for t in range(4)]
    trace.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    hits = {}
    for said in ("whole", "added"):
        (result,) = kvstream("analyze", trace, "--capacity", 64, "--rows", said).of_type("analysis")
        hits[said] = result["summary"]["accesses"]
    assert hits == {"whole": 0, "added": 2 + 4 + 6}


def test_a_trace_is_simulated_by_the_rules_that_are_asked_for(kvstream, tmp_path):
    trace = tmp_path / "trace.jsonl"
    rows = [
        {"timestamp": t, "hash_ids": [1, 2, t], "input_length": 1_536, "output_length": 40} for t in range(9)
    ]
    trace.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    found = {}
    for options in ((), ("--engine", "vllm", "--decode-rate", 20)):
        ran = kvstream("analyze", trace, "--capacity", 64, *options)
        (result,) = ran.of_type("analysis")
        summary = result["summary"]
        found[options[:2]] = (summary["accesses"], summary["accounts"]["allocations"])
        assert result["verdict"][-1].lower() in f"{ran.err.partition('trace.jsonl: ')[2].strip()}.".lower()
    assert "output tokens at 20 a second" in result["verdict"][-1]
    # Two blocks are shared by nine requests, which have one each, and one for their output.
    assert found == {(): (16, 2 + 9), ("--engine", "vllm"): (16, 2 + 9 + 9)}
    refused = kvstream("run", trace, "--capacity", 8, "--engine", "vllm", "--prefill-rate", 0)
    assert (refused.code, "rates of prefill and decode" in refused.err) == (1, True)
