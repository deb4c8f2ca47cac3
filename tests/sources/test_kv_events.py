import random
import struct

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import kvstream.sources.kv_events
from kvstream._core.ids import group_salt
from kvstream._core.kv_events import MAX_DEPTH
from kvstream.engine.monitor import Monitor
from kvstream.events.frame import MAX_FRAME_EVENTS
from kvstream.events.types import Labels, Op
from kvstream.sources.kv_events import KVEventDecoder
from kvstream.text.pseudonym import pseudonym
from tests.interpreted import interpreted
from tests.sources.fuzz_wire import fuzz, payloads, same
from tests.sources.kv_events_reference import ReferenceReader
from tests.strategies import fewer, mutated

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


@pytest.fixture(params=["installed", "interpreted"], autouse=True)
def core(request, monkeypatch):
    """The reader as it is installed, which is compiled where there is a compiler, and interpreted."""
    module = (
        kvstream._core.kv_events if request.param == "installed" else interpreted("kvstream._core.kv_events")
    )
    monkeypatch.setattr(kvstream.sources.kv_events, "KVEventReader", module.KVEventReader)
    return module


only_installed = pytest.mark.parametrize(
    "core", ["installed"], indirect=True
)  # as it takes too long otherwise


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
    labelled = [
        (e.block, e.labels.lora if e.labels else None) for e in frame.to_events() if hasattr(e, "labels")
    ]
    assert labelled == [(1, None), (2, None), (5, "sql"), (6, "sql"), (8, "3"), (9, "sql")]
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
            ["BlockRemoved", [5], "GPU", 0, "LOCAL", None, "new field"],
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
    assert frame.ops.tolist() in (
        [Op.STORE] * 2 + [Op.EVICT, Op.CLEAR],
        [Op.PREFIX] * 2 + [Op.EVICT, Op.CLEAR],
    )
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


@pytest.mark.parametrize("ts", [1_767_225_602_500, 1_767_225_602_500.0, 1_767_225_602.5])
def test_a_time_of_a_hundred_thousand_million_and_more_is_in_milliseconds(ts):
    _, (frame,), _ = decoded([ts, [stored([1])]])
    assert frame.ts.tolist() == [1_767_225_602_500_000_000]


MEDIA = {
    "gpu": [None, "GPU"],
    "cpu": ["CPU", "CPU_PINNED", "CPU_TIER1"],
    "disk": ["STORAGE", "DISK", "CPU_TIER2"],
    "remote": ["EXTERNAL", "REMOTE"],
    "weka": ["Weka"],
}


@pytest.mark.parametrize(("tier", "medium"), [(tier, medium) for tier, of in MEDIA.items() for medium in of])
def test_a_medium_is_a_tier_and_what_is_remote_is_so_whatever_its_medium(tier, medium):
    _, frames, _ = decoded([TS, [stored([1], medium), stored([2], medium, locality="REMOTE")]])
    found = {block: frame.tier for frame in frames for block in frame.blocks.tolist()}
    assert found == {1: tier, 2: "remote"}


def test_what_each_owner_holds_is_a_block_of_its_own():
    _, (frame,), _ = decoded([TS, [stored([1]), stored([1], ownership="a"), stored([1], ownership="b")]])
    assert len(set(frame.blocks.tolist())) == 3
    _, (frame,), _ = decoded([TS, [["BlockRemoved", [1], "GPU", None, None, "a"], removed([1])]])
    assert frame.blocks.tolist()[1] == 1 != frame.blocks.tolist()[0]


