import msgspec
import numpy as np
import pytest

from kvstream import EventFrame, KVStream, Labels
from kvstream.errors import ConfigError, MalformedInputError
from kvstream.events.codec import decode_frame, encode_frame
from kvstream.events.frame import frames_from_events
from kvstream.events.types import (
    EVENT_NAMES,
    EVENT_TYPES,
    MAX_NAME,
    OP_OF,
    BlockStored,
    CacheCleared,
    Op,
    checked_labels,
    checked_name,
)

CODES = {name: code for name, code in vars(Op).items() if name.isupper()}
NO_NAMES = ("", "x" * (MAX_NAME + 1), "a\udcff", "\ud800", 5, b"acme")


@pytest.mark.parametrize("name", NO_NAMES)
async def test_what_is_no_name_is_refused_at_the_entry(name):
    async with KVStream() as stream:
        engine = stream.producer("engine-0")
        with pytest.raises(MalformedInputError):
            checked_name(name)
        for label in Labels.__struct_fields__:
            with pytest.raises(MalformedInputError):
                await engine.allocated([1, 2], labels=Labels(**{label: name}))
            with pytest.raises(MalformedInputError):
                engine.allocated_nowait([1, 2], labels=Labels(**{label: name}))
        with pytest.raises(ConfigError):
            stream.producer(name)
        with pytest.raises(ConfigError):
            stream.producer("engine-0", name)
        await engine.allocated([3], labels=Labels(tenant="acme"))
        await stream.flush()
        accounts = stream.accounts()
        assert (accounts.offered, accounts.processed, accounts.balanced) == (1, 1, True)


def test_decoders_refuse_the_same():
    for name in filter(lambda name: isinstance(name, str), NO_NAMES):
        with pytest.raises((msgspec.ValidationError, UnicodeError)):
            msgspec.json.decode(msgspec.json.encode({"tenant": name}), type=Labels)


def test_names_of_any_script_are_names():
    for name in ("é", "日本", "x" * MAX_NAME, " ", "\x00"):
        assert checked_labels(Labels(tenant=name, group=name)).tenant == name


def frame_of(source="engine-0", tier="gpu", labels=None):
    """A frame made by hand, which nothing has checked."""
    columns = np.zeros(2, np.uint8), np.arange(2), np.ones(2, np.int64)
    return EventFrame(*columns, source, tier, labels=(labels or Labels(),), label_of=np.ones(2, np.uint16))


async def test_frames_made_by_hand_with_odd_names_end_nothing():
    async with KVStream() as stream:
        for odd in ({"source": "a\udcff"}, {"tier": "a\udcff"}, {"source": ""}, {"tier": "x" * 1000}):
            with pytest.raises(MalformedInputError):
                await stream.send(frame_of(**odd))
        await stream.send(frame_of(labels=Labels(tenant="")))
        await stream.send(frame_of(labels=Labels(tenant="a\udcff")))
        await stream.flush()
        assert [usage.value for usage in stream.summary_nowait().labels.get("tenant", [])] in ([], ["other"])
        assert stream.accounts().processed == 4


def test_every_operation_has_a_name():
    assert len(set(EVENT_NAMES)) == len(EVENT_NAMES) == len(CODES)


def test_every_operation_has_its_event():
    assert sorted(CODES.values()) == list(range(len(EVENT_TYPES)))
    tags = {kind.__struct_config__.tag: op for kind, op in OP_OF.items()}
    assert tags == {name.lower(): code for name, code in CODES.items()}


@pytest.mark.parametrize("kind", EVENT_TYPES)
def test_an_event_goes_into_a_frame_and_comes_back(kind):
    event = kind(ts=7, **({} if kind is CacheCleared else {"block": -3}))
    (frame,) = frames_from_events([event])
    assert frame.ops.tolist() == [OP_OF[kind]]
    assert frame.to_events() == [event]
    assert decode_frame(encode_frame(frame)).to_events() == [event]


@pytest.mark.parametrize("op", [len(EVENT_TYPES), 255])
def test_an_unknown_operation_is_a_store(op):
    one = EventFrame(np.array([op], np.uint8), np.array([7]), np.array([9]), "s")
    assert one.to_events() == [BlockStored(7, 9, "s")]
