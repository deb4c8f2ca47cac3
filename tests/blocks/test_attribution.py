"""Numbers of label sets, frame by frame."""

import numpy as np

from kvstream.blocks.attribution import LabelSets
from kvstream.events.frame import EventFrame
from kvstream.events.types import Labels

SETS = tuple(Labels(tenant=f"t{number}") for number in range(6))


def labelled(labels, label_of):
    n = len(label_of)
    columns = (np.zeros(n, np.uint8), np.zeros(n, np.int64), np.zeros(n, np.int64))
    return EventFrame(*columns, labels=labels, label_of=np.array(label_of, np.uint16))


def test_the_same_labels_have_the_same_numbers_in_each_frame():
    label_sets = LabelSets(64)
    first = label_sets.numbers(labelled(SETS[:3], [1, 2, 3])).tolist()
    other = label_sets.numbers(labelled(SETS[2:4], [1, 2])).tolist()
    assert (first, other) == ([0, 2, 3, 4], [0, 4, 5])
    again = tuple(Labels(tenant=labels.tenant) for labels in SETS[:3])
    assert label_sets.numbers(labelled(again, [1, 2, 3])).tolist() == first


def test_labels_left_out_of_one_frame_count_in_the_next():
    label_sets = LabelSets(64)
    assert label_sets.numbers(labelled(SETS, [0, 3])).tolist() == [0, 2, 0, 3, 0, 0, 0]
    assert label_sets.numbers(labelled(SETS, [6, 3])).tolist() == [0, 2, 0, 3, 0, 0, 4]
    assert label_sets.numbers(labelled(SETS, [1, 2, 3, 4, 5, 6])).tolist() == [0, 2, 5, 3, 6, 7, 4]
