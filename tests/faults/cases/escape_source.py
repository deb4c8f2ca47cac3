"""A source whose name has control characters, in a terminal (`escape_source.jsonl` beside this file): none gets through."""

import os, pty, subprocess, sys

ours, theirs = pty.openpty()
path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "escape_source.jsonl")
child = subprocess.Popen(
    [sys.argv[1], "run", path, "--capacity", "20"], stdin=theirs, stdout=theirs, stderr=theirs
)
os.close(theirs)
data = b""
try:
    while piece := os.read(ours, 65536):
        data += piece
except OSError:
    pass
rc, raw = child.wait(120), b"\x1b]0;title" in data
print(f"rc {rc}, the escape sequence of the name {'reaches the terminal' if raw else 'is not sent'}")
sys.exit(rc != 0 or raw or b"title" not in data)
