import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstream._core.reuse import LruStack
from tests.reference import ReferenceStack

CONTENTS = st.sampled_from([0, 1, 2, 3, 5, 8, -7, 2**62, -(2**63), 40, 41, 42])


def check(stack, steps):
    plain = ReferenceStack()
    for contents, room, furthest, kept in steps:
        contents, distances = np.array(contents, np.int64), []
        room = max(room, len(plain.stack))
        while len(contents):
            taken, others = stack.access(contents, room, furthest)
            distances += others.tolist()
            assert taken > 0
            for content in contents[:taken].tolist():
                plain.access(content, furthest)
            assert stack.keys().tolist() == plain.stack
            contents = contents[taken:]
            if len(plain.stack) > room:
                which = np.arange(len(plain.stack)) % 3 != kept
                stack.keep(which)
                for content in [c for c, stays in zip(plain.stack, which, strict=True) if not stays]:
                    plain.forget(content)
                room = max(room, len(plain.stack))
        assert stack.keys().tolist() == plain.stack
        assert stack.held == len(plain.stack)
        assert stack.again == sum(count > 1 for count in plain.accesses.values())
        assert distances == plain.others
        plain.others.clear()


@given(
    st.lists(
        st.tuples(st.lists(CONTENTS, max_size=30), st.integers(1, 9), st.integers(1, 9), st.integers(0, 2)),
        max_size=8,
    )
)
def test_a_stack_equals_a_list_of_contents(steps):
    furthest = 0
    steps = [(c, room, furthest := max(furthest, far), kept) for c, room, far, kept in steps]
    check(LruStack(), steps)


@settings(max_examples=10)
@given(st.integers(0, 2**32), st.integers(1, 2_000), st.integers(1, 2_000), st.floats(1.05, 3))
def test_long_streams_use_up_places_and_are_put_together_again(seed, room, furthest, skew):
    rng = np.random.default_rng(seed)
    contents = rng.zipf(skew, 12_000) % 1_500
    check(LruStack(), [(part, room, furthest, 1) for part in np.array_split(contents, 3)])
