"""One pass on the target: cut back, feed, compare; and what a failure leaves."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from tests.toy_model import ToyModel

from multispin_coordinator.passes import Outcome, Pass, Work
from multispin_coordinator.verifier import run_pass
from multispin_models.errors import EngineFault
from multispin_models.language_model import Logits, Rows
from multispin_models.sampling import Sampling, probabilities
from multispin_models.target_alone import generate_alone
from multispin_models.verification import Verification

GREEDY = Sampling()
PROMPT = [1, 2, 3]
ALONE = generate_alone(ToyModel(), PROMPT, GREEDY, 10, frozenset())
WRONG = next(token for token in range(1, 16) if token not in ALONE)


def work(sequence: int | None, start: int, tokens: Sequence[int], draft: Sequence[int] | None, at: int = 0) -> Work:
    return Work(sequence, start, tokens, draft, at, GREEDY)


def with_prompt_fed() -> ToyModel:
    model = ToyModel()
    assert run_pass(model, Pass((), (work(None, 0, PROMPT, ()),))) == [Outcome(0, Verification(0, ALONE[0]))]
    return model


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(0.9, seed=5), Sampling(1.3, 6, 0.9, 5)])
def test_the_verdict_is_the_targets_own_text_up_to_the_first_difference(sampling: Sampling) -> None:
    alone = generate_alone(ToyModel(), PROMPT, sampling, 6, frozenset())
    for num_right in range(5):
        draft = [*alone[1 : 1 + num_right], *[(alone[1 + i] + 1) % 16 for i in range(num_right, 4)]]
        model = ToyModel()
        first, second = (
            run_pass(model, Pass((), (Work(*parts, sampling),)))[0]
            for parts in ((None, 0, PROMPT, (), 3), (0, 3, [alone[0], *draft], draft, 4))
        )
        assert first.verification == Verification(0, alone[0])
        assert second.verification == Verification(num_right, alone[1 + num_right])


def test_a_chunk_of_a_prompt_is_fed_and_not_scored() -> None:
    model = ToyModel()
    assert run_pass(model, Pass((), (work(None, 0, PROMPT[:2], None),))) == [Outcome(0, None)]
    [outcome] = run_pass(model, Pass((), (work(0, 2, PROMPT[2:], ()),)))
    assert outcome == Outcome(0, Verification(0, ALONE[0]))


def test_rejected_rows_are_cut_off_before_the_next_are_fed() -> None:
    model = with_prompt_fed()
    draft = [ALONE[1], WRONG, WRONG]
    run_pass(model, Pass((), (work(0, 3, [ALONE[0], *draft], draft),)))
    assert model.length(0) == 7
    [outcome] = run_pass(model, Pass((), (work(0, 5, [ALONE[2]], ()),)))
    assert outcome == Outcome(0, Verification(0, ALONE[3]))
    assert model.length(0) == 6


def test_sequences_are_freed_before_new_ones_are_opened() -> None:
    model = ToyModel(max_sequences=1)
    run_pass(model, Pass((), (work(None, 0, PROMPT, ()),)))
    assert run_pass(model, Pass((0,), (work(None, 0, PROMPT, ()),))) == [Outcome(0, Verification(0, ALONE[0]))]
    assert run_pass(model, Pass((0,), ())) == []
    assert model.num_open == 0


def test_all_parts_go_into_one_forward_pass_and_come_back_in_order() -> None:
    model = with_prompt_fed()
    outcomes = run_pass(model, Pass((), (work(None, 0, [4, 5], ()), work(0, 3, [ALONE[0], WRONG], [WRONG]))))
    assert model.passes == [[3], [2, 2]]
    assert [outcome.sequence for outcome in outcomes] == [1, 0]
    assert outcomes[1].verification == Verification(0, ALONE[1])


def test_a_pass_that_fails_leaves_none_of_its_sequences_open() -> None:
    model = with_prompt_fed()
    model.faults = 1
    parts = (work(0, 3, [ALONE[0]], ()), work(None, 0, PROMPT, ()))
    assert run_pass(model, Pass((), parts)) == [Outcome(None, None)] * 2
    assert model.num_open == 0


class RewindFails(ToyModel):
    def rewind(self, sequence: int, length: int) -> None:
        raise EngineFault("cannot cut back")


def test_a_sequence_that_cannot_be_cut_back_is_closed_with_all_of_its_pass() -> None:
    model = RewindFails()
    run_pass(model, Pass((), (work(None, 0, PROMPT, ()), work(None, 0, PROMPT, ()))))
    parts = (work(1, 3, [1], ()), work(0, 2, [3], ()))
    assert run_pass(model, Pass((), parts)) == [Outcome(None, None)] * 2
    assert model.num_open == 0


class Broken(ToyModel):
    """Gives no numbers."""

    def forward(self, batch: Sequence[Rows]) -> list[Logits]:
        return [np.full_like(logits, np.nan) for logits in super().forward(batch)]


def test_logits_that_are_no_numbers_are_a_fault_and_never_a_token() -> None:
    model = Broken()
    assert run_pass(model, Pass((), (work(None, 0, PROMPT, ()),))) == [Outcome(None, None)]
    assert model.num_open == 0


class CountsChoices(ToyModel):
    """Marks the rows that are looked at."""

    def forward(self, batch: Sequence[Rows]) -> list[Any]:
        [logits] = super().forward(batch)
        logits[2:] = np.nan  # whoever chooses from these rows gets a ValueError
        return [logits]


def test_rows_after_the_first_difference_are_not_looked_at() -> None:
    model = CountsChoices()
    run_pass(model, Pass((), (work(None, 0, PROMPT, ()),)))
    draft = [ALONE[1], WRONG, WRONG]
    [outcome] = run_pass(model, Pass((), (work(0, 3, [ALONE[0], *draft], draft),)))
    assert outcome == Outcome(0, Verification(1, ALONE[2]))


def test_by_a_rejection_rule_a_draft_that_nobody_drew_keeps_the_targets_distribution() -> None:
    """Of the coordinator's own drafts, looked up in the text, there is no distribution: each is a point mass."""
    model = ToyModel(n_vocab=5)
    run_pass(model, Pass((), (work(None, 0, PROMPT, ()),)))
    alone = ToyModel(n_vocab=5)
    [logits] = alone.forward([Rows(alone.open_sequence(), PROMPT, 1)])
    expected = 1000 * probabilities(logits[0], Sampling(3.0))
    for rule in ("rejection", "rejection-lean"):
        counts = [0] * 5
        for seed in range(1000):
            sampling = Sampling(3.0, seed=seed)
            parts = Work(0, 2, [PROMPT[-1], 4], (4,), 3, sampling, rule=rule)  # type: ignore[arg-type]
            verification = run_pass(model, Pass((), (parts,)))[0].verification
            assert isinstance(verification, Verification)
            counts[4 if verification.num_accepted else verification.next_token_id] += 1
        # Chi-square of 4 degrees of freedom at 1 - 1e-4; a token that is always accepted is far beyond.
        assert sum((seen - wanted) ** 2 / wanted for seen, wanted in zip(counts, expected, strict=True)) < 23.51
        assert 0 < counts[4] < 1000
