import pytest

from kvstream import ConfigError, MetricType, default_rules, load_rules

WRONG = """\
odd = 3
[hit_ratio_dorp]
threshold = 0.3

[hit_ratio_drop]
treshold = 0.3
level = "warnin"
condition = "drp"
metric = "hit_ration"
inhibits = ["lifetime_dorp"]
page = { after_secnds = 3 }

[lifetime_drop]
clear = 3
for_seconds = -1
message = "{vlue}"

[occupancy_high]
enabled = 7

[[silences]]
until = 2030-01-01T00:00:00Z

[[silences]]
sorce = "x"

[[silences]]
until = 2030-01-01T00:00:00

[frames_stale.page]
thres = 2
"""


def errors(tmp_path, text):
    path = tmp_path / "rules.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_rules(path, default_rules())
    return [line.removeprefix(f"{path}:") for line in caught.value.lines]


def test_everything_that_is_wrong_is_said_at_once_with_its_line_and_what_may_be_meant(tmp_path):
    found = errors(tmp_path, WRONG)
    expected = [
        ("1:", "odd is not a table; write [odd]"),
        ("2:", "there is no such rule; did you mean hit_ratio_drop?"),
        ("6:", "unknown field treshold; did you mean threshold?"),
        ("7:", "level warnin is not known; did you mean warning?"),
        ("8:", "condition drp is not known; did you mean drop?"),
        ("9:", "metric hit_ration is not known; did you mean hit_ratio?"),
        ("10:", "inhibits lifetime_dorp, which is no rule; did you mean lifetime_drop?"),
        ("11:", "page: unknown field after_secnds; did you mean after_seconds?"),
        ("14:", "clear (3.0) lies beyond the threshold (0.8)"),
        ("15:", "for_seconds must be 0 to 604,800 seconds"),
        ("16:", "message cannot be filled in"),
        ("19:", "enabled must be true or false, not 7"),
        ("25:", "silence: unknown field sorce; did you mean source?"),
        ("27:", "needs a time zone"),
        ("30:", "page: unknown field thres; did you mean threshold?"),
    ]
    assert len(found) == len(expected)
    for line, (number, what) in zip(found, expected, strict=True):
        assert line.startswith(number), line
        assert what in line


@pytest.mark.parametrize("condition", ["drop", "above", "always"])
def test_only_the_heartbeat_is_always(tmp_path, condition):
    rule = "hit_ratio_drop" if condition == "always" else "heartbeat"
    (line,) = errors(tmp_path, f'[{rule}]\ncondition = "{condition}"\n')
    assert line.startswith("2:")
    assert "heartbeat" in line


def test_a_choice_that_resembles_none_is_answered_with_all(tmp_path):
    (line,) = errors(tmp_path, '[hit_ratio_drop]\nlevel = "xyz"\n')
    assert line.endswith("level xyz is not known; it is one of info, warning, critical")


def test_tables_of_a_settings_file_are_named_as_such(tmp_path):
    (line,) = errors(tmp_path, "[rules.hit_ratio_drop]\nthreshold = 0.9\n")
    assert line == "1: write [NAME]: [rules.NAME] is for a kvstream.toml, given by --config"


def test_a_new_rule_says_what_it_lacks(tmp_path):
    (line,) = errors(tmp_path, '[mine]\nmetric = "occupancy"\n')
    assert "a new one needs condition, threshold, clear, message, cause" in line


def test_a_file_that_is_no_toml_says_where(tmp_path):
    (tmp_path / "rules.toml").write_text("[a\n")
    with pytest.raises(ConfigError, match=r"rules\.toml:1: "):
        load_rules(tmp_path / "rules.toml", default_rules())


def test_a_long_line_costs_no_more_than_it_is_long(tmp_path):
    spaces = " " * 100_000  # otherwise, this would take days
    found = errors(tmp_path, f"[hit_ratio_drop]\nlabels = [\n[{spaces}\n]]\nthreshold = 'a'\n")
    assert [line.partition(":")[0] for line in found] == ["2", "5"]


def test_fields_that_are_left_out_stay_as_they_were(tmp_path):
    (tmp_path / "rules.toml").write_text(
        "[hit_ratio_drop]\nthreshold = 1\n[hit_ratio_drop.page]\nthreshold = 2\n"
    )
    rules, _ = load_rules(tmp_path / "rules.toml", default_rules())
    (changed,) = [rule for rule in rules if rule not in default_rules()]
    assert (changed.threshold, changed.page.threshold, changed.metric) == (1.0, 2.0, MetricType.HIT_RATIO)
