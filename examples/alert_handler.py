"""Alerts as they fire: replays an event log and calls a handler for each alert.

python examples/alert_handler.py examples/data/incident.kvlog.gz
"""

import sys

import anyio

from kvstream import AlertLevel, CacheAlert, KVStream, Malformed, StreamConfig
from kvstream.sources.files import read_events


async def page_someone(alert: CacheAlert) -> None:
    """Put your pager here. It may be slow, or fail: the stream does not wait for it."""
    print(f"{alert.state} {alert.level}: {alert.source}: {alert.message}")


async def main(path: str) -> None:
    async with KVStream(StreamConfig(recorded=True, shutdown_timeout=60.0)) as stream:
        stream.on_alert(page_someone, min_severity=AlertLevel.CRITICAL)
        async for item in read_events(path):
            if isinstance(item, Malformed):
                stream.reject(item)
            else:
                await stream.send(item)
    print(f"balanced: {stream.summary_nowait().accounts.balanced}")


if __name__ == "__main__":
    anyio.run(main, sys.argv[1])
