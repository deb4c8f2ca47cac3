import pytest

from kvstream import KVStream, Labels, MalformedInputError


@pytest.mark.parametrize("labels", ["acme", {"tenant": "acme"}, Labels(tenant=""), Labels(tenant=[1])])
@pytest.mark.parametrize("keys", [None, [7]])
async def test_invalid_labels_are_refused_and_nothing_is_recorded(labels, keys):
    async with KVStream() as stream:
        producer = stream.producer("engine-0")
        with pytest.raises(MalformedInputError, match=r"Labels\(tenant='acme'\)|1 to 256 characters"):
            await producer.allocated([1], labels=labels, keys=keys)
        await producer.allocated([1], labels=Labels(tenant="acme"), keys=keys)
        assert producer.statistics().offered == 1


async def test_what_is_recorded_after_the_stream_has_closed_is_counted_and_not_raised():
    async with KVStream() as stream:
        producer = stream.producer("engine-0")
    await producer.allocated([1, 2])
    producer.evicted_nowait(1)
    assert producer.statistics().dropped == {"closed": 3}
