"""The compiled twin of how a ``BlockTable`` applies a run: event by event, in order, to the same state.

What the result must be, ``tests/reference.py`` says.
"""

from typing import TypeVar

import numpy as np

from kvstream.blocks.grouping import Mask
from kvstream.blocks.hashing import U64
from kvstream.blocks.hashing_compiled import mix_one
from kvstream.blocks.index import REMOVED
from kvstream.blocks.index_compiled import Places, find_or_free, home
from kvstream.blocks.observations import ContentChanges, EvictionBatch, Observations, Owned
from kvstream.blocks.prefetch_compiled import prefetch
from kvstream.compiled import compiled
from kvstream.events.frame import I64, U8, U16
from kvstream.events.types import OTHER, REASONS, REPLACED, Op

_ALLOC, _ACCESS, _EVICT, _STORE = int(Op.ALLOC), int(Op.ACCESS), int(Op.EVICT), int(Op.STORE)
_OTHER, _REPLACED, _REASONS = int(OTHER), int(REPLACED), len(REASONS)
_SLOTS = 2**32  # at most, as ``hashing.are_hashes`` says
_NOT_LIVE = -1
_AHEAD = 32  # events that are done while memory answers
_ODD = 0x1E3779B97F4A7C15  # which scatters slots over all bits, so that sums with times differ

Column = TypeVar("Column", I64, U8, U16)

# Places in ``counts``: first what goes on from run to run, then what is counted in one, then how much each
# kind of thing seen there is in ``seen`` and ``changed``.
_LIVE, _FREE, _NEXT = range(3)
_OF_RUN = 3
_ALLOCATIONS, _SAMPLED, _ACCESSES, _UNKNOWN_ACCESSES, _UNKNOWN_EVICTIONS = range(3, 8)
_REGRESSIONS, _UNKNOWN_REASONS, _REPLACEMENTS, _WITHOUT_CONTENT, _INSERTED = range(8, 13)
_GAPS, _FIRSTS, _UNOBSERVED, _LIVES, _ENDS, _USES, _ASKS, _CHANGES, _COUNTS = range(13, 22)

# Rows of ``seen``.
_GAP, _FIRST, _USED, _ASKED, _BEGUN_TS, _END_TS = range(6)
_LIFETIME, _IDLE, _ACCESSED, _LIFE_BLOCK, _LIFE_TS, _LIFE_REASON, _SEEN = range(6, 13)
# Rows of ``whose``: owners, in the order of what they own.
_GAP_OF, _FIRST_OF, _UNOBSERVED_OF, _LIFE_OF, _BEGUN_OF, _END_OF, _WHOSE = range(7)
_CONTENT, _CHANGE_TS, _CHANGE_OF, _CHANGED = range(4)  # rows of ``changed``


