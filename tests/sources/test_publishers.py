import msgspec
import pytest

from kvstream.events.frame import EventFrame
from kvstream.sources.publishers import Publishers


def batch(block, rank=None):
    return msgspec.msgpack.encode([1.7e9, [["BlockStored", [block], None, [], 32, None]], rank])


class Heard:
    """What publishers that share an input made of its messages."""

    def __init__(self, **options):
        self.publishers = Publishers("x", "x", **options)
        self._blocks = {}

    def hear(self, topic, seq, block):
        publisher = self.publishers.get(topic, seq)
        publisher.feed.live(seq, batch(block))

    @property
    def blocks(self):
        for publisher in self.publishers:
            for item in publisher.take():
                assert isinstance(item, EventFrame)
                self._blocks.setdefault(item.source, []).extend(item.blocks.tolist())
        return self._blocks

    @property
    def accounts(self):
        assert self.blocks is not None  # restarts and losses count as what came before them is decoded
        totals = self.publishers.totals()
        return totals.restarts, totals.lost_batches


def interleaved(*streams):
    """(seq, block) of several publishers in turn; each is (first number, batches)."""
    for place in range(max(batches for _, batches in streams)):
        for publisher, (first, batches) in enumerate(streams):
            if place < batches:
                yield first + place, 1_000 * publisher + place


@pytest.mark.parametrize("firsts", [(5, 0), (70_000, 2), (3, 1)])
def test_numbers_that_interleave_are_two_publishers(firsts):
    heard = Heard()
    for seq, block in interleaved(*((first, 50) for first in firsts)):
        heard.hear(b"", seq, block)
    blocks = heard.blocks
    assert heard.publishers.shared_topics == [""]
    assert sum(map(len, blocks.values())) == 100
    assert len(blocks) == 2
    restarts, lost = heard.accounts
    assert restarts <= 2
    assert lost <= 2


def test_the_one_with_lower_numbers_may_come_first():
    heard = Heard()
    for seq, block in interleaved((0, 50), (5, 50)):
        heard.hear(b"", seq, block)
    assert sum(map(len, heard.blocks.values())) == 100
    assert len(heard.publishers) == 2
    # The step from 0 to 5 looks like a loss, until 1 comes.
    assert heard.accounts == (0, 4)


def test_three_publishers_under_one_topic_are_three():
    heard = Heard()
    for seq, block in interleaved((500, 40), (90, 40), (0, 40)):
        heard.hear(b"", seq, block)
    assert len(heard.publishers) == 3
    assert heard.accounts[0] <= 2


def test_equal_numbers_are_two_publishers_after_the_second_repetition():
    heard = Heard()
    for seq, block in interleaved((7, 50), (7, 50)):
        heard.hear(b"", seq, block)
    assert len(heard.publishers) == 2
    assert heard.accounts[0] <= 2
    assert sum(map(len, heard.blocks.values())) == 100


def test_a_publisher_that_restarts_again_and_again_is_one():
    heard = Heard()
    lives = [3, 2, 1, 4, 1, 1, 6, 2]
    for life in lives:
        for seq in range(life):
            heard.hear(b"", seq, seq)
    assert len(heard.publishers) == 1
    assert heard.accounts == (len(lives) - 1, 0)
    assert heard.publishers.shared_topics == []


def test_a_gap_in_one_of_two_publishers_is_its_own():
    heard = Heard()
    for seq, block in interleaved((1_000, 20), (0, 20)):
        if seq not in (1_010, 15):
            heard.hear(b"", seq, block)
    assert len(heard.publishers) == 2
    assert heard.accounts[1] == 2


def test_a_publisher_of_one_rank_is_a_source_whatever_its_batches_say():
    heard = Heard(rank=3)
    publisher = heard.publishers.get(b"", 0)
    publisher.feed.live(0, batch(1))
    publisher.feed.live(1, batch(2, rank=0))
    publisher.feed.live(2, batch(3, rank=3))
    assert heard.blocks == {"x/dp3": [1, 2, 3]}


def test_where_we_connect_to_an_endpoint_there_is_one_publisher():
    heard = Heard(by_topic=False)
    for topic, seq in ((b"a", 0), (b"b", 5), (b"a", 1), (b"a", 6)):
        heard.hear(topic, seq, seq)
    assert len(heard.publishers) == 1
    assert heard.accounts == (1, 4 + 1 + 4)
