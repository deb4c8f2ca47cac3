import random
import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstream.blocks.hashing import group_salt
from kvstream.events.frame import MAX_FRAME_EVENTS
from kvstream.events.types import Op
from kvstream.monitor import Monitor
from kvstream.sources.kv_events import KVEventDecoder
from tests.sources.fuzz_wire import fuzz, payloads
from tests.strategies import fewer, mutated

pytestmark = pytest.mark.usefixtures("loops")

TS = 1_700_000_000.25
TS_NS = 1_700_000_000_250_000_000
SECRET = [9001, 9002, 9003]


def stored(hashes, medium="GPU", group=0, **more):
    return {
        "type": "BlockStored",
        "block_hashes": hashes,
        "parent_block_hash": None,
        "token_ids": SECRET,
        "block_size": 32,
        "lora_id": None,
        "medium": medium,
        "extra_keys": ["salt"],
        "group_idx": group,
        **more,
    }


def no_memory(payload):
    raise MemoryError


def removed(hashes, medium="GPU", group=0):
    return {"type": "BlockRemoved", "block_hashes": hashes, "medium": medium, "group_idx": group}


def decoded(*batches, source="vllm"):
    decoder = KVEventDecoder(source)
    for batch in batches:
        decoder.add(msgspec.msgpack.encode(batch))
    frames = decoder.frames()
    return decoder, frames, [rejected.reason for rejected in decoder.rejected]


def test_adapters_are_labels():
    row = ["BlockStored", [8], None, SECRET, 32, 3]
    _, (frame,), reasons = decoded(
        [TS, [stored([1, 2]), stored([5, 6], lora_id=7, lora_name="sql"), removed([5])], None],
        [TS, [row, ["BlockStored", [9], None, SECRET, 32, 3, "GPU", "sql"]], None],
    )
    assert not reasons
    owners = [
        (e.block, e.labels.lora if e.labels else None) for e in frame.to_events() if hasattr(e, "labels")
    ]
    assert owners == [(1, None), (2, None), (5, "sql"), (6, "sql"), (8, "3"), (9, "sql")]
    monitor = Monitor()
    monitor.process(frame)
    usage = {of.value: of.blocks_live for of in monitor.summary().labels["lora"]}
    assert usage == {"sql": 2, "3": 1, None: 2}


SHAPES = {
    "vLLM 0.32": [TS, [stored([5, 6]), removed([5]), {"type": "AllBlocksCleared"}], 0],
    "vLLM main": {
        "ts": TS,
        "events": [stored([5, 6]), removed([5]), {"type": "AllBlocksCleared"}],
        "data_parallel_rank": 0,
    },
    "older vLLM": [
        TS,
        [
            ["BlockStored", [5, 6], None, SECRET, 32, None],
            ["BlockRemoved", [5]],
            ["AllBlocksCleared"],
        ],
        0,
    ],
    "older vLLM with every field": [
        TS,
        [
            ["BlockStored", [5, 6], None, SECRET, 32, None, "GPU", None, ["salt"], 0, "full_attention", None],
            ["BlockRemoved", [5], "GPU", 0, "local", "new field"],
            ["AllBlocksCleared"],
        ],
        0,
        "new field",
    ],
    "SGLang": [
        TS,
        [
            ["BlockStored", [5, 6], None, SECRET, 32, None],
            ["BlockRemoved", [5]],
            ["AllBlocksCleared"],
        ],
        0,
    ],
    "maps in a mixed batch": [
        TS,
        [["BlockStored", [5, 6], None, SECRET, 32, None], removed([5]), ["AllBlocksCleared"]],
        0,
    ],
}


@pytest.mark.parametrize("batch", SHAPES.values(), ids=SHAPES)
def test_every_shape_gives_the_same_frame(batch):
    decoder, (frame,), reasons = decoded(batch)
    assert not reasons
    assert (frame.source, frame.tier, frame.seq) == ("vllm/dp0", "gpu", 0)
    assert frame.ops.tolist() == [Op.STORE, Op.STORE, Op.EVICT, Op.CLEAR]
    assert frame.blocks.tolist() == [5, 6, 5, 0]
    assert frame.ts.tolist() == [TS_NS] * 4
    assert decoder.unknown_events == 0


def test_a_batch_without_a_rank_belongs_to_the_publisher_itself():
    _, (frame,), _ = decoded([TS, [removed([1])]], source="sglang")
    assert frame.source == "sglang"


def test_signed_unsigned_and_long_hashes_are_the_same_blocks():
    unsigned = 2**64 - 5
    long = bytes(24) + unsigned.to_bytes(8, "big")
    _, (frame,), _ = decoded([TS, [stored([unsigned, 7]), removed([-5]), stored([long])]])
    assert frame.blocks.tolist() == [-5, 7, -5, -5]


