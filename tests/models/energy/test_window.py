"""Known integrals, edges inside an interval, windows that add up, and windows that say why they are null."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multispin_models.energy.window import EnergySample, PowerSample, Window, energy_between

S = 1_000_000_000


def ramp(hz: int, seconds: int) -> list[PowerSample]:
    """1 W at 0 s, and 2 W more each second."""
    return [PowerSample(i * S // hz, 1.0 + 2.0 * i / hz) for i in range(hz * seconds + 1)]


@pytest.mark.parametrize("hz", [10, 40, 100])
def test_a_ramp_is_integrated_exactly_with_edges_inside_an_interval(hz: int) -> None:
    window = energy_between(ramp(hz, 4), 333_333_333, 2_777_777_777)
    a, b = 0.333333333, 2.777777777
    assert window.joules == pytest.approx((b - a) + (b * b - a * a), rel=1e-12)
    assert window.achieved_hz == pytest.approx(hz)
    assert window.largest_gap_s == pytest.approx(1 / hz)
    assert window.coverage == 1.0
    assert window.reason is None


@pytest.mark.parametrize("hz", [10, 100])
def test_a_step_is_off_by_at_most_half_an_interval_of_its_height(hz: int) -> None:
    samples = [PowerSample(i * S // hz, 2.0 if i < hz else 8.0) for i in range(10 * hz + 1)]
    window = energy_between(samples, 0, 10 * S)
    assert window.joules is not None
    assert 0.0 < window.joules - (2.0 * 1 + 8.0 * 9) <= 6.0 / hz


def test_jitter_of_the_samples_does_not_change_a_line() -> None:
    times = [0, 7, 131, 190, 222, 390, 512, 600, 701, 880, 1003]  # ms
    samples = [PowerSample(ms * 1_000_000, 5.0 + ms / 1000) for ms in times]
    assert energy_between(samples, S // 10, S * 9 // 10).joules == pytest.approx(5.5 * 0.8)


def test_a_counter_is_interpolated_at_both_edges() -> None:
    samples = [EnergySample(0, 10.0), EnergySample(S, 14.0), EnergySample(2 * S, 20.0)]
    assert energy_between(samples, S // 4, S * 3 // 2).joules == pytest.approx(3.0 + 3.0)


def test_samples_on_the_edges_are_enough() -> None:
    window = energy_between([PowerSample(0, 3.0), PowerSample(S, 5.0)], 0, S)
    assert window == Window(4.0, None, 1.0, 1.0, 1.0, 2)


@given(
    st.lists(st.tuples(st.integers(1, 900_000_000), st.floats(0.0, 1e4)), min_size=4, max_size=40),
    st.lists(st.integers(0, 10**6), min_size=3, max_size=3),
    st.booleans(),
)
def test_windows_add_up(steps: list[tuple[int, float]], cuts: list[int], counter: bool) -> None:
    samples: list[PowerSample | EnergySample] = []
    t_ns, total = 0, 0.0
    for step_ns, value in steps:
        t_ns, total = t_ns + step_ns, total + value
        samples.append(EnergySample(t_ns, total) if counter else PowerSample(t_ns, value))
    begin, end = samples[0].t_ns, samples[-1].t_ns
    a, b, c = sorted(begin + (end - begin) * cut // 10**6 for cut in cuts)
    ab, bc, ac = (energy_between(samples, x, y, min_samples=0).joules for x, y in ((a, b), (b, c), (a, c)))
    assert ab is not None
    assert bc is not None
    assert ac is not None
    # A counter of 4e5 J has a resolution of 6e-11 J: that is the floor of a difference of two counts.
    assert math.isclose(ab + bc, ac, rel_tol=1e-9, abs_tol=1e-9)


@pytest.mark.parametrize(
    ("t0_ns", "t1_ns", "reason"),
    [
        (-S, S, "starts 1.000 s before the first sample"),
        (S, 5 * S, "ends 2.000 s after the last sample"),
        (7 * S, 8 * S, "ends 5.000 s after the last sample"),
        (-9 * S, -8 * S, "starts 9.000 s before the first sample"),
        (S * 5 // 4, S * 3 // 2, "0 samples in a window of 0.250 s, needed 1"),
    ],
)
def test_a_window_without_enough_samples_is_null_and_says_why(t0_ns: int, t1_ns: int, reason: str) -> None:
    window = energy_between([PowerSample(i * S, 1.0) for i in range(4)], t0_ns, t1_ns)
    assert window.joules is None
    assert reason in (window.reason or "")


def test_no_samples_at_all_is_null() -> None:
    window = energy_between([], 0, S)
    assert window.joules is None
    assert window.reason
    assert window.coverage == 0.0


def test_power_does_not_bridge_a_long_gap_and_tells_its_coverage() -> None:
    samples = [PowerSample(t * S, 1.0) for t in (0, 1, 2, 6, 7, 8)]
    window = energy_between(samples, 0, 8 * S)
    assert window.joules is None
    assert "no sample for 4.000 s, allowed are 1.000 s" in (window.reason or "")
    assert window.coverage == 0.5
    assert window.largest_gap_s == 4.0
    assert energy_between(samples, 6 * S, 8 * S).joules == 2.0


def test_a_counter_bridges_a_long_gap_unless_an_edge_falls_into_it() -> None:
    samples = [EnergySample(t * S, float(t)) for t in (0, 1, 6, 7)]
    assert energy_between(samples, S // 2, 7 * S).joules == 6.5
    assert energy_between(samples, 0, 3 * S).joules is None


def test_a_counter_that_lost_count_is_not_subtracted() -> None:
    samples = [EnergySample(0, 5.0), EnergySample(S, 6.0, segment=1), EnergySample(2 * S, 8.0, segment=1)]
    assert "lost count" in (energy_between(samples, 0, 2 * S).reason or "")
    assert energy_between(samples, S, 2 * S).joules == 2.0


def test_a_window_that_ends_before_it_starts_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"ends 1\.000000 s before it starts"):
        energy_between([], S, 0)
