"""What the next forward pass computes: every draft that is ready, then as much prompt as fits. No I/O.

Drafts go first, oldest first, since a user waits for each of them; prompt rows fill up to their own bound, so that one
long prompt never stalls the others, and at least one prompt moves in every pass, so that no prompt starves.

How long one waits, whatever comes after it: the n-th oldest draft is in one of the next n passes. Of the oldest prompt
at least `RESERVED_ROWS` rows go into every pass, so a prompt behind m others, all together of p rows, is done after
m + 1 + p / RESERVED_ROWS passes at most.
"""

from collections.abc import Iterable
from typing import NamedTuple

from multispin_coordinator.config import RESERVED_ROWS
from multispin_coordinator.session import Session

__all__ = ["Share", "plan_pass"]


class Share(NamedTuple):
    """A session's rows in a pass: `num_rows` of its job, all of the rest of it or a chunk."""

    session: Session
    num_rows: int
    is_last: bool


def plan_pass(sessions: Iterable[Session], *, max_rows: int, prefill_rows: int, short_rows: int) -> list[Share]:
    """Return the shares of the next pass.

    Args:
        sessions: those with a job, in the order in which the jobs came.
        max_rows: of the pass.
        prefill_rows: of them for jobs longer than `short_rows`.
        short_rows: jobs of at most so many rows go whole and first: a draft and its last committed token.
    """
    ready = list(sessions)
    shares: list[Share] = []
    any_long = any(session.num_rows > short_rows for session in ready)
    left = max_rows - (min(prefill_rows, RESERVED_ROWS) if any_long else 0)
    for session in ready:
        if session.num_rows <= short_rows and session.num_rows <= left:
            shares.append(Share(session, session.num_rows, is_last=True))
            left -= session.num_rows
    budget = min(max_rows - sum(share.num_rows for share in shares), prefill_rows)
    for session in ready:
        if session.num_rows > short_rows and budget > 0:
            count = _chunk(session, budget)
            if count == 0:
                continue
            shares.append(Share(session, count, is_last=count == session.num_rows))
            budget -= count
    return shares


def _chunk(session: Session, budget: int) -> int:
    """Return how many rows of a long job to feed: never a part of the rows that are scored."""
    if session.num_rows <= budget:
        return session.num_rows
    assert session.job is not None
    return min(budget, session.num_rows - len(session.job) - 1)
