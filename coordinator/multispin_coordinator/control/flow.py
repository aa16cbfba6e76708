"""What lengths yield when drafts are verified as they come: rounds of all requests over one engine, in the mean.

A pass takes c0 + c1 * rows. A request that the coordinator goes on with alone has one row in every pass. One that
cooperates sends its next draft a gap after its verdict, waits for the pass under way, and is in the next one:

    gap    network + what of the drafting is not hidden: L t, or with draft-ahead, when the guess was right,
           (L + 1) t less the time since the last draft was sent; the guess is right with probability S(L + 1)
    wait   half a pass, if others are in one then; beside a request that goes on alone passes follow each other without
           a pause, and a round is a whole number of them
    rows   the request's own, and of each other one its rows times the share of passes that it is in

These depend on each other and are iterated. A mean-field model: where many requests share few passes it is exact
enough to rank lengths; how far off it is for one agent is measured and divided out (`User.slowness`).
"""

from typing import Final, NamedTuple

import numpy as np

from multispin_coordinator.control.allocation import Floats, Lengths
from multispin_coordinator.control.view import View

__all__ = ["Flow", "Flows", "flow_of"]

ITERATIONS: Final = 6


class Flow(NamedTuple):
    """A view as arrays over users; `survival` and `expected` are [users, l_max + 1]."""

    draft_s: Floats
    network_s: Floats
    survival: Floats
    expected: Floats
    hit: Floats
    slowness: Floats
    c0_s: float
    per_row_s: float

    def rates(self, lengths: Lengths) -> "Flows":
        """Return what plans [plans, users] yield; length 0 is the coordinator alone."""
        users = np.arange(lengths.shape[1])
        expected, hit = self.expected[users, lengths], self.hit[users, lengths]
        alone = lengths == 0
        others_alone = alone.sum(axis=1, keepdims=True) - alone > 0
        rows = (lengths + 1).astype(np.float64)
        drafting_s = lengths * self.draft_s
        ahead_s = drafting_s + self.draft_s
        share = np.ones(lengths.shape)  # of the passes, that each request is in
        round_s = pass_s = np.zeros(lengths.shape)
        for _ in range(ITERATIONS):
            shared_rows = share * rows
            pass_s = self.c0_s + self.per_row_s * (rows + shared_rows.sum(axis=1, keepdims=True) - shared_rows)
            idle = np.maximum(1 - share, 1e-9)
            busy = 1 - idle.prod(axis=1, keepdims=True) / idle  # that others are in a pass when a draft comes
            wait_s = busy * pass_s / 2
            hidden_s = pass_s + wait_s + self.network_s
            # A guess that was wrong is found out in the middle of drafting a token, if drafting was still under way.
            late_s = np.where(ahead_s > hidden_s, self.draft_s / 2, 0.0) * (self.hit[:, :1].T > 0)
            miss_s = self.network_s + drafting_s + late_s
            hit_s = self.network_s + np.maximum(ahead_s - hidden_s, 0.0)
            free_s = wait_s + pass_s + hit * hit_s + (1 - hit) * miss_s
            locked_s = pass_s * (1 + hit * np.ceil(hit_s / pass_s) + (1 - hit) * np.ceil(miss_s / pass_s))
            round_s = np.where(alone, pass_s, np.where(others_alone, locked_s, free_s))
            share = np.where(alone, 1.0, np.minimum(1.0, pass_s / (round_s * self.slowness)))
        slowed_s = np.where(alone, round_s, round_s * self.slowness)
        return Flows(expected / slowed_s, round_s)


class Flows(NamedTuple):
    """Of each plan and user: tokens per second, and seconds of a round, its slowness left out."""

    rates: Floats
    round_s: Floats


def flow_of(view: View) -> Flow:
    """Return a view as arrays; a request whose agent's speed is not known is taken to draft as slowly as a pass."""
    survival = np.stack([user.survival for user in view.users])
    # The guess of the token after the draft is right as often as one more drafted token would be.
    last = survival[:, -1:] * survival[:, -1:] / np.maximum(survival[:, -2:-1], 1e-9)
    hit = np.column_stack([survival[:, 1:], last]) * np.array([[user.drafts_ahead] for user in view.users])
    unknown_s = view.c0_s + view.per_row_s
    return Flow(
        draft_s=np.array([unknown_s if user.draft_s is None else user.draft_s for user in view.users]),
        network_s=np.array([user.network_s for user in view.users]),
        survival=survival,
        expected=np.cumsum(survival, axis=1),
        hit=hit,
        slowness=np.array([user.slowness for user in view.users]),
        c0_s=view.c0_s,
        per_row_s=view.per_row_s,
    )
