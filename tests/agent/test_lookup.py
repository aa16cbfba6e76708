"""Guessing from the request's own text: when there is a guess, when the model is asked, what is fed to it."""

from collections.abc import Sequence

from tests.toy_model import END_TOKEN, ToyModel

from multispin_agent.confidence import Evidence
from multispin_agent.drafter import Drafted, ModelDrafter
from multispin_agent.lookup import LookupDrafter, LookupFirstDrafter
from multispin_models.ngram import NgramIndex
from multispin_models.sampling import Sampling
from multispin_models.target_alone import generate_alone

ENDS = frozenset({END_TOKEN})
NO_ENDS = frozenset[int]()


def ids(drafted: Sequence[Drafted]) -> list[int]:
    return [each.token_id for each in drafted]


def never() -> bool:
    return False


def lookup() -> LookupDrafter:
    return LookupDrafter(NgramIndex(2, 4))


def test_it_guesses_what_followed_when_the_text_ended_so_before() -> None:
    assert ids(lookup().draft([1, 2, 3, 4, 1, 2], 2, NO_ENDS, never)) == [3, 4]


def test_a_text_that_says_nothing_gives_no_guess() -> None:
    assert ids(lookup().draft([1, 2, 3, 4], 2, NO_ENDS, never)) == []


def test_the_same_drafter_follows_a_text_that_grows_and_one_that_turned_out_otherwise() -> None:
    drafter = lookup()
    texts: list[list[int]] = [[1, 2, 3, 1, 2], [1, 2, 3, 1, 2, 3, 1], [1, 2, 3, 1, 5], [1, 2, 3, 1, 5, 2, 3], [9, 9, 9]]
    for text in texts:
        assert ids(drafter.draft(text, 4, NO_ENDS, never)) == ids(lookup().draft(text, 4, NO_ENDS, never))
    assert ids(drafter.draft([1, 2, 3, 1, 5, 2, 3], 2, NO_ENDS, never)) == [1, 5]


def test_nothing_is_guessed_after_an_end_token() -> None:
    assert ids(lookup().draft([1, 2, END_TOKEN, 4, 1, 2], 4, ENDS, never)) == [END_TOKEN]
    assert ids(lookup().draft([1, 2, END_TOKEN, 4, 1, 2], 3, NO_ENDS, never)) == [END_TOKEN, 4, 1]


class Counted:
    """A drafter that guesses token 7, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[int], int]] = []

    def draft(self, tokens: Sequence[int], count: int, *_: object) -> list[Drafted]:
        self.asked.append((list(tokens), count))
        return [Drafted(7, Evidence(0, 0.5, 1.0))]

    def close(self) -> None:
        self.asked.append(([], 0))


def test_where_the_text_knows_the_model_is_not_asked() -> None:
    model = Counted()
    assert ids(LookupFirstDrafter(lookup(), model).draft([1, 2, 3, 4, 1, 2], 2, NO_ENDS, never)) == [3, 4]
    assert model.asked == []


def test_where_it_does_not_the_model_gives_a_token_and_the_text_is_asked_again() -> None:
    model = Counted()
    drafted = ids(LookupFirstDrafter(lookup(), model).draft([5, 7, 8, 6, 5], 3, NO_ENDS, never))
    assert drafted == [7, 8, 6]
    assert model.asked == [([5, 7, 8, 6, 5], 1)]


def test_an_interruption_ends_the_draft_between_two_tokens_and_no_guess_of_the_model_is_no_guess() -> None:
    model = Counted()
    assert ids(LookupFirstDrafter(lookup(), model).draft([1, 2], 3, NO_ENDS, lambda: True)) == [7]
    full = ModelDrafter(ToyModel(n_ctx=4), Sampling())
    assert ids(LookupFirstDrafter(lookup(), full).draft([1, 2, 3, 4, 5], 3, NO_ENDS, never)) == []


def test_both_are_closed() -> None:
    model = Counted()
    LookupFirstDrafter(lookup(), model).close()
    assert model.asked == [([], 0)]


def test_tokens_that_the_model_did_not_guess_are_fed_to_it_so_that_it_goes_on_as_if_it_had() -> None:
    sampling = Sampling(0.9, seed=3)
    model = ToyModel()
    drafter = LookupFirstDrafter(lookup(), ModelDrafter(model, sampling))
    prompt = [1, 2, 3, 4, 5, 1, 2]
    guessed = ids(drafter.draft(prompt, 2, NO_ENDS, never))
    assert (guessed, model.passes) == ([3, 4], [])
    text = [*prompt, *guessed, 9]
    assert ids(drafter.draft(text, 1, NO_ENDS, never)) == generate_alone(ToyModel(), text, sampling, 1, NO_ENDS)
    assert model.passes == [[len(text)]]
