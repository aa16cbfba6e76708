"""The policies of the running system by name: what all open requests should do, from what was measured.

    fixed          every agent drafts its own `num_draft_tokens`
    alone          the coordinator generates by itself for everyone: what cooperation has to beat
    lookup         likewise, but it verifies what each text's own past says, where that is worth its rows
    price          the coordinator's price, and alone where cooperation does not pay (`price.py`)
    homogeneous, heterogeneous, exact    the solvers of `plan.py`; the paper's two never draft less than one token

The solvers of `plan.py` know a synchronous round: the longest draft, then one verification. What they are fed is the
same as for `price`; ids are so few bytes that the band is left out and a round's network time is part of c0.
"""

from collections.abc import Callable, Mapping
from statistics import median
from typing import Final

from multispin_coordinator.control.objective import Watts
from multispin_coordinator.control.plan import make_plan
from multispin_coordinator.control.price import price
from multispin_coordinator.control.scenario import Scenario, Verify
from multispin_coordinator.control.scenario import User as PlannedUser
from multispin_coordinator.control.view import ALONE, Choice, View
from multispin_models.messages import MOST_DRAFTED

__all__ = ["LOOKING_UP", "POLICIES", "Policy"]

Policy = Callable[[View], list[Choice]]


LOOKING_UP: Final = frozenset({"lookup", "price"})  # policies with which the coordinator alone looks drafts up


def fixed(view: View) -> list[Choice]:
    """Return no bound and no price: every agent drafts its own length."""
    return [Choice(MOST_DRAFTED, 0.0, None)] * len(view.users)


def alone(view: View) -> list[Choice]:
    """Return the coordinator alone for everyone."""
    return [ALONE] * len(view.users)


def _planned(name: str) -> Policy:
    def policy(view: View) -> list[Choice]:
        plan = make_plan(_scenario(view), name)
        return [Choice(length, 0.0, None) if length else ALONE for length in plan.num_draft_tokens]

    return policy


def _scenario(view: View) -> Scenario:
    unknown_s = view.c0_s + view.per_row_s
    users = tuple(
        PlannedUser(
            draft_s=max(1e-6, unknown_s if user.draft_s is None else user.draft_s),
            survival=tuple(user.survival[1:].tolist()),
            snr=1.0,
            weight=user.weight,
        )
        for user in view.users
    )
    network_s = median(user.network_s for user in view.users)
    verify = Verify(c0_s=view.c0_s + network_s, per_row_s=view.per_row_s)
    if view.watts is not None:
        verify = _in_joules(view, view.watts, network_s)
    return Scenario(bandwidth_hz=1.0, verify=verify, user=users, l_max=view.l_max)


def _in_joules(view: View, watts: Watts, network_s: float) -> Verify:
    """Return a verification whose "seconds" are its joules, over the watts of a second without any.

    So the time of a round is its energy, and the solver finds the most tokens per joule. Drafting is counted at the
    mean joules of a drafted token, which is exact where all boxes are alike.
    """
    times = (watts.base_w + watts.verify_w) / watts.base_w
    drafting = [
        watts_more * (user.draft_s or 0.0) / watts.base_w
        for user, watts_more in zip(view.users, watts.draft_w.tolist(), strict=True)
    ]
    token_s = sum(drafting) / len(drafting)
    c0_s = view.c0_s * times + network_s - token_s * len(view.users)  # of a user's L + 1 rows one is not drafted
    return Verify(c0_s=max(0.0, c0_s), per_row_s=view.per_row_s * times + token_s)


POLICIES: Final[Mapping[str, Policy]] = {
    "fixed": fixed,
    "alone": alone,
    "lookup": alone,
    "price": price,
    "homogeneous": _planned("homogeneous"),
    "heterogeneous": _planned("heterogeneous"),
    "exact": _planned("exact"),
}
