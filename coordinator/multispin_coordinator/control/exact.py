"""Integer lengths of the largest goodput, from 0 up: found by price, then proven by elimination.

Found: at goodput tau a token drafted more is worth w_k S_k(l) and costs tau c1 for its row, and lambda for each hertz
that it takes from the others. In a phase phi user k drafts while worth exceeds cost; worth falls and cost rises with l,
so that is a threshold. Lambda is the least that keeps the shares within the band, phi is scanned and then refined, tau
is what came out best, until it grows no more (Dinkelbach, Management Science 13 (1967)).

Proven: user after user all lengths are tried, and a beginning is dropped when even the best end of it, whose shares
are each as wide as the band, cannot exceed tau. Beyond a dozen users, or where too many beginnings are left, the plan
is as found, and says so.
"""

from typing import NamedTuple

import numpy as np

from multispin_coordinator.control.allocation import (
    Floats,
    Lengths,
    Problem,
    draft_phase_s,
    expected_tokens,
    goodput,
    rate_of_share,
    round_s,
    shares_hz,
)

__all__ = ["Found", "exact"]

PHASES = 16
REFINEMENTS = 3
PRICE_BISECTIONS = 40
MOST_PROVEN = 12  # users
MOST_BEGINNINGS = 50_000


class Found(NamedTuple):
    """What was found.

    Attributes:
        lengths: [users].
        is_proven: no lengths yield more.
    """

    lengths: Lengths
    is_proven: bool


def exact(problem: Problem) -> Found:
    """Return the lengths, 0 to each user's limit, with the largest goodput."""
    best = np.zeros(problem.num_users, np.int64)
    tau = float(goodput(problem, best))
    while True:
        found = _scan(problem, tau)
        yields = goodput(problem, found)
        top = int(yields.argmax())
        if yields[top] <= tau * (1 + 1e-12):
            break
        best, tau = found[top], float(yields[top])
    return _prove(problem, best, tau)


def _scan(problem: Problem, tau: float) -> Lengths:
    """Return lengths [n, users] that are the best of their phases at this tau."""
    longest = np.where(_worth_alone(problem, tau) > 0, problem.limits, 0)
    if not longest.any():
        return longest[None]
    one_s = problem.draft_s + problem.bits_per_token / rate_of_share(problem, problem.bandwidth_hz)
    low = float(one_s.min()) * 0.999
    high = float(draft_phase_s(problem, problem.limits[None])[0])
    phases = np.geomspace(low, max(high, low * 1.001), PHASES)
    found: list[Lengths] = []
    for _ in range(REFINEMENTS):
        plans = [each for phase in phases for each in _in_phase(problem, tau, float(phase))]
        found += plans
        step = phases[1] / phases[0]
        top = int(goodput(problem, np.stack(plans)).argmax()) // 2
        phases = np.geomspace(phases[top] / step, phases[top] * step, PHASES)
    return np.stack(found)


def _worth_alone(problem: Problem, tau: float) -> Floats:
    """Return [users] what the first drafted token is worth beyond its row."""
    return np.asarray(problem.weights * problem.survival[:, 1] - tau * problem.per_row_s)


def _in_phase(problem: Problem, tau: float, phase_s: float) -> tuple[Lengths, Lengths]:
    """Return the lengths [users] at the least price that keeps to the band, and those with what is left filled up."""
    steps = np.arange(problem.survival.shape[1])
    each = np.repeat(steps[None], problem.num_users, axis=0)  # [users, l_max + 1]
    shares = _shares_of_each(problem, each, phase_s)
    worth = problem.weights[:, None] * problem.survival[:, 1:] - tau * problem.per_row_s
    with np.errstate(invalid="ignore"):
        more_hz = np.diff(shares, axis=1)
    allowed = (steps[1:] <= problem.limits[:, None]) & np.isfinite(shares[:, 1:])
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = np.where(allowed, np.where(more_hz > 0, worth / more_hz, np.where(worth > 0, np.inf, -np.inf)), -np.inf)

    def lengths_at(price: float) -> Lengths:
        return np.asarray(np.logical_and.accumulate((rate >= price) & (worth > 0), axis=1).sum(axis=1), np.int64)

    def width(lengths: Lengths) -> float:
        return float(np.take_along_axis(shares, lengths[:, None], axis=1).sum())

    if width(lengths_at(0.0)) <= problem.bandwidth_hz:
        free = lengths_at(0.0)
        return free, free
    low, high = 0.0, 2 * float(rate[np.isfinite(rate)].max())
    kept, wanted = lengths_at(high), lengths_at(low)
    for _ in range(PRICE_BISECTIONS):
        if (wanted - kept).sum() <= 1:  # the two sides of one token
            break
        middle = lengths_at((low + high) / 2)
        if width(middle) <= problem.bandwidth_hz:
            high, kept = (low + high) / 2, middle
        else:
            low, wanted = (low + high) / 2, middle
    return kept, _filled(problem.bandwidth_hz - width(kept), kept, wanted, shares)


