"""Which sequences are stored: intervals behave as the sets that they stand for."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pulsetrain_consumers.runtime.broker import Partition
from pulsetrain_consumers.writer.coverage import Coverage, Intervals, Writer

spans = st.lists(st.tuples(st.integers(1, 60), st.integers(0, 12)).map(lambda pair: (pair[0], sum(pair))), max_size=12)


@given(spans, st.tuples(st.integers(1, 70), st.integers(0, 15)))
def test_intervals_are_the_set_of_what_was_added(added: list[tuple[int, int]], asked: tuple[int, int]) -> None:
    intervals, wanted = Intervals(), set()
    for first, last in added:
        intervals = intervals.add(first, last)
        wanted |= set(range(first, last + 1))
    first, last = asked[0], sum(asked)
    question = set(range(first, last + 1))
    assert intervals.covers(first, last) == (question <= wanted)
    assert intervals.touches(first, last) == bool(question & wanted)
    sequences = np.arange(1, 90)
    assert intervals.without(sequences).tolist() == [number not in wanted for number in sequences]
    assert list(intervals.spans) == sorted(intervals.spans)
    assert all(a[1] + 1 < b[0] for a, b in zip(intervals.spans, intervals.spans[1:], strict=False))


def test_what_was_learnt_under_one_assignment_is_forgotten_under_the_next() -> None:
    coverage, partition, writer = Coverage(), Partition("t", 0), Writer("p", "r", "w")
    coverage.update(partition, 1, [(writer, Intervals(((1, 5),)))])
    assert writer in coverage.of(partition, 1)
    assert writer not in coverage.of(partition, 2)


def test_the_writers_that_were_silent_for_longest_are_forgotten_first() -> None:
    coverage, partition = Coverage(writers_per_partition=2), Partition("t", 0)
    writers = [Writer("p", "r", f"w{number}") for number in range(3)]
    for writer in (*writers, writers[0]):
        coverage.update(partition, 1, [(writer, Intervals())])
    coverage.trim(partition, 1)
    assert set(coverage.of(partition, 1)) == {writers[2], writers[0]}
