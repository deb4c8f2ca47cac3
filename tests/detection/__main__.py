"""``python -m tests.detection [SEED] [KIND]``: every stream, judged beside two simple baselines.

Rules were chosen on seeds 1 to 6; report others. ``KVSTREAM_MOONCAKE_TRACE=FILE`` adds real requests.
"""

import math
import sys

from tests.detection.judge import Table, early, run
from tests.detection.streams import incidents, quiet_streams

seed = int(sys.argv[1]) if len(sys.argv) > 1 else 101
kinds = sys.argv[2] if len(sys.argv) > 2 else ""
tables: dict[str, Table] = {}
for stream in [*incidents(seed, kinds), *quiet_streams(seed, kinds)]:
    made = run(stream)
    for name in made.raised:
        tables.setdefault(name, Table()).add(stream, made, name)
    if stream.onset is None:
        for each in made.raised["kvstream"]:
            print(f"false  {stream.name:44} {each.rule} of {each.source} at {each.start:.0f} s", flush=True)
        continue
    s = tables["kvstream"].incidents[-1][1]
    before = early(stream, made.raised["kvstream"])
    delay = math.inf if s.delay is None else s.delay
    covered = "" if s.covered is None else f"covered {s.covered:4.0%}"
    odd = [
        what
        for what, is_so in (
            ("missed", not s.found),
            ("false resolve", s.false_resolves > 0),
            ("not closed", not s.closed),
            ("not paged", stream.page and not s.paged),
            (f"{before} before the onset", before > 0),
        )
        if is_so
    ]
    print(
        f"{stream.name:44} {'P' if stream.page else 'T'} after {delay:4.0f} s  {covered:12} "
        f"{s.notifications} notifications  {', '.join(odd)}",
        flush=True,
    )
print()
for name, table in tables.items():
    print(table.line(name))
for rate, found, covered in tables["kvstream"].by_rate():
    print(f"  at {rate:g} requests a second: found {found:.2f}, covered {covered:.0%}")
