"""`convert` and `record` with their own input as output: refused, the file stays."""

import os, subprocess, sys, tempfile

path, failed = os.path.join(tempfile.mkdtemp(), "a.jsonl"), False
text = "".join('{"type":"alloc","block":%d,"ts":%d}\n' % (i, 1767225600000000000 + i) for i in range(20))
for command in (["convert", path, path], ["record", path, "-o", path]):
    with open(path, "w") as f:
        f.write(text)
    rc = subprocess.run([sys.argv[1], *command], stderr=subprocess.DEVNULL).returncode
    with open(path) as f:
        same = f.read() == text
    print(command[0], "rc", rc, "the file is as it was" if same else "the file is emptied")
    failed |= rc == 0 or not same
sys.exit(failed)
