"""What is timed before agents are served: all sizes by turns, and two texts of like and of unlike rows."""

from collections import Counter
from itertools import count

from tests.toy_model import ToyModel

from multispin_coordinator.timing import OF_TWO, REPEATS, ROWS, time_passes


def test_every_size_is_timed_as_often_and_the_sequences_are_freed() -> None:
    target = ToyModel(n_ctx=96, max_sequences=2, max_rows=32)
    ticks = count()
    times = time_passes(target, lambda: float(next(ticks)))
    assert Counter((each.rows, each.num_sweeps) for each in times) == {
        **{(rows, 1): REPEATS for rows in ROWS if rows != 4},
        (4, 1): 2 * REPEATS,  # of one text, and of two with two rows each
        (4, 2): REPEATS,
    }
    assert {each.seconds for each in times} == {1.0}
    assert target.passes[2 : 2 + len(ROWS) + len(OF_TWO)] == [[1], [2], [3], [4], [8], [16], [2, 2], [3, 1]]
    assert target.num_open == 0


def test_a_target_with_one_sequence_or_few_rows_is_timed_as_far_as_it_goes() -> None:
    times = time_passes(ToyModel(n_ctx=96, max_sequences=1, max_rows=8))
    assert {(each.rows, each.num_sweeps) for each in times} == {(1, 1), (2, 1), (3, 1), (4, 1), (8, 1)}
    assert {each.rows for each in time_passes(ToyModel(n_ctx=6, max_sequences=2, max_rows=3))} == {1, 2, 3}