class CompiledRuns:
    """Applies runs of at most ``at_once`` events, none of them a clear.

    Args:
        mask: Access number i is at place ``i & mask`` of a row's times.
        depth: Access times that eviction records carry.
        seed: The table's part in the sampling hash.
        sample_rate: Share of generations whose intervals are observed.
    """

    at_once = 16_384  # more would not cost less, only take more memory

    def __init__(self, mask: int, depth: int, seed: int, sample_rate: float) -> None:
        self._mask, self._depth, self._seed = mask, depth, seed
        self._sampled_below = _threshold(int(sample_rate * 2**64))
        # What the loop writes to is made once, as fresh memory costs more than writing to it.
        self._seen = np.empty((_SEEN, self.at_once), dtype=np.int64)
        self._whose = np.empty((_WHOSE, self.at_once), dtype=np.uint16)
        self._changed = np.empty((_CHANGED, 2 * self.at_once), dtype=np.int64)
        self._comes = np.empty(2 * self.at_once, dtype=np.bool_)
        self._history = np.zeros((self.at_once, depth), dtype=np.int64)
        self._counts = np.zeros(_COUNTS, dtype=np.int64)
        self._nothing, self._no_owners = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.uint16)

    def apply(
        self,
        ops: U8,
        blocks: I64,
        ts: I64,
        reasons: U8 | None,
        keys: I64 | None,
        labels: U16 | None,
        owners: U16 | None,
        *,
        rows: I64,
        ids: I64 | None,
        places: Places,
        bits: int,
        factor: np.uint64,
        free: I64,
        key_of: I64 | None,
        owner_of: U16 | None,
        state: tuple[int, int, int],
        records: bool,
        changes: bool,
        lookups_below: int,
        told_since: int,
        seen: Observations,
    ) -> tuple[tuple[int, int, int], int]:
        """Applies events, and adds what there was to see.

        Args:
            ops: Operations, uint8 (n,).
            blocks: Block ids, int64 (n,).
            ts: Times, ns, int64 (n,).
            reasons: Reason codes, uint8 (n,), or None.
            keys: Keys, int64 (n,), or None.
            labels: Numbers of labels, uint16 (n,), or None where all are 0.
            owners: Owner of each of those numbers, uint16, or None where there are no labels.
            rows: Birth, access count and last access times of each slot; changed.
            ids: Id of each slot in content streams, changed; otherwise None, and a slot is its own id.
            places: Places of the index of ids, with room for all that begin; changed.
            bits: Of the numbers of these places.
            factor: Of the index, which scatters ids over its places.
            free: Slots given back; a stack, changed.
            key_of: Key of each slot, changed; None where none was ever given.
            owner_of: Owner of each slot, changed; None where there are no labels.
            state: Live blocks, slots on the stack, and the first slot never used.
            records: Make records of the evictions.
            changes: Tell of content that came and went.
            lookups_below: Tell of content that was looked up, if its hash is below; 0 tells of none.
            told_since: What was used at this time, ns, or later has been told already.
            seen: Takes what there is to see.

        Returns:
            ``state`` as it is afterwards, and how many ids were inserted into the index.
        """
        counts = self._counts
        counts[:_OF_RUN] = state
        counts[_OF_RUN:] = 0
        _apply(
            _read_only(ops),
            _read_only(blocks),
            _read_only(ts),
            _read_only(ops[:0] if reasons is None else reasons),
            _read_only(ts[:0] if keys is None else keys),
            _read_only(self._no_owners if labels is None else labels),
            _read_only(self._no_owners if owners is None else owners),
            rows,
            self._nothing if ids is None else ids,
            places,
            bits,
            factor,
            free,
            self._nothing if key_of is None else key_of,
            self._no_owners if owner_of is None else owner_of,
            self._mask,
            self._depth,
            self._seed,
            self._sampled_below,
            _threshold(lookups_below),
            told_since,
            records,
            changes and (ids is not None or key_of is not None),
            counts,
            seen.evictions,
            self._seen,
            self._whose,
            self._changed,
            self._comes,
            self._history,
        )
        made = counts.tolist()
        seen.allocations += made[_ALLOCATIONS]
        seen.sampled_allocations += made[_SAMPLED]
        seen.accesses += made[_ACCESSES]
        seen.unknown_accesses += made[_UNKNOWN_ACCESSES]
        seen.unknown_evictions += made[_UNKNOWN_EVICTIONS]
        seen.time_regressions += made[_REGRESSIONS]
        seen.unknown_reasons += made[_UNKNOWN_REASONS]
        seen.replacements += made[_REPLACEMENTS]
        self._add_columns(made, records, owner_of is not None, seen)
        if lookups_below and (ids is not None or key_of is not None):
            lookups = made[_ALLOCATIONS] + made[_ACCESSES] - made[_WITHOUT_CONTENT]
            seen.add_lookups(lookups, self._seen[_ASKED, : made[_ASKS]].copy())
        if made[_CHANGES]:
            content, at = self._changed[:_CHANGE_OF, : made[_CHANGES]].copy()
            comes = self._comes[: made[_CHANGES]].copy()
            whose = self._changed[_CHANGE_OF, : made[_CHANGES]]
            owned = None if owner_of is None else whose.astype(np.uint16)
            seen.changes.append(ContentChanges(content, at, comes, ids is not None, owned))
        return (made[_LIVE], made[_FREE], made[_NEXT]), made[_INSERTED]

    def _add_columns(self, made: list[int], records: bool, owned: bool, seen: Observations) -> None:
        of = self._seen
        lives = of[_LIFETIME : _LIFE_REASON + 1, : made[_LIVES]].copy()
        lifetime, idle, accesses, block, ts, reason = lives
        seen.reuse_gaps.append(of[_GAP, : made[_GAPS]].copy())
        seen.first_reuses.append(of[_FIRST, : made[_FIRSTS]].copy())
        seen.used.append(of[_USED, : made[_USES]].copy())
        if made[_LIVES]:
            seen.lifetimes.append(lifetime)
            seen.idles.append(idle)
            seen.access_counts.append(accesses)
            if records:
                history = self._history[: made[_LIVES]].copy()
                codes = reason.astype(np.uint8)
                seen.evicted.append(EvictionBatch(block, ts, lifetime, idle, accesses, codes, history))
        if owned:
            # By row of ``whose``.
            counted = (_GAPS, _FIRSTS, _UNOBSERVED, _LIVES, _ALLOCATIONS, _ENDS)
            gaps, firsts, unobserved, of_lives, begun, ended = (
                self._whose[row, : made[count]].copy() for row, count in enumerate(counted)
            )
            seen.owned.append(
                Owned(
                    begun=begun,
                    begun_ts=of[_BEGUN_TS, : made[_ALLOCATIONS]].copy(),
                    ended=ended,
                    ended_ts=of[_END_TS, : made[_ENDS]].copy(),
                    unobserved=unobserved,
                    reuse_gaps=gaps,
                    first_reuses=firsts,
                    lives=of_lives,
                )
            )


