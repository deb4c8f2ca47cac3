import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstream.metrics.lru_stack import LruStack
from kvstream.metrics.lru_stack_compiled import CompiledLruStack
from tests.reference import ReferenceStack

CONTENTS = st.sampled_from([0, 1, 2, 3, 5, 8, -7, 2**62, -(2**63), 40, 41, 42])


def check(stack, steps):
    plain = ReferenceStack()
    for contents, room, furthest, kept in steps:
        contents = np.array(contents, np.int64)
        room = max(room, len(plain.stack))
        while len(contents):
            taken = stack.access(contents, room, furthest)
            assert taken > 0
            for content in contents[:taken].tolist():
                plain.access(content, furthest)
            assert stack.contents().tolist() == plain.stack
            contents = contents[taken:]
            if len(plain.stack) > room:
                which = np.arange(len(plain.stack)) % 3 != kept
                stack.keep(which)
                for content in [c for c, stays in zip(plain.stack, which, strict=True) if not stays]:
                    plain.forget(content)
                room = max(room, len(plain.stack))
        assert stack.contents().tolist() == plain.stack
        assert len(stack) == len(plain.stack)
        assert stack.again == sum(count > 1 for count in plain.accesses.values())
        assert stack.waiting == len(plain.others)
        assert stack.take_others().tolist() == plain.others
        plain.others.clear()


@given(
    st.lists(
        st.tuples(st.lists(CONTENTS, max_size=30), st.integers(1, 9), st.integers(1, 9), st.integers(0, 2)),
        max_size=8,
    )
)
def test_stacks_equal_a_list_of_contents(steps):
    furthest = 0
    steps = [(c, room, furthest := max(furthest, far), kept) for c, room, far, kept in steps]
    for stack in (LruStack(), CompiledLruStack()):
        check(stack, steps)


@settings(max_examples=15)
@given(st.integers(0, 2**32), st.integers(1, 2_000), st.integers(1, 2_000), st.floats(1.05, 3))
def test_long_streams_use_up_places_and_are_put_together_again(seed, room, furthest, skew):
    rng = np.random.default_rng(seed)
    contents = rng.zipf(skew, 12_000) % 1_500
    for stack in (LruStack(), CompiledLruStack()):
        check(stack, [(part, room, furthest, 1) for part in np.array_split(contents, 3)])