@pytest.mark.parametrize(
    ("media", "clear", "cleared"),
    [
        # vLLM empties its device alone, SGLang its host memory too; a medium says which.
        (["GPU", "CPU", "DISK"], ["AllBlocksCleared"], {"gpu"}),
        (["GPU", "CPU_PINNED", "DISK", "EXTERNAL"], ["AllBlocksCleared"], {"gpu", "cpu"}),
        (["GPU", "CPU_TIER1", "CPU_TIER2"], {"type": "AllBlocksCleared"}, {"gpu", "cpu"}),
        (["GPU", "CPU_PINNED"], ["AllBlocksCleared", "CPU_PINNED"], {"cpu"}),
        (["GPU", "CPU"], {"type": "AllBlocksCleared", "medium": "CPU"}, {"cpu"}),
    ],
)
def test_a_clear_ends_what_the_engine_means_by_it(media, clear, cleared):
    decoder, _, _ = decoded([TS, [stored([1], medium) for medium in media], 0])
    decoder.add(msgspec.msgpack.encode([TS, [clear], 1]))  # another rank has no such tiers
    decoder.add(msgspec.msgpack.encode([TS, [clear], 0]))
    ended = {(frame.source, frame.tier) for frame in decoder.frames() if frame.ops.tolist() == [Op.CLEAR]}
    assert {tier for source, tier in ended if source.endswith("dp0")} == cleared
    assert {tier for source, tier in ended if source.endswith("dp1")} <= {"gpu", *cleared}


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


def counts_of(*batches):
    """Return what a monitor has counted of some batches: allocations, accesses and evictions."""
    monitor = Monitor()
    for frame in decoded(*batches)[1]:
        monitor.process(frame)
    summary = monitor.summary()
    assert summary.accounts.balanced
    return summary.accounts.allocations, summary.accesses, summary.total_evictions


def test_stored_again_is_another_copy_and_the_last_removal_ends_the_block():
    again = [TS + 1, [stored([2], parent_block_hash=1), removed([1]), removed([2])]]
    assert counts_of([TS, [stored([1, 2])]], again) == (2, 0, 1)
    assert counts_of([TS, [stored([1, 2])]], again, [TS + 2, [removed([2])]]) == (2, 0, 2)


def test_a_whole_prefix_stored_again_is_a_hit():
    """As vLLM reports what a request has found, where the request asks for it."""
    assert counts_of([TS, [stored([1, 2])]], [TS + 1, [stored([1, 2]), removed([2, 1])]]) == (2, 2, 2)


def test_the_origin_says_whether_a_block_was_found_or_stored_anew():
    found = stored([2], parent_block_hash=1, origin="REUSED")
    assert counts_of([TS, [stored([1, 2], origin="NEW")]], [TS + 1, [found, removed([2])]]) == (2, 1, 1)
    assert counts_of([TS, [found]], [TS + 1, [found, removed([2])]]) == (0, 2, 1), "it was there before"
    anew = stored([1, 2], origin="NEW")
    assert counts_of([TS, [anew]], [TS + 1, [anew, removed([1])]]) == (2, 0, 0)


def test_remaining_copies_say_whether_a_removal_is_the_last():
    removals = [{**removed([1, 2]), "remaining_copy_counts": [1, 0]}]
    assert counts_of([TS, [stored([1, 2])]], [TS + 1, removals]) == (2, 0, 1)
    twice = [stored([1, 2]), stored([2], parent_block_hash=1)]
    assert counts_of([TS, twice], [TS + 1, removals]) == (2, 0, 1)
    _, _, (reason,) = decoded([TS, [{**removed([1, 2]), "remaining_copy_counts": [0]}]])
    assert reason.endswith("remaining_copy_counts and block_hashes differ in length")


def test_nodes_that_sglang_splits_and_stores_again_are_no_hits():
    node = ["BlockStored", [1, 2], None, SECRET, 32, None, "GPU"]
    assert counts_of([TS, [node]], [TS + 1, [node]]) == (2, 0, 0)


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


@only_installed
@pytest.mark.parametrize("count", [10_000, pytest.param(200_000, marks=pytest.mark.slow)])
def test_mutated_payloads_of_captures_are_read_as_the_reference_reads_them(core, count):
    counts = fuzz(core.KVEventReader, count, 17, payloads())
    assert counts["past the header"] > counts["mutants"] // 3
    assert counts["decoded"] > counts["mutants"] // 5
    assert counts["with events refused"] > counts["mutants"] // 20


