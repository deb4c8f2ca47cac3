"""State as it is after a way through the bytes of a snapshot."""

from typing import Any

from kvstream.state.snapshot import Header, Section, pack, unpack

_HEADER = Header(number=0, taken_at=0.0, writer="test")


def through_a_snapshot(body: dict[str, Any]) -> dict[str, Any]:
    _, (section,) = unpack(pack(_HEADER, [Section("source", "x", body)]))
    return section.body
