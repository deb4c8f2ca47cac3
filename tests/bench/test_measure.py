"""Timing the parts by turns."""

import anyio

from kvstream.bench.measure import measure


async def test_it_can_be_interrupted_between_two_parts():
    begun = []

    def on_part(name):
        begun.append(name)
        if len(begun) == 2:
            scope.cancel()

    with anyio.CancelScope() as scope:
        await measure(1_000, 5, on_part)
    assert scope.cancelled_caught
    assert len(begun) == 2
