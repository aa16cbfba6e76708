"""What a policy sees of the running system, and what it decides. Pure data.

The policies of a known scenario (`plan.py`) and of the running system are the same solvers; here their input is what
was measured.
"""

from typing import NamedTuple

import numpy as np

from multispin_coordinator.control.allocation import Floats
from multispin_coordinator.control.objective import Watts

__all__ = ["ALONE", "Choice", "RoundTime", "User", "View"]


class User(NamedTuple):
    """One open request.

    Attributes:
        draft_s: time of its agent's draft model per drafted token; null while not known.
        network_s: both ways of a round together, with the agent's own work.
        survival: [l_max + 1], that the first 0, 1, ... drafted tokens are all accepted.
        drafts_ahead: its agent drafts while a verdict is in flight.
        is_alone: the coordinator generates alone for it now.
        late_s: how much longer its rounds took than expected; 0 while not known.
        weight: of its tokens in the goodput.
    """

    draft_s: float | None
    network_s: float
    survival: Floats
    drafts_ahead: bool
    is_alone: bool
    late_s: float
    weight: float = 1.0


class View(NamedTuple):
    """All open requests, and what a pass costs and yields.

    Attributes:
        users: the requests.
        c0_s, per_row_s: a pass takes `c0_s + per_row_s * rows`, the hand-over between passes included, and `bend`.
        alone_tokens: of a request that the coordinator goes on with alone, in a pass, in the mean: more than one where
            it looks drafts up.
        alone_extra_s: that a pass takes longer for it.
        split_s: that a pass takes longer for each text in it that has another number of rows than the others.
        watts: of all ends, where tokens per joule count; else null.
        bend: (rows, seconds), by which passes of few rows are off that line; interpolated in between.
        burden_s: that a pass takes longer where agents draft.
    """

    users: tuple[User, ...]
    c0_s: float
    per_row_s: float
    alone_tokens: float = 1.0
    alone_extra_s: float = 0.0
    split_s: float = 0.0
    watts: Watts | None = None
    bend: tuple[Floats, Floats] = (np.ones(1), np.zeros(1))
    burden_s: float = 0.0

    @property
    def l_max(self) -> int:
        """The longest draft."""
        return len(self.users[0].survival) - 1


class Choice(NamedTuple):
    """What one request should do.

    Attributes:
        num_draft_tokens: most to be drafted in a round; 0: the coordinator goes on alone.
        price: least predicted survival worth verifying.
        round_s: how long its rounds should take, its lateness left out; null where the policy does not say.
    """

    num_draft_tokens: int
    price: float
    round_s: "RoundTime | None"


class RoundTime(NamedTuple):
    """A line through the time of a round: `seconds` with `length` drafted tokens, `per_token_s` for each one more."""

    length: int
    seconds: float
    per_token_s: float

    def at(self, length: int) -> float:
        """Return seconds of a round with so many drafted tokens."""
        return max(self.seconds / 4, self.seconds + self.per_token_s * (length - self.length))


ALONE = Choice(0, 1.0, None)
