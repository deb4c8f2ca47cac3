"""One frame of 3,000 events, a minute apart each; /healthz and the summary are asked until it has been applied. Run with the Python that has kvstream."""

import json, os, socket, subprocess, sys, tempfile, threading, time, urllib.request
import anyio, numpy as np, kvstream
from kvstream import EventFrame

with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    port = s.getsockname()[1]
path = os.path.join(tempfile.mkdtemp(), "s.sock")
server = subprocess.Popen(
    [sys.argv[1], "serve", "--listen", f"unix:{path}", "--http", f"127.0.0.1:{port}", "--json"],
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
)
server.stderr.readline(), server.stderr.readline()


async def send():
    async with kvstream.connect(f"unix:{path}", config=kvstream.StreamConfig(shutdown_timeout=120)) as remote:
        n = 3_000
        await remote.send(
            EventFrame(
                np.zeros(n, np.uint8), np.arange(n), np.arange(n) * 60 * 10**9 + 1767225600 * 10**9, "far"
            )
        )
        await remote.flush()


threading.Thread(target=anyio.run, args=(send,), daemon=True).start()
slowest, applied = 0.0, False
while not applied and slowest < 10:  # 25 s before it was mended, on an idle machine
    for page in ("healthz", "api/summary"):
        began = time.monotonic()
        answer = urllib.request.urlopen(f"http://127.0.0.1:{port}/{page}", timeout=120).read()
        slowest = max(slowest, time.monotonic() - began)
    applied = json.loads(answer)["accounts"]["processed"] == 3_000
    time.sleep(0.02)
print(f"slowest answer {slowest:.1f} s")
server.kill()
os._exit(slowest >= 10)
