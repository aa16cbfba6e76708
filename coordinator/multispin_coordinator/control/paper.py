"""The paper's policies: one length for all, lengths by user, and lengths in equal shares; all from one token up.

Where a scenario has more than the paper's model, the least is added to it: a cost per row goes with the drafting
(Theorem 1), and is left out of Proposition 1; noise that grows with the share is taken at equal shares there. What a
plan yields is always counted in the scenario's own model.

Source: Multi-SPIN (arXiv 2606.04581), Lemma 1, Theorem 1; Lemma 3, Proposition 1, Algorithm 1.
"""

import math

import numpy as np

from multispin_coordinator.control.allocation import Floats, Lengths, Problem, draft_phase_s, goodput, rate_of_share
from multispin_coordinator.control.lambert import lambert_minus_wm1_exp, lambert_w0_exp

__all__ = ["best_common_length", "heterogeneous", "homogeneous", "uniform_bandwidth"]

PHASES = 48  # of Algorithm 1's grid
PRICES = 48
LEAST_PRICE = 1e-6  # of the largest, as the lower end of the grid
LARGEST_ALPHA = 1 - 1e-9


def best_common_length(alpha: float, token_s: float, fixed_s: float, l_max: int) -> int:
    """Return the L in 1..l_max with the largest (1 - alpha^(L+1)) / (1 - alpha) / (L token_s + fixed_s).

    Args:
        alpha: acceptance of a drafted token, in [0, 1).
        token_s: what one more token for everyone costs, th in the paper.
        fixed_s: of a round, T_ver in the paper.
        l_max: at least 1.

    Source: Theorem 1 of the paper.
    """
    if alpha <= 0:
        return 1
    ratio, log_alpha = fixed_s / token_s, math.log(alpha)
    if ratio <= 1:
        return 1
    best = math.log(float(lambert_minus_wm1_exp((ratio - 1) * -log_alpha))) / -log_alpha - 1
    around = {min(max(math.floor(best), 1), l_max), min(max(math.ceil(best), 1), l_max)}
    return max(sorted(around), key=lambda n: (1 - alpha ** (n + 1)) / (n * token_s + fixed_s))


def acceptance(problem: Problem) -> Floats:
    """Return alpha [users] of each user: of geometric survival, the one with the same expected tokens at its limit."""
    whole = problem.survival.sum(axis=1)
    low, high = np.zeros(problem.num_users), np.full(problem.num_users, LARGEST_ALPHA)
    steps = np.arange(problem.survival.shape[1])
    within = steps <= problem.limits[:, None]
    for _ in range(60):
        middle = (low + high) / 2
        fewer = (np.where(within, middle[:, None] ** steps, 0.0)).sum(axis=1) < whole
        low, high = np.where(fewer, middle, low), np.where(fewer, high, middle)
    return high


def homogeneous(problem: Problem) -> Lengths:
    """Return lengths [users], all the same, by Theorem 1 with the mean acceptance."""
    ones = np.ones((1, problem.num_users), np.int64)
    token_s = float(draft_phase_s(problem, ones)[0]) + problem.per_row_s * problem.num_users
    fixed_s = problem.c0_s + (problem.per_user_s + problem.per_row_s) * problem.num_users
    limit = max(1, int(problem.limits.min()))
    length = best_common_length(float(acceptance(problem).mean()), token_s, fixed_s, limit)
    return np.full(problem.num_users, length, np.int64)


def heterogeneous(problem: Problem) -> Lengths:
    """Return lengths [users] by Algorithm 1: Proposition 1 over a grid of phase and price, the best after rounding."""
    alpha = np.clip(acceptance(problem), 1e-6, LARGEST_ALPHA)
    bits, t = problem.bits_per_token, problem.draft_s
    spectral = _at_equal_shares(problem)
    alone_s = t + bits / (problem.bandwidth_hz * spectral)
    crowded_s = t + problem.num_users * bits / (problem.bandwidth_hz * spectral)
    phases = np.geomspace(alone_s.max(), max((problem.limits * crowded_s).max(), alone_s.max() * 1.001), PHASES)
    tried = {tuple([1] * problem.num_users)}
    for phase in phases:
        for lengths in _by_prices(problem, alpha, spectral, float(phase)):
            tried.add(tuple(lengths))
    candidates = np.array(sorted(tried), np.int64)
    chunks = [candidates[i : i + 256] for i in range(0, len(candidates), 256)]
    yields = np.concatenate([goodput(problem, chunk) for chunk in chunks])
    return np.asarray(candidates[int(yields.argmax())])


def uniform_bandwidth(problem: Problem) -> Lengths:
    """Return lengths [users] in equal shares of the band, the paper's Uni-BW: the best, where rows cost nothing.

    Of all plans that end drafting and upload within a phase the longest drafts yield most, so the best phase is one of
    those that some user's draft just fills.
    """
    token_s = problem.draft_s + problem.bits_per_token / rate_of_share(
        problem, problem.bandwidth_hz / problem.num_users
    )
    limits = np.maximum(problem.limits, 1)
    phases = np.unique(np.outer(np.arange(1, limits.max() + 1), token_s))
    plans = np.clip(np.floor(phases[:, None] / token_s * (1 + 1e-12)), 1, limits).astype(np.int64)
    phase_s = (plans * token_s).max(axis=1)
    return np.asarray(plans[int(goodput(problem, plans, phase_s).argmax())])


def _at_equal_shares(problem: Problem) -> Floats:
    if not problem.is_density:
        return problem.spectral
    return np.log2(1 + problem.spectral * problem.num_users / problem.bandwidth_hz)


def _by_prices(problem: Problem, alpha: Floats, spectral: Floats, phase_s: float) -> Lengths:
    """Return lengths [prices, users] of Proposition 1 for one phase."""
    bits, t, log_alpha = problem.bits_per_token, problem.draft_s, np.log(alpha)
    if not bits.any():  # the band costs nothing: as long as the phase lasts
        free = np.floor(phase_s / t)[None]
        return np.asarray(np.clip(free, 1, np.maximum(problem.limits, 1)), dtype=np.int64)
    used = np.maximum(bits, 1e-12)
    # Where one more token is dearest: the price at which even the first is no longer worth it.
    slack = np.maximum(phase_s - t, 0.0)
    largest = (spectral * slack**2 / (used * phase_s) * -log_alpha / (1 - alpha) * alpha**2).max()
    prices = np.geomspace(max(largest, 1e-300) * LEAST_PRICE, max(largest, 1e-300), PRICES)[:, None]
    # W_0 of a^(-phi/2t) / 2t * sqrt(...), by its logarithm: the power alone would overflow.
    root = np.log(prices * used * phase_s * -log_alpha * (1 - alpha) / (spectral * alpha)) / 2
    w = lambert_w0_exp(-log_alpha * phase_s / (2 * t) - np.log(2 * t) + root)
    lengths = phase_s / t + 2 / log_alpha * w
    return np.asarray(np.clip(np.rint(lengths), 1, np.maximum(problem.limits, 1)), dtype=np.int64)
