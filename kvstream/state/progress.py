"""InputProgress: the position of each cache in the inputs that can be read again."""

from collections.abc import Container, Iterable, Mapping
from typing import Any

import msgspec

from kvstream.events.frame import EventFrame
from kvstream.events.position import Place, Position
from kvstream.state.resumption import SavedInput

_OTHERS = ""  # in place of the name of a source


class _Cache(msgspec.Struct):
    """Positions of a cache in one input: of the last frame taken, and of the last one applied."""

    taken: Position
    applied: Position


class _Input(msgspec.Struct):
    """What was taken from an input.

    Attributes:
        reached: Where the last frame's part of the input begins; None before the first.
        caches: Those with frames on their way, or from that part on, by source and tier.
        floors: Places beyond it up to which all is held, by source; of all others under an empty name.
    """

    reached: Place | None = None
    caches: dict[tuple[str, str], _Cache] = {}
    floors: dict[str, Place] = {}

    def reach(self, position: Position) -> None:
        """Move on to another part, and forget earlier ones."""
        place = position.place
        if self.reached is not None and self.reached.order == place.order:
            return
        self.reached = place
        self.floors = {source: floor for source, floor in self.floors.items() if floor.order > place.order}
        for cache, seen in list(self.caches.items()):
            if seen.applied is not seen.taken or seen.taken.place.order >= place.order:
                continue
            if self.floors.get(cache[0], self.floors.get(_OTHERS)) is None:
                del self.caches[cache]
            else:  # of others of its source more is held, of itself all up to here
                seen.applied = seen.taken = position._replace(events=0)
        for source, tier, events in position.held:
            further = position._replace(events=events)
            self.caches[source, tier] = _Cache(further, further)

    def held(self, source: str) -> Place | None:
        """Return the place up to which all is held of the caches of a source that are not in ``caches``."""
        floor = self.floors.get(source, self.floors.get(_OTHERS))
        return max(filter(None, (floor, self.reached)), key=lambda place: place.order, default=None)


class InputProgress:
    """Follows frames with positions from their input to their cache, on the event loop.

    A cache without frames on its way goes on from where the input is: so nothing is kept of it, and an input
    is not begun from where a cache had its last events long ago.
    """

    def __init__(self) -> None:
        self._inputs: dict[str, _Input] = {}
        self._brought: dict[str, set[str]] = {}  # inputs of each source that has state

    def restore(self, inputs: Mapping[str, SavedInput]) -> None:
        """Go on from what was saved."""
        for name, saved in inputs.items():
            known = self._inputs[name] = _Input(floors=dict(saved.sources))
            if saved.others is not None:
                known.floors[_OTHERS] = saved.others
            for cache, (place, events) in saved.caches.items():
                position = Position(name, place, events)
                known.caches[cache] = _Cache(position, position)
            for source in saved.sources:
                self._brought.setdefault(source, set()).add(name)

    def take(self, frame: EventFrame) -> None:
        """Take note of a frame that an input has brought, before it is put onto a queue."""
        position = frame.position
        if position is None:
            return
        known = self._inputs.setdefault(position.input, _Input())
        known.reach(position)
        cache = (frame.source, frame.tier)
        seen = known.caches.get(cache)
        if seen is None:
            before = position._replace(events=position.events - len(frame))
            known.caches[cache] = _Cache(position, before)
        else:
            seen.taken = position

    def apply(self, frames: Iterable[EventFrame], is_kept: bool) -> None:
        """Take note that frames of one source were applied, in the order in which they were taken.

        Args:
            frames: The frames.
            is_kept: Whether their source has state now, and was not refused.
        """
        for frame in frames:
            if (position := frame.position) is not None:
                self._inputs[position.input].caches[frame.source, frame.tier].applied = position
                if is_kept:
                    self._brought.setdefault(frame.source, set()).add(position.input)

    def forget(self, source: str) -> None:
        """Forget a source that no longer has state."""
        self._brought.pop(source, None)

    def of_source(self, source: str) -> dict[str, Any]:
        """Return the current position of a source in each input, as plain values."""
        return {name: self._from(name, source, {source}) for name in self._brought.get(source, ())}

    def of_others(self, sources: Container[str]) -> dict[str, Any]:
        """Return the position in each input of all but some sources, as plain values."""
        return {
            name: self._from(name, _OTHERS, {key[0] for key in known.caches if key[0] not in sources})
            for name, known in self._inputs.items()
        }

    def _from(self, name: str, source: str, sources: Container[str]) -> dict[str, Any]:
        known = self._inputs[name]
        held = known.held(source)
        return {
            "reached": None if held is None else list(held),
            "caches": [
                [*cache, list(seen.applied.place), seen.applied.events]
                for cache, seen in known.caches.items()
                if cache[0] in sources
            ],
        }
