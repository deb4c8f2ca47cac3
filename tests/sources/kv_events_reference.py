"""What batches of KV events mean, written to be read: msgspec decodes each event as a whole.

``kvstream._core.kv_events`` must come to the same. They differ where no engine ever goes: msgspec judges a
field that is given twice both times, and how deep values may be nested depends on Python's stack.
"""

import math
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta, Raw

from kvstream._core.ids import folded, group_salt, name_salt
from kvstream.events.frame import MAX_FRAME_EVENTS
from kvstream.events.types import MAX_RANK, Labels, Op
from kvstream.text.names import bounded_name
from kvstream.text.pseudonym import pseudonym

KNOWN_TIERS = {None: "gpu", "GPU": "gpu", "CPU": "cpu", "STORAGE": "disk", "DISK": "disk"}
KNOWN_TIERS |= {"CPU_PINNED": "cpu", "CPU_TIER1": "cpu", "CPU_TIER2": "disk"}  # SGLang's
KNOWN_TIERS |= {"EXTERNAL": "remote", "REMOTE": "remote"}
HOST_POOLS = {"CPU_PINNED", "CPU_TIER1"}
OTHER_TIERS = 16
MAX_BYTES = 64 * 1024 * 1024
MAX_EVENTS = 262_144
MAX_MALFORMED = 1_000
NO_RANK = -1
NIL = b"\xc0"

Hashes = Annotated[list[int | bytes], Meta(max_length=MAX_FRAME_EVENTS)]
Rank = Annotated[int, Meta(ge=0, le=MAX_RANK)] | None


class Stored(msgspec.Struct, tag="BlockStored"):
    block_hashes: Hashes
    parent_block_hash: Raw = Raw()
    block_size: Raw = Raw()
    lora_id: int | str | None = None
    medium: str | None = None
    lora_name: str | None = None
    group_idx: int | None = None
    locality: str | None = None
    ownership: str | None = None
    origin: str | None = None
    session_id: Raw = Raw()
    cache_salt: Raw = Raw()
    extra_keys: Raw = Raw()
    kv_cache_spec_kind: Raw = Raw()

    @property
    def op(self):
        """Whether this is all of a request's prefix, what it found included, or what was stored anew."""
        if self.origin is not None:
            return Op.PREFIX if self.origin == "REUSED" else Op.STORE
        is_prefix = len(self.block_hashes) > 1 and bytes(self.parent_block_hash) in (b"", NIL)
        return Op.PREFIX if is_prefix else Op.STORE


class Removed(msgspec.Struct, tag="BlockRemoved"):
    lora_id: ClassVar = None
    lora_name: ClassVar = None
    block_size: ClassVar = b""
    block_hashes: Hashes
    medium: str | None = None
    group_idx: int | None = None
    locality: str | None = None
    ownership: str | None = None
    remaining_copy_counts: list[int] | None = None

    @property
    def op(self):
        """Whether the last copies of blocks are removed, or some copy of each."""
        return Op.EVICT if self.remaining_copy_counts is None else Op.REMOVE

    def __post_init__(self):
        """Keep the hashes of which no copy remains, where that is said."""
        if self.remaining_copy_counts is not None:
            pairs = zip(self.block_hashes, self.remaining_copy_counts, strict=True)
            self.block_hashes = [block for block, remaining in pairs if not remaining]


class Cleared(msgspec.Struct, tag="AllBlocksCleared"):
    op: ClassVar = Op.CLEAR
    block_hashes: ClassVar = [0]  # a clear is about no block
    medium: str | None = None
    locality: str | None = None
    group_idx: ClassVar = None
    ownership: ClassVar = None
    lora_id: ClassVar = None
    lora_name: ClassVar = None
    block_size: ClassVar = b""


class StoredRow(msgspec.Struct, tag="BlockStored", array_like=True):
    op: ClassVar = Op.STORE
    block_hashes: Hashes
    parent_block_hash: Raw = Raw()
    token_ids: Raw = Raw()
    block_size: Raw = Raw()
    lora_id: int | str | None = None
    medium: str | None = None
    lora_name: Raw = Raw()
    extra_keys: Raw = Raw()
    group_idx: int | None = None
    kv_cache_spec_kind: Raw = Raw()
    kv_cache_spec_sliding_window: Raw = Raw()
    locality: str | None = None
    ownership: str | None = None
    session_id: Raw = Raw()
    cache_salt: Raw = Raw()  # is in no array

    def __post_init__(self):
        """Read the adapter's name; SGLang has a map with its cache salt in that place."""
        given = bytes(self.lora_name)
        self.cache_salt = salt_in(given) if is_map(given) else b""
        self.lora_name = (
            None if not given or is_map(given) else msgspec.msgpack.decode(given, type=str | None)
        )


class RemovedRow(msgspec.Struct, tag="BlockRemoved", array_like=True):
    op: ClassVar = Op.EVICT
    lora_id: ClassVar = None
    lora_name: ClassVar = None
    block_size: ClassVar = b""
    block_hashes: Hashes
    medium: str | None = None
    group_idx: int | None = None
    locality: str | None = None
    ownership: str | None = None


