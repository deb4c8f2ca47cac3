"""A named pipe as input: the writer's 1,000 lines are read, and the reader ends with the writer."""

import os, subprocess, sys, tempfile, time, json

path = os.path.join(tempfile.mkdtemp(), "p")
os.mkfifo(path)
child = subprocess.Popen([sys.argv[1], "run", path, "--json"], stdout=subprocess.PIPE)
text = "".join('{"type":"alloc","block":%d,"ts":%d}\n' % (i, 1767225600000000000 + i) for i in range(1000))
writer = subprocess.Popen(["sh", "-c", f"cat > {path}"], stdin=subprocess.PIPE)
try:
    writer.stdin.write(text.encode())
    writer.stdin.close()
except OSError:
    pass
try:
    out = child.communicate(timeout=40)[0]
    seen = json.loads(out.splitlines()[-1])["accounts"]["processed"]
except subprocess.TimeoutExpired:
    child.terminate()
    time.sleep(1)
    seen = "nothing: the reader hangs" + (", deaf to SIGTERM" if child.poll() is None else "")
    child.kill()
print("processed", seen, "- status of the writer", writer.wait(60))
sys.exit(seen != 1000)
