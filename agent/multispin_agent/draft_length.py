"""How far to draft: while the survival that is predicted is worth its price. No I/O.

The coordinator publishes the price, the least survival worth verifying (Verdict.price). The survival of a draft is
predicted token by token: what is known of a drafted token itself (its confidence), else what its place says, from the
rounds before.
"""

from collections.abc import Sequence
from typing import Final

from multispin_models.estimators import RecentMedian, Survival
from multispin_models.messages import MOST_DRAFTED, Verdict

__all__ = ["DraftHistory", "num_worth_drafting"]

PRIOR_ACCEPTANCE: Final = 0.7  # believed before the first round
SUNK: Final = 0.5  # of the price, for a token that is drafted already


def num_worth_drafting(
    confidences: Sequence[float | None], acceptance: Sequence[float], price: float, most: int
) -> int:
    """Return the length of a draft, at most `most`, each token of which is predicted to be worth it.

    A token that is not drafted yet is worth the price. One that is drafted already costs no more than its row in a
    pass: it is left out only where its prospects turned out so bad that it would hardly be worth that.

    Args:
        confidences: of the tokens drafted already, that each is accepted if all before it are; null takes its place's.
        acceptance: by place in the draft, likewise; at least `most` long.
        price: from 0 to 1; 0 drafts `most`.
        most: of the draft.

    >>> num_worth_drafting([0.9], [0.5, 0.5, 0.5], 0.4, 3)
    2
    """
    survival = 1.0
    for length in range(most):
        known = confidences[length] if length < len(confidences) else None
        survival *= acceptance[length] if known is None else known
        # Asked for a draft, an agent tries one token: else it would never find out that it does better again.
        if length and survival < (price if known is None else SUNK * price):
            return length
    return most


class DraftHistory:
    """What an agent has learnt from its rounds, over all its requests.

    Attributes:
        survival: of its drafts.
        draft_s: time of the draft model per drafted token.
        network_s: round trip less the time at the coordinator.
        verdict: the last one that went on with a text; null before.
    """

    def __init__(self) -> None:
        self.survival = Survival(MOST_DRAFTED, PRIOR_ACCEPTANCE)
        self.draft_s = RecentMedian()
        self.network_s = RecentMedian()
        self.verdict: Verdict | None = None

    def add_compared(self, num_compared: int, num_hits: int) -> None:
        """Take what was drafted beside a stream, one at a time, in the order in which the coordinator takes it."""
        for index in range(num_compared):
            self.survival.add(1, int(index < num_hits))

    def add_round(self, num_drafted: int, num_accepted: int) -> None:
        """Take what became of a draft; one without a token counts as one in vain, as at the coordinator."""
        self.survival.add(max(1, num_drafted), num_accepted)

    @property
    def draft_us(self) -> int:
        """As in Draft and Report; 0 while not known."""
        return _microseconds(self.draft_s)

    @property
    def network_us(self) -> int:
        """As in Draft and Report; 0 while not known."""
        return _microseconds(self.network_s)


def _microseconds(recent: RecentMedian) -> int:
    estimate = recent.estimate()
    return 0 if estimate is None else max(1, min(round(estimate.value * 1e6), (1 << 31) - 1))