@only_installed
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
    [
        TS * 1000,
        [
            ["BlockStored", [1, 2], None, [], 32, None, "CPU_PINNED", {"cache_salt": "a"}],
            stored([1, 2], medium="CPU_TIER2", locality="REMOTE", ownership="weka"),
            ["BlockRemoved", [2], "EXTERNAL", 1, "LOCAL", "weka"],
            ["AllBlocksCleared"],
            ["AllBlocksCleared", "DISK"],
        ],
        0,
    ],
    [TS + 1e-7, []],
]


def test_mutated_batches_of_every_shape_are_read_as_the_reference_reads_them(core):
    rng = random.Random(11)
    seeds = [msgspec.msgpack.encode(batch) for batch in [*SHAPES.values(), *UNUSUAL]]
    reader, reference = new_reader(core), ReferenceReader()
    rejected = 0
    for _ in range(1_500):
        batches = [
            mutated(rng, payload) if rng.random() < 0.7 else payload for payload in rng.choices(seeds, k=3)
        ]
        rejected += len(same(reader, reference, batches))
    assert 500 < rejected < 4_000


def new_reader(core):
    module = kvstream.sources.kv_events
    return core.KVEventReader(module._tier_of, module.TIER_OF_MEDIUM.values(), module.HOST_POOLS)


NAMES = st.sampled_from(
    ["GPU", "CPU", "CPU_PINNED", "EXTERNAL", "REMOTE", "Weka", "", "sql", "\u00fc", "x" * 300]
) | st.text(max_size=3)
INTEGERS = st.integers(-(2**63), 2**64 - 1) | st.integers(-200, 70_000)
HASHES = st.lists(INTEGERS | st.binary(max_size=40), max_size=4)
ANYTHING = st.recursive(
    st.none() | st.booleans() | INTEGERS | st.floats() | NAMES | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | INTEGERS, inner, max_size=3),
    max_leaves=5,
)
FIELDS = {
    "block_hashes": HASHES,
    "parent_block_hash": st.none() | INTEGERS | st.binary(max_size=40),
    "token_ids": st.lists(st.integers(0, 2**20), max_size=9),
    "block_size": INTEGERS,
    "lora_id": st.none() | INTEGERS | NAMES,
    "medium": st.none() | NAMES,
    "lora_name": st.none() | NAMES | st.dictionaries(st.sampled_from(["cache_salt", "x"]), ANYTHING),
    "extra_keys": ANYTHING | st.lists(st.none() | st.lists(NAMES | st.binary(max_size=2) | ANYTHING)),
    "group_idx": st.none() | st.integers(-2, 3) | INTEGERS,
    "kv_cache_spec_kind": ANYTHING,
    "kv_cache_spec_sliding_window": ANYTHING,
    "locality": st.none() | NAMES,
    "ownership": st.none() | NAMES,
    "session_id": ANYTHING,
    "remaining_copy_counts": st.none() | st.lists(st.integers(0, 2), max_size=4),
    "origin": st.sampled_from([None, "NEW", "REUSED"]) | NAMES,
    "cache_salt": ANYTHING,
}
TYPES = st.sampled_from(
    ["BlockStored", "BlockStored", "BlockRemoved", "AllBlocksCleared", "BlockMoved", 5, None]
)


@st.composite
def events(draw):
    """Events as maps or arrays, now and then with a value of any kind in a field."""
    fields = {name: draw(ANYTHING if draw(st.integers(0, 19)) == 7 else of) for name, of in FIELDS.items()}
    if draw(st.booleans()):
        return [
            draw(TYPES),
            *[*fields.values()][: draw(st.integers(0, len(fields)))],
            *draw(st.lists(ANYTHING, max_size=1)),
        ]
    names = draw(st.permutations(["type", *fields]))[: draw(st.integers(5, 18))]
    return {name: draw(TYPES) if name == "type" else fields[name] for name in names}


