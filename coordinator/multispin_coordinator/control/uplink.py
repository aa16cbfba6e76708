"""Who may send how much a second where all agents share one uplink: the paper's Lemmas 1 and 3, on measured bytes.

The shares end the drafting and the upload of all agents at one time: an agent with d_k seconds of drafting and B_k
bytes a round sends at B_k / (phi - d_k), phi such that the shares sum to the whole. Those of which nothing is known yet
get an equal part, and nobody less than a quarter of one: a prompt must get through, too. Spectral efficiency is no
quantity of an uplink that is counted in bytes, so it is left out. No I/O.

Source: Multi-SPIN (arXiv 2606.04581), Lemmas 1 and 3.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from multispin_coordinator.control.allocation import Floats
from multispin_models.estimators import RecentMedian
from multispin_models.messages import Draft

__all__ = ["Uplink", "equal_end_shares"]

CHANGE: Final = 0.1  # relative; a share that is closer to the last is not told
LEAST_PART: Final = 0.25  # of an equal part, for everyone
STEPS: Final = 60


def equal_end_shares(total: float, num_bytes: Sequence[float], draft_s: Sequence[float]) -> Floats:
    """Return the bytes a second [users] with which all end at one time, summing to `total`.

    Args:
        total: bytes a second, above 0.
        num_bytes: [users] of a round, above 0.
        draft_s: [users] of a round.

    >>> equal_end_shares(100.0, [10.0, 30.0], [0.0, 0.0]).round(6).tolist()
    [25.0, 75.0]
    """
    sizes, drafting = np.asarray(num_bytes), np.asarray(draft_s)
    longest = float(drafting.max())
    low, high = longest, longest + float(sizes.sum()) / total
    for _ in range(STEPS):  # the sum falls with phi
        phi = (low + high) / 2
        low, high = (low, phi) if float((sizes / np.maximum(phi - drafting, 1e-12)).sum()) < total else (phi, high)
    shares: Floats = sizes / (high - drafting)
    return np.asarray(shares / shares.sum() * total)


class Uplink:
    """The shares of all agents.

    Args:
        total: bytes a second of all of them together.
        is_equal: everyone has the same part, whatever is measured.
    """

    def __init__(self, total: float, *, is_equal: bool) -> None:
        self._total = total
        self._is_equal = is_equal
        self._agents: dict[bytes, tuple[RecentMedian, RecentMedian]] = {}  # bytes, and seconds of drafting, of a round
        self._told: dict[bytes, float] = {}

    def welcome(self, agent: bytes) -> float:
        """Return the share of an agent that says Hello."""
        self._agents.setdefault(agent, (RecentMedian(), RecentMedian()))
        self._told[agent] = self._shares()[agent]
        return self._told[agent]

    def forget(self, agent: bytes) -> None:
        """An agent is gone."""
        self._agents.pop(agent, None)
        self._told.pop(agent, None)

    def on_draft(self, agent: bytes, draft: Draft, num_bytes: int) -> None:
        """Take the size of a draft's frame, and what it took to draft."""
        known = self._agents.get(agent)
        if known is not None and draft.draft_us:
            known[0].add(num_bytes)
            known[1].add(draft.draft_us * len(draft.draft_token_ids) / 1e6)

    def changes(self) -> dict[bytes, float]:
        """Return the shares that are to be told, and take them as told."""
        shares = self._shares()
        news = {agent: share for agent, share in shares.items() if abs(share / self._told[agent] - 1) > CHANGE}
        self._told |= news
        return news

    def _shares(self) -> dict[bytes, float]:
        equal = self._total / max(1, len(self._agents))
        measured = {
            agent: (size.value, seconds.value)
            for agent, known in self._agents.items()
            if (size := known[0].estimate()) is not None and (seconds := known[1].estimate()) is not None
        }
        if self._is_equal or len(measured) < 2:
            return dict.fromkeys(self._agents, equal)
        sizes, drafting = zip(*measured.values(), strict=True)
        shares = np.maximum(equal_end_shares(equal * len(measured), sizes, drafting), LEAST_PART * equal)
        shares *= equal * len(measured) / shares.sum()
        return dict.fromkeys(self._agents, equal) | dict(zip(measured, shares.tolist(), strict=True))
