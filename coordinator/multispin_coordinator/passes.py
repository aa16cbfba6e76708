"""What goes to the engine for one forward pass, and what comes back."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from multispin_coordinator.batcher import Share
from multispin_models.draft_payload import Weighed
from multispin_models.sampling import Sampling
from multispin_models.verification import Rule, Undecided, Verification

__all__ = ["Outcome", "Pass", "PassTiming", "Work", "num_sweeps", "work_of"]


class Work(NamedTuple):
    """One session's rows in a pass, as the engine needs them.

    Attributes:
        sequence: null opens a new one.
        start: the length to which the sequence is cut back before.
        token_ids: rows to feed.
        draft_token_ids: the last of them, to be verified; null when the rows are a chunk of a prompt, not scored.
        position: of the first token to be chosen.
        sampling: how it is chosen.
        is_prefill: they answer an Open, not a Draft.
        copy_of: with a new sequence, one whose first `start` tokens it begins with; it is copied before all else.
        rule: of the verification.
        weighed: what the draft was drawn from, by a rejection rule; null without a draft of an agent.
        first_candidate: above 0 if draws from the target are asked for, from this number on, in place of a token.
    """

    sequence: int | None
    start: int
    token_ids: Sequence[int]
    draft_token_ids: Sequence[int] | None
    position: int
    sampling: Sampling
    is_prefill: bool = False
    copy_of: int | None = None
    rule: Rule = "coupled"
    weighed: Weighed | None = None
    first_candidate: int = 0


class Pass(NamedTuple):
    """What the engine does next: free sequences, then one forward pass."""

    closing: tuple[int, ...]
    work: tuple[Work, ...]


class Outcome(NamedTuple):
    """What became of a Work: its sequence, and the verification if its rows were scored. A fault has no sequence."""

    sequence: int | None
    verification: Verification | Undecided | None


class PassTiming(NamedTuple):
    """Measured around a pass.

    Attributes:
        finished_ns: monotonic, when its verdicts are about to be sent.
        verify_us: the forward pass and the choices.
        energy_nj: nanojoules of every part; null where not known.
    """

    finished_ns: int
    verify_us: int
    energy_nj: Sequence[int | None]


def work_of(share: Share) -> Work:
    """Return a session's rows as the engine needs them."""
    session = share.session
    assert session.job is not None
    return Work(
        sequence=session.sequence,
        start=session.num_cached,
        token_ids=session.rows(share.num_rows),
        draft_token_ids=session.job if share.is_last else None,
        position=len(session.tokens),
        sampling=session.sampling,
        is_prefill=session.is_opening,
        copy_of=session.copy_of if session.sequence is None else None,
        rule=session.rule,
        weighed=session.weighed,
        first_candidate=session.first_candidate,
    )


def num_sweeps(parts: Iterable[tuple[int, int]]) -> int:
    """Return how often llama.cpp goes over the weights for a pass; other engines do it once whatever the pass.

    It computes sequences together whose numbers follow each other, as many rows of each as the shortest has; then what
    is left of them, likewise (`llama_batch_allocr::split_equal`).

    Args:
        parts: (sequence, rows) of a pass, each sequence once.

    >>> num_sweeps([(0, 1), (1, 1)]), num_sweeps([(0, 3), (1, 1)]), num_sweeps([(0, 1), (2, 1)])
    (1, 2, 2)
    """
    left = dict(sorted(parts))
    sweeps = 0
    while left:
        first = next(iter(left))
        run = [first]
        while run[-1] + 1 in left:
            run.append(run[-1] + 1)
        shortest = min(left[sequence] for sequence in run)
        left = {sequence: rows - shortest * (sequence in run) for sequence, rows in left.items()}
        left = {sequence: rows for sequence, rows in left.items() if rows}
        sweeps += 1
    return sweeps