class ClearedRow(msgspec.Struct, tag="AllBlocksCleared", array_like=True):
    op: ClassVar = Op.CLEAR
    block_hashes: ClassVar = [0]
    medium: str | None = None
    locality: ClassVar = None
    group_idx: ClassVar = None
    ownership: ClassVar = None
    lora_id: ClassVar = None
    lora_name: ClassVar = None
    block_size: ClassVar = b""


class Type(msgspec.Struct):
    type: str


class TypeRow(msgspec.Struct, array_like=True):
    type: str


class Batch(msgspec.Struct):
    ts: float
    events: Annotated[list[Raw], Meta(max_length=MAX_EVENTS)]
    data_parallel_rank: Rank = None


class BatchRow(msgspec.Struct, array_like=True):
    ts: float
    events: Annotated[list[Raw], Meta(max_length=MAX_EVENTS)]
    data_parallel_rank: Rank = None


NOT_THAT = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
TYPES = {"BlockStored", "BlockRemoved", "AllBlocksCleared"}


def is_array(data):
    return bytes(memoryview(data)[:1]) in {*(bytes([head]) for head in range(0x90, 0xA0)), b"\xdc", b"\xdd"}


def is_map(data):
    return bytes(memoryview(data)[:1]) in {*(bytes([head]) for head in range(0x80, 0x90)), b"\xde", b"\xdf"}


def decoded_event(raw):
    """Return the event; None if it is of an unknown type. Raises what ``NOT_THAT`` has if it is malformed."""
    array = is_array(raw)
    try:
        kind = StoredRow | RemovedRow | ClearedRow if array else Stored | Removed | Cleared
        return msgspec.msgpack.decode(raw, type=kind)
    except NOT_THAT:
        if msgspec.msgpack.decode(raw, type=TypeRow if array else Type).type in TYPES:
            raise
        return None


def nanoseconds(seconds):
    """Return the time, ns since the Unix epoch; None if it is none. From 1e11 on these are milliseconds."""
    scale = 10**6 if seconds >= 1e11 else 10**9
    if not 0 <= seconds < 2**63 / scale:
        return None
    part, whole = math.modf(seconds)
    return int(whole) * scale + round(part * scale)


def signed(bits):
    return bits - 2**64 if bits >= 2**63 else bits


def salt_in(raw):
    """Return the cache salt in a map, as bytes of msgpack."""
    return next((bytes(value) for name, value in reversed(pairs_of(raw)) if name == "cache_salt"), b"")


def pairs_of(raw):
    """Return the fields of a map with what they hold, as bytes of msgpack, in order."""
    count, at = (
        (raw[0] & 0x0F, 1) if raw[0] < 0x90 else (int.from_bytes(raw[1 : 3 if raw[0] == 0xDE else 5]), 0)
    )
    at = at or (3 if raw[0] == 0xDE else 5)
    every = msgspec.msgpack.decode(bytes([0xDD]) + (2 * count).to_bytes(4) + raw[at:], type=list[Raw])
    return [(text_of(bytes(name)), value) for name, value in zip(every[::2], every[1::2], strict=True)]


def text_of(raw):
    try:
        return msgspec.msgpack.decode(raw, type=str)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def opaque(raw):
    """Return the bytes of text, of bytes or of the digits of an integer; none of anything else."""
    raw = bytes(raw)
    if not raw:
        return b""
    head = raw[0]
    if 0xA0 <= head <= 0xBF:
        return raw[1:]
    if 0xD9 <= head <= 0xDB or 0xC4 <= head <= 0xC6:
        return raw[1 + 2 ** ((head - 0xD9) if head >= 0xD9 else (head - 0xC4)) :]
    is_integer = head <= 0x7F or head >= 0xE0 or 0xCC <= head <= 0xD3
    return str(msgspec.msgpack.decode(raw)).encode() if is_integer else b""


def adapter_of(event):
    return event.lora_name or ("" if event.lora_id is None else str(event.lora_id))


def is_text(raw):
    return bool(raw) and (0xA0 <= raw[0] <= 0xBF or 0xD9 <= raw[0] <= 0xDB)


def salt_in_extra_keys(event):
    """Return the text among the keys of the first block that is no adapter's name; bytes of msgpack."""
    try:
        first, *_ = msgspec.msgpack.decode(event.extra_keys, type=list[Raw])
        keys = msgspec.msgpack.decode(first, type=list[Raw])
    except (msgspec.DecodeError, ValueError):
        return b""
    return next((bytes(key) for key in keys[bool(adapter_of(event)) :] if is_text(bytes(key))), b"")


