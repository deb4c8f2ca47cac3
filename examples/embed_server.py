"""kvstream inside an asyncio inference server: the engine records, the server answers with figures.

python examples/embed_server.py            # serves http://127.0.0.1:8765/kv until Ctrl-C
curl http://127.0.0.1:8765/generate/42     # a "request" that touches the toy engine's cache
curl http://127.0.0.1:8765/kv              # hit ratio, lifetimes and accounts as JSON
"""

import argparse
import asyncio
from collections import OrderedDict
from contextlib import suppress

import msgspec

from kvstream import KVStream, MetricsConfig, Producer, StreamConfig


class ToyEngine:
    """In place of your engine: an LRU cache of prefix blocks."""

    def __init__(self, producer: Producer, blocks: int) -> None:
        self.kv = producer
        self.cached: OrderedDict[int, int] = OrderedDict()
        self.free = list(range(blocks))

    async def generate(self, prompt: int) -> None:
        """Find or make the eight blocks of a prompt."""
        for content in range(prompt, prompt + 8):
            slot = self.cached.get(content)
            if slot is not None:
                self.cached.move_to_end(content)
                await self.kv.accessed(slot)
                continue
            if not self.free:
                slot = self.cached.popitem(last=False)[1]
                await self.kv.evicted(slot)
                self.free.append(slot)
            slot = self.cached[content] = self.free.pop()
            await self.kv.allocated(slot)


async def main() -> None:
    parser = argparse.ArgumentParser(description="A toy inference server with kvstream inside.")
    parser.add_argument("--port", type=int, default=8765)
    port = parser.parse_args().port
    config = StreamConfig(metrics=MetricsConfig(capacity=256))
    async with KVStream(config) as stream:
        engine = ToyEngine(stream.producer("engine-0"), blocks=256)

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            path = (await reader.readline()).split()[1].decode()
            if path.startswith("/generate/"):
                await engine.generate(int(path.removeprefix("/generate/")))
                body = b"ok\n"
            else:
                await stream.flush()
                body = msgspec.json.encode(stream.summary_nowait()) + b"\n"
            writer.write(b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + body)
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(handle, "127.0.0.1", port)
        print(f"serving on http://127.0.0.1:{server.sockets[0].getsockname()[1]}/kv", flush=True)
        async with server:
            await server.serve_forever()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main())
