"""Estimators: hand-worked numbers, outliers, and how soon a step in the truth is followed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multispin_models.estimators import RecentLine, RecentMedian, Survival


def test_the_median_has_the_error_of_its_samples() -> None:
    recent = RecentMedian()
    assert recent.estimate() is None
    for sample in (1.0, 2.0, 3.0, 4.0):
        recent.add(sample)
    # Median 2.5, distances 1.5, 0.5, 0.5, 1.5: median 1; 1.858 / sqrt(4).
    assert recent.estimate() == pytest.approx((2.5, 0.929, 4))


@given(outliers=st.lists(st.floats(0, 1e6), min_size=7, max_size=7), order=st.randoms(use_true_random=False))
def test_seven_wild_samples_of_fifteen_do_not_move_the_median_out_of_the_others(
    outliers: list[float], order: "np.random.RandomState"
) -> None:
    samples = [*outliers, *(10.0, 10.1, 10.2, 10.3, 10.4, 10.5, 10.6, 10.7)]
    order.shuffle(samples)
    recent = RecentMedian()
    for sample in samples:
        recent.add(sample)
    found = recent.estimate()
    assert found is not None
    assert 10.0 <= found.value <= 10.7


def test_the_median_follows_a_step_after_eight_samples() -> None:
    recent = RecentMedian()
    for sample in [1.0] * 100 + [2.0] * 7:
        recent.add(sample)
    assert recent.estimate() == (1.0, 0.0, 15)
    recent.add(2.0)
    assert recent.estimate() == (2.0, 0.0, 15)


def line_of(points: list[tuple[float, float]]) -> RecentLine:
    line = RecentLine()
    for x, y in points:
        line.add(x, y)
    return line


def test_samples_on_a_line_give_that_line() -> None:
    line = line_of([(1, 3.0), (2, 5.0), (5, 11.0)]).estimate()
    assert line == pytest.approx((1.0, 2.0, 0.0, 3))
    assert line is not None
    assert line.at(10) == pytest.approx(21.0)


def test_sizes_that_hardly_differ_have_a_median_but_no_line() -> None:
    line = line_of([(30, 1.0), (32, 9.0), (34, 2.0)])
    assert line.estimate() is None
    assert line.median() == pytest.approx((2.0, 1.858 / 3**0.5, 3))


def test_the_slope_outlives_a_long_time_of_one_size() -> None:
    line = line_of([(1, 3.0), (2, 5.0), (8, 17.0), *[(4, 9.0)] * 500])
    assert line.estimate() == pytest.approx((1.0, 2.0, 0.0, 12))


def test_a_line_is_not_moved_by_one_wild_sample_in_five() -> None:
    random = np.random.default_rng(0)
    line = RecentLine()
    for _ in range(300):
        x = int(random.integers(1, 40))
        line.add(x, 10 + 2 * x + random.normal(0, 0.1) if random.random() > 0.2 else random.uniform(0, 1000))
    found = line.estimate()
    assert found is not None
    assert found.slope == pytest.approx(2.0, abs=0.1)
    assert found.at(20) == pytest.approx(50.0, abs=1.0)


def test_the_intercept_follows_a_step_after_eight_samples_of_any_one_size() -> None:
    line = line_of([*[(x, 10.0 + x) for x in (1, 2, 4, 8, 16)] * 9, *[(5, 25.0)] * 8])
    found = line.estimate()
    assert found is not None
    assert found.at(5) == pytest.approx(25.0)


def test_the_slope_follows_a_step_after_nine_samples_of_each_size() -> None:
    old = [(x, 10.0 + x) for x in (1, 2, 4, 8, 16)] * 20
    new = [(x, 10.0 + 3.0 * x) for x in (1, 2, 4, 8, 16)] * 9
    assert line_of([*old, *new]).estimate() == pytest.approx((10.0, 3.0, 0.0, 45))


def test_neither_part_of_a_line_is_negative() -> None:
    falling = line_of([(1, 9.0), (2, 5.0), (4, 1.0)]).estimate()
    assert falling == pytest.approx((5.0, 0.0, 1.858 * 4 / 3**0.5, 3))
    bent = line_of([(1, 1.0), (2, 4.0), (4, 16.0)]).estimate()  # slopes 3, 5, 6; what is left: -4, -6, -4
    assert bent is not None
    assert (bent.intercept, bent.slope) == (0.0, 2.0)


def test_survival_is_the_product_of_what_each_position_showed() -> None:
    survival = Survival(3, prior_rate=0.5)
    assert survival.survival() == pytest.approx([0.5, 0.25, 0.125])
    survival.add(2, 1)  # position 1 was accepted, position 2 was not, position 3 not tried
    # Over all: (1 + 2) / (2 + 4) = 0.5. Positions: (1 + 6) / 13, 6 / 13, 6 / 12.
    assert survival.rate == pytest.approx(0.5)
    assert survival.survival() == pytest.approx([7 / 13, 42 / 169, 21 / 169])
    # Errors: (6 / 13) / (7 / 13 * 13) under the root, then (7 / 13) / (6 / 13 * 13) and 0.5 / (0.5 * 12) more.
    assert survival.errors() == pytest.approx(
        [7 / 13 * (6 / 91) ** 0.5, 42 / 169 * (6 / 91 + 7 / 78) ** 0.5, 21 / 169 * (6 / 91 + 7 / 78 + 1 / 12) ** 0.5]
    )


def rounds(survival: Survival, truth: list[float], count: int, seed: int = 0) -> None:
    """Feed rounds of drafts as long as `truth`, the acceptance of each position."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        accepted = 0
        while accepted < len(truth) and random.random() < truth[accepted]:
            accepted += 1
        survival.add(len(truth), accepted)


def test_survival_need_not_be_geometric() -> None:
    survival = Survival(4, prior_rate=0.5)
    rounds(survival, [0.95, 0.3, 0.9, 0.9], 1000)
    error = survival.errors()
    assert survival.survival()[:2] == pytest.approx([0.95, 0.285], abs=3 * float(error[1]))
    assert survival.survival()[0] > 0.85
    assert survival.survival()[1] < 0.5


def test_survival_follows_a_step_to_94_percent_after_100_rounds() -> None:
    survival = Survival(1, prior_rate=0.5)
    for _ in range(1000):
        survival.add(1, 1)
    for _ in range(100):
        survival.add(1, 0)
    # (1 - 1/32)^100 = 0.042 of the old counts is left; of it and the pool of 12 rounds more.
    assert survival.survival()[0] < 0.06


@given(st.lists(st.tuples(st.integers(0, 8), st.floats(0, 1)), max_size=200))
def test_survival_never_rises_and_is_a_probability(drafts: list[tuple[int, float]]) -> None:
    survival = Survival(8, prior_rate=0.7)
    for drafted, part in drafts:
        survival.add(drafted, int(part * drafted))
    found = survival.survival()
    assert np.all(np.diff(found) <= 0)
    assert np.all((found >= 0) & (found <= 1))
    assert np.all(survival.errors() >= 0)
