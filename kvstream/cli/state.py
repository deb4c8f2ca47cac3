"""``kvstream state``: what the directory of ``serve --state`` holds, and whether it is whole."""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from kvstream.cli.options import Results
from kvstream.cli.standard import write_document, write_lines
from kvstream.errors import StateError
from kvstream.sources.rotation import inode_of
from kvstream.state.inspection import SavedPlace, SavedSection, SavedSnapshot, described, problems_of
from kvstream.state.store import DirectoryStore, SnapshotFile
from kvstream.text.escape import for_terminal

EXAMPLES = """
[bold]Examples[/bold]

  kvstream state inspect /var/lib/kvstream      snapshots, sources, sizes, and where each source continues

  kvstream state verify /var/lib/kvstream && echo whole

Both commands only read, and may run while a server saves there.
"""

app = typer.Typer(
    help="Inspect or verify the state that serve --state saves.", no_args_is_help=True, epilog=EXAMPLES
)

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="Directory of serve --state.")]


@app.command()
def inspect(directory: Directory, *, results: Results) -> None:
    """Show what is in each snapshot: sources, sizes, age, writer, and where each source continues.

    Exit code 1 if there is no snapshot, or no whole one.
    """
    now = time.time()
    snapshots = [described(file, now) for file in _snapshots(directory)]
    _show(snapshots, results.as_lines)
    _require_one_whole(directory, snapshots)


@app.command()
def verify(directory: Directory, *, results: Results) -> None:
    """Restore each snapshot, as a server would, and say whether it is whole.

    Exit code 1 if there is no snapshot, or a damaged one.
    """
    now = time.time()
    snapshots = []
    for file in _snapshots(directory):
        snapshot = described(file, now)
        problems = snapshot.problems or problems_of(file)
        snapshots.append(msgspec.structs.replace(snapshot, problems=problems, sections=[]))
    _show(snapshots, results.as_lines)
    _require_one_whole(directory, snapshots)
    if damaged := sum(bool(snapshot.problems) for snapshot in snapshots):
        what = f"{damaged} of {len(snapshots)} snapshots are damaged"
        raise StateError(f"{directory}: {what}: {_consequence(snapshots)}")


def _snapshots(directory: Path) -> list[SnapshotFile]:
    """Return the snapshots, newest first.

    Raises:
        StateError: If there are none.
    """
    files = DirectoryStore(directory).look()
    if not files:
        raise StateError(f"{directory} holds no snapshots; name the directory of kvstream serve --state")
    return files


def _require_one_whole(directory: Path, snapshots: list[SavedSnapshot]) -> None:
    if all(snapshot.problems for snapshot in snapshots):
        raise StateError(
            f"{directory}: no snapshot is whole: a server would begin with nothing; "
            "put a copy of a whole one there, or remove these"
        )


def _consequence(snapshots: list[SavedSnapshot]) -> str:
    whole = next(snapshot for snapshot in snapshots if not snapshot.problems)
    if whole is snapshots[0]:
        return (
            "a server resumes from the newest, and the next snapshot that it saves replaces the damaged one"
        )
    return f"a server resumes from {whole.file}, and asks its inputs for what came after it"


def _show(snapshots: list[SavedSnapshot], as_lines: bool) -> None:
    if as_lines:
        write_lines(snapshots)
        return
    write_document("".join(for_terminal(line) + "\n" for each in snapshots for line in _lines(each)))


def _lines(snapshot: SavedSnapshot) -> list[str]:
    how = "DAMAGED" if snapshot.problems else "whole"
    line = f"{snapshot.file}: {how}, {snapshot.bytes:,} bytes"
    if snapshot.taken_at is not None:
        line += f", begun {_time(snapshot.taken_at)}, {snapshot.age_seconds:,.0f} s ago"
        line += f", by kvstream {snapshot.writer}"
    width = max((len(section.name) for section in snapshot.sections), default=0)
    return [
        line,
        *(f"  {problem}" for problem in snapshot.problems),
        *(
            f"  {section.kind:6}  {section.name:{width}}  {section.bytes:>11,} bytes{_contents(section)}"
            for section in snapshot.sections
        ),
    ]


def _contents(section: SavedSection) -> str:
    parts = [f"{cache.tier} {cache.live_blocks:,} live blocks" for cache in section.caches]
    if section.next_frame is not None:
        parts.append(f"next frame {section.next_frame:,} of epoch {section.epoch}")
    parts += map(_goes_on, section.inputs)
    return "  " + ", ".join(parts) if parts else ""


def _goes_on(place: SavedPlace) -> str:
    inode = inode_of(place.check)
    if inode is not None:
        return f"{place.input} from byte {place.at:,} of inode {inode}"
    return f"{place.input} from batch {place.at:,} of epoch {place.life}"


def _time(seconds: float) -> str:
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (OverflowError, ValueError, OSError):
        return "at an unknown time"