RANKS = st.none() | st.integers(0, 3) | st.sampled_from([4095, 4096, -1, True, "0"])
TIMES = (
    st.sampled_from([TS, TS + 1e-7, 0, 1_700_000_000, 9e9, 1e11, 1_700_000_000_000.5])
    | st.floats()
    | INTEGERS
)
BATCHES = st.one_of(
    st.tuples(TIMES, st.lists(events() | ANYTHING, max_size=4), RANKS),
    st.tuples(TIMES, st.lists(events(), max_size=4)),
    st.tuples(TIMES, st.lists(events(), max_size=2), RANKS, ANYTHING),
    st.fixed_dictionaries(
        {"events": st.lists(events(), max_size=3), "ts": TIMES},
        optional={"data_parallel_rank": RANKS, "new": ANYTHING},
    ),
    ANYTHING,
)


@example(
    batches=[(0.0, [["BlockStored", [0], None, [], 0, *[None] * 8, ""]])], cut=0
)  # an ownership without a name
@given(batches=st.lists(BATCHES, max_size=4), cut=st.integers(-40, 40))
@only_installed  # as it looks at both
def test_any_batches_are_read_as_the_reference_reads_them(batches, cut):
    encoded = [msgspec.msgpack.encode(batch) for batch in batches]
    if encoded and cut:  # torn, or followed by more
        encoded[0] = encoded[0][:cut] if cut < 0 else encoded[0] + bytes(range(cut))
    for module in (kvstream._core.kv_events, interpreted("kvstream._core.kv_events")):
        same(new_reader(module), ReferenceReader(), encoded)


REMOVALS = st.builds(
    lambda hashes, medium, group, more: removed(hashes, medium, group) | more,
    st.lists(st.integers(2**63, 2**64 - 1), min_size=1, max_size=1)
    | st.sampled_from([[7], ["a"], [2**63] * 2]),
    st.sampled_from(["GPU", "CPU"]),
    st.integers(0, 1),
    st.sampled_from(
        [{}, {}, {}, {"remaining_copy_counts": [1]}, {"ownership": "me"}, {"locality": "REMOTE"}]
    ),
)


@given(events=st.lists(REMOVALS | st.just(stored([1])), min_size=6, max_size=12))
def test_removals_that_are_alike_but_for_their_hash_are_read_as_the_reference_reads_them(events):
    encoded = [msgspec.msgpack.encode([TS, events[:half], half]) for half in (3, 12)]
    for module in (kvstream._core.kv_events, interpreted("kvstream._core.kv_events")):
        same(new_reader(module), ReferenceReader(), encoded)


@pytest.mark.parametrize("size", [0, 1, 15, 16, 31, 32, 255, 256, 65_535, 65_536])
def test_values_with_every_width_of_size_are_passed_over(core, size):
    values = ["x" * size, b"x" * size, [None] * size, msgspec.msgpack.Ext(5, b"x" * size), list(range(size))]
    values += [{f"{n}": n for n in range(size)}, 2**size if size < 64 else -(2 ** (size % 64))]
    event = {f"field {n}": value for n, value in enumerate(values)} | stored([1], medium="CPU")
    row = ["BlockStored", [1], *[values] * 3, None, "CPU", None, values]
    assert same(new_reader(core), ReferenceReader(), map(msgspec.msgpack.encode, [[TS, [event, row]]])) == []


def test_values_that_are_nested_too_deep_refuse_the_batch():
    def nested(depth):
        return [TS, [stored([1], new=msgspec.Raw(b"\x91" * depth + b"\xc0")), removed([1])]]

    for depth, decodes in ((MAX_DEPTH, True), (MAX_DEPTH + 1, False), (100_000, False)):
        _, frames, reasons = decoded(nested(depth))
        assert bool(frames) == decodes
        assert reasons == ([] if decodes else ["not a batch of KV events: it is nested more than 500 deep"])


