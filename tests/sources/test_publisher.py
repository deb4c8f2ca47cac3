import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstream.errors import MalformedInputError
from kvstream.events.frame import EventFrame
from kvstream.events.position import Place, Position
from kvstream.events.sequence import Cursor
from kvstream.sources.publisher import (
    FARTHEST_JUMP,
    FARTHEST_OVERLAP,
    HELD_BATCHES,
    LARGEST_NUMBER,
    Publisher,
    PublisherFeed,
    batch_check,
    batch_number,
)
from kvstream.state.resumption import InputMarker, add_saved
from tests.publisher import stored


class Taken:
    def __init__(self):
        self.log = []

    def deliver(self, seq, payload):
        self.log.append((seq, payload))

    def lose(self, batches):
        self.log.append(f"lost {batches}")

    def restart(self):
        self.log.append("restart")

    def mark_snapshot(self, is_snapshot):
        self.log.append("snapshot" if is_snapshot else "end of snapshot")

    def refuse(self, reason, seq, text):
        self.log.append(f"refused {seq}: {reason}")


def feed(asked=None):
    taken = Taken()
    return taken, begun(PublisherFeed(taken, None if asked is None else asked.append))


def begun(feed):
    feed.catch_up()
    return feed


def payload(seq, life=0):
    return f"{life}:{seq}".encode()


def test_without_a_replay_holes_are_counted_where_they_are():
    taken, order = feed()
    for seq in (1, 2, 5):
        order.live(seq, payload(seq))
    assert taken.log == [(1, b"0:1"), (2, b"0:2"), "lost 2", (5, b"0:5")]


def test_the_first_batch_sets_the_number_but_after_a_restart_they_begin_at_0():
    taken, order = feed()
    for seq in (70_000_000, 70_000_001, 3):
        order.live(seq, payload(seq))
    assert [entry for entry in taken.log if isinstance(entry, str)] == ["restart", "lost 3"]


def test_a_gap_is_filled_by_the_replay_before_what_came_after_it():
    asked = []
    taken, order = feed(asked)
    order.live(3, payload(3))  # joined late: the start is a gap as well
    for seq in range(5):
        order.replay(seq, payload(seq))
    order.replay_ended()
    order.live(4, payload(4))
    assert order.duplicates == 1
    order.live(7, payload(7))
    assert asked == [0, 4]
    for seq in (4, 5, 6, 7):
        order.replay(seq, payload(seq))
    order.replay_ended()
    assert taken.log == [(seq, payload(seq)) for seq in range(8)]
    assert (order.replayed, order.duplicates) == (8, 1)


def test_what_a_replay_does_not_have_is_lost():
    taken, order = feed([])
    order.replay_ended()
    order.live(9, payload(9))
    order.replay(6, payload(6))
    order.replay(7, payload(7))
    order.replay_ended()
    assert taken.log == [(6, b"0:6"), (7, b"0:7"), "lost 1", (9, b"0:9")]


def test_answers_dropped_on_their_way_are_asked_for_again():
    asked = []
    taken, order = feed(asked)
    order.replay(0, payload(0))
    order.replay(2, payload(2))
    assert asked == [0, 0]
    for seq in range(3):
        order.replay(seq, payload(seq))
    order.replay_ended()
    assert taken.log == [(seq, payload(seq)) for seq in range(3)]


def test_a_number_that_does_not_ascend_is_a_new_life():
    taken, order = feed()
    for life, seq in ((0, 0), (0, 1), (1, 0), (2, 0), (2, 1)):
        order.live(seq, payload(seq, life))
    assert [entry for entry in taken.log if isinstance(entry, str)] == ["restart", "restart"]
    assert taken.log[-1] == (1, b"2:1")


def test_a_new_life_that_has_overtaken_the_old_one_is_found_by_comparing():
    asked = []
    taken, order = feed(asked)
    order.replay_ended()
    for seq in range(3):
        order.live(seq, payload(seq))
    order.live(6, payload(6, life=1))
    assert asked == [0, 2]
    order.replay(2, payload(2, life=1))
    assert asked == [0, 2, 0]
    for seq in range(7):
        order.replay(seq, payload(seq, life=1))
    order.replay_ended()
    assert taken.log[3] == "restart"
    assert taken.log[4:] == [(seq, payload(seq, 1)) for seq in range(7)]


