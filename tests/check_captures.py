"""Runs full captures of vLLM's block hooks and compares with vLLM's own records of the same run.

    python -m tests.check_captures CAPTURES

CAPTURES holds vllm-0.32-chat and vllm-0.32-scan, each with hooks.jsonl.gz, vllm_evictions.jsonl.gz and
vllm_metrics.txt. Exits with 1 if anything differs.
"""

import gzip
import re
import sys
from pathlib import Path

import msgspec

from examples.convert_hooks import frames, read_hooks
from kvstream.config import MetricsConfig
from kvstream.engine.monitor import Monitor
from kvstream.metrics.buckets import VLLM_BUCKETS_SECONDS


def vllm_histograms(path: Path) -> dict[str, tuple[int, float, list[int]]]:
    """Count, sum and cumulative buckets of vLLM's kv_block histograms."""
    found = {}
    for line in path.read_text().splitlines():
        match = re.search(
            r"name='vllm:kv_block_(\w+)_seconds'.*count=(\d+), sum=([\d.]+), buckets=\{(.*)\}", line
        )
        if match:
            buckets = [int(n) for n in re.findall(r": (\d+)", match[4])]
            found[match[1]] = (int(match[2]), float(match[3]), buckets)
    return found


def check(folder: Path) -> bool:
    ok = True

    def expect(what: str, ours: object, theirs: object, same: bool) -> None:
        nonlocal ok
        ok &= same
        print(f"  {'ok ' if same else 'BAD'} {what}: {ours} (vLLM: {theirs})")

    print(folder.name)
    monitor = Monitor(MetricsConfig(capacity=256))
    alerts, evictions, start = [], [], 0.0
    for frame in frames(read_hooks(folder / "hooks.jsonl.gz"), folder.name):
        start = start or frame.ts[0] / 1e9
        outcome = monitor.process(frame, records=True)
        alerts += outcome.alerts
        evictions += outcome.eviction_events()
    alerts += monitor.finish()
    summary, (tier,) = monitor.summary(), monitor.caches()
    theirs = vllm_histograms(folder / "vllm_metrics.txt")
    count, total, buckets = theirs["lifetime"]
    expect("evictions of tracked blocks", summary.total_evictions, count, summary.total_evictions == count)
    ours = tier.measurements().lifetime.sum_ns / 1e9
    expect("lifetime sum", round(ours, 2), round(total, 2), abs(ours / total - 1) < 1e-3)
    cumulative = tier.classic["lifetime"].cumulative()
    moved = max(abs(a - b) for a, b in zip(cumulative, buckets, strict=True))
    # Our clock reading and vLLM's are a microsecond apart, so a value at a bound may fall beside it.
    expect(
        f"lifetime buckets at {len(VLLM_BUCKETS_SECONDS)} bounds, largest difference", moved, 0, moved <= 2
    )
    ours = tier.measurements().idle.sum_ns / 1e9
    total = theirs["idle_before_evict"][1]
    expect("idle sum", round(ours, 2), round(total, 2), abs(ours / total - 1) < 1e-3)
    gaps = sum(len(e.reuse_gaps_seconds) for e in evictions)
    expect("gaps carried by eviction events", gaps, theirs["reuse_gap"][0], gaps == theirs["reuse_gap"][0])
    decoder = msgspec.json.Decoder(dict)
    with gzip.open(folder / "vllm_evictions.jsonl.gz") as lines:
        records = [decoder.decode(line) for line in lines]
    far = sum(
        abs(a.lifetime_seconds - b["lifetime_seconds"]) > 1e-3
        or len(a.reuse_gaps_seconds) != len(b["reuse_gaps_seconds"])
        for a, b in zip(evictions, records, strict=False)
    )
    expect(
        "eviction records, one by one, that differ", far, f"of {len(records)}", far <= len(records) // 1000
    )
    accounts = summary.accounts
    expect("accounts balanced", accounts.balanced, "-", accounts.balanced)
    print(f"      accesses {summary.accesses}, clears {tier.measurements().clears}, {accounts}")
    for alert in alerts:
        print(f"      {alert.timestamp - start:5.1f} s {alert.state} {alert.level} {alert.rule}")
    return ok


if __name__ == "__main__":
    root = Path(sys.argv[1])
    results = [check(root / name) for name in ("vllm-0.32-chat", "vllm-0.32-scan")]
    sys.exit(not all(results))
