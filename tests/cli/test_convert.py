"""``kvstream convert``, from one format to another."""

import json

TRACE = b"".join(
    b'{"timestamp":%d,"input_length":9,"output_length":1,"hash_ids":%s}\n' % (at, ids)
    for at, ids in ((0, b"[1,2]"), (1500, b"[1,2,3]"), (2000, b'["ff"]'))
)


def test_a_trace_becomes_rows_and_lookups_without_a_capacity(kvstream, tmp_path):
    (tmp_path / "trace.jsonl").write_bytes(TRACE)
    ran = kvstream("convert", tmp_path / "trace.jsonl", "-", "--format", "mooncake", "--block-tokens", "512")
    rows = [json.loads(line) for line in ran.out.splitlines()]
    assert ran.code == 0
    assert ran.err == ""
    assert [(row["timestamp"], row["input_length"]) for row in rows] == [(0, 1024), (1500, 1536), (2000, 512)]
    assert rows[1]["hash_ids"][:2] == rows[0]["hash_ids"]
    ran = kvstream("convert", tmp_path / "trace.jsonl", tmp_path / "made.csv")
    assert ran.code == 0
    assert (tmp_path / "made.csv").read_text().startswith("time,obj_id,obj_size\n0,")


def test_a_trace_to_events_needs_a_capacity_and_says_that_its_cache_is_simulated(kvstream, tmp_path):
    (tmp_path / "trace.jsonl").write_bytes(TRACE)
    ran = kvstream("convert", tmp_path / "trace.jsonl", "-")
    assert (ran.code, "--capacity" in ran.err) == (1, True)
    ran = kvstream("convert", tmp_path / "trace.jsonl", "-", "--capacity", "9", "--time-unit", "s")
    assert ran.code == 0
    assert "the cache is simulated" in ran.err
    assert json.loads(ran.out.splitlines()[-1])["ts"] == 2_000_000_000_000


def test_a_trace_is_simulated_by_the_rules_that_are_asked_for_and_lookups_by_none(kvstream, tmp_path):
    (tmp_path / "trace.jsonl").write_bytes(TRACE)
    ran = kvstream("convert", tmp_path / "trace.jsonl", "-", "--capacity", "9", "--engine", "vllm")
    assert ran.code == 0
    assert "simulated by vLLM's rules" in ran.err
    for engine in ("lru", "vllm"):
        kvstream("convert", tmp_path / "trace.jsonl", tmp_path / f"{engine}.csv", "--engine", engine)
    assert (tmp_path / "vllm.csv").read_bytes() == (tmp_path / "lru.csv").read_bytes() != b""


def test_lookups_of_nobody_knows_what_are_an_error(kvstream, tmp_path):
    (tmp_path / "slots.jsonl").write_bytes(b'{"type":"alloc","block":1,"ts":5}\n')
    ran = kvstream("convert", tmp_path / "slots.jsonl", tmp_path / "made.csv")
    assert ran.code == 1
    assert "physical block number" in ran.err
    assert not (tmp_path / "made.csv").exists()


def test_an_anonymized_recording_has_no_names_and_the_same_events(kvstream, tmp_path):
    event = {"type": "alloc", "block": 1, "ts": 1767225600000000000, "source": "acme", "key": 77}
    (tmp_path / "acme.jsonl").write_text(json.dumps({**event, "labels": {"tenant": "acme"}}))
    ran = kvstream("convert", tmp_path / "acme.jsonl", "-", "--anonymize")
    assert ran.code == 0
    (event,) = map(json.loads, ran.out.splitlines())
    assert (event["type"], event["block"], event["ts"]) == ("alloc", 1, 946684800000000000)
    assert "acme" not in ran.out
    assert event["key"] != 77


def test_a_filter_that_nothing_passes_says_what_there_is(kvstream, tmp_path):
    event = {"type": "alloc", "block": 1, "ts": 1767225600000000000, "source": "vllm-0"}
    (tmp_path / "day.jsonl").write_text(json.dumps(event))
    ran = kvstream("convert", tmp_path / "day.jsonl", "-", "--source", "vlm-0")
    assert (ran.code, ran.out) == (0, "")
    assert ran.err == f"kvstream: {tmp_path}/day.jsonl has no events of vlm-0/*, but of vllm-0/gpu\n"
    assert kvstream("convert", tmp_path / "day.jsonl", "-", "--source", "vllm-0").err == ""