def test_what_waits_for_a_replay_is_bounded():
    taken, order = feed([])
    for seq in range(1, HELD_BATCHES + 2):
        order.live(seq, b"x")
    assert not order.holds
    assert taken.log[0] == (1, b"x")
    assert len(taken.log) == HELD_BATCHES + 1


def test_a_number_far_ahead_counts_only_if_the_next_one_confirms_it():
    taken, order = feed()
    far = FARTHEST_JUMP + 50
    for seq in (0, LARGEST_NUMBER, 1, far, 2, far, far + 1, far + 2):
        order.live(seq, payload(seq))
    assert taken.log == [
        (0, b"0:0"),
        f"refused {LARGEST_NUMBER}: jump",
        (1, b"0:1"),
        f"refused {far}: jump",
        (2, b"0:2"),
        f"refused {far}: jump",
        f"lost {far - 2}",
        (far + 1, payload(far + 1)),
        (far + 2, payload(far + 2)),
    ]


def test_a_replay_that_runs_ahead_does_not_make_live_batches_look_old_for_ever():
    asked = []
    taken, order = feed(asked)
    order.replay(FARTHEST_OVERLAP * 5, b"forged")
    order.replay_ended()
    order.live(0, payload(0))
    assert asked == [0, 0]
    assert taken.log == [(FARTHEST_OVERLAP * 5, b"forged"), "restart"]
    order.give_up()
    order.live(1, payload(1))
    assert taken.log[2:] == [(0, b"0:0"), (1, b"0:1")]


def test_a_forged_number_in_a_replay_is_refused_and_is_no_progress():
    taken, order = feed([])
    order.live(3, payload(3))
    assert not order.replay(FARTHEST_JUMP * 3, b"forged")
    assert order.replay(0, payload(0))
    order.give_up()
    assert taken.log == [f"refused {FARTHEST_JUMP * 3}: jump", (0, b"0:0"), "lost 2", (3, b"0:3")]


def test_a_publisher_that_keeps_batches_with_holes_is_not_asked_for_ever():
    asked = []
    taken, order = feed(asked)
    kept = range(0, 100, 2)
    answered = 0
    while len(asked) > answered:
        answered = len(asked)
        for seq in kept:
            if seq >= asked[-1] and len(asked) == answered:
                order.replay(seq, payload(seq))
    order.replay_ended()
    assert [entry for entry in taken.log if entry != "lost 1"] == [(seq, payload(seq)) for seq in kept]
    assert len(asked) < 12


def test_a_snapshot_replaces_what_is_no_longer_kept():
    taken, order = feed([])
    order.replay_ended()
    order.live(0, payload(0))
    for seq in (900, 901, 902, 903):
        order.live(seq, payload(seq))
    order.replay_snapshot(902)
    for part in (b"cleared", b"stored", b"stored too"):
        assert order.replay(902, part)
    order.replay_ended()
    order.live(904, payload(904))
    assert taken.log == [
        (0, b"0:0"),
        "lost 902",
        "snapshot",
        *[(902, part) for part in (b"cleared", b"stored", b"stored too")],
        "end of snapshot",
        (903, payload(903)),
        (904, payload(904)),
    ]


@pytest.mark.parametrize("number", [b"", b"7", bytes(9), b"\xff" * 8, b"\x80" + bytes(7), b"\x7f" * 8])
def test_numbers_that_no_publisher_reaches_are_refused(number):
    with pytest.raises(MalformedInputError):
        batch_number(number)


def test_batches_are_decoded_in_portions():
    publisher = Publisher("x", "x")
    batch = msgspec.msgpack.encode([1.7e9, [["BlockStored", [1], None, [7] * 500_000, 32, None]]])
    for seq in (1, 2, 3, 7, *range(8, 40)):
        publisher.feed.live(seq, batch)
    portions = []
    while publisher.is_pending:
        portions.append(publisher.take())
    assert len(portions) > 3
    frames = [item for portion in portions for item in portion if isinstance(item, EventFrame)]
    assert sum(map(len, frames)) == 36
    assert publisher.lost_batches == 3
    assert frames[-1].seq == len(frames) - 1 + 3


