"""Judge every stream of some seeds beside two simple baselines, or put results into a page.

``python -m tests.detection SEED... [--kind PART] [--results FILE.jsonl]``
``python -m tests.detection --markdown FILE.jsonl... > docs/detection.md``

Rules were chosen on seeds 1 and 2; report others. ``KVSTREAM_MOONCAKE_TRACE=FILE`` adds real requests.
"""

import argparse
import math
from pathlib import Path

import msgspec

from tests.detection.judge import early, run
from tests.detection.markdown import page
from tests.detection.results import Result, read, tables
from tests.detection.streams import Stream, incidents, quiet_streams


def said_of(stream: Stream, result: Result) -> str:
    """Return what kvstream made of a stream, in a line; of a quiet one, a line for each alert."""
    found = result.by["kvstream"]
    score = found.score
    if score is None:
        return "\n".join(
            f"false  {stream.name:44} {each.rule} of {each.source} at {each.start:.0f} s"
            for each in found.raised
        )
    before = early(stream, found.raised)
    delay = math.inf if score.delay is None else score.delay
    covered = "" if score.covered is None else f"covered {score.covered:4.0%}"
    odd = {
        "missed": not score.found,
        "false resolve": score.false_resolves > 0,
        "not closed": not score.closed,
        "not paged": stream.page and not score.paged,
        f"{before} before the onset": before > 0,
    }
    return (
        f"{stream.name:44} {'P' if stream.page else 'T'} after {delay:4.0f} s  {covered:12} "
        f"{score.notifications} notifications  {', '.join(what for what, is_so in odd.items() if is_so)}"
    )


def main() -> None:
    """Judge streams and print what was found, or print the page of results."""
    options = argparse.ArgumentParser(prog="python -m tests.detection")
    options.add_argument("seeds", nargs="*", type=int, default=[101])
    options.add_argument("--kind", default="", help="part of the name of the kinds to judge")
    options.add_argument("--results", type=Path, help="file to add results to, a line a stream")
    options.add_argument("--markdown", nargs="+", type=Path, help="files of results to make a page of")
    asked = options.parse_args()
    if asked.markdown:
        print(page(list(read(asked.markdown))))
        return
    results = []
    for seed in asked.seeds:
        for stream in [*incidents(seed, asked.kind), *quiet_streams(seed, asked.kind)]:
            result = Result.of(seed, stream, run(stream))
            results.append(result)
            if asked.results is not None:
                with asked.results.open("ab") as file:
                    file.write(msgspec.json.encode(result) + b"\n")
            if said := said_of(stream, result):
                print(said, flush=True)
    found = tables(results)
    print()
    for name, table in found.items():
        print(table.line(name))
    for rate, share, covered in found["kvstream"].by_rate():
        print(f"  at {rate:g} requests a second: found {share:.2f}, covered {covered:.0%}")


if __name__ == "__main__":
    main()
