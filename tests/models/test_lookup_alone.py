"""The target with drafts from its own text writes what it writes without, in fewer passes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.toy_model import END_TOKEN, ToyModel

from multispin_models.errors import LimitError
from multispin_models.lookup_alone import LookupBatch, LookupRound, LookupText, LookupUser
from multispin_models.sampling import Sampling
from multispin_models.target_alone import generate_alone

ENDS = frozenset({END_TOKEN})


def write(model: ToyModel, users: list[LookupUser], num_draft_tokens: int, *bounds: int) -> list[LookupText]:
    min_ngram, max_ngram = bounds or (1, 4)
    batch = LookupBatch(model, users, num_draft_tokens=num_draft_tokens, min_ngram=min_ngram, max_ngram=max_ngram)
    try:
        batch.prefill()
        while batch.step():
            pass
    finally:
        batch.close()
    return batch.texts


@st.composite
def users(draw: st.DrawFn) -> LookupUser:
    prompt = draw(st.lists(st.integers(1, 15), min_size=1, max_size=30))
    sampling = Sampling(draw(st.sampled_from([0.0, 0.9])), seed=draw(st.integers(0, 99)))
    return LookupUser(prompt, sampling, draw(st.integers(1, 60)), draw(st.sampled_from([ENDS, frozenset()])))


@settings(max_examples=60, deadline=None)
@given(
    several=st.lists(users(), min_size=1, max_size=4), num_draft_tokens=st.integers(0, 8), max_rows=st.integers(4, 32)
)
def test_every_text_is_the_one_that_the_target_writes_token_by_token(
    several: list[LookupUser], num_draft_tokens: int, max_rows: int
) -> None:
    model = ToyModel(n_ctx=64, max_rows=max_rows)
    texts = write(model, several, num_draft_tokens)
    for text, user in zip(texts, several, strict=True):
        assert text.token_ids == generate_alone(ToyModel(n_ctx=64), *user)
        assert len(text.token_ids) == 1 + sum(r.num_accepted + 1 for r in text.rounds) - _unused(text, user)
        assert all(0 <= r.num_accepted <= r.num_draft_tokens <= num_draft_tokens for r in text.rounds)
    assert all(sum(parts) <= max_rows for parts in model.passes)
    assert model.num_open == 0


def _unused(text: LookupText, user: LookupUser) -> int:
    """A drafted end token is accepted, and the target's own after it is not drawn any more."""
    return int(bool(text.rounds) and text.token_ids[-1] in user.end_token_ids and _ends_in_draft(text))


def _ends_in_draft(text: LookupText) -> bool:
    before = 1 + sum(r.num_accepted + 1 for r in text.rounds[:-1])
    return len(text.token_ids) - before == text.rounds[-1].num_accepted


def test_a_text_that_stands_in_its_prompt_takes_fewer_passes_and_says_how_they_went() -> None:
    start = [1, 2, 3]  # logits are a function of three tokens: what followed them once follows again
    answer = generate_alone(ToyModel(), start, Sampling(), 20, frozenset())
    model = ToyModel()
    [text] = write(model, [LookupUser([*start, *answer, *start], Sampling(), 16, frozenset())], 4, 3, 4)
    assert text.token_ids == answer[:16]
    assert text.rounds == [LookupRound(4, 4, 4)] * 3
    assert model.passes == [[26], [5], [5], [5]]


def test_without_rows_to_spare_nothing_is_looked_up() -> None:
    several = [LookupUser([1, 2, 1, 2, 1], Sampling(), 10, frozenset())] * 3
    for text in write(ToyModel(max_rows=3), several, 4):
        assert text.rounds == [LookupRound(0, 0, 0)] * 9


def test_more_users_than_a_pass_has_rows_or_than_sequences_are_free_are_refused_and_nothing_stays_open() -> None:
    several = [LookupUser([1], Sampling(), 4, ENDS)] * 5
    with pytest.raises(ValueError, match="5 users, a pass of this model has 4 rows"):
        LookupBatch(ToyModel(max_rows=4, max_sequences=8), several, num_draft_tokens=4)
    model = ToyModel(max_sequences=4)
    with pytest.raises(LimitError):
        LookupBatch(model, several, num_draft_tokens=4)
    assert model.num_open == 0
