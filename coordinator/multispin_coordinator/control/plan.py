"""The policies by name: lengths and shares for a scenario, with what they yield in the scenario's own model.

>>> from multispin_coordinator.control.scenario import Scenario, User, Verify
>>> alone = Scenario(bandwidth_hz=1.0, verify=Verify(c0_s=0.03), user=(User(draft_s=0.01, alpha=0.5, snr=1.0),))
>>> make_plan(alone, "exact").num_draft_tokens
[2]
"""

from collections.abc import Callable
from typing import Final

import numpy as np
from msgspec import Struct

from multispin_coordinator.control.allocation import (
    Lengths,
    Problem,
    draft_phase_s,
    goodput,
    problem_of,
    rate_of_share,
    round_s,
    shares_hz,
)
from multispin_coordinator.control.exact import exact
from multispin_coordinator.control.paper import heterogeneous, homogeneous, uniform_bandwidth
from multispin_coordinator.control.scenario import Scenario

__all__ = ["POLICIES", "Plan", "make_plan"]

POLICIES: Final = ("fixed", "homogeneous", "uniform_bandwidth", "heterogeneous", "exact")


class Plan(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What all users of a scenario should do.

    Attributes:
        policy: that made it.
        num_draft_tokens: of each user.
        bandwidth_hz: share of each user.
        round_s: of the whole round.
        goodput_tokens_per_s: weighted, of all users.
        is_proven: no lengths yield more; null for policies that do not ask.
    """

    policy: str
    num_draft_tokens: list[int]
    bandwidth_hz: list[float]
    round_s: float
    goodput_tokens_per_s: float
    is_proven: bool | None = None


def make_plan(scenario: Scenario, policy: str, num_draft_tokens: int = 8) -> Plan:
    """Return the plan of a policy.

    Args:
        scenario: checked.
        policy: of `POLICIES`; "fixed" gives each user the same length and the same share.
        num_draft_tokens: of "fixed"; its default is the paper's.
    """
    problem = problem_of(scenario)
    if policy == "fixed":
        return _in_equal_shares(problem, policy, np.minimum(num_draft_tokens, problem.limits))
    if policy == "uniform_bandwidth":
        return _in_equal_shares(problem, policy, uniform_bandwidth(problem))
    if policy == "exact":
        found = exact(problem)
        return _plan(problem, policy, found.lengths, found.is_proven)
    by_name: dict[str, Callable[[Problem], Lengths]] = {"homogeneous": homogeneous, "heterogeneous": heterogeneous}
    return _plan(problem, policy, by_name[policy](problem))


def _plan(problem: Problem, policy: str, lengths: Lengths, is_proven: bool | None = None) -> Plan:
    phase_s = draft_phase_s(problem, lengths[None])[0]
    shares = shares_hz(problem, lengths, phase_s)
    shares *= min(1.0, problem.bandwidth_hz / max(shares.sum(), 1e-300))  # rounding must not exceed the band
    return Plan(
        policy=policy,
        num_draft_tokens=lengths.tolist(),
        bandwidth_hz=shares.tolist(),
        round_s=float(round_s(problem, lengths, phase_s)),
        goodput_tokens_per_s=float(goodput(problem, lengths, phase_s)),
        is_proven=is_proven,
    )


def _in_equal_shares(problem: Problem, policy: str, lengths: Lengths) -> Plan:
    """Return the plan of lengths in equal shares: each user's upload takes as long as its share makes it."""
    share = problem.bandwidth_hz / problem.num_users
    phase_s = (lengths * (problem.draft_s + problem.bits_per_token / rate_of_share(problem, share))).max()
    return Plan(
        policy=policy,
        num_draft_tokens=lengths.tolist(),
        bandwidth_hz=[share] * problem.num_users,
        round_s=float(round_s(problem, lengths, phase_s)),
        goodput_tokens_per_s=float(goodput(problem, lengths, phase_s)),
    )
