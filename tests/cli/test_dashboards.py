"""What ``kvstream dashboards export`` writes; tests/exporters has it run in a real Prometheus."""

import json

import yaml


def test_the_dashboard_and_the_rules_are_written_whole(kvstream, tmp_path):
    folder = tmp_path / "monitoring" / "kvstream"
    ran = kvstream("dashboards", "export", folder)
    assert (ran.code, ran.err) == (0, "")
    files = sorted(folder.iterdir())
    assert ran.out.splitlines() == list(map(str, files))
    dashboard, *rules = files
    assert json.loads(dashboard.read_text())["uid"] == "kvstream"
    assert all(yaml.safe_load(each.read_text())["groups"] for each in rules)


def test_files_that_somebody_changed_are_replaced_only_by_force(kvstream, tmp_path):
    changed = tmp_path / "kvstream.rules.yml"
    changed.write_text("mine")
    refused = kvstream("dashboards", "export", tmp_path)
    assert refused.code == 1
    assert "--force replaces it" in refused.err
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(changed.name, "mine")]
    assert kvstream("dashboards", "export", tmp_path, "--force").code == 0
    assert changed.read_text() != "mine"


def test_a_folder_that_cannot_be_made_is_an_error_of_one_line(kvstream, tmp_path):
    (tmp_path / "file").touch()
    ran = kvstream("dashboards", "export", tmp_path / "file")
    assert ran.code == 1
    assert "Traceback" not in ran.err
    assert len(ran.err.splitlines()) == 1
