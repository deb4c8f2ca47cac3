from tests.cli.conftest import CHAT, INCIDENT


def test_the_builtin_rules_are_a_rules_file(kvstream, tmp_path):
    listed = kvstream("rules", "list")
    assert listed.code == 0
    (tmp_path / "mine.toml").write_text(listed.out)
    ran = kvstream("rules", "check", tmp_path / "mine.toml")
    assert (ran.code, ran.out) == (0, f"{tmp_path}/mine.toml: 12 rules\n")


def test_check_says_what_a_file_changes_and_what_is_wrong(kvstream, tmp_path):
    rules = tmp_path / "rules.toml"
    rules.write_text("[lifetime_drop]\nenabled = false\n[hit_ratio_drop]\nthreshold = 0.3\n")
    ran = kvstream("rules", "check", rules)
    assert "12 rules, 1 changed (hit_ratio_drop), 1 off (lifetime_drop)" in ran.out
    with rules.open("a") as file:
        file.write("\n[[silences]]\nuntil = 2030-01-01T00:00:00Z\n")
    assert kvstream("rules", "check", rules).out.endswith("1 silence\n")
    rules.write_text("[lifetime_drop]\n\nenabled = 7\n")
    ran = kvstream("rules", "check", rules)
    assert ran.code == 1
    assert f"{rules}:3: rule lifetime_drop" in ran.err


def test_rules_are_tried_on_a_recording(kvstream, tmp_path):
    rules = tmp_path / "rules.toml"
    rules.write_text("[occupancy_high]\nenabled = false\n")
    ran = kvstream("rules", "test", rules, "--on", INCIDENT, "--on", CHAT, "--capacity", 2048)
    assert ran.code == 0
    run = kvstream("run", INCIDENT, CHAT, "--capacity", 2048, "--rules", rules)
    key = ("timestamp", "rule", "state", "source", "hint")
    found = sorted(tuple(alert[name] for name in key) for alert in ran.of_type("alert"))
    assert found == sorted(tuple(alert[name] for name in key) for alert in run.of_type("alert"))
    assert "occupancy_high" not in {rule for _, rule, *_ in found}
    assert any(rule == "hit_ratio_drop" and hint for _, rule, _, _, hint in found)