def test_groups_and_media_hold_the_same_content_apart():
    events = [
        stored([1]),
        stored([1], group=1),
        stored([1], medium="CPU"),
        stored([1], medium=None),
        removed([1], medium="STORAGE"),
        stored([1], medium="Weka"),
    ]
    _, frames, _ = decoded([TS, events])
    salted = (1 ^ group_salt(1)) - 2**64 if 1 ^ group_salt(1) >= 2**63 else 1 ^ group_salt(1)
    assert {frame.tier: frame.blocks.tolist() for frame in frames} == {
        "gpu": [1, salted, 1],
        "cpu": [1],
        "disk": [1],
        "weka": [1],
    }


def test_unknown_events_are_counted_and_malformed_ones_reported_beside_good_neighbours():
    batch = [
        TS,
        [stored([1]), {"type": "BlockMoved", "to": 3}, ["BlockStored", "nonsense"], 17, removed([1])],
    ]
    decoder, (frame,), reasons = decoded(batch)
    assert frame.ops.tolist() == [Op.STORE, Op.EVICT]
    assert decoder.unknown_events == 1
    assert [reason.partition(":")[0] for reason in reasons] == [
        "event 2 of the batch",
        "event 3 of the batch",
    ]


@pytest.mark.parametrize("ts", [-1.0, float("nan"), float("inf"), 1e300])
def test_a_time_that_is_none_is_malformed(ts):
    _, frames, reasons = decoded([ts, [stored([1])]])
    assert not frames
    assert reasons == ["the time of the batch is no number of seconds since 1970"]


def test_lost_batches_are_holes_in_the_numbers_and_a_restart_a_new_epoch():
    decoder = KVEventDecoder("s", epoch=7)
    monitor = Monitor()

    def send():
        decoder.add(msgspec.msgpack.encode([TS, [stored([1], medium=medium) for medium in ("GPU", "CPU")]]))
        for frame in decoder.frames():
            monitor.process(frame)

    send()
    decoder.lost(3)
    send()
    accounts = monitor.summary().accounts
    assert (accounts.lost_frames, accounts.allocations, accounts.live) == (3, 2, 2)
    decoder.restart()
    send()
    accounts = monitor.summary().accounts
    assert (accounts.restarts, accounts.cleared, accounts.live, accounts.lost_frames) == (1, 2, 2, 3)


def test_stored_again_is_an_access():
    _, frames, _ = decoded([TS, [stored([1, 2])]], [TS + 1, [stored([2]), removed([1])]])
    monitor = Monitor()
    for frame in frames:
        monitor.process(frame)
    summary = monitor.summary()
    assert (summary.accounts.allocations, summary.accesses, summary.total_evictions) == (2, 1, 1)


def test_no_token_reaches_a_frame_or_a_reason():
    _, frames, reasons = decoded([TS, [stored([1]), stored("x"), stored([1], medium=SECRET)]], [TS, SECRET])
    shown = repr([frame.to_events() for frame in frames]) + repr(reasons)
    assert reasons
    assert not any(str(token) in shown for token in [*SECRET, "salt"])


@fewer
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_no_message_upsets_the_decoder(value):
    decoder = KVEventDecoder("s")
    decoder.add(msgspec.msgpack.encode(value))
    decoder.frames()


@pytest.mark.parametrize("count", [4_000, pytest.param(200_000, marks=pytest.mark.slow)])
def test_mutated_payloads_of_captures_upset_no_decoder(count):
    counts = fuzz(count, 17, payloads())
    assert counts["past the header"] > counts["mutants"] // 3
    assert counts["decoded"] > counts["mutants"] // 5
    assert counts["with events refused"] > counts["mutants"] // 20


def test_sources_and_tiers_of_mutated_payloads_are_few():
    rng = random.Random(4)
    seeds = [msgspec.msgpack.encode(batch) for batch in SHAPES.values()]
    decoder = KVEventDecoder("s")
    places = set()
    for turn in range(20_000):
        decoder.add(mutated(rng, seeds[turn % len(seeds)]))
        places.update((frame.source, frame.tier) for frame in decoder.frames())
    assert decoder.batches > 1_000
    assert len({tier for _, tier in places}) <= 20
    assert len({source for source, _ in places}) <= 4097


UNUSUAL = [
    [
        TS,
        [stored([2**64 - 5, -5, 5, b"0123456789" * 3, b"abc", b""]), {"type": "AllBlocksCleared", "x": [{}]}],
        4,
    ],
    [TS, [stored([1, 2], medium="CPU", group=300), removed([7], medium="DISK"), removed([8], group=2)], 5],
    [
        TS,
        [["BlockStored", [1, 2**40, 200, 70_000], None, [1, 300, 70_000], 32, None, "CPU", None, [None], 3]],
    ],
    [TS, [stored([1], lora_name="sql"), stored([], medium=None), removed([2], medium="Weka")], None],
    [TS + 1e-7, []],
]


