import anyio

from kvstream.transport.aligned_sleep import sleep_aligned
from tests.waiting import DEADLINE

PERIOD = 0.05


async def test_a_sleep_ends_where_those_that_began_before_it_end():
    with anyio.fail_after(DEADLINE):
        shortest = PERIOD
        while shortest > 0.8 * PERIOD:  # sooner or later one begins late in a period
            begun = anyio.current_time()
            await sleep_aligned(PERIOD)
            ended = anyio.current_time()
            assert ended // PERIOD > begun // PERIOD
            shortest = min(shortest, ended - begun)
            await anyio.sleep(PERIOD / 2)
