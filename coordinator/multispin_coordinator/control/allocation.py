"""Given draft lengths: the least drafting phase, the shares of the channel that give it, and the goodput.

A round is phi + T_v: all draft and upload in phi seconds, then one verification. User k, with L_k tokens to draft and
upload in phi, needs the rate rho_k = Q_k L_k / (phi - L_k t_k), and so a share b_k of the band that falls with phi;
the least phi is where the shares fill the band. Lengths come as [n, users], so that many plans are weighed at once.

Source: Multi-SPIN (arXiv 2606.04581), section III, Lemmas 1 and 3; for noise that grows with the share, the rate
b log2(1 + s / b) is inverted by W_{-1}.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from multispin_coordinator.control.lambert import lambert_minus_wm1_exp
from multispin_coordinator.control.scenario import Scenario, User

__all__ = [
    "Floats",
    "Lengths",
    "Problem",
    "draft_phase_s",
    "goodput",
    "problem_of",
    "rate_of_share",
    "round_s",
    "shares_hz",
]

Floats = npt.NDArray[np.float64]
Lengths = npt.NDArray[np.int64]

NEWTON_STEPS = 60  # about ten are made


class Problem(NamedTuple):
    """A scenario as arrays over users.

    Attributes:
        draft_s, bits_per_token, weights: [users].
        spectral: [users] bit/s/Hz with total noise; s_hz with noise density.
        survival: [users, l_max + 1], of 0, 1, ... drafted tokens all accepted.
        limits: [users] longest draft.
        is_density: how noise goes with the share.
        bandwidth_hz: of all together.
        c0_s, per_row_s, per_user_s: of a verification.
    """

    draft_s: Floats
    bits_per_token: Floats
    weights: Floats
    spectral: Floats
    survival: Floats
    limits: Lengths
    is_density: bool
    bandwidth_hz: float
    c0_s: float
    per_row_s: float
    per_user_s: float

    @property
    def num_users(self) -> int:
        """Users that share the round."""
        return len(self.draft_s)


def problem_of(scenario: Scenario) -> Problem:
    """Return a scenario as arrays."""
    users, l_max = scenario.user, scenario.l_max
    is_density = scenario.noise == "density"
    limits = [l_max if user.survival is None else min(l_max, len(user.survival)) for user in users]
    return Problem(
        draft_s=np.array([user.draft_s for user in users]),
        bits_per_token=np.array([user.bits_per_token for user in users]),
        weights=np.array([user.weight for user in users]),
        spectral=np.array([_spectral(user) for user in users]),
        survival=np.stack([_survival(user, l_max) for user in users]),
        limits=np.array(limits, np.int64),
        is_density=is_density,
        bandwidth_hz=scenario.bandwidth_hz,
        c0_s=scenario.verify.c0_s,
        per_row_s=scenario.verify.per_row_s,
        per_user_s=scenario.verify.per_user_s,
    )


def _spectral(user: User) -> float:
    if user.snr is not None:
        return float(np.log2(1 + user.snr))
    assert user.s_hz is not None
    return user.s_hz


def _survival(user: User, l_max: int) -> Floats:
    if user.alpha is not None:
        return np.asarray(float(user.alpha) ** np.arange(l_max + 1))
    assert user.survival is not None
    known = [1.0, *user.survival][: l_max + 1]
    return np.array(known + [0.0] * (l_max + 1 - len(known)))


def band_for_rate(problem: Problem, rate: Floats) -> tuple[Floats, Floats]:
    """Return the share in Hz that carries each rate (bit/s, [..., users]), and its slope in Hz per bit/s.

    Both are infinite for a rate that no share carries.
    """
    if not problem.is_density:
        return np.asarray(rate / problem.spectral), np.broadcast_to(1 / problem.spectral, rate.shape)
    needed = rate * np.log(2)
    c = needed / problem.spectral
    within = (c > 0) & (c < 1)  # a band without end carries s / ln 2 bits a second
    c_within = np.where(within, c, 0.5)
    # ln(1 + s / b) of the share b that is sought: needed / b.
    nats = lambert_minus_wm1_exp(c_within - np.log(c_within) - 1) - c_within
    beyond = np.where(c <= 0, 0.0, np.inf)
    slope = np.log(2) / (nats + np.expm1(-nats))
    return np.where(within, needed / nats, beyond), np.where(within, slope, beyond)


def rate_of_share(problem: Problem, share_hz: float) -> Floats:
    """Return the bit rate [users] of each user in a share of this width."""
    if not problem.is_density:
        return problem.spectral * share_hz
    return np.asarray(share_hz * np.log2(1 + problem.spectral / share_hz))


def shares_hz(problem: Problem, lengths: Lengths, phase_s: Floats) -> Floats:
    """Return the share of each user [..., users] that ends its drafting and upload in the phase [...]."""
    bits = problem.bits_per_token * lengths
    left_s = np.asarray(phase_s)[..., None] - lengths * problem.draft_s
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = np.where(bits > 0, np.where(left_s > 0, bits / left_s, np.inf), 0.0)
    return band_for_rate(problem, rate)[0]


def draft_phase_s(problem: Problem, lengths: Lengths) -> Floats:
    """Return the least phase [...] in which all drafts [..., users] are made and uploaded.

    The band that is needed falls with the phase and is convex in it, so Newton's steps from below rise to the root and
    never pass it. They start where the slowest user would be done if it had all of the band.
    """
    plans = np.atleast_2d(lengths)
    bits = problem.bits_per_token * plans
    drafting_s = plans * problem.draft_s
    longest_s = drafting_s.max(axis=-1)
    slack_s = longest_s[:, None] - drafting_s  # what is looked for is the time beyond `longest_s`: nothing cancels
    beyond_s = (bits / rate_of_share(problem, problem.bandwidth_hz) - slack_s).max(axis=-1)
    active = np.flatnonzero(bits.any(axis=-1))
    for _ in range(NEWTON_STEPS):
        if not len(active):
            break
        left_s = np.where(bits[active] > 0, beyond_s[active, None] + slack_s[active], 1.0)
        rate = bits[active] / left_s
        share, slope = band_for_rate(problem, rate)
        step_s = (share.sum(axis=-1) - problem.bandwidth_hz) / (slope * rate / left_s).sum(axis=-1)
        beyond_s[active] += np.maximum(step_s, 0.0)
        active = active[step_s > 1e-14 * (beyond_s + longest_s)[active]]
    return np.asarray((longest_s + beyond_s).reshape(lengths.shape[:-1]))


def round_s(problem: Problem, lengths: Lengths, phase_s: Floats) -> Floats:
    """Return the seconds of a round [...]: the phase and the verification of all rows."""
    rows = (lengths + 1).sum(axis=-1)
    fixed_s = problem.c0_s + problem.per_user_s * problem.num_users
    return np.asarray(phase_s + fixed_s + problem.per_row_s * rows)


def expected_tokens(problem: Problem, lengths: Lengths) -> Floats:
    """Return the weighted tokens [...] that a round is expected to commit: the sum of w_k E[N_k]."""
    up_to = np.cumsum(problem.survival, axis=1)  # [users, l_max + 1], E[N] of each length
    each = up_to[np.arange(problem.num_users), lengths]
    return np.asarray((problem.weights * each).sum(axis=-1))


def goodput(problem: Problem, lengths: Lengths, phase_s: Floats | None = None) -> Floats:
    """Return the weighted tokens per second [...] of lengths [..., users], in the least phase if none is given."""
    phase_s = draft_phase_s(problem, lengths) if phase_s is None else phase_s
    return np.asarray(expected_tokens(problem, lengths) / round_s(problem, lengths, phase_s))