def test_the_compiled_twin_decodes_as_the_plain_one_does(monkeypatch):
    def outcome(decoder):
        frames = [
            (f.source, f.tier, f.seq, [*map(str, f.to_events())], f.ts.tolist()) for f in decoder.frames()
        ]
        return frames, decoder.rejected, decoder.unknown_events, decoder.batches, decoder.last_ts

    decoders = []
    for compiled in "01":
        monkeypatch.setenv("KVSTREAM_COMPILED", compiled)
        decoders.append(KVEventDecoder("s"))
    rng = random.Random(11)
    payloads = [msgspec.msgpack.encode(batch) for batch in [*SHAPES.values(), *UNUSUAL]]
    rejected = 0
    for _ in range(1_500):
        for payload in rng.choices(payloads, k=3):
            payload = mutated(rng, payload) if rng.random() < 0.7 else payload
            for decoder in decoders:
                decoder.add(payload)
        plain, compiled = map(outcome, decoders)
        assert plain == compiled
        rejected += len(plain[1])
    assert 500 < rejected < 4_000


def test_media_without_end_are_few_tiers():
    _, frames, _ = decoded([TS, [stored([n], medium=f"M{n}") for n in range(100)]])
    assert {frame.tier for frame in frames} == {f"m{n}" for n in range(16)} | {"other"}
    assert sum(len(frame) for frame in frames) == 100


def test_a_batch_of_a_million_malformed_events_costs_a_few_reports():
    head, events = b"\x92\xcb" + struct.pack(">d", TS) + b"\xdd", [stored([1]), *["x"] * 200_000, stored([2])]
    payload = head + len(events).to_bytes(4, "big") + b"".join(map(msgspec.msgpack.encode, events))
    decoder = KVEventDecoder("s")
    decoder.add(payload)
    (frame,) = decoder.frames()
    assert frame.blocks.tolist() == [1]
    assert len(decoder.rejected) == 10
    assert sum(rejected.count for rejected in decoder.rejected) == 200_001
    decoder.add(head + (1_000_000).to_bytes(4, "big") + b"\x01" * 1_000_000)
    assert decoder.frames() == []
    assert [rejected.unit for rejected in decoder.rejected] == ["batch"]


def test_hashes_beyond_those_of_a_frame_are_refused():
    many = {"type": "BlockStored", "block_hashes": [7] * 400_000}
    decoder, frames, _ = decoded(
        [TS, [stored([1]), *[many] * 11, stored([2])]],
        [TS, [{**many, "block_hashes": [7] * (MAX_FRAME_EVENTS + 1)}, stored([3])]],
    )
    assert [len(frame) for frame in frames] == [MAX_FRAME_EVENTS, 1 + 3 * 400_000 + 1 - MAX_FRAME_EVENTS]
    assert [frame.seq for frame in frames] == [0, 1]
    assert frames[-1].blocks[-1] == 3
    assert sum(rejected.count for rejected in decoder.rejected) == 9 + 1


def test_a_batch_that_there_is_no_memory_for_is_lost_and_not_malformed():
    decoder = KVEventDecoder("s")
    decode, read = decoder._decode, decoder._read
    decoder._decode, decoder._read = no_memory, None
    batch = msgspec.msgpack.encode([TS, [stored([1])]])
    decoder.add(batch)
    assert decoder.frames() == []
    assert (decoder.undecoded, decoder.rejected) == (1, [])
    decoder._decode, decoder._read = decode, read
    decoder.add(batch)
    (frame,) = decoder.frames()
    assert (frame.seq, decoder.undecoded, decoder.batches) == (1, 0, 1)


@pytest.mark.parametrize(
    ("name", "number", "label"),
    [("", 7, "7"), ("", None, None), (None, "", None), (None, 0, "0"), ("sql", 7, "sql")],
)
def test_an_adapter_without_a_name_is_its_number_or_none(name, number, label):
    _, (frame,), _ = decoded([TS, [stored([1], lora_name=name, lora_id=number)]])
    (event,) = frame.to_events()
    assert (event.labels.lora if event.labels else None) == label


def test_long_names_of_adapters_are_bounded_and_stay_apart():
    names = ["a" * 300 + end for end in "xy"]
    _, (frame,), _ = decoded([TS, [stored([n], lora_name=name) for n, name in enumerate(names)]])
    labels = [event.labels.lora for event in frame.to_events()]
    assert len(set(labels)) == 2
    assert {len(label) for label in labels} == {256}


def test_a_reason_is_short_whatever_the_event_holds():
    _, _, reasons = decoded(
        [TS, [{"type": "BlockStored", "block_hashes": "x" * 5_000}, {"type": ["y" * 9_000]}]]
    )
    assert len(reasons) == 2
    assert all(len(reason) <= 300 for reason in reasons)
