"""An id of the last event that ends in a superscript digit is no server error."""

import os, socket, subprocess, sys, tempfile

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


def get(target, until):
    with socket.create_connection(("127.0.0.1", port), timeout=120) as s:
        s.sendall(f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        data = b""
        while until not in data and (piece := s.recv(65536)):
            data += piece
        return data


boot = get("/events", b"\nid: ").split(b"\nid: ")[1].split(b"-")[0].decode()
status = get(f"/events?last_event_id={boot}-%C2%B2", b"\r\n").split()[1].decode()
print("status", status)
server.kill()
sys.exit(status.startswith("5"))