def labels_of(event, has_groups, salted):
    """Return the labels of a store, None if it has none; secrets by their pseudonyms.

    What goes on from a block with a cache salt has it as well.
    """
    adapter, session = adapter_of(event), opaque(event.session_id)
    parent = bytes(event.parent_block_hash)
    if bytes(event.cache_salt) not in (b"", NIL):
        salt = pseudonymous("salt", opaque(event.cache_salt))
    elif parent in (b"", NIL):
        salt = pseudonymous("salt", opaque(salt_in_extra_keys(event)))
    else:
        try:
            salt = salted.get(signed(folded(msgspec.msgpack.decode(parent, type=int | bytes))))
        except msgspec.DecodeError:
            salt = None
    kind = bytes(event.kv_cache_spec_kind)
    labels = Labels(
        lora=bounded_name(adapter) if adapter else None,
        session=pseudonymous("session", session),
        salt=salt,
        cache_group=str(signed(event.group_idx or 0)) if has_groups else None,
        spec_kind=bounded_name(opaque(kind)) if has_groups and is_text(kind) and opaque(kind) else None,
    )
    return labels if labels != Labels() else None


def pseudonymous(kind, value):
    return pseudonym(kind, value) if value else None


def block_tokens(raw):
    """Return the tokens in a block; 0 where they are no such number."""
    try:
        tokens = msgspec.msgpack.decode(raw, type=int)
    except msgspec.DecodeError:
        return 0
    return tokens if 0 < tokens < 2**31 else 0


class ReferenceReader:
    """Reads batches as ``KVEventReader`` does.

    Attributes:
        rows: (op, block, ts, labels or None, tokens in a block as stored last) of each event and block,
            by (rank, tier).
        failures: (batch, ``batch`` or ``event``, event or None, how many) that could not be read.
    """

    def __init__(self):
        self.batches = self.last_ts = self.unknown_events = 0
        self.rows, self.failures = {}, []
        self.other_tiers, self.host_pools = set(), set()
        self.has_groups = False
        self.salted = {}

    def read(self, payloads):
        self.rows, self.failures = {}, []
        self.tokens = {}
        for place, payload in enumerate(payloads):
            try:
                assert len(payload) <= MAX_BYTES
                batch = msgspec.msgpack.decode(payload, type=BatchRow if is_array(payload) else Batch)
                ts = nanoseconds(batch.ts)
                assert ts is not None
            except (*NOT_THAT, AssertionError):
                self.failures.append((place, "batch", None, 1))
                continue
            self.batches += 1
            self.last_ts = ts
            self.add(place, batch, ts)

    def add(self, place, batch, ts):
        """Add the events of a batch, as many as there may be."""
        rank = NO_RANK if batch.data_parallel_rank is None else batch.data_parallel_rank
        rows = malformed = 0
        for number, raw in enumerate(batch.events):
            if rows > MAX_FRAME_EVENTS or malformed >= MAX_MALFORMED:
                self.failures.append((place, "event", number, len(batch.events) - number))
                return
            try:
                event = decoded_event(raw)
                assert event is None or event.medium is None or 1 <= len(event.medium) <= 64
            except (*NOT_THAT, AssertionError):
                self.failures.append((place, "event", number, 1))
                malformed += 1
                continue
            if event is None:
                self.unknown_events += 1
                continue
            salt = group_salt(event.group_idx) if event.group_idx else 0
            if event.ownership is not None:
                salt ^= name_salt(event.ownership)
            self.has_groups = self.has_groups or bool(event.group_idx)
            label = (
                labels_of(event, self.has_groups, self.salted) if event.op in (Op.STORE, Op.PREFIX) else None
            )
            if label and label.salt and event.block_hashes:
                self.salted.setdefault(signed(folded(event.block_hashes[-1])), label.salt)
            is_reused = getattr(event, "origin", None) == "REUSED"
            ops = [Op.RESIDENT, Op.PREFIX] if is_reused else [event.op]  # it was there before
            added = [(op, signed(folded(one) ^ salt), ts, label) for one in event.block_hashes for op in ops]
            for tier in self.tiers(rank, event):
                if added and (size := block_tokens(bytes(event.block_size))):
                    self.tokens[rank, tier] = size
                tokens = self.tokens.get((rank, tier), 0)
                self.rows.setdefault((rank, tier), []).extend((*row, tokens) for row in added)
                rows += len(added)

    def tiers(self, rank, event):
        """Return the tiers that the event is about, one unless it clears several."""
        if event.op == Op.CLEAR and event.medium is None and event.locality is None:
            return ["gpu", *sorted(tier for of, tier in self.host_pools if of == rank)]
        if event.locality == "REMOTE":
            return ["remote"]
        tier = self.tier(event.medium)
        if event.medium in HOST_POOLS:
            self.host_pools.add((rank, tier))
        return [tier]

    def tier(self, medium):
        if medium in KNOWN_TIERS:
            return KNOWN_TIERS[medium]
        name = medium.lower()
        if name not in KNOWN_TIERS.values() and name not in self.other_tiers:
            if len(self.other_tiers) >= OTHER_TIERS:
                return "other"
            self.other_tiers.add(name)
        return name
