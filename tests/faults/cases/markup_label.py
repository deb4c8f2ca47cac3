"""A label that looks like markup, in a terminal (`markup_label.jsonl` beside this file)."""

import os, pty, subprocess, sys

ours, theirs = pty.openpty()
path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "markup_label.jsonl")
child = subprocess.Popen([sys.argv[1], "run", path], stdin=theirs, stdout=theirs, stderr=theirs)
os.close(theirs)
data = b""
try:
    while piece := os.read(ours, 65536):
        data += piece
except OSError:
    pass
rc = child.wait(120)
print(f"rc {rc}", data.splitlines()[-1:])
sys.exit(rc != 0 or b"[/red]" not in data)
