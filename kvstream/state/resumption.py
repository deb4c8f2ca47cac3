"""InputMarker: gives the frames of an input their positions, and passes over those that the state holds."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from kvstream.events.frame import UNNUMBERED, EventFrame
from kvstream.events.position import Place, Position
from kvstream.events.sequence import Cursor

MarkerOf = Callable[[str], "InputMarker | None"]
"""Returns what marks the frames of the input of a name; None where no state is kept."""


def no_marker(name: str) -> None:
    """Return None: no state is kept."""


class SavedInput(msgspec.Struct):
    """The saved position from which an input continues.

    Attributes:
        others: For the sources that are not in ``sources``.
        sources: For the caches of a source that are not in ``caches``.
        caches: Place and events from there that are held, by source and tier.
    """

    others: Place | None = None
    sources: dict[str, Place] = {}
    caches: dict[tuple[str, str], tuple[Place, int]] = {}

    def held(self, source: str, tier: str) -> tuple[Place, int] | None:
        """Return what is held of a cache: all before a place, and some events from there on."""
        held = self.caches.get((source, tier))
        if held is None:
            place = self.sources.get(source, self.others)
            return None if place is None else (place, 0)
        return held

    def places(self) -> list[Place]:
        """Return the places from which something is not held, in order."""
        places = [*self.sources.values(), *(place for place, _ in self.caches.values())]
        if self.others is not None:
            places.append(self.others)
        return sorted(places, key=lambda place: place.order)


def add_saved(inputs: dict[str, SavedInput], saved: Mapping[str, Any], source: str | None) -> None:
    """Add what a section says of inputs.

    Args:
        inputs: What is known already, by input.
        saved: What ``InputProgress`` returned.
        source: The source of the section; None for that of the stream.

    Raises:
        LookupError: If it is none, as TypeError and ValueError.
    """
    for name, known in saved.items():
        into = inputs.setdefault(name, SavedInput())
        if known["reached"] is not None:
            reached = Place(*known["reached"])
            if source is None:
                into.others = reached
            else:
                into.sources[source] = reached
        for of, tier, place, events in known["caches"]:
            into.caches[of, tier] = (Place(*place), events)


class InputMarker:
    """Marks the frames of one input, part by part as it is read.

    Args:
        name: The input.
        saved: From where it goes on; None for one of which nothing is known.
        cursors: Epoch and next number of each source that was restored.

    Attributes:
        start: The first place from which something is not held; None where nothing is known.
    """

    def __init__(self, name: str, saved: SavedInput | None, cursors: Mapping[str, Cursor]) -> None:
        self._name, self._cursors = name, cursors
        self._saved = saved
        self._places = [] if saved is None else saved.places()
        self.start = self._places[0] if self._places else None
        self._place = Place(0, 0)
        self._events: dict[tuple[str, str], int] = {}  # of each cache from the place on
        self._rest: dict[tuple[str, str], int] = {}  # events of each cache to pass over from here on
        self._held: tuple[tuple[str, str, int], ...] = ()  # the same where the part began
        self._numbers: dict[str, list[int]] = {}  # next number of a source, as it comes and as it leaves

    def begin_in_last_life(self) -> Place:
        """Return from where to read, and begin in the newest life in which something is held.

        Of those before it nothing can be had any more. There must be a place to start from.
        """
        first, life = self._places[0], self._places[-1].life
        self.start = first if first.life == life else Place(life, 0)
        return self.start

    def go_back(self) -> None:
        """Begin again after what was marked so far, as reading had to be given up."""
        if not self._events:
            return
        saved, place = self._saved or SavedInput(), self._place
        others = place if saved.others is None or saved.others.order < place.order else saved.others
        after = SavedInput(
            others, {source: at for source, at in saved.sources.items() if at.order > place.order}
        )
        for cache in {*saved.caches, *self._events}:
            held = saved.held(*cache)
            if held is not None and held[0].order > place.order:
                after.caches[cache] = held
            else:
                after.caches[cache] = (place, self._events.get(cache, 0) + self._rest.get(cache, 0))
        self._saved, self._places, self._events, self._rest = after, after.places(), {}, {}
        self.start = self._places[0]

    def next_place(self, life: int, at: int) -> int | None:
        """Return the next place in a life at which a part must begin; None if there is none."""
        return next((place.at for place in self._places if place.life == life and place.at > at), None)

    def begin(self, place: Place) -> None:
        """Begin a part of the input, or go on with the one that begins at this place."""
        if place.order == self._place.order and self._events:
            return
        self._place, self._events = place, {}
        if self._saved is not None:
            self._rest = {cache: events for cache, events in self._rest.items() if events}
            for cache, (held, events) in self._saved.caches.items():
                if held.order == place.order and events:
                    self._rest[cache] = events
            self._held = tuple((*cache, events) for cache, events in self._rest.items())
            if place.order > self._places[-1].order and not self._rest:
                self._places, self._saved = [], None

    def marked(self, frames: Iterable[EventFrame], renumber: bool) -> Iterator[EventFrame]:
        """Yield the frames of the current part with their positions, without events that are held already.

        Args:
            frames: All of its frames, in order.
            renumber: Let their numbers go on from those of the restored sources, holes as they are; for
                frames that were not numbered by whoever made the events.
        """
        for frame in frames:
            cache = (frame.source, frame.tier)
            before = self._events.get(cache, 0)
            self._events[cache] = before + len(frame)
            left = self._left(frame, cache)
            seq = self._number(frame, left is not None) if renumber else frame.seq
            if left is not None:
                position = Position(self._name, self._place, self._events[cache], self._held)
                yield replace(left, seq=seq, position=position)

    def _left(self, frame: EventFrame, cache: tuple[str, str]) -> EventFrame | None:
        """Return the part of a frame that is not held yet; None if all of it is."""
        if self._saved is None:
            return frame
        held = self._saved.held(*cache)
        if held is not None and self._place.order < held[0].order:
            return None
        passed = min(self._rest.get(cache, 0), len(frame))
        if not passed:
            return frame
        self._rest[cache] -= passed
        return frame.take(slice(passed, None)) if passed < len(frame) else None

    def _number(self, frame: EventFrame, is_left: bool) -> int:
        """Return the number that a frame leaves with."""
        cursor = self._cursors.get(frame.source)
        if frame.seq == UNNUMBERED or cursor is None or cursor.epoch != frame.epoch:
            return frame.seq
        numbers = self._numbers.setdefault(frame.source, [0, cursor.next])
        missing = frame.seq - numbers[0]
        numbers[0] = frame.seq + 1
        if not is_left:
            return frame.seq
        seq = numbers[1] + missing
        numbers[1] = seq + 1
        return seq
