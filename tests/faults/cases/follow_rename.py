"""`run --follow` of a file that is rotated by rename five times while it is written: every line counts once."""

import json, os, signal, subprocess, sys, tempfile, time

path, n = os.path.join(tempfile.mkdtemp(), "e.jsonl"), 0
f = open(path, "a")


def line():
    global n
    f.write(
        json.dumps({"type": "alloc", "block": n, "ts": 1767225600000000000 + n * 1000, "source": "e"}) + "\n"
    )
    f.flush()
    n += 1


line()
child = subprocess.Popen([sys.argv[1], "run", "--follow", path, "--json"], stdout=subprocess.PIPE)
time.sleep(2.5)
for k in range(5):
    for _ in range(120):
        line()
        time.sleep(0.005)
    os.rename(path, f"{path}.{k}")
    f.close()
    f = open(path, "a")
line()
time.sleep(1.2)
child.send_signal(signal.SIGINT)
seen = json.loads(child.communicate(timeout=120)[0].splitlines()[-1])["accounts"]["processed"]
print(f"written {n}, processed {seen}")
sys.exit(seen != n)
