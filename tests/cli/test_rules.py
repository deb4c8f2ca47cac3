from tests.cli.conftest import CHAT, SCAN


def test_the_builtin_rules_are_a_rules_file(kvstream, tmp_path):
    listed = kvstream("rules", "list")
    assert listed.code == 0
    (tmp_path / "mine.toml").write_text(listed.out)
    ran = kvstream("rules", "check", tmp_path / "mine.toml")
    assert (ran.code, ran.out) == (0, f"{tmp_path}/mine.toml: 19 rules\n")


def test_check_says_what_a_file_changes_and_what_is_wrong(kvstream, tmp_path):
    rules = tmp_path / "rules.toml"
    rules.write_text("[lost_frames]\nenabled = false\n[hit_ratio_drop]\nthreshold = 0.5\n")
    ran = kvstream("rules", "check", rules)
    assert "19 rules, 1 changed (hit_ratio_drop), 1 off (lost_frames)" in ran.out
    with rules.open("a") as file:
        file.write("\n[[silences]]\nuntil = 2030-01-01T00:00:00Z\n")
    assert kvstream("rules", "check", rules).out.endswith("1 silence\n")
    rules.write_text("[lost_frames]\n\nenabled = 7\nlevl = 1\n")
    ran = kvstream("rules", "check", rules)
    assert ran.code == 1
    assert ran.err.splitlines() == [
        f"kvstream: {rules}:3: rule lost_frames: enabled must be true or false, not 7",
        f"kvstream: {rules}:4: rule lost_frames: unknown field levl; did you mean level?",
    ]


def test_rules_are_tried_on_a_recording(kvstream, tmp_path, troubles):
    rules = tmp_path / "rules.toml"
    rules.write_text("[engine_stalled]\nenabled = false\n")
    ran = kvstream("rules", "test", rules, "--on", troubles, "--on", CHAT, "--capacity", 256)
    assert ran.code == 0
    run = kvstream("run", troubles, CHAT, "--capacity", 256, "--rules", rules)
    key = ("timestamp", "rule", "state", "source", "hint")
    found = sorted(tuple(alert[name] for name in key) for alert in ran.of_type("alert"))
    assert found == sorted(tuple(alert[name] for name in key) for alert in run.of_type("alert"))
    assert any(rule == "occupancy_high" and hint for _, rule, _, _, hint in found)


def test_rules_are_scored_by_the_labels_of_a_recording(kvstream, tmp_path):
    rules, labels = tmp_path / "rules.toml", tmp_path / "labels.jsonl"
    rules.write_text('[occupancy_high]\nlevel = "warning"\n')
    labels.write_text(
        '{"source": "vllm-scan", "from": 0, "kind": "full"}\n'
        '{"source": "vllm-scan", "from": 2, "until": 2, "tier": "cpu"}\n'
    )
    ran = kvstream("rules", "test", rules, "--on", SCAN, "--capacity", 256, "--labels", labels)
    (scores,) = ran.of_type("scores")
    full, other = (each["score"] for each in scores["incidents"])
    assert (full["found"], full["rules"], full["notifications"]) == (True, ["occupancy_high"], 1)
    assert 0.5 < full["covered"] < 1
    assert (other["found"], other["covered"]) == (False, None)
    assert (scores["found"], scores["false_alerts"], scores["notifications"]) == (0.5, [], 1)
    arguments = ("--on", SCAN, "--capacity", 256, "--labels", labels, "--output", "text")
    lines = kvstream("rules", "test", rules, *arguments).out.splitlines()
    assert "  occupancy_high       fired 1 time" in lines
    assert lines[-1].endswith("; 1 notification")
    labels.write_text('{"source": "vllm-scan", "from": 0, "until": 1}\n{"surce": 1}\n')
    ran = kvstream("rules", "test", rules, "--on", SCAN, "--labels", labels)
    assert ran.code == 1
    assert f"{labels}:2: " in ran.err
