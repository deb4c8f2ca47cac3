"""A handler raises CancelledError at its first call. Run with the Python that has kvstream; no argument is needed."""

import asyncio
from kvstream import KVStream

calls = []


async def handler(eviction):
    calls.append(eviction)
    if len(calls) == 1:
        raise asyncio.CancelledError


async def main():
    async with KVStream() as stream:
        stream.on_eviction(handler)
        engine = stream.producer("e")
        for i in range(10):
            await engine.allocated([i])
            await engine.evicted(i)
            await stream.flush()
            await asyncio.sleep(0.01)


try:
    asyncio.run(main())
    state = "the stream went on"
except BaseException as error:
    state = f"the stream ended by {type(error).__name__}"
print(f"{state}, the handler was called {len(calls)} times of 10")
raise SystemExit(len(calls) != 10)
