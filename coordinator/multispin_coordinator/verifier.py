"""One pass on the target: copy, cut back, feed all rows at once, choose, and compare with the drafts.

Runs in the engine's thread and blocks. The choices of a draft are made row by row and stop at the first that differs;
by a rejection rule, likewise, no row behind the first rejected one is looked at.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

from multispin_coordinator.passes import Outcome, Pass, Work
from multispin_models.draft_distribution import certain
from multispin_models.errors import EngineFault, LimitError
from multispin_models.language_model import LanguageModel, Logits, Rows
from multispin_models.sampling import Sampling, choose, probabilities
from multispin_models.verification import (
    Probabilities,
    Undecided,
    Verification,
    residual_candidates,
    verify_coupled,
    verify_lean,
    verify_rejection,
)

__all__ = ["run_pass"]

log = logging.getLogger(__name__)

CANDIDATES: Final = (
    16  # draws that follow a rejection; where 0.93 is accepted, none of so many will do one time in three
)


def run_pass(model: LanguageModel, work_pass: Pass) -> list[Outcome]:
    """Return the outcome of every Work of a pass, in order.

    A pass that fails closes all its sequences; its outcomes then have no sequence, and the caller feeds them anew. A
    sequence that cannot be copied from touches the one Work alone.
    """
    states = [_copied(model, work.copy_of) for work in work_pass.work]
    for sequence in work_pass.closing:
        model.close_sequence(sequence)
    possible = [place for place, work in enumerate(work_pass.work) if work.copy_of is None or states[place] is not None]
    outcomes = _run(model, [work_pass.work[place] for place in possible], [states[place] for place in possible])
    found = dict(zip(possible, outcomes, strict=True))
    return [found.get(place, Outcome(None, None)) for place in range(len(work_pass.work))]


def _copied(model: LanguageModel, sequence: int | None) -> bytes | None:
    """Return the state of a sequence; None if the engine cannot give it."""
    if sequence is None:
        return None
    try:
        return model.save(sequence)
    except (EngineFault, LimitError) as error:
        log.warning("sequence %d cannot be copied from, its text is computed anew: %s", sequence, error)
        return None


def _run(model: LanguageModel, all_work: Sequence[Work], states: Sequence[bytes | None]) -> list[Outcome]:
    if not all_work:
        return []
    sequences: list[int] = []
    try:
        for work, state in zip(all_work, states, strict=True):
            sequences.append(model.open_sequence() if work.sequence is None else work.sequence)
            if state is not None:
                model.restore(sequences[-1], state)
            if model.length(sequences[-1]) != work.start:
                model.rewind(sequences[-1], work.start)
        batch = [
            Rows(sequence, work.token_ids, 0 if work.draft_token_ids is None else len(work.draft_token_ids) + 1)
            for sequence, work in zip(sequences, all_work, strict=True)
        ]
        all_logits = model.forward(batch)
        return [
            Outcome(sequence, _verify(work, logits))
            for sequence, work, logits in zip(sequences, all_work, all_logits, strict=True)
        ]
    except (EngineFault, ValueError):
        log.exception("a pass of %d parts failed; its sequences are fed anew", len(all_work))
        opened = set(sequences) | {work.sequence for work in all_work if work.sequence is not None}
        for sequence in opened:
            model.close_sequence(sequence)
        return [Outcome(None, None) for _ in all_work]


def _verify(work: Work, logits: Logits) -> Verification | Undecided | None:
    if work.draft_token_ids is None:
        return None
    if work.rule != "coupled":
        return _by_rejection(work, work.draft_token_ids, _LazyRows(logits, work.sampling))
    return _lazily_coupled(work, lambda row, position: choose(logits[row], position, work.sampling))


def _lazily_coupled(work: Work, choose_row: Callable[[int, int], int]) -> Verification:
    """Return the coupled verdict, choosing no further than the first row that differs."""
    draft = work.draft_token_ids
    assert draft is not None
    chosen: list[int] = []
    for row in range(len(draft) + 1):
        chosen.append(choose_row(row, work.position + row))
        if row < len(draft) and chosen[row] != draft[row]:
            break
    return verify_coupled(draft[: len(chosen) - 1], chosen)


class _LazyRows(Sequence[Probabilities]):
    """The target's probabilities [rows] of [n_vocab], each computed when it is asked for."""

    def __init__(self, logits: Logits, sampling: Sampling) -> None:
        self._logits = logits
        self._sampling = sampling
        self._last: tuple[int, Probabilities] | None = None

    def __len__(self) -> int:
        return len(self._logits)

    def __getitem__(self, row: Any) -> Any:
        if self._last is None or self._last[0] != row:
            self._last = row, probabilities(self._logits[row], self._sampling)
        return self._last[1]


def _by_rejection(work: Work, draft: Sequence[int], target: Sequence[Probabilities]) -> Verification | Undecided:
    seed, position = work.sampling.seed, work.position
    if work.first_candidate:
        first = work.first_candidate
        return Undecided(0, first, tuple(residual_candidates(target[0], seed, position, first, CANDIDATES)))
    if work.weighed is None:  # no agent's draft: nobody has drawn it
        return verify_rejection(draft, [certain(token) for token in draft], target, seed, position)
    if work.weighed.distributions is not None:
        return verify_rejection(draft, work.weighed.distributions[: len(draft)], target, seed, position)
    lean = verify_lean(draft, work.weighed.weights[: len(draft)], target, seed, position)
    if lean.next_token_id is not None:
        return Verification(lean.num_accepted, lean.next_token_id)
    row = lean.num_accepted
    return Undecided(row, 0, tuple(residual_candidates(target[row], seed, position + row, 0, CANDIDATES)))
