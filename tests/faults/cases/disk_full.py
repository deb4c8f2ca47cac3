"""`run --json --evictions` onto a full disk (/dev/full): status 1 and one line, no traceback."""

import os, subprocess, sys, tempfile

path = os.path.join(tempfile.mkdtemp(), "e.jsonl")
with open(path, "w") as f:
    for i in range(2000):
        f.write(
            '{"type":"alloc","block":%d,"ts":%d}\n{"type":"evict","block":%d,"ts":%d}\n'
            % (i, 1767225600000000000 + i * 2, i, 1767225600000000001 + i * 2)
        )
with open("/dev/full", "wb") as full:
    done = subprocess.run(
        [sys.argv[1], "run", path, "--json", "--evictions"], stdout=full, stderr=subprocess.PIPE, text=True
    )
lines = done.stderr.splitlines()
print(f"rc {done.returncode}, {len(lines)} lines on standard error, traceback {'Traceback' in done.stderr}")
sys.exit(done.returncode != 1 or len(lines) > 3 or "Traceback" in done.stderr)
