"""Events as JSON lines, the form for people and pipes."""

from collections.abc import Iterator

from kvstream.events.codec import decode_lines
from kvstream.events.frame import EventFrame
from kvstream.sources.lines import OnBad


class EventLines:
    """Decodes lines of events; nothing is kept from one chunk to the next."""

    remembers = False

    def decode_lines(self, chunk: bytes, on_bad: OnBad) -> Iterator[EventFrame]:
        """Yield the events of a chunk of whole lines as frames (``decode_lines`` of the codec)."""
        return decode_lines(chunk, on_bad)

    def finish(self) -> Iterator[EventFrame]:
        """Yield nothing: no event is held back."""
        return iter(())
