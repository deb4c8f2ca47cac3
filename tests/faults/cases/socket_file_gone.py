"""The socket's file is removed while the server runs; SIGTERM still ends it with 143."""

import os, subprocess, sys, tempfile

path = os.path.join(tempfile.mkdtemp(), "s.sock")
server = subprocess.Popen(
    [sys.argv[1], "serve", "--listen", f"unix:{path}", "--json"],
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
)
server.stderr.readline()
os.unlink(path)
server.terminate()
err = server.communicate(timeout=120)[1].decode()
print(f"rc {server.returncode}, right 143 (or -15); {err.strip()[-70:]!r}")
sys.exit(server.returncode not in (143, -15))
