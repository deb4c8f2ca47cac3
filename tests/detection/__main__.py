"""``python -m tests.detection [SEED]``: the labelled suite's scores, and every alert that is wrong."""

import sys
import time

from tests.detection.scenarios import incidents, quiet_streams
from tests.detection.scoring import Scores, alerts_of

seed = int(sys.argv[1]) if len(sys.argv) > 1 else 1
scores = Scores()
start = time.perf_counter()
for stream in [*incidents(seed), *quiet_streams(seed)]:
    scores.add(stream, alerts_of(stream.engine))
print(scores.table())
for kind, intensity, of, alert in scores.wrong:
    print("wrong:", kind, intensity, of, alert.rule, alert.level.value, f"{alert.at:.0f} s")
print(f"{time.perf_counter() - start:.0f} s")