def _shares_of_each(problem: Problem, each: Lengths, phase_s: float) -> Floats:
    """Return [users, l_max + 1], the share that each user needs for each length."""
    columns = shares_hz(problem, each.T, np.full(each.shape[1], phase_s))
    too_slow = each * problem.draft_s[:, None] > phase_s
    return np.where(too_slow, np.inf, columns.T)


def _filled(left_hz: float, kept: Lengths, wanted: Lengths, shares: Floats) -> Lengths:
    """Return the lengths with as many of the wanted ones as the band that is left has room for."""
    filled = kept.copy()
    for user in np.flatnonzero(wanted > kept):
        more = shares[user, wanted[user]] - shares[user, kept[user]]
        if more <= left_hz:
            filled[user], left_hz = wanted[user], left_hz - more
    return filled


def _prove(problem: Problem, best: Lengths, tau: float) -> Found:
    """Return what yields the most, by elimination from what was found."""
    users = problem.num_users
    if users > MOST_PROVEN:
        return Found(best, is_proven=False)
    beginnings = np.zeros((1, 0), np.int64)
    for user in range(users):
        options = np.arange(int(problem.limits[user]) + 1)
        if len(beginnings) * len(options) > MOST_BEGINNINGS:
            return Found(best, is_proven=False)
        tried = np.column_stack([np.repeat(beginnings, len(options), axis=0), np.tile(options, len(beginnings))])
        whole = np.column_stack([tried, np.zeros((len(tried), users - user - 1), np.int64)])
        phase_s = draft_phase_s(problem, whole)
        reachable = _best_end(problem, whole, phase_s, user + 1, tau)
        beginnings = tried[reachable > tau * 1e-12]
        if not len(beginnings):
            return Found(best, is_proven=True)
    yields = goodput(problem, beginnings)
    top = int(yields.argmax())
    return Found(beginnings[top] if yields[top] > tau else best, is_proven=True)


def _best_end(problem: Problem, whole: Lengths, phase_s: Floats, begun: int, tau: float) -> Floats:
    """Return [n], a bound from above on tokens - tau * seconds of all plans that begin so.

    Args:
        problem: what is planned.
        whole: [n, users], zero for users from `begun` on.
        phase_s: [n] least phase of these.
        begun: users whose lengths are chosen.
        tau: goodput to be exceeded.
    """
    gain = expected_tokens(problem, whole) - tau * round_s(problem, whole, phase_s)
    steps = np.arange(problem.survival.shape[1])
    worth = problem.weights[:, None] * np.cumsum(problem.survival, axis=1) - problem.weights[:, None]
    worth = worth - tau * problem.per_row_s * steps  # beyond length 0, which `gain` counts
    alone_s = steps * (problem.draft_s + problem.bits_per_token / rate_of_share(problem, problem.bandwidth_hz))[:, None]
    worth = np.where(steps <= problem.limits[:, None], worth, -np.inf)[begun:]
    if not len(worth):
        return gain
    alone_s = alone_s[begun:]
    # The phase may grow to a time that one of the others needs; between these times nothing is won.
    ends_s = np.unique(alone_s)
    within = np.where(alone_s[..., None] <= ends_s, worth[..., None], -np.inf).max(axis=1).sum(axis=0)  # [ends]
    longer_s = np.maximum(ends_s - phase_s[:, None], 0.0)  # [n, ends]
    return np.asarray(gain + (within - tau * longer_s).max(axis=1))
