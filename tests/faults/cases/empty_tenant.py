"""Blocks of the tenant "" and of none: /metrics has no series twice. Run with the Python that has kvstream."""

import collections
import anyio
from kvstream import KVStream, Labels

try:
    from kvstream.exporters.prometheus import exposition
except ImportError:
    from kvstream.exporters.prometheus import exposition


async def main():
    async with KVStream() as stream:
        engine = stream.producer("e")
        try:
            await engine.allocated([1, 2], labels=Labels(tenant=""))
        except ValueError:
            return "the label is refused", 0
        await engine.allocated([3])
        await engine.allocated([4], labels=Labels(tenant="a"))
        await stream.flush()
        answer = await exposition(stream)
        text = answer if isinstance(answer, (str, bytes)) else answer[0]
        text = text.decode() if isinstance(text, bytes) else text
        names = collections.Counter(
            line.rsplit(" ", 1)[0] for line in text.splitlines() if line and line[0] != "#"
        )
        twice = [name for name, n in names.items() if n > 1]
        return f"{len(twice)} series twice, such as {twice[:1]}", len(twice)


text, faults = anyio.run(main)
print(text)
raise SystemExit(faults > 0)
