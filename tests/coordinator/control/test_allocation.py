"""Lambert's W, the least phase, and goodput, against hand-worked numbers and the equations they solve."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multispin_coordinator.control.allocation import (
    draft_phase_s,
    expected_tokens,
    goodput,
    problem_of,
    round_s,
    shares_hz,
)
from multispin_coordinator.control.lambert import lambert_minus_wm1_exp, lambert_w0_exp
from multispin_coordinator.control.scenario import Scenario, User, Verify


@given(st.floats(-300, 1e6))
def test_the_principal_branch_solves_its_equation(x: float) -> None:
    w = float(lambert_w0_exp(x))
    assert w + math.log(w) == pytest.approx(x, rel=1e-9, abs=1e-9)


@given(st.floats(1e-9, 1e6))
def test_the_lower_branch_solves_its_equation(u: float) -> None:
    y = float(lambert_minus_wm1_exp(u))
    assert y >= 1
    assert y - math.log(y) == pytest.approx(1 + u, rel=1e-9, abs=1e-9)


def two_users() -> Scenario:
    """One hertz-second carries one bit for user 0 and two for user 1."""
    return Scenario(
        bandwidth_hz=100.0,
        verify=Verify(c0_s=1.0, per_row_s=0.1, per_user_s=0.25),
        user=(
            User(draft_s=1.0, alpha=0.5, snr=1.0, bits_per_token=50.0),
            User(draft_s=0.5, survival=(0.5, 0.5, 0.25), snr=3.0, bits_per_token=100.0, weight=2.0),
        ),
    )


def test_the_phase_is_the_root_of_the_shares() -> None:
    # Lengths 1 and 2: shares 50 / (phi - 1) and 100 / (phi - 1), together 100 at phi = 2.5.
    problem = problem_of(two_users())
    lengths = np.array([1, 2])
    phase_s = draft_phase_s(problem, lengths[None])[0]
    assert phase_s == pytest.approx(2.5)
    assert shares_hz(problem, lengths, phase_s) == pytest.approx([100 / 3, 200 / 3])


def test_a_round_is_the_phase_and_the_verification_of_all_rows() -> None:
    problem = problem_of(two_users())
    lengths = np.array([1, 2])
    assert float(expected_tokens(problem, lengths)) == pytest.approx(1.5 + 2 * 2.0)
    assert float(round_s(problem, lengths, np.array(2.5))) == pytest.approx(2.5 + 1 + 0.5 + 0.5)
    assert float(goodput(problem, lengths)) == pytest.approx(5.5 / 4.5)


def test_who_drafts_nothing_needs_no_phase() -> None:
    problem = problem_of(two_users())
    assert draft_phase_s(problem, np.array([[0, 0], [0, 1]])) == pytest.approx(
        [0.0, 1.0]
    )  # 100 / 2 / (phi - 0.5) = 100


@pytest.mark.parametrize("s_hz", [10.0, 1e3, 1e6])
def test_with_noise_density_the_share_carries_the_rate(s_hz: float) -> None:
    scenario = Scenario(
        bandwidth_hz=100.0,
        noise="density",
        verify=Verify(c0_s=1.0),
        user=tuple(User(draft_s=0.1 * n, alpha=0.5, s_hz=s_hz, bits_per_token=40.0) for n in (1, 2, 3)),
    )
    problem = problem_of(scenario)
    lengths = np.array([3, 1, 2])
    phase_s = draft_phase_s(problem, lengths[None])[0]
    shares = shares_hz(problem, lengths, phase_s)
    assert shares.sum() == pytest.approx(100.0)
    carried = shares * np.log2(1 + s_hz / shares) * (phase_s - lengths * problem.draft_s)
    assert carried == pytest.approx(lengths * 40.0)


@given(st.lists(st.tuples(st.floats(1e-3, 1), st.floats(0.1, 100), st.integers(1, 9)), min_size=1, max_size=5))
def test_no_phase_that_is_shorter_would_do(users: list[tuple[float, float, int]]) -> None:
    problem = problem_of(
        Scenario(
            bandwidth_hz=1e3,
            verify=Verify(c0_s=1.0),
            user=tuple(User(draft_s=t, alpha=0.5, snr=snr, bits_per_token=100.0) for t, snr, _ in users),
        )
    )
    lengths = np.array([length for _, _, length in users])
    phase_s = draft_phase_s(problem, lengths[None])[0]
    assert shares_hz(problem, lengths, phase_s).sum() <= 1e3 * (1 + 1e-9)
    assert shares_hz(problem, lengths, phase_s * (1 - 1e-6)).sum() > 1e3
