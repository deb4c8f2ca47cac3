"""20 kB of zstd that are 600 MB of empty lines: the most memory that a run takes."""

import os, subprocess, sys, tempfile, time
import zstandard

path = os.path.join(tempfile.mkdtemp(), "b.jsonl.zst")
c = zstandard.ZstdCompressor().compressobj()
with open(path, "wb") as f:
    f.write(c.compress(b'{"type":"alloc","block":1,"ts":1767225600000000000}\n'))
    for _ in range(600):
        f.write(c.compress(b"\n" * (1 << 20)))
    f.write(c.flush())
child = subprocess.Popen([sys.argv[1], "run", path, "--json"], stdout=subprocess.DEVNULL)
most = 0
while child.poll() is None:
    with open(f"/proc/{child.pid}/status") as f:
        most = max([most] + [int(x.split()[1]) // 1024 for x in f if x.startswith("VmHWM")])
    if most > 600:
        child.kill()
    time.sleep(0.02)
os.unlink(path)
print(f"peak {most} MB")
sys.exit(most >= 300)
