from hypothesis import given
from hypothesis import strategies as st

from kvstream.alerts.buffer import AlertBuffer
from tests.alerting import alert

NAMES = "abcde"


def filled(limit, *changes, policy="drop_oldest"):
    buffer = AlertBuffer(limit, policy)
    for name, state in changes:
        buffer.put(alert(state, fingerprint=name))
    return buffer


def seen(alerts):
    return [(a.fingerprint, a.state) for a in alerts]


def test_up_to_the_limit_every_state_waits():
    changes = [("a", "firing"), ("a", "resolved"), ("a", "firing")]
    assert seen(filled(3, *changes).items()) == changes


def test_beyond_the_limit_the_newest_state_of_each_waits_in_the_place_of_its_oldest():
    buffer = filled(
        3, ("a", "firing"), ("b", "firing"), ("a", "resolved"), ("c", "firing"), ("b", "resolved")
    )
    assert seen(buffer.items()) == [("a", "resolved"), ("b", "resolved"), ("c", "firing")]
    assert (len(buffer), buffer.superseded, buffer.dropped) == (3, 2, 0)


def test_what_fires_waits_however_many_there_are():
    buffer = filled(2, *((str(number), "firing") for number in range(100)))
    assert len(buffer) == 100
    assert [buffer.take().fingerprint for _ in range(100)] == [str(number) for number in range(100)]


def test_beyond_the_limit_what_began_and_ended_unknown_is_dropped():
    ended = [(str(number), "resolved") for number in range(100)]
    oldest = filled(2, ("x", "firing"), *ended)
    assert seen(oldest.items()) == [("x", "firing"), ("99", "resolved")]
    assert oldest.dropped == 99
    newest = filled(2, ("x", "firing"), *ended, policy="drop_newest")
    assert seen(newest.items()) == [("x", "firing"), ("0", "resolved")]


def test_the_end_of_what_the_subscriber_knows_is_never_dropped():
    buffer = filled(1, *((str(number), "firing") for number in range(10)))
    assert len(buffer.take_all(lambda _: True)) == 10
    for number in range(10):
        buffer.put(alert("resolved", fingerprint=str(number)))
    assert (len(buffer), buffer.dropped) == (10, 0)


def test_what_was_put_back_comes_first_unless_there_is_news():
    buffer = filled(10, ("a", "firing"), ("b", "firing"))
    taken = buffer.take_all(lambda _: True)
    buffer.put(alert("resolved", fingerprint="b"))
    buffer.put(alert("firing", fingerprint="c"))
    buffer.put_back(taken)
    assert seen(buffer.items()) == [("a", "firing"), ("b", "resolved"), ("c", "firing")]
    assert buffer.superseded == 1


def test_an_end_that_was_put_back_is_still_owed():
    buffer = filled(1, ("a", "firing"))
    buffer.take()
    buffer.put(alert("resolved", fingerprint="a"))
    buffer.put_back([buffer.take()])
    for number in range(10):
        buffer.put(alert("resolved", fingerprint=str(number)))
    assert seen(buffer.items())[0] == ("a", "resolved")


@given(
    limit=st.integers(1, 6),
    steps=st.lists(
        st.one_of(
            st.tuples(st.sampled_from(NAMES), st.sampled_from(["firing", "resolved"])),
            st.sampled_from(["take", "fail", "take all"]),
        ),
        max_size=60,
    ),
)
def test_the_subscriber_ends_with_the_newest_states_and_the_accounts_balance(limit, steps):
    buffer = AlertBuffer(limit)
    published, delivered, newest, known = 0, 0, {}, {}
    for step in steps:
        if isinstance(step, tuple):
            name, state = step
            buffer.put(alert(state, fingerprint=name))
            published += 1
            newest[name] = state
        elif len(buffer):
            taken = buffer.take_all(lambda a: a.fingerprint > "b") if step == "take all" else [buffer.take()]
            if step == "fail":
                buffer.put_back(taken)
            else:
                delivered += len(taken)
                known.update((a.fingerprint, a.state) for a in taken)
        assert published == delivered + len(buffer) + buffer.dropped + buffer.superseded
    while len(buffer):
        taken = buffer.take()
        known[taken.fingerprint] = taken.state
    for name, state in newest.items():
        assert known.get(name, "resolved") == state
