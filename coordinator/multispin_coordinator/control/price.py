"""Our policy: one price a request, the least survival worth verifying, from what one more drafted token costs all.

Lengths of the largest goodput are sought first among those of a common price, then user by user; a request whose best
length is 0 is the coordinator's alone. The price of a request is the survival at which its last drafted token would
just be worth its row, its drafting and the waiting of the others: the multiplier of the paper's problem. It lies
between the survival of the last token that is drafted and that of the first one that is not, so that an agent that
knows no more than the survival by place drafts just these; one that knows more of its tokens stops by it, or goes on.
For many requests, and where tokens per joule count, the common price is the price: what each one's last token adds is
not sought.

A request changes from alone to cooperation only for a gain of `MARGIN`, so that noise does not move it to and fro.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from multispin_coordinator.control.allocation import Floats, Lengths
from multispin_coordinator.control.flow import Flow, flow_of
from multispin_coordinator.control.view import ALONE, Choice, RoundTime, View

__all__ = ["goodput", "price", "promise"]

MARGIN: Final = 0.03  # of goodput
SLACK: Final = 2  # tokens that an agent may draft beyond the length, if it finds them worth the price
MOST_SINGLE: Final = 16  # requests up to which lengths and prices are sought user by user
NEAR, FAR = np.array([-2, -1, 1, 2]), np.array([0, 1, 2, 4, 8, 16])  # other lengths that are tried
SWEEPS: Final = 2
PRICES: Final = np.array([0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95])


def price(view: View) -> list[Choice]:
    """Return the choice of every request."""
    flow = flow_of(view)
    may_draft = np.array([user.draft_s is not None for user in view.users])
    # What an agent that is not at work must promise beyond the coordinator alone.
    gain = np.array([1 - MARGIN if user.is_alone else 1.0 for user in view.users])
    lengths = _best(flow, _common(flow, may_draft), gain)
    if len(view.users) <= MOST_SINGLE:
        for _ in range(SWEEPS):
            lengths = _best(flow, _neighbours(lengths, may_draft, view.l_max), gain)
    prices = _prices(flow, lengths, is_single=len(view.users) <= MOST_SINGLE and view.watts is None)
    plans = np.stack([lengths, np.where(lengths > 0, np.minimum(lengths + 1, view.l_max), 0)])
    seconds, longer_s = flow.rates(plans).round_s
    return [
        ALONE
        if length == 0
        else Choice(min(length + SLACK, view.l_max), each, RoundTime(length, round_s, max(0.0, more_s - round_s)))
        for length, each, round_s, more_s in zip(
            lengths.tolist(), prices.tolist(), seconds.tolist(), longer_s.tolist(), strict=True
        )
    ]


def goodput(view: View, choices: Sequence[Choice]) -> float:
    """Return the tokens a second that all requests together have with what was chosen for them."""
    return float(flow_of(view).rates(_lengths(choices)[None]).rates.sum())


def _lengths(choices: Sequence[Choice]) -> Lengths:
    return np.array([min(choice.num_draft_tokens, max(1, choice.num_draft_tokens - SLACK)) for choice in choices])


def promise(view: View, choices: Sequence[Choice], user: int) -> float:
    """Return what would count with this user drafting, alone or all alike, over what counts as it was chosen."""
    flow = flow_of(view)
    lengths = _lengths(choices)
    others = np.repeat(lengths[None], len(FAR), axis=0)
    others[:, user] = FAR
    may_draft = np.array([each.draft_s is not None for each in view.users])
    plans = np.concatenate([np.minimum(others, view.l_max), _common(flow, may_draft)])
    plans = plans[plans[:, user] > 0]
    even = np.ones(len(choices))
    return float(flow.worth(plans, even).max() / flow.worth(lengths[None], even)[0]) if len(plans) else 0.0


def _best(flow: Flow, plans: Lengths, gain: Floats) -> Lengths:
    return np.asarray(plans[int(flow.worth(plans, gain).argmax())])


def _common(flow: Flow, may_draft: Floats) -> Lengths:
    """Return plans [plans, users]: all alone, the same length for all, and the lengths of common prices."""
    l_max, users = flow.survival.shape[1] - 1, len(may_draft)
    same = np.repeat(np.arange(l_max + 1)[:, None], users, axis=1)
    by_price = (flow.survival[None, :, 1:] >= PRICES[:, None, None]).sum(axis=2)
    return np.asarray(np.concatenate([same, by_price]) * may_draft, np.int64)


def _neighbours(lengths: Lengths, may_draft: Floats, l_max: int) -> Lengths:
    """Return plans [plans, users]: `lengths`, and all in which one user has another length."""
    users = np.flatnonzero(may_draft)
    found = [lengths[None]]
    for user in users:
        others = np.unique(np.clip(np.concatenate([lengths[user] + NEAR, FAR]), 0, l_max))
        plans = np.repeat(lengths[None], len(others), axis=0)
        plans[:, user] = others
        found.append(plans)
    return np.concatenate(found)


def _prices(flow: Flow, lengths: Lengths, *, is_single: bool) -> Floats:
    """Return [users], between the survival of the last token drafted and of the first one not drafted."""
    l_max, users = flow.survival.shape[1] - 1, np.arange(len(lengths))
    next_lengths = np.minimum(lengths + 1, l_max)
    lower = np.where(lengths < l_max, flow.survival[users, next_lengths], 0.0)
    upper = flow.survival[users, lengths]
    if not is_single:
        return np.asarray(np.sqrt(lower * upper))
    worth = (_break_even(flow, lengths, lengths) + _break_even(flow, lengths, next_lengths)) / 2
    inside = 0.1 * (upper - lower)  # so that rounding moves no length
    return np.clip(worth, lower + inside, upper - inside)


def _break_even(flow: Flow, lengths: Lengths, ends: Lengths) -> Floats:
    """Return [users], the survival of the token at each user's end with which it would add nothing to the goodput."""
    users = np.arange(len(lengths))
    plans = np.repeat(lengths[None], 2 * len(lengths), axis=0)
    plans[users, users] = np.maximum(ends - 1, 0)
    plans[len(users) + users, users] = ends
    flows = flow.rates(plans)
    without, with_it = (flows.rates * flow.weights).sum(axis=1).reshape(2, -1)
    round_s = flow.late(flows.round_s[len(users) + users, users]) / flow.weights
    # Goodput is linear in the survival of the last token: one more of it adds its weight / round.
    return np.asarray(flow.survival[users, ends] - (with_it - without) * round_s)