def test_what_a_batch_that_is_torn_has_begun_is_forgotten():
    decoder = KVEventDecoder("s")
    good = msgspec.msgpack.encode([TS, [stored([1], lora_name="a"), stored([2], medium="Weka")], 1])
    torn = msgspec.msgpack.encode([TS, [stored([3], lora_name="b"), stored([4], medium="Tape"), "x"], 1])[:-1]
    for payload in (good, torn, good, torn):
        decoder.add(payload)
    frames = decoder.frames()
    assert {(f.source, f.tier): f.blocks.tolist() for f in frames} == {
        ("s/dp1", "gpu"): [1, 1],
        ("s/dp1", "weka"): [2, 2],
    }
    assert [[labels.lora for labels in frame.labels] for frame in frames] == [["a"], []]
    assert [(r.batch, r.unit) for r in decoder.rejected] == [(1, "batch"), (3, "batch")]
    decoder.add(msgspec.msgpack.encode([TS, [stored([n], medium=f"M{n}") for n in range(15)]]))
    assert "other" not in {frame.tier for frame in decoder.frames()}  # as Tape was none of the sixteen


def test_ranks_may_change_from_batch_to_batch():
    ranks = [None, 0, 0, 3, None, 0]
    _, frames, _ = decoded(*([TS, [stored([n])], rank] for n, rank in enumerate(ranks)))
    assert {frame.source: frame.blocks.tolist() for frame in frames} == {
        "vllm": [0, 4],
        "vllm/dp0": [1, 2, 5],
        "vllm/dp3": [3],
    }


def test_labels_of_one_call_are_not_those_of_the_next():
    decoder = KVEventDecoder("s")
    for labelled in (
        [stored([1], lora_name="a"), stored([2])],
        [stored([1])],
        [stored([1]), stored([2], lora_name="b")],
    ):
        decoder.add(msgspec.msgpack.encode([TS, labelled]))
        (frame,) = decoder.frames()
        loras = [event.labels and event.labels.lora for event in frame.to_events()]
        assert loras == [event.get("lora_name") for event in labelled]


def labels_of(*batches):
    _, frames, _ = decoded(*batches)
    return [getattr(event, "labels", None) for frame in frames for event in frame.to_events()]


def test_sessions_and_salts_are_labels_as_keyed_hashes_alone():
    as_map = stored([1], cache_salt="private salt", session_id="private session")
    for_sglang = ["BlockStored", [2], None, SECRET, 16, None, "GPU", {"x": [1], "cache_salt": "private salt"}]
    positions = [None, SECRET, 16, None, "GPU", None, None, None, None, None, None, None, "private session"]
    first, second, third = labels_of([TS, [as_map, for_sglang, ["BlockStored", [3], *positions]]])
    assert first == Labels(
        session=pseudonym("session", b"private session"), salt=pseudonym("salt", b"private salt")
    )
    assert second == Labels(salt=first.salt)
    assert third == Labels(session=first.session)
    assert "private" not in repr((first, second, third))


SALT = "private salt"
NO_KEYS = [
    None,
    [],
    [None],
    [None, [SALT]],
    [[]],
    [[["image", 3]]],
    [[b"digest"]],
    [["sql"]],
    [SALT],
    SALT,
    [SALT] * 20,
    7,
]


