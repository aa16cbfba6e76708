"""What lengths yield when drafts are verified as they come: rounds of all requests over one engine, in the mean.

A pass takes c0 + c1 * rows, with a bend where rows are few, and on some engines more for every text that has other
rows than the rest. A request that the coordinator goes on with alone is in every pass, with one row, and gets one
token; with what is looked up for it the pass takes a little longer, and it gets a few more. One that cooperates sends
its next draft a gap after its verdict, waits for the pass under way, and is in the next one:

    gap    network + what of the drafting is not hidden: L t, or with draft-ahead, when the guess was right,
           (L + 1) t less the time since the last draft was sent; the guess is right with probability S(L + 1)
    wait   what is left of the pass that began with others when its own had ended; beside a request that goes on alone
           passes follow each other without a pause, and a round is a whole number of them
    rows   the request's own, and of each other one its rows times the share of passes that it is in

These depend on each other and are iterated. A model of means: near enough to rank lengths (`test_flow.py` compares it
with the simulator); how far off it is for one agent is measured and added (`User.late_s`).
"""

from typing import Final, NamedTuple

import numpy as np

from multispin_coordinator.control.allocation import Floats, Lengths
from multispin_coordinator.control.objective import Watts
from multispin_coordinator.control.view import View

__all__ = ["Flow", "Flows", "flow_of"]

ITERATIONS: Final = 6
LEAST_ROUND: Final = 0.5  # of what is expected, that a round takes
SETTLED: Final = 1e-3  # of a share of the passes


class Flow(NamedTuple):
    """A view as arrays over users; `survival` and `expected` tokens of a round are [users, l_max + 1]."""

    draft_s: Floats
    network_s: Floats
    survival: Floats
    expected: Floats
    hit: Floats
    late_s: Floats
    c0_s: float
    per_row_s: float
    alone_extra_s: float
    split_s: float
    weights: Floats
    watts: Watts | None
    bend: tuple[Floats, Floats]
    burden_s: float

    def worth(self, lengths: Lengths, gain: Floats) -> Floats:
        """Return what counts [plans] of plans [plans, users]: weighted tokens, a second or a joule.

        Args:
            lengths: the plans.
            gain: [users], factor of the tokens of those that draft.
        """
        flows = self.rates(lengths)
        tokens = (flows.rates * self.weights * np.where(lengths > 0, gain, 1.0)).sum(axis=1)
        return np.asarray(
            tokens if self.watts is None else tokens / self.watts.of(flows.busy, (lengths > 0).astype(float))
        )

    def late(self, round_s: Floats) -> Floats:
        """Return how long rounds [..., users] really take."""
        return np.maximum(round_s + self.late_s, LEAST_ROUND * round_s)

    def _pass_s(self, rows: Floats) -> Floats:
        straight_s = self.c0_s + self.per_row_s * rows
        return straight_s + np.interp(rows, *self.bend) if self.bend[1].any() else straight_s

    def rates(self, lengths: Lengths) -> "Flows":
        """Return what plans [plans, users] yield; length 0 is the coordinator alone."""
        users = np.arange(lengths.shape[1])
        alone = lengths == 0
        num_alone = alone.sum(axis=1, keepdims=True)
        others_alone = num_alone - alone
        rows = lengths + 1.0
        hit = self.hit[users, lengths]
        drafting_s = lengths * self.draft_s
        ahead_s = drafting_s + self.draft_s - self.network_s
        missed_s = self.network_s + drafting_s
        # A guess that was wrong is found out in the middle of drafting a token, if drafting was still under way.
        half_token_s = np.where(self.hit[:, 0] > 0, self.draft_s / 2, 0.0)
        share = np.ones(lengths.shape)  # of the passes, that each request is in
        slowed_s = round_s = gap_s = np.zeros(lengths.shape)
        for _ in range(ITERATIONS):
            drafting = np.where(alone, 0.0, share)  # shares of those that come and go
            others, beside = _company(drafting, np.stack([rows, np.ones(rows.shape)]))
            pass_s = self._pass_s(rows + others[0] + others_alone) + self.alone_extra_s * num_alone
            pass_s = pass_s + np.where(num_alone < lengths.shape[1], self.burden_s, 0.0)
            # Drafts are of unlike lengths; those that go on alone are all alike, and unlike each draft.
            pass_s = pass_s + self.split_s * (others[1] + np.where(alone, 0, others_alone > 0))
            wait_s = beside * np.maximum(pass_s - gap_s, 0.0)
            over_s = ahead_s - pass_s - wait_s  # what the round trip does not hide of the drafting
            hit_s = self.network_s + np.maximum(over_s, 0.0)
            miss_s = missed_s + np.where(over_s > 0, half_token_s, 0.0)
            gap_s = miss_s + hit * (hit_s - miss_s)
            after_miss_s = miss_s + beside * np.maximum(pass_s - miss_s, 0.0)
            after_hit_s = hit_s + beside * np.maximum(pass_s - hit_s, 0.0)
            round_s = pass_s + after_miss_s + hit * (after_hit_s - after_miss_s)
            if num_alone.any():
                passes = 1 + np.ceil(miss_s / pass_s) + hit * (np.ceil(hit_s / pass_s) - np.ceil(miss_s / pass_s))
                round_s = np.where(others_alone > 0, pass_s * passes, round_s)
            round_s = np.where(alone, pass_s, round_s)
            before, slowed_s = share, np.where(alone, round_s, self.late(round_s))
            share = np.minimum(1.0, pass_s / slowed_s)
            if np.abs(share - before).max() < SETTLED:
                break
        busy = np.where(num_alone[:, 0] > 0, 1.0, 1.0 - np.prod(1.0 - share, axis=1))
        return Flows(self.expected[users, lengths] / slowed_s, round_s, busy)


