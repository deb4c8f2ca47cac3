"""`serve` is started twice on one socket: the second is refused, the first goes on."""

import os, subprocess, sys, tempfile, time

path = os.path.join(tempfile.mkdtemp(), "s.sock")
command = [sys.argv[1], "serve", "--listen", f"unix:{path}", "--json"]
server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
server.stderr.readline()
second = subprocess.run(command, capture_output=True, text=True, timeout=120)
time.sleep(0.7)
rc = server.poll()
print(
    f"second rc {second.returncode}, {second.stderr.strip()[-60:]!r}; the first",
    "goes on" if rc is None else f"ended, rc {rc}",
)
server.kill()
sys.exit(rc is not None or second.returncode == 0)
