import math

import pytest

from kvstream import ConfigError, Mark
from kvstream.metrics.marks import MAX_MARKS, Marks


def test_marks_are_kept_by_time_with_an_id_each():
    marks = Marks()
    late, early = (marks.add(Mark(text=text, timestamp=at)) for text, at in (("late", 2.0), ("early", 1.0)))
    assert marks.all() == [early, late]
    assert late.id != early.id
    assert marks.remove(early.id)
    assert not marks.remove(early.id)
    assert marks.all() == [late]


def test_the_oldest_goes_where_there_are_too_many():
    marks = Marks()
    for at in range(MAX_MARKS + 2):
        marks.add(Mark(text="deploy", timestamp=float(at)))
    assert len(marks.all()) == MAX_MARKS
    assert marks.all()[0].timestamp == 2.0


def test_what_is_saved_is_restored():
    marks, again = Marks(), Marks()
    marks.add(Mark(text="deploy", timestamp=1.0, source="vllm-*"))
    again.restore(marks.save())
    assert again.all() == marks.all()


@pytest.mark.parametrize(
    "fields",
    [
        {"text": "", "timestamp": 1.0},
        {"text": "x" * 257, "timestamp": 1.0},
        {"text": "x", "timestamp": math.nan},
        {"text": "x", "timestamp": -1.0},
        {"text": "x", "timestamp": 1e18},
        {"text": "x", "timestamp": 1.0, "source": ""},
    ],
)
def test_what_is_no_mark_is_refused(fields):
    with pytest.raises(ConfigError, match="mark: "):
        Mark(**fields)