def _read_only(column: Column) -> Column:
    """A column as one that is contiguous and cannot be changed: loops are compiled for each kind of array."""
    view = np.ascontiguousarray(column).view()
    view.setflags(write=False)
    return view


def _threshold(below: int) -> U64:
    """A threshold of at most 2**64: its 64 bits, and the one above them, which lets everything pass."""
    return np.array([below % 2**64, below >> 64], dtype=np.uint64)


@compiled
def _load_ahead(
    event: int,
    blocks: I64,
    rows: I64,
    ids: I64,
    places: Places,
    bits: int,
    factor: np.uint64,
    key_of: I64,
    owner_of: U16,
) -> None:
    """Begins to load what later events need, so that memory answers while others are applied."""
    by_hash, later = len(ids) > 0, event + _AHEAD
    if by_hash and later + _AHEAD < len(blocks):
        prefetch(places, (home(blocks[later + _AHEAD], bits, factor),))
    if later < len(blocks):
        slot = np.int64(places[home(blocks[later], bits, factor)]) if by_hash else blocks[later]
        if 0 <= slot < len(rows):
            if by_hash:
                prefetch(ids, (slot,))
            prefetch(rows, (slot, 1))
            prefetch(rows, (slot, rows.shape[1] - 1))  # which may be on another cache line
            if len(key_of):
                prefetch(key_of, (slot,))
            if len(owner_of):
                prefetch(owner_of, (slot,))


@compiled
def _change(changed: I64, comes: Mask, at: int, content: int, ts: int, begins: bool, owner: int) -> int:
    """Writes a change at a place; returns the next."""
    changed[_CONTENT, at], changed[_CHANGE_TS, at], changed[_CHANGE_OF, at] = content, ts, owner
    comes[at] = begins
    return at + 1


