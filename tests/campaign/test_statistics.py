"""Effects against hand-worked figures, and their intervals against effects that are known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multispin.campaign.coverage import Design, coverage, synthetic_cells
from multispin.campaign.statistics import MIN_BLOCKS, BlockDifference, block_differences, holm, mean_effect


def blocks(*values: float, device: str = "a") -> list[BlockDifference]:
    return [BlockDifference(device, number, value) for number, value in enumerate(values)]


def test_differences_are_paired_within_blocks_and_averaged_over_settings() -> None:
    arm = {("a", 0): {"x": 2.0, "y": 8.0}, ("a", 1): {"x": 3.0, "y": 3.0}}
    rival = {("a", 0): {"x": 1.0, "y": 2.0}, ("a", 1): {"x": 3.0, "y": 3.0}}
    assert block_differences(arm, rival, "difference") == [("a", 0, 3.5), ("a", 1, 0.0)]
    [first, second] = block_differences(arm, rival, "ratio")
    assert first.value == pytest.approx((math.log(2.0) + math.log(4.0)) / 2)
    assert second.value == 0.0


def test_a_block_that_lacks_a_setting_is_left_out() -> None:
    arm = {("a", 0): {"x": 2.0, "y": 8.0}, ("a", 1): {"x": 3.0}, ("b", 0): {"x": 1.0, "y": 1.0}}
    rival = {key: {"x": 1.0, "y": 1.0} for key in [("a", 0), ("a", 1)]}
    assert [each[:2] for each in block_differences(arm, rival, "ratio")] == [("a", 0)]


def test_a_ratio_is_the_geometric_mean_of_the_blocks() -> None:
    effect = mean_effect(blocks(*map(math.log, (0.5, 0.5, 0.5, 1.0, 0.5, 0.25))), seed=1, scale="ratio")
    assert effect.estimate == pytest.approx(0.5)
    assert effect.low is not None
    assert effect.high is not None
    assert effect.low < 0.5 < effect.high


def test_devices_count_alike_whatever_their_number_of_blocks() -> None:
    effect = mean_effect([*blocks(*[1.0, 1.1] * 10), *blocks(3.0, 3.1, 3.0, 3.1, device="b")], seed=1)
    assert effect.estimate == pytest.approx((1.05 + 3.05) / 2)
    assert (effect.num_blocks, effect.num_devices) == (24, 2)


@pytest.mark.parametrize("count", range(MIN_BLOCKS))
def test_too_few_blocks_give_no_interval_and_say_so(count: int) -> None:
    effect = mean_effect(blocks(*[1.0, 2.0, 3.0, 4.0][:count]), seed=1)
    assert effect.low is None
    assert effect.p is None
    assert effect.reason is not None
    assert "are needed" in effect.reason
    assert (effect.estimate is None) == (count == 0)


def test_blocks_that_are_all_alike_have_an_interval_of_no_width() -> None:
    assert mean_effect(blocks(*[-3.0] * 6), seed=1).high == -3.0
    same = mean_effect(blocks(*[0.0] * 6), seed=1)
    assert (same.low, same.high, same.p) == (0.0, 0.0, 1.0)


def test_across_devices_needs_devices_not_blocks() -> None:
    own = [each for device in "abcd" for each in blocks(*np.linspace(1.0, 2.0, 9), device=device)]
    assert mean_effect(own, seed=1).low is not None
    effect = mean_effect(own, seed=1, across_devices=True)
    assert effect.reason == "4 devices, 5 are needed"


def test_an_interval_is_a_function_of_its_seed_and_moves_with_its_data() -> None:
    one = mean_effect(blocks(1.0, 1.2, 0.9, 1.4, 1.1, 0.8), seed=3)
    assert one == mean_effect(blocks(1.0, 1.2, 0.9, 1.4, 1.1, 0.8), seed=3)
    moved = mean_effect(blocks(11.0, 11.2, 10.9, 11.4, 11.1, 10.8), seed=3)
    assert moved.low == pytest.approx((one.low or 0.0) + 10.0)


@given(st.lists(st.one_of(st.none(), st.floats(0.0, 1.0)), max_size=12))
def test_holm_never_lowers_a_p_and_keeps_their_order(p_values: list[float | None]) -> None:
    adjusted = holm(p_values)
    known = sorted((p, q) for p, q in zip(p_values, adjusted, strict=True) if p is not None and q is not None)
    assert [p is None for p in p_values] == [q is None for q in adjusted]
    assert all(p <= q <= 1.0 for p, q in known)
    assert [q for _, q in known] == sorted(q for _, q in known)


def test_drift_of_blocks_leaves_the_difference() -> None:
    arm, rival, truth = synthetic_cells(Design(1, 40, "normal"), math.log(1.1), np.random.default_rng(2))
    levels = [values[""] for values in rival.values()]
    assert max(levels) / min(levels) > 1.5
    effect = mean_effect(block_differences(arm, rival, "ratio"), seed=1, scale="ratio")
    assert effect.estimate == pytest.approx(math.exp(truth), rel=0.03)


@pytest.mark.parametrize("design", [Design(1, 5, "normal"), Design(1, 12, "stalls"), Design(3, 4, "boxes differ")])
def test_intervals_cover_and_nothing_is_found_where_nothing_is(design: Design) -> None:
    """A short run of `multispin.campaign.coverage`; 250 campaigns are known to 1.4 points (one sd)."""
    got = coverage(design, 250, seed=7, resamples=399)
    assert 0.91 <= got.covered <= 0.99
    assert math.isnan(got.false_effects) or got.false_effects <= 0.10
    assert got.percentile < got.covered, "the interval that was not chosen covers less"
