import pytest

from kvstream.streaming.arrivals import Arrivals


async def test_the_source_heard_first_is_the_longest_silent_until_it_is_heard_again():
    arrivals = Arrivals()
    for source, lag in (("a", 2.0), ("b", None), ("a", None)):
        arrivals.note(source, lag)
    assert arrivals.longest_silent()[0] == "b"
    arrivals.forget("b")
    assert arrivals.longest_silent()[0] == "a"
    assert (arrivals.lag("a"), arrivals.lag("b"), arrivals.age("b")) == (2.0, None, 0.0)


async def test_restored_sources_are_silent_only_after_what_is_granted_to_them():
    arrivals = Arrivals()
    assert arrivals.longest_silent() is None
    arrivals.restore({"young": -15.0, "old": 100.0})
    assert arrivals.longest_silent() == ("old", pytest.approx(100.0, abs=5.0))
    assert arrivals.ages() == {"old": pytest.approx(100.0, abs=5.0), "young": 0.0}
    arrivals.postpone(50.0)
    assert arrivals.age("old") == pytest.approx(50.0, abs=5.0)
