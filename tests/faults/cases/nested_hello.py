"""A hello of 4 kB with arrays 3,900 deep, sent without the token."""

import os, socket, struct, subprocess, sys, tempfile, time

path = os.path.join(tempfile.mkdtemp(), "s.sock")
server = subprocess.Popen(
    [sys.argv[1], "serve", "--listen", f"unix:{path}", "--json"],
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    env={**os.environ, "KVSTREAM_TOKEN": "secret"},
)
server.stderr.readline()
body = b"\x94\xa8kvstream\x01\xc0" + b"\x91" * 3900 + b"\xc0"
with socket.socket(socket.AF_UNIX) as s:
    s.connect(path)
    s.sendall(struct.pack(">I", len(body)) + body)
    time.sleep(1)
rc = server.poll()
print("the server goes on" if rc is None else f"the server ended, rc {rc}")
server.kill()
sys.exit(rc is not None)
