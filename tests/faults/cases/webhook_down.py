"""Alerts for a webhook where nobody listens: the run ends within 10 s, or 40 s on a busy machine, and says on standard error what was not delivered."""

import os, socket, subprocess, sys, tempfile, time

path, T = os.path.join(tempfile.mkdtemp(), "e.jsonl"), 1767225600000000000
with open(path, "w") as f:  # a full cache for 40 s: occupancy_high fires
    f.writelines('{"type":"alloc","block":%d,"ts":%d}\n' % (i, T + i) for i in range(20))
    f.writelines('{"type":"access","block":1,"ts":%d}\n' % (T + k * 10**9) for k in range(1, 40))
with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    port = s.getsockname()[1]
began = time.monotonic()
child = subprocess.Popen(
    [sys.argv[1], "run", path, "--json", "--capacity", "20", "--webhook", f"http://127.0.0.1:{port}/hook"],
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
)
try:
    err = child.communicate(timeout=120)[1].decode()
except subprocess.TimeoutExpired:
    child.kill()
    err = child.communicate()[1].decode()
took = time.monotonic() - began
print(f"ended after {took:.1f} s, rc {child.returncode}, said {err.strip()[-100:]!r}")
sys.exit(took > 40 or not ("deliver" in err or str(port) in err))