def test_the_salt_among_the_extra_keys_of_vllm_is_one_of_all_that_follows():
    prompt = stored([1, 2], extra_keys=[["sql", ["image", 3], SALT, b"digest"], None], lora_name="sql")
    chunk = stored([3], parent_block_hash=2, extra_keys=[None])
    output = stored([4], parent_block_hash=(3).to_bytes(32), extra_keys=[None])
    row = ["BlockStored", [5], None, SECRET, 16, None, "GPU", None, [[SALT]]]
    other = stored([6], parent_block_hash=7, extra_keys=[None])
    salt = pseudonym("salt", SALT.encode())
    first, again, *rest = labels_of([TS, [prompt, chunk]], [TS, [output, row, other]])
    assert [first, again] == [Labels(lora="sql", salt=salt)] * 2
    assert rest == [*[Labels(salt=salt)] * 3, None]


@pytest.mark.parametrize("keys", NO_KEYS)
def test_other_extra_keys_are_no_label(keys):
    assert labels_of([TS, [stored([1], extra_keys=keys, lora_name="sql"), stored([2])]]) == [
        Labels(lora="sql"),
        None,
    ]


def test_a_salt_of_a_batch_that_is_refused_is_forgotten():
    salted, after = stored([1], extra_keys=[[SALT]]), stored([2], parent_block_hash=1)
    decoder = KVEventDecoder("s")
    for payload in (msgspec.msgpack.encode([TS, [salted]])[:-1], msgspec.msgpack.encode([TS, [after]])):
        decoder.add(payload)
    (frame,) = decoder.frames()
    assert frame.labels == ()


@pytest.mark.parametrize("value", [None, "", b"", [1], {"a": 1}, 1.5, True])
def test_what_is_no_session_or_salt_is_no_label(value):
    assert labels_of([TS, [stored([1], cache_salt=value, session_id=value)]]) == [None]


def test_groups_are_labels_with_their_kinds_where_there_are_several():
    plain = stored([1], kv_cache_spec_kind="full_attention")
    zero = {**plain, "group_idx": 0}
    window = stored([2], group=1, kv_cache_spec_kind="sliding_window")
    full = Labels(cache_group="0", spec_kind="full_attention")
    assert labels_of([TS, [plain, zero]]) == [None, None]
    found = labels_of([TS, [zero, window, zero, plain, removed([1])]])
    assert found[:4] == [None, Labels(cache_group="1", spec_kind="sliding_window"), full, full]


def test_groups_of_a_batch_that_is_torn_are_forgotten():
    zero, torn = stored([1], group=0), msgspec.msgpack.encode([TS, [stored([2], group=1)]])[:-1]
    decoder = KVEventDecoder("s")
    for payload in (torn, msgspec.msgpack.encode([TS, [zero]])):
        decoder.add(payload)
    (frame,) = decoder.frames()
    assert frame.labels == ()


def test_media_without_end_are_few_tiers():
    _, frames, _ = decoded([TS, [stored([n], medium=f"M{n}") for n in range(100)]])
    assert {frame.tier for frame in frames} == {f"m{n}" for n in range(16)} | {"other"}
    assert sum(len(frame) for frame in frames) == 100


@only_installed
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


@only_installed
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


def test_a_batch_that_there_is_no_memory_for_is_lost_and_not_malformed(monkeypatch):
    decoder, empty = KVEventDecoder("s"), np.empty

    def bounded(shape, *args, **options):
        if shape > 10_000:
            raise MemoryError
        return empty(shape, *args, **options)

    batches = [[TS, [stored([n]), stored([7] * count)]] for n, count in ((1, 1), (2, 20_000), (3, 1))]
    for batch in batches:
        decoder.add(msgspec.msgpack.encode(batch))
    with monkeypatch.context() as patch:
        patch.setattr(np, "empty", bounded)
        (frame,) = decoder.frames()
    assert frame.blocks.tolist() == [1, 7, 3, 7]
    assert (frame.seq, decoder.undecoded, decoder.batches, decoder.rejected) == (1, 1, 2, [])
    decoder.add(msgspec.msgpack.encode(batches[1]))
    (frame,) = decoder.frames()
    assert (len(frame), frame.seq, decoder.undecoded) == (20_001, 2, 0)


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
