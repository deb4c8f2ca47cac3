"""A peer that connects to the frame socket and goes away at once, before or in the middle of a hello."""

import os, socket, subprocess, sys, tempfile, time

path = os.path.join(tempfile.mkdtemp(), "s.sock")
server = subprocess.Popen(
    [sys.argv[1], "serve", "--listen", f"unix:{path}", "--json"],
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
)
server.stderr.readline()
try:
    for data in (b"", b"GET / HTTP/1.0\r\n\r\n", b"\x00\x00"):
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(path)
            s.sendall(data)
        time.sleep(0.3)
except OSError:
    pass
time.sleep(0.7)
rc = server.poll()
print("the server goes on" if rc is None else f"the server ended, rc {rc}")
server.kill()
sys.exit(rc is not None)
