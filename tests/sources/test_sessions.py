"""Rows that hold what was added to their session, put together to whole prompts."""

import json
import logging

import pytest

from kvstream.engine.monitor import Monitor
from kvstream.sources import sessions
from kvstream.sources.bailian import bailian_trace
from kvstream.sources.mooncake import mooncake_trace
from kvstream.sources.options import ReadOptions


def served(rows, trace=mooncake_trace, whole=False):
    """The hits and allocations of each row, and the lines that were bad."""
    decoder = trace("trace", ReadOptions(capacity=1_000, rows="whole" if whole else "added"))
    lines = [json.dumps({"timestamp": 1e6 * number, **row}).encode() for number, row in enumerate(rows)]
    found, bad = [], []
    for line in lines:
        frames = list(decoder.decode_lines(line, lambda number, reason: bad.append(reason)))
        ops = [op for frame in frames for op in frame.ops.tolist()]
        found.append((ops.count(1), ops.count(0)))
    list(decoder.finish())
    return found, bad


def row(session, hash_ids, tokens=None, output=None):
    known = {"session_id": session, "hash_ids": hash_ids, "input_length": tokens, "output_length": output}
    return {name: value for name, value in known.items() if value is not None}


def test_a_prompt_is_what_its_session_has_said_and_its_row():
    rows = [row("a", [1, 2]), row("b", [1, 9]), row("a", [3]), row(None, [1, 2, 3]), row("a", [4])]
    assert served(rows) == ([(0, 2), (1, 1), (2, 1), (3, 0), (3, 1)], [])
    assert served(rows, whole=True)[0][2] == (0, 1)


def test_blocks_behind_an_output_are_cut_elsewhere_and_nobody_elses():
    rows = [
        row("a", [1, 2], 1_024, 4),
        row("b", [1, 2], 1_024, 4),
        row("a", [3, 4], 1_024, 4),  # 4 tokens of output, 1,024 of its own: two blocks and a part of one
        row("b", [3, 4], 1_024, 4),
        row("a", [5], 512, 4),
    ]
    assert served(rows) == ([(0, 2), (2, 0), (2, 3), (2, 3), (4, 2)], [])


def test_a_block_that_an_output_filled_is_found_by_vllms_rules():
    rows = [row("a", [1], 512, 600), row("a", [2], 512, 1)]
    assert served(rows)[0][1] == (1, 3)
    events = mooncake_trace("trace", ReadOptions(capacity=1_000, rows="added", engine="vllm"))
    text = b"\n".join(json.dumps({"timestamp": 1e6 * n, **each}).encode() for n, each in enumerate(rows))
    monitor = Monitor()
    for frame in [*events.decode_lines(text, pytest.fail), *events.finish()]:
        monitor.process(frame)
    assert monitor.summary().accesses == 2


def test_chats_go_on_from_their_parent_and_may_branch():
    chats = [
        {"chat_id": 1, "parent_chat_id": -1, "hash_ids": [1, 2]},
        {"chat_id": 2, "parent_chat_id": 1, "hash_ids": [3]},
        {"chat_id": 3, "parent_chat_id": 1, "hash_ids": [4]},
        {"chat_id": 4, "parent_chat_id": 2, "hash_ids": [5]},
    ]
    assert served(chats, bailian_trace) == ([(0, 2), (2, 1), (2, 1), (3, 1)], [])


def test_sessions_are_bounded_and_those_forgotten_are_counted(monkeypatch, caplog):
    monkeypatch.setattr(sessions, "MOST_SESSIONS", 2)
    rows = [row("a", [1]), row("b", [2]), row("a", [3]), row("c", [4]), row("a", [5]), row("b", [6])]
    with caplog.at_level(logging.WARNING, "kvstream"):
        found, _ = served(rows)
    assert found == [(0, 1), (0, 1), (1, 1), (0, 1), (2, 1), (0, 1)]
    assert "trace: 2 sessions were forgotten" in caplog.text

    monkeypatch.setattr(sessions, "MOST_BLOCKS", 3)
    assert served([row("a", [1, 2]), row("b", [3, 4]), row("a", [5])])[0][2] == (0, 1)


def test_a_session_longer_than_the_bound_is_a_bad_line():
    found, bad = served([row("a", [1], 512), *[row("a", [2], 512, 2**31 - 1)] * 2])
    assert found == [(0, 1), (1, 1), (0, 0)]
    assert bad == ["a session of 4,294,968,830 tokens, more than 8,388,608 blocks"]
