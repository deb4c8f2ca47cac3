"""`record` is run twice with the same name: the first recording must not be lost."""

import json, os, subprocess, sys, tempfile

kv, failed = sys.argv[1], False


def events(path, n):
    with open(path, "w") as f:
        for i in range(n):
            f.write(
                json.dumps({"type": "alloc", "block": i, "ts": 1767225600000000000 + i, "source": "e"}) + "\n"
            )
    return path


for more in ([], ["--rotate-minutes", "60"]):
    d = tempfile.mkdtemp()
    os.mkdir(f"{d}/out")
    for n in (500, 5):
        rc = subprocess.run(
            [kv, "record", events(f"{d}/in.jsonl", n), "-o", f"{d}/out/day.kvlog", *more],
            stderr=subprocess.DEVNULL,
        ).returncode
    held = []
    for name in sorted(os.listdir(f"{d}/out")):
        out = subprocess.run([kv, "run", f"{d}/out/{name}", "--json"], stdout=subprocess.PIPE).stdout
        held.append(json.loads(out.splitlines()[-1])["accounts"]["processed"])
    print(
        f"record {' '.join(more)}: the second run rc {rc}; events in the files afterwards {held}, first recorded 500"
    )
    failed |= not {500, 505} & set(held)
sys.exit(failed)
