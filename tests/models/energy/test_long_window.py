"""Windows longer than a sampler remembers: settled in time they are whole, else null with the reason."""

import pytest
from tests.metered import CurveMeter, HandClock, S

from multispin_models.energy import LongWindow, Sampler


def run(settle_every_s: int) -> LongWindow:
    """Let 600 s of 2 W, then 4 W, pass, a sample a second, with a memory of 64 samples."""
    clock = HandClock()
    meter = CurveMeter(clock, lambda t: 2.0 if t < 300.5 else 4.0, "power")
    sampler = Sampler(meter, hz=1.0, capacity=64)
    sampler.read_now()
    window = LongWindow(sampler, 0)
    for t_s in range(1, 602):
        clock.t_ns = t_s * S
        sampler.read_now()
        if t_s % settle_every_s == 0 or t_s == 601:
            window.settle(clock.t_ns - S // 4)  # between two samples
    return window


def test_pieces_that_are_settled_in_time_make_the_whole() -> None:
    window = run(30).window()
    # 300 s of 2 W, a second from 2 to 4 W, and 4 W up to 600.75 s
    assert window.joules == pytest.approx(600.0 + 3.0 + 4.0 * 299.75)
    assert (window.reason, window.coverage) == (None, 1.0)
    assert window.achieved_hz == pytest.approx(1.0)
    assert window.largest_gap_s == pytest.approx(1.0)
    assert window.num_samples == 601  # from 0 to 600 s


def test_a_piece_that_was_forgotten_makes_it_null() -> None:
    window = run(100).window()
    assert window.joules is None
    assert "before the first sample" in (window.reason or "")
    assert 0.3 < window.coverage < 0.7


def test_settling_twice_at_an_instant_changes_nothing_and_nothing_settled_is_null() -> None:
    clock = HandClock()
    sampler = Sampler(CurveMeter(clock, lambda t: 5.0 * t), hz=1.0)
    sampler.read_now()
    window = LongWindow(sampler, 0)
    assert window.window().joules is None
    clock.t_ns = 2 * S
    sampler.read_now()
    for _ in range(2):
        window.settle(2 * S)
    assert window.window().joules == pytest.approx(10.0)
