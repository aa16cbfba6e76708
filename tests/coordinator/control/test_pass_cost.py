"""What passes cost: hand-worked lines, jumps and splits, and what passes with looked-up rows really took."""

from typing import Any

import pytest

from multispin_coordinator.control.pass_cost import (
    FORGOTTEN,
    LEAST_COMPARED,
    LEAST_EXTRA,
    MOST_DISTURBED,
    UNBURDENED,
    PassCost,
    PassTime,
)
from multispin_coordinator.passes import num_sweeps

STEEP = {1: 0.0185, 2: 0.026, 3: 0.0335, 4: 0.041, 8: 0.071, 16: 0.131}  # 11 + 7.5 * rows


def started(seconds: dict[int, float], split_s: float = 0.0) -> PassCost:
    cost = PassCost()
    each = [PassTime(rows, value) for rows, value in seconds.items()]
    of_two = [PassTime(4, seconds[4]), PassTime(4, seconds[4] + split_s, num_sweeps=2)]
    cost.start_with(3 * [*each, *of_two])
    return cost


def test_a_line_gives_the_cost_of_every_row() -> None:
    cost = started(STEEP)
    assert cost.line() == pytest.approx((0.011, 0.0075), abs=2e-6)
    assert cost.extra_s(1, 3, is_shared=False) == pytest.approx(0.0225)
    assert cost.extra_s(4, 2, is_shared=True) == pytest.approx(0.015), "nothing is split here"
    assert cost.extra_s(14, 4, is_shared=True) == pytest.approx(0.030), "beyond what was timed, by the line"
    assert cost.extra_s(1, 0, is_shared=True) == 0.0


def test_a_second_row_that_costs_a_pass_is_no_cheaper_for_the_line_through_all() -> None:
    # llama.cpp with LLAMAFILE, engines.md: 15.5, 31.1, 37.1 ms, then about 5 a row.
    jump = started({1: 0.0155, 2: 0.0311, 3: 0.0371, 4: 0.042, 8: 0.059, 16: 0.098})
    assert jump.line()[1] < 0.006
    assert jump.extra_s(1, 1, is_shared=False) == pytest.approx(0.0156)
    assert jump.extra_s(1, 2, is_shared=False) == pytest.approx(0.0216)


def test_a_lone_row_that_costs_less_than_the_line_says_bends_it() -> None:
    # ONNX on a Zen 5: 6.1, 8.9, 9.9 ms, then 0.95 a row.
    seconds = {1: 0.0061, 2: 0.0089, 3: 0.0099, 4: 0.0109, 8: 0.0147, 16: 0.0223}
    cost = started(seconds)
    for rows in tuple(seconds) * 10:
        cost.add(rows, 1.5 * seconds[rows])  # the machine has become slower
    c0_s, per_row_s = cost.line()
    bend_s = dict(zip(*(part.tolist() for part in cost.bend()), strict=True))
    for rows in (1, 3):
        assert c0_s + per_row_s * rows + bend_s[rows] == pytest.approx(1.5 * seconds[rows], rel=0.02)
    assert bend_s[1] == pytest.approx(-1.5 * 0.0018, rel=0.05)
    assert abs(bend_s[3]) < 0.0002


def test_noise_does_not_bend_the_line() -> None:
    noisy = {rows: seconds * (1.05 if rows % 3 else 0.96) for rows, seconds in STEEP.items()}
    assert not started(noisy).bend()[1].any()


def test_what_is_looked_up_is_priced_by_the_curve_where_plans_are_not() -> None:
    # 9 % more at three rows is too little to bend plans, but it is most of what two rows more cost.
    seconds = {1: 0.0066, 2: 0.0072, 3: 0.0085, 4: 0.0085, 8: 0.0112, 16: 0.0156}
    cost = started(seconds)
    assert not cost.bend()[1].any()
    assert cost.extra_s(1, 2, is_shared=False) == pytest.approx(0.0019, rel=0.05)
    assert cost.extra_s(3, 1, is_shared=False) < cost.extra_s(1, 2, is_shared=False) / 2


def add(cost: PassCost, rows: int, times: float, count: int, **flags: Any) -> None:
    for _ in range(count):
        cost.add(rows, times * STEEP[rows], **flags)


def test_passes_with_drafts_that_take_longer_do_not_make_those_without_look_slower() -> None:
    cost = started(STEEP)
    add(cost, 1, 1.0, 20)
    add(cost, 3, 1.3, LEAST_COMPARED - 1, num_drafted=2)
    assert cost.burden_s == 0.0, "not yet believed"
    add(cost, 3, 1.3, 100, num_drafted=2)
    assert cost.burden_s == pytest.approx(0.3 * STEEP[3], rel=0.02)
    assert cost.line() == pytest.approx((0.011, 0.0075), rel=0.01)
    add(cost, 3, 2.6, 30, num_drafted=2)  # the machine has become slower: so are passes without, then
    assert cost.burden_s == pytest.approx(0.3 * STEEP[3], rel=0.02)
    c0_s, per_row_s = cost.line()
    assert c0_s + 3 * per_row_s == pytest.approx(2.3 * STEEP[3], rel=0.01)


