from tests.cli.conftest import CHAT, SCAN


def test_the_builtin_rules_are_a_rules_file(kvstream, tmp_path):
    listed = kvstream("rules", "list")
    assert listed.code == 0
    (tmp_path / "mine.toml").write_text(listed.out)
    ran = kvstream("rules", "check", tmp_path / "mine.toml")
    assert (ran.code, ran.out) == (0, f"{tmp_path}/mine.toml: 14 rules\n")


def test_check_says_what_a_file_changes_and_what_is_wrong(kvstream, tmp_path):
    rules = tmp_path / "rules.toml"
    rules.write_text("[dead_blocks]\nenabled = false\n[hit_ratio_drop]\nthreshold = 0.3\n")
    ran = kvstream("rules", "check", rules)
    assert "14 rules, 1 changed (hit_ratio_drop), 1 off (dead_blocks)" in ran.out
    with rules.open("a") as file:
        file.write("\n[[silences]]\nuntil = 2030-01-01T00:00:00Z\n")
    assert kvstream("rules", "check", rules).out.endswith("1 silence\n")
    rules.write_text("[dead_blocks]\n\nenabled = 7\n")
    ran = kvstream("rules", "check", rules)
    assert ran.code == 1
    assert f"{rules}:3: rule dead_blocks" in ran.err


def test_rules_are_tried_on_a_recording(kvstream, tmp_path):
    rules = tmp_path / "rules.toml"
    rules.write_text("[lifetime_anomaly]\nenabled = false\n")
    ran = kvstream("rules", "test", rules, "--on", SCAN, "--on", CHAT, "--capacity", 256)
    assert ran.code == 0
    run = kvstream("run", SCAN, CHAT, "--capacity", 256, "--rules", rules)
    key = ("timestamp", "rule", "state", "source", "hint")
    found = sorted(tuple(alert[name] for name in key) for alert in ran.of_type("alert"))
    assert found == sorted(tuple(alert[name] for name in key) for alert in run.of_type("alert"))
    assert "lifetime_anomaly" not in {rule for _, rule, *_ in found}
    assert any(rule == "hit_ratio_drop" and hint for _, rule, _, _, hint in found)