@compiled
def _apply(
    ops: U8,
    blocks: I64,
    ts: I64,
    reasons: U8,
    keys: I64,
    labels: U16,
    owners: U16,
    rows: I64,
    ids: I64,
    places: Places,
    bits: int,
    factor: np.uint64,
    free: I64,
    key_of: I64,
    owner_of: U16,
    mask: int,
    depth: int,
    seed: int,
    sampled_below: U64,
    asked_below: U64,
    told_since: int,
    records: bool,
    changes: bool,
    counts: I64,
    evictions: I64,
    seen: I64,
    whose: U16,
    changed: I64,
    comes: Mask,
    history: I64,
) -> None:
    """Does what ``CompiledRuns.apply`` says; columns that there are not are empty."""
    by_hash, has_keys, has_owners = len(ids) > 0, len(key_of) > 0, len(owner_of) > 0
    sampled, all_sampled = sampled_below[0], sampled_below[1] != 0
    asked, all_asked = asked_below[0], asked_below[1] != 0
    looks_up = all_asked or asked != 0
    # Counted here, as what is in registers costs nothing.
    gaps = firsts = accesses = uses = asks = came_or_went = 0
    for event in range(len(ops)):
        _load_ahead(event, blocks, rows, ids, places, bits, factor, key_of, owner_of)
        block, time, op = blocks[event], ts[event], ops[event]
        place = -1
        if by_hash:
            place = find_or_free(places, bits, factor, block, ids)
            slot = np.int64(places[place])
        else:
            slot = block if 0 <= block < len(rows) else np.int64(-1)
        is_live = slot >= 0 and rows[slot, 1] != _NOT_LIVE
        if op >= _STORE:
            op = _ACCESS if is_live else _ALLOC
        if not is_live and op != _ALLOC:
            counts[_UNKNOWN_ACCESSES if op == _ACCESS else _UNKNOWN_EVICTIONS] += 1
            continue
        is_content = by_hash and (block < 0 or block >= _SLOTS)
        content = block if is_content else key_of[slot] if has_keys and is_live else 0
        owner = owner_of[slot] if has_owners and is_live else 0
        birth, is_told = time, False
        if is_live:
            birth, count = rows[slot, 0], rows[slot, 1]
            # That of the last access; before any, that of the allocation.
            last = rows[slot, 2 + (count - 1 & mask)]
            is_told = told_since <= last <= time
            interval = time - last
            if interval < 0:
                counts[_REGRESSIONS] += 1
                interval = 0
            is_sampled = all_sampled or np.uint64(mix_one(mix_one(block ^ seed) ^ birth)) < sampled
        if op == _ACCESS:
            if is_sampled and count:
                seen[_GAP, gaps], whose[_GAP_OF, gaps] = interval, owner
                gaps += 1
            elif is_sampled:
                seen[_FIRST, firsts], whose[_FIRST_OF, firsts] = interval, owner
                firsts += 1
            elif has_owners:
                whose[_UNOBSERVED_OF, counts[_UNOBSERVED]] = owner
                counts[_UNOBSERVED] += 1
            accesses += 1
            rows[slot, 1] = count + 1
            rows[slot, 2 + (count & mask)] = time
        elif is_live:
            lifetime = time - birth
            if lifetime < 0:
                counts[_REGRESSIONS] += 1
                lifetime = 0
            if op == _ALLOC:
                reason = _REPLACED
                counts[_REPLACEMENTS] += 1
            else:
                reason = int(reasons[event]) if len(reasons) else 0
                if reason >= _REASONS:
                    reason = _OTHER
                    counts[_UNKNOWN_REASONS] += 1
            evictions[reason] += 1
            if has_owners:
                seen[_END_TS, counts[_ENDS]], whose[_END_OF, counts[_ENDS]] = time, owner
            counts[_ENDS] += 1
            if is_sampled:
                at = counts[_LIVES]
                seen[_LIFETIME, at], seen[_IDLE, at], seen[_ACCESSED, at] = lifetime, interval, count
                whose[_LIFE_OF, at], seen[_LIFE_BLOCK, at] = owner, block
                seen[_LIFE_TS, at], seen[_LIFE_REASON, at] = time, reason
                if records:
                    for back in range(depth):
                        is_known = back < count
                        access = rows[slot, 2 + (count - 1 - back & mask)] if is_known else 0
                        history[at, depth - 1 - back] = access
                counts[_LIVES] += 1
        if op == _EVICT:
            if changes and content:
                came_or_went = _change(changed, comes, came_or_went, content, time, False, owner)
            rows[slot, 1] = _NOT_LIVE
            counts[_LIVE] -= 1
            if by_hash:
                places[place] = REMOVED
                free[counts[_FREE]] = slot
                counts[_FREE] += 1
            continue
        if op == _ALLOC:
            if slot < 0:  # of an id that is new to the index
                if counts[_FREE]:
                    counts[_FREE] -= 1
                    slot = free[counts[_FREE]]
                else:
                    slot = counts[_NEXT]
                    counts[_NEXT] += 1
                ids[slot], places[place] = block, slot
                counts[_INSERTED] += 1
            came = content if is_content else keys[event] if len(keys) else 0
            owner = owners[labels[event]] if has_owners and len(labels) else 0
            if changes:
                is_same = is_live and content == came
                if is_live and content and not is_same:
                    came_or_went = _change(changed, comes, came_or_went, content, time, False, owner)
                if came and not is_same:
                    came_or_went = _change(changed, comes, came_or_went, came, time, True, owner)
            content = came
            if has_keys:
                key_of[slot] = came
            if has_owners:
                owner_of[slot] = owner
                at = counts[_ALLOCATIONS]
                seen[_BEGUN_TS, at], whose[_BEGUN_OF, at] = time, owner
            counts[_ALLOCATIONS] += 1
            birth, is_told = time, False
            if all_sampled or np.uint64(mix_one(mix_one(block ^ seed) ^ birth)) < sampled:
                counts[_SAMPLED] += 1
            counts[_LIVE] += not is_live
            rows[slot, 0], rows[slot, 1], rows[slot, 2 + (-1 & mask)] = time, 0, time
        if not is_told:
            seen[_USED, uses] = content if is_content else birth + block * _ODD
            uses += 1
        if not content:
            counts[_WITHOUT_CONTENT] += 1
        elif looks_up and (all_asked or np.uint64(mix_one(content)) < asked):
            seen[_ASKED, asks] = content
            asks += 1
    counts[_GAPS] = gaps
    counts[_FIRSTS] = firsts
    counts[_ACCESSES] = accesses
    counts[_USES] = uses
    counts[_ASKS] = asks
    counts[_CHANGES] = came_or_went
