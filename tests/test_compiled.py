import os
import subprocess
import sys

import numpy as np
import pytest

import kvstream.compiled
from kvstream.blocks.hashing import mix
from kvstream.errors import MissingExtraError
from kvstream.stream import KVStream


@pytest.mark.parametrize(("value", "asked"), [(None, False), ("", False), ("0", False), ("1", True)])
def test_loops_are_compiled_only_if_that_is_asked_for(monkeypatch, value, asked):
    monkeypatch.delenv("KVSTREAM_COMPILED", raising=False)
    if value is not None:
        monkeypatch.setenv("KVSTREAM_COMPILED", value)
    assert kvstream.compiled.compiles() is asked


def test_without_numba_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setenv("KVSTREAM_COMPILED", "1")
    monkeypatch.setattr(kvstream.compiled, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'kvstream\[fast\]'"):
        KVStream()


def test_numba_is_loaded_only_if_it_is_asked_for():
    program = "import sys, kvstream.monitor as m; m.compile_loops(); print('numba' in sys.modules)"
    for value, loaded in (("0", "False"), ("1", "True")):
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "KVSTREAM_COMPILED": value},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == loaded


def test_the_compiled_hash_is_the_plain_one():
    from kvstream.blocks.hashing_compiled import mix_one

    values = np.array([0, 1, -1, 2**63 - 1, -(2**63), 0x1234_5678_9ABC_DEF0])
    assert [mix_one(value) for value in values.tolist()] == mix(values).view(np.int64).tolist()


async def test_a_stream_compiles_before_it_takes_events(monkeypatch):
    monkeypatch.setenv("KVSTREAM_COMPILED", "1")
    async with KVStream() as stream:
        engine = stream.producer("engine-0")
        await engine.allocated([1, 2, 3])
        await engine.evicted([3, 2, 1])
    assert stream.summary().total_evictions == 3


ALL_KINDS = """
import sys
from itertools import product

import msgspec
import numpy as np

from kvstream import MetricsConfig
from kvstream.bench.streams import busy, filling
from kvstream.events.frame import joined_frames
from kvstream.events.types import Labels, Op
from kvstream.monitor import Monitor, compile_loops


def compiled():
    modules = [module for name, module in sys.modules.items() if name.endswith("_compiled")]
    named = [thing for module in modules for thing in vars(module).values()]
    return sum(len(loop.signatures) for loop in named if hasattr(loop, "signatures"))


compile_loops()
before = compiled()
for content, labels, keys, rate in product((False, True), (False, True), (False, True), (1.0, 0.5)):
    frame = joined_frames([filling(500, content=content), busy(500, 9_000, content=content)])
    if keys:
        of_content = np.where(frame.ops == Op.ALLOC, 2**40 + frame.blocks % 777, 0)
        frame = msgspec.structs.replace(frame, keys=of_content)
    if labels:
        every = np.ones(len(frame), dtype=np.uint16)
        frame = msgspec.structs.replace(frame, labels=(Labels(tenant="a"),), label_of=every)
    monitor = Monitor(MetricsConfig(sample_rate=rate))
    monitor.process(frame)
    assert monitor.summary().total_evictions
print(before, compiled())
"""


def test_nothing_is_left_to_be_compiled_while_events_come():
    done = subprocess.run(
        [sys.executable, "-c", ALL_KINDS],
        env={**os.environ, "KVSTREAM_COMPILED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    before, after = map(int, done.stdout.split())
    assert 0 < before == after
