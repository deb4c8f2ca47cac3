import msgspec
import pytest

from kvstream.bench.captures import captured_batches
from kvstream.events.types import Op
from kvstream.sources.kv_events import KVEventDecoder


@pytest.mark.parametrize("events", [1, 3_000])
def test_batches_of_the_excerpt_have_as_many_events_as_are_asked_for(events):
    batches = captured_batches(events)
    counts = [len(msgspec.msgpack.decode(batch)[1]) for batch in batches]
    assert sum(counts[:-1]) < events <= sum(counts)


def test_the_excerpt_is_read_whole():
    decoder = KVEventDecoder("vllm")
    for payload in captured_batches(1_300):
        decoder.add(payload)
    (frame,) = decoder.frames()
    assert not decoder.rejected
    assert decoder.unknown_events == 0
    assert (frame.source, frame.tier) == ("vllm/dp0", "gpu")
    assert {Op.STORE, Op.EVICT} <= set(frame.ops.tolist())
    assert len(frame) > 1_300
