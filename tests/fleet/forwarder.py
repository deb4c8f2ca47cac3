"""``python -m tests.fleet.forwarder HERE=THERE …``: connections that come here are continued there.

Each end is ``HOST:PORT`` or the path of a Unix socket.
"""

import asyncio
import contextlib
import sys


async def forward(here, there):
    async def served(reader, writer):
        with contextlib.suppress(OSError):
            if there.startswith("/"):
                far_reader, far_writer = await asyncio.open_unix_connection(there)
            else:
                far_reader, far_writer = await asyncio.open_connection(*there.split(":"))
            await asyncio.gather(copied(reader, far_writer), copied(far_reader, writer))
        writer.close()

    if here.startswith("/"):
        return await asyncio.start_unix_server(served, here)
    return await asyncio.start_server(served, *here.split(":"))


async def copied(reader, writer):
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def main(pairs):
    servers = [await forward(*pair.split("=")) for pair in pairs]
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.gather(*(server.serve_forever() for server in servers))


asyncio.run(main(sys.argv[1:]))
