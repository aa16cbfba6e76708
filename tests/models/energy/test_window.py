"""Known integrals, edges inside an interval, windows that add up, and windows that say why they are null."""

import math
import random
from collections.abc import Callable
from typing import NamedTuple

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


# -- signals of known integral, sampled as a real sampler does ---------------------------------------------------------

HZ = [10, 25, 40, 100]
BEGIN_S, END_S = 3.0137, 123.4571  # both inside a sample interval, whatever the rate


class Signal(NamedTuple):
    """Watts at an instant, and joules up to it, both in seconds; worked by hand."""

    watts: Callable[[float], float]
    joules: Callable[[float], float]


SIGNALS = {
    "constant": Signal(lambda _t: 6.25, lambda t: 6.25 * t),
    "ramp": Signal(lambda t: 2.0 + 0.05 * t, lambda t: 2.0 * t + 0.025 * t * t),
    "step": Signal(lambda t: 2.0 if t < 60.033 else 8.0, lambda t: 2.0 * t + 6.0 * max(t - 60.033, 0.0)),
    "wave": Signal(  # a load that comes and goes every two seconds
        lambda t: 5.0 + 3.0 * math.sin(math.pi * t), lambda t: 5.0 * t - 3.0 / math.pi * math.cos(math.pi * t)
    ),
}


def sampled(signal: Signal, hz: int, jitter: float, *, counter: bool = False) -> list[PowerSample | EnergySample]:
    """Samples over 130 s whose instants are off the beat by up to `jitter` of an interval, either way."""
    rng = random.Random(hz)
    samples: list[PowerSample | EnergySample] = []
    for i in range(130 * hz):
        t_ns = round((i + rng.uniform(-jitter, jitter)) * S / hz) + S
        t_s = t_ns / 1e9
        samples.append(
            EnergySample(t_ns, signal.joules(t_s)) if counter else PowerSample(t_ns, signal.watts(t_s)),
        )
    return samples


@pytest.mark.parametrize("hz", HZ)
@pytest.mark.parametrize("jitter", [0.0, 0.4])
@pytest.mark.parametrize("counter", [False, True])
@pytest.mark.parametrize("name", SIGNALS)
def test_known_integrals_are_met_within_a_thousandth(name: str, counter: bool, jitter: float, hz: int) -> None:
    signal = SIGNALS[name]
    window = energy_between(sampled(signal, hz, jitter, counter=counter), round(BEGIN_S * S), round(END_S * S))
    assert window.joules == pytest.approx(signal.joules(END_S) - signal.joules(BEGIN_S), rel=1e-3)
    assert window.achieved_hz == pytest.approx(hz, rel=0.01)
    assert window.coverage == 1.0


@pytest.mark.parametrize("hz", HZ)
@pytest.mark.parametrize("name", ["constant", "ramp", "wave"])
def test_a_short_gap_in_a_long_window_is_joined_within_a_thousandth_and_shows(name: str, hz: int) -> None:
    signal = SIGNALS[name]
    samples = [sample for sample in sampled(signal, hz, 0.2) if not 50.25 < sample.t_ns / S < 50.75]
    window = energy_between(samples, round(BEGIN_S * S), round(END_S * S))
    assert window.joules == pytest.approx(signal.joules(END_S) - signal.joules(BEGIN_S), rel=1e-3)
    assert window.largest_gap_s is not None
    assert 0.5 < window.largest_gap_s <= 0.5 + 2.8 / hz


@pytest.mark.parametrize("hz", HZ)
def test_a_long_gap_is_null_for_power_and_joined_for_a_counter(hz: int) -> None:
    signal = SIGNALS["ramp"]
    for counter in (False, True):
        samples = [s for s in sampled(signal, hz, 0.2, counter=counter) if not 50.0 < s.t_ns / S < 52.0]
        window = energy_between(samples, round(BEGIN_S * S), round(END_S * S))
        assert (window.joules is not None) == counter
        assert ("no sample for" in (window.reason or "")) != counter


@pytest.mark.parametrize("hz", HZ)
def test_a_window_inside_one_interval_needs_to_be_asked_for(hz: int) -> None:
    samples = sampled(SIGNALS["ramp"], hz, 0.0)
    t0, t1 = 60.0 + 0.25 / hz, 60.0 + 0.75 / hz
    assert energy_between(samples, round(t0 * S), round(t1 * S)).joules is None
    window = energy_between(samples, round(t0 * S), round(t1 * S), min_samples=0)
    signal = SIGNALS["ramp"]
    assert window.joules == pytest.approx(signal.joules(t1) - signal.joules(t0), rel=1e-3)
