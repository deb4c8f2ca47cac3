"""An engine whose clock is ten minutes ahead; a server that, as Alertmanager, refuses alerts that end before they start."""

import http.server, json, os, subprocess, sys, tempfile, threading, time
from datetime import datetime

posted = []


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        good = True
        for a in json.loads(self.rfile.read(int(self.headers["Content-Length"]))):
            start, end = (
                datetime.fromisoformat(a[k].replace("Z", "+00:00")).timestamp() if a.get(k) else None
                for k in ("startsAt", "endsAt")
            )
            good &= (end or time.time() + 300) >= (start or 0)
        posted.append(good)
        self.send_response(200 if good else 400)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
path, T = os.path.join(tempfile.mkdtemp(), "e.jsonl"), int(time.time() + 600) * 10**9
with open(path, "w") as f:  # a full cache, emptied after 40 s: occupancy_high fires and is over
    f.writelines('{"type":"alloc","block":%d,"ts":%d}\n' % (i, T + i) for i in range(20))
    f.writelines('{"type":"access","block":1,"ts":%d}\n' % (T + k * 10**9) for k in range(1, 40))
    f.writelines('{"type":"evict","block":%d,"ts":%d}\n' % (i, T + 40 * 10**9 + i) for i in range(20))
    f.writelines('{"type":"alloc","block":99,"ts":%d}\n' % (T + k * 10**9) for k in range(41, 80))
subprocess.run(
    [
        sys.argv[1],
        "run",
        path,
        "--json",
        "--capacity",
        "20",
        "--alertmanager",
        f"http://127.0.0.1:{server.server_port}",
    ],
    capture_output=True,
    timeout=120,
)
print(f"{posted.count(True)} posts taken, {posted.count(False)} refused; right: 2 (firing, resolved) and 0")
sys.exit(posted.count(True) < 2 or not all(posted))
