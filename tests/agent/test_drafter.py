"""Guessing with the draft model: what is fed, what is cut back, and when it rests."""

from collections.abc import Sequence

from tests.toy_model import END_TOKEN, ToyModel

from multispin_agent.drafter import Drafted, ModelDrafter
from multispin_models.sampling import Sampling
from multispin_models.target_alone import generate_alone

ENDS = frozenset({END_TOKEN})
PROMPT = [1, 2, 3]
ALONE = generate_alone(ToyModel(), PROMPT, Sampling(), 20, frozenset())
WRONG = next(token for token in range(1, 16) if token not in ALONE)


def ids(drafted: Sequence[Drafted]) -> list[int]:
    return [each.token_id for each in drafted]


def never() -> bool:
    return False


def always() -> bool:
    return True


def test_it_guesses_what_its_model_would_write_alone() -> None:
    for sampling in (Sampling(), Sampling(0.9, seed=4), Sampling(1.2, 5, 0.9, 4)):
        alone = generate_alone(ToyModel(), PROMPT, sampling, 6, frozenset())
        assert ids(ModelDrafter(ToyModel(), sampling).draft(PROMPT, 6, frozenset(), never)) == alone


def test_going_on_feeds_only_the_token_that_was_chosen_last() -> None:
    model = ToyModel()
    drafter = ModelDrafter(model, Sampling())
    assert ids(drafter.draft(PROMPT, 2, frozenset(), never)) == ALONE[:2]
    assert ids(drafter.draft([*PROMPT, *ALONE[:2]], 1, frozenset(), never)) == ALONE[2:3]
    assert model.passes == [[3], [1], [1]]


def test_after_a_rejection_it_cuts_back_to_what_is_shared_and_feeds_the_rest() -> None:
    model = ToyModel()
    drafter = ModelDrafter(model, Sampling())
    drafter.draft([*PROMPT, WRONG, WRONG], 3, frozenset(), never)
    del model.passes[:]
    assert ids(drafter.draft([*PROMPT, *ALONE[:2]], 1, frozenset(), never)) == ALONE[2:3]
    assert model.passes == [[2]]


def test_asked_for_the_same_again_it_feeds_the_last_token_for_its_logits() -> None:
    model = ToyModel()
    drafter = ModelDrafter(model, Sampling())
    for _ in range(2):
        assert ids(drafter.draft(PROMPT, 1, frozenset(), never)) == ALONE[:1]
    assert model.passes == [[3], [1]]


def test_a_long_prompt_goes_in_chunks_of_the_models_rows() -> None:
    model = ToyModel(max_rows=4)
    ModelDrafter(model, Sampling()).draft([1] * 10, 1, frozenset(), never)
    assert model.passes == [[4], [4], [2]]


def test_interrupted_between_chunks_it_has_nothing_and_goes_on_later_where_it_was() -> None:
    model = ToyModel(max_rows=4)
    drafter = ModelDrafter(model, Sampling())
    assert ids(drafter.draft([1] * 10, 1, frozenset(), always)) == []
    assert model.passes == [[4]]
    drafter.draft([1] * 10, 1, frozenset(), never)
    assert model.passes == [[4], [4], [2]]


def test_interrupted_between_tokens_it_gives_what_it_has() -> None:
    assert ids(ModelDrafter(ToyModel(), Sampling()).draft(PROMPT, 5, frozenset(), always)) == ALONE[:1]


def test_nothing_is_guessed_after_an_end_token() -> None:
    ends = frozenset({ALONE[2]})
    assert (
        ids(ModelDrafter(ToyModel(), Sampling()).draft(PROMPT, 10, ends, never)) == ALONE[: ALONE.index(ALONE[2]) + 1]
    )


def test_a_full_context_ends_the_draft() -> None:
    drafter = ModelDrafter(ToyModel(n_ctx=5), Sampling())
    assert len(drafter.draft(PROMPT, 10, frozenset(), never)) == 2
    assert ids(drafter.draft([1, 2, 3, 4, 5], 1, frozenset(), never)) == []
    assert ids(drafter.draft([1, 2, 3, 4, 5, 6, 7], 1, frozenset(), never)) == []


def test_closing_frees_the_sequence() -> None:
    model = ToyModel(max_sequences=1)
    for _ in range(2):
        drafter = ModelDrafter(model, Sampling())
        assert model.num_open == 0, "none is taken before there is something to draft"
        assert ids(drafter.draft(PROMPT, 1, frozenset(), never)) == ALONE[:1]
        assert model.num_open == 1
        drafter.close()
    assert model.num_open == 0