def _company(share: Floats, rows: Floats) -> tuple[Floats, Floats]:
    """Return, for each request, the others' rows in its own passes, and whether another pass follows each of these.

    One that was just verified is not ready again when the next pass begins with those that were waiting. So requests
    fall into passes that alternate: of S in a pass in the mean, S - 1 are with one of them.

    Args:
        share: [plans, users], of the passes that each is in; 0 for one that is in all without coming and going.
        rows: [counted, plans, users], of its draft; and whatever else is counted of the others, likewise.
    """
    others = share.sum(axis=1, keepdims=True) - share
    factor = np.clip((others + share - 1) / np.maximum(others, 1e-9), 0.0, 1.0)
    factor = np.where(share > 0, factor, 1.0)  # one that is the coordinator's alone is in all passes
    shared_rows = share * rows
    together = factor * (shared_rows.sum(axis=2, keepdims=True) - shared_rows)
    beside = others * (1 - share * factor) / np.maximum(1 - share, 1e-9)  # others in the passes that it is not in
    return together, np.where(share < 1, np.minimum(beside, 1.0), 0.0)


class Flows(NamedTuple):
    """What plans yield.

    Attributes:
        rates: [plans, users], tokens per second.
        round_s: [plans, users], seconds of a round, its lateness left out.
        busy: [plans], share of the time in which passes are computed.
    """

    rates: Floats
    round_s: Floats
    busy: Floats


def flow_of(view: View) -> Flow:
    """Return a view as arrays; a request whose agent's speed is not known is taken to draft as slowly as a pass."""
    survival = np.stack([user.survival for user in view.users])
    # The guess of the token after the draft is right as often as one more drafted token would be.
    last = survival[:, -1:] * survival[:, -1:] / np.maximum(survival[:, -2:-1], 1e-9)
    hit = np.column_stack([survival[:, 1:], last]) * np.array([[user.drafts_ahead] for user in view.users])
    unknown_s = view.c0_s + view.per_row_s
    expected = np.cumsum(survival, axis=1)
    expected[:, 0] = view.alone_tokens
    return Flow(
        draft_s=np.array([unknown_s if user.draft_s is None else user.draft_s for user in view.users]),
        network_s=np.array([user.network_s for user in view.users]),
        survival=survival,
        expected=expected,
        hit=hit,
        late_s=np.array([user.late_s for user in view.users]),
        c0_s=view.c0_s,
        per_row_s=view.per_row_s,
        alone_extra_s=view.alone_extra_s,
        split_s=view.split_s,
        weights=np.array([user.weight for user in view.users]),
        watts=view.watts,
        bend=view.bend,
        burden_s=view.burden_s,
    )