@given(st.data())
def test_with_a_replay_every_batch_comes_once_and_in_order(data):
    """A publisher whose live messages are dropped at random, and whose answers take their time."""
    published, requests, answers = [], [], []
    taken, order = feed(requests)

    def publish(live):
        published.append(payload(len(published)))
        if live:
            order.live(len(published) - 1, published[-1])

    def answer():
        if len(answers) < len(requests):
            answers.extend([None] * (len(requests) - len(answers)))  # earlier requests are dropped
            answers[-1] = list(enumerate(published))[requests[-1] :]

    def arrive():
        if answers and len(answers) == len(requests) and answers[-1] is not None:
            those, answers[-1] = answers[-1], None
            for seq, old in those:
                order.replay(seq, old)
            order.replay_ended()

    for action in data.draw(st.lists(st.sampled_from(["live", "drop", "answer", "arrive"]), max_size=60)):
        if action in ("live", "drop"):
            publish(live=action == "live")
        elif action == "answer":
            answer()
        else:
            arrive()
    publish(live=True)
    while len(taken.log) < len(published):
        before = len(requests), len(taken.log)
        answer()
        arrive()
        assert before != (len(requests), len(taken.log))
    assert taken.log == list(enumerate(published))


def resumed(check, asked=None):
    """A feed that goes on with batch 5 of a life, after one with a checksum."""
    taken = Taken()
    start = Place(1, 5, check)
    return taken, begun(PublisherFeed(taken, None if asked is None else asked.append, start))


def test_what_another_process_had_come_to_is_gone_on_with_by_a_replay():
    asked = []
    taken, order = resumed(batch_check(payload(4)), asked)
    assert asked == [4]
    order.live(7, payload(7))
    for seq in range(4, 8):
        order.replay(seq, payload(seq))
    order.replay_ended()
    assert taken.log == [(seq, payload(seq)) for seq in (5, 6, 7)]


def test_what_the_replay_no_longer_has_after_a_restart_is_lost():
    taken, order = resumed(batch_check(payload(4)), [])
    order.replay(9, payload(9))
    order.replay_ended()
    assert taken.log == ["lost 4", (9, payload(9))]


def test_without_a_replay_what_was_published_meanwhile_is_lost():
    taken, order = resumed("")
    order.live(8, payload(8))
    assert taken.log == ["lost 3", (8, payload(8))]


@pytest.mark.parametrize("has_passed", [True, False])
def test_a_publisher_that_restarted_meanwhile_begins_again(has_passed):
    asked = []
    taken, order = resumed(batch_check(payload(4)), asked)
    if has_passed:  # its own batch 4 is another one
        order.replay(4, payload(4, life=1))
    else:
        order.replay_ended()
        order.live(2, payload(2, life=1))
    assert asked == [4, 0]
    for seq in range(3):
        order.replay(seq, payload(seq, life=1))
    order.replay_ended()
    assert taken.log == ["restart", *((seq, payload(seq, life=1)) for seq in range(3))]


def test_frames_of_a_publisher_go_on_in_epoch_and_number_without_what_is_held():
    saved = {"zmq engine": {"reached": [9, 4, ""], "caches": [["engine", "gpu", [9, 4, ""], 2]]}}
    inputs = {}
    add_saved(inputs, saved, None)
    marker = InputMarker("zmq engine", inputs["zmq engine"], {"engine": Cursor(9, 30)})
    publisher = Publisher("x", "engine", 77, [].append, marker=marker)
    publisher.feed.catch_up()
    for seq in (4, 5):
        publisher.feed.replay(seq, stored(10 * seq, 10 * seq + 1, 10 * seq + 2))
    (frame,) = publisher.take()
    assert (frame.epoch, frame.seq, frame.blocks.tolist()) == (9, 30, [42, 50, 51, 52])
    assert frame.position == Position("zmq engine", Place(9, 4, ""), 6, (("engine", "gpu", 2),))
    publisher.feed.replay_ended()
    publisher.feed.live(6, stored(60))
    (frame,) = publisher.take()
    assert (frame.epoch, frame.seq, frame.position.place.at) == (9, 31, 6)
    assert frame.position.place.check == batch_check(stored(50, 51, 52))