def test_a_burden_is_forgotten_when_nobody_has_drafted_for_long() -> None:
    cost = started(STEEP)
    add(cost, 1, 1.0, 20)
    add(cost, 3, 1.3, 20, num_drafted=2)
    add(cost, 1, 1.0, UNBURDENED - 1)
    assert cost.burden_s > 0.009
    add(cost, 1, 1.0, 1)
    assert cost.burden_s == 0.0


def test_an_agent_that_drafts_beside_the_stream_does_not_make_passes_look_slower() -> None:
    cost = started(STEEP)
    add(cost, 1, 1.0, 20)
    add(cost, 1, 1.4, MOST_DISTURBED, is_disturbed=True)
    assert cost.line() == pytest.approx((0.011, 0.0075), rel=0.01)
    add(cost, 1, 1.4, 16 * (MOST_DISTURBED + 1), is_disturbed=True)  # but if it never ends, that is how it is
    assert sum(cost.line()) == pytest.approx(1.4 * 0.0185, rel=0.02)


def test_a_pass_that_is_split_costs_another_one_and_does_not_bend_the_line() -> None:
    cost = started(STEEP, split_s=0.011)
    assert cost.split_s == pytest.approx(0.011, rel=0.01)
    assert cost.extra_s(2, 2, is_shared=True) == pytest.approx(0.026, rel=0.01)
    assert cost.extra_s(1, 2, is_shared=False) == pytest.approx(0.015)
    for _ in range(40):
        cost.add(9, 2 * 0.011 + 9 * 0.0075, num_sweeps=2)
    assert cost.line() == pytest.approx((0.011, 0.0075), rel=0.01)


def test_an_engine_that_does_not_split_is_not_taken_to_by_noise() -> None:
    cost = started(STEEP, split_s=0.002)
    assert cost.split_s == 0.0


def test_passes_that_all_have_unlike_rows_and_take_longer_are_not_taken_for_split() -> None:
    cost = started(STEEP)
    for _ in range(40):
        cost.add(9, 1.5 * (0.011 + 9 * 0.0075), num_sweeps=2)  # the machine has become slower
    assert cost.split_s == 0.0
    assert cost.line()[0] > 0.02


def test_rows_that_cost_nothing_by_the_curve_are_given_half_of_what_the_line_says() -> None:
    flat = started({1: 0.020, 2: 0.0199, 3: 0.0201, 4: 0.020, 8: 0.040, 16: 0.080})
    assert flat.extra_s(1, 1, is_shared=False) == pytest.approx(flat.line()[1] / 2)


def test_a_slower_machine_makes_rows_dearer() -> None:
    cost = started(STEEP)
    for rows in (1, 2, 4) * 10:
        cost.add(rows, 2 * STEEP[rows])
    assert cost.extra_s(1, 2, is_shared=False) == pytest.approx(2 * 0.015, rel=0.1)


def test_what_passes_with_looked_up_rows_took_is_believed_and_forgotten() -> None:
    cost = started(STEEP)
    for _ in range(LEAST_EXTRA):
        cost.add(1, STEEP[1])
    for _ in range(LEAST_EXTRA):
        cost.add(3, STEEP[1] + 3 * 0.015, num_looked_up=2)  # three times what was expected
    assert cost.extra_s(1, 2, is_shared=False) == pytest.approx(3 * 0.015, rel=0.1)
    for _ in range(FORGOTTEN):
        cost.add(1, STEEP[1])
    assert cost.extra_s(1, 2, is_shared=False) == pytest.approx(0.015, rel=0.1)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([(0, 4)], 1),
        ([(0, 1), (1, 1), (2, 1)], 1),
        ([(1, 2), (0, 2)], 1),
        ([(0, 1), (1, 3)], 2),
        ([(0, 1), (1, 3), (2, 1), (3, 2)], 3),  # what is left of 1 and 3 is not beside each other
        ([(0, 1), (1, 2), (2, 2)], 2),
        ([(0, 1), (2, 1)], 2),
        ([(0, 1), (1, 2), (2, 3)], 3),
    ],
)
def test_sweeps_are_counted_as_llama_cpp_splits_a_batch(parts: list[tuple[int, int]], expected: int) -> None:
    assert num_sweeps(parts) == expected
