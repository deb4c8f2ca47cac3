"""A server with room for 48 open files; 80 peers connect and leave, then a producer comes."""

import os, resource, socket, subprocess, sys, tempfile, time

path = os.path.join(tempfile.mkdtemp(), "s.sock")
server = subprocess.Popen(
    [sys.argv[1], "serve", "--listen", f"unix:{path}", "--json"],
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (48, 48)),
)
server.stderr.readline()
peers = []
try:
    for _ in range(80):
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(1)
        s.connect(path)
        peers.append(s)
except OSError:
    pass
time.sleep(1)
for s in peers:
    s.close()
time.sleep(1)
answer = b""
try:
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(60)
        s.connect(path)
        s.sendall(b"\x00\x00\x00\x0c\x93\xa8kvstream\x01\xc0")
        answer = s.recv(100)
except OSError:
    pass
rc = server.poll()
print(
    "the server goes on" if rc is None else f"the server ended, rc {rc}", "and answers a hello with", answer
)
server.kill()
sys.exit(rc is not None or answer[-1:] != b"\x00")
