"""One request on the coordinator: what it commits, and what its cache holds."""

import pytest

from multispin_coordinator.session import FINISH_END, FINISH_LENGTH, GOES_ON, Session
from multispin_models.messages import Open
from multispin_models.sampling import Sampling
from multispin_models.verification import Verification

ENDS = frozenset({0})


def session(max_tokens: int = 10, max_context: int = 100, *, ignore_end: bool = False) -> Session:
    """Return a session with the prompt 1 2 3 and a first token 4."""
    made = Session(Open(7, 0, (1, 2, 3), 3, max_tokens, Sampling(), ignore_end), b"a", max_context)
    assert made.rows(made.num_rows) == [1, 2, 3]
    made.commit(Verification(0, 4), ENDS)
    return made


def test_after_the_first_token_all_but_that_token_is_in_the_cache() -> None:
    opened = session()
    assert (opened.tokens, opened.num_cached, opened.job) == ([1, 2, 3, 4], 3, None)


def test_the_rows_of_a_draft_are_the_last_committed_token_and_the_drafted_ones() -> None:
    opened = session()
    opened.submit(1, [5, 6, 7], 0)
    assert opened.num_rows == 4
    assert opened.rows(4) == [4, 5, 6, 7]


@pytest.mark.parametrize(
    ("verification", "tokens", "answer"),
    [
        (Verification(0, 9), [9], (0, 9, GOES_ON)),
        (Verification(2, 9), [5, 6, 9], (2, 9, GOES_ON)),
        (Verification(3, 9), [5, 6, 7, 9], (3, 9, GOES_ON)),
        (Verification(1, 0), [5, 0], (1, 0, FINISH_END)),
    ],
)
def test_the_accepted_tokens_and_the_next_are_committed(
    verification: Verification, tokens: list[int], answer: tuple[int, int, int]
) -> None:
    opened = session()
    opened.submit(1, [5, 6, 7], 0)
    assert opened.commit(verification, ENDS) == answer
    assert opened.tokens == [1, 2, 3, 4, *tokens]
    assert opened.num_cached == len(opened.tokens) - 1


def test_an_end_token_inside_an_accepted_draft_is_the_last_of_the_text() -> None:
    opened = session()
    opened.submit(1, [5, 0, 7], 0)
    assert opened.commit(Verification(3, 9), ENDS) == (1, 0, FINISH_END)
    assert opened.tokens == [1, 2, 3, 4, 5, 0]


def test_with_ignore_end_an_end_token_is_like_any_other() -> None:
    opened = session(ignore_end=True)
    opened.submit(1, [5, 0, 7], 0)
    assert opened.commit(Verification(3, 0), ENDS) == (3, 0, GOES_ON)


@pytest.mark.parametrize(("max_tokens", "max_context"), [(3, 100), (10, 6)])
def test_a_draft_is_cut_to_the_room_and_the_last_token_is_the_targets(max_tokens: int, max_context: int) -> None:
    opened = session(max_tokens, max_context)
    opened.submit(1, [5, 6, 7], 0)
    assert opened.job == (5,)
    assert opened.commit(Verification(1, 8), ENDS) == (1, 8, FINISH_LENGTH)
    assert len(opened.tokens) == 6


def test_with_room_for_one_token_nothing_of_a_draft_is_fed() -> None:
    opened = session(max_tokens=2)
    opened.submit(1, [5, 6], 0)
    assert opened.job == ()
    assert opened.commit(Verification(0, 5), ENDS) == (0, 5, FINISH_LENGTH)


def test_an_end_token_that_is_also_the_last_that_fits_ends_by_itself() -> None:
    opened = session(max_tokens=2)
    opened.submit(1, [], 0)
    assert opened.commit(Verification(0, 0), ENDS) == (0, 0, FINISH_END)


@pytest.mark.parametrize(
    ("tokens", "num_cached"),
    [
        ((1, 2, 3, 4, 5), 3),  # the cache holds 1 2 3
        ((1, 2, 3), 2),  # the last token must be fed for its logits
        ((1, 2, 9, 4), 2),
        ((9, 2, 3), 0),
        ((1,), 0),
    ],
)
def test_opened_again_it_keeps_what_the_cache_shares_with_the_new_tokens(
    tokens: tuple[int, ...], num_cached: int
) -> None:
    opened = session()
    opened.reopen(Open(7, 5, tokens, 1, 10, Sampling(0.5)), 100)
    assert (opened.num_cached, opened.round, opened.job, opened.verdicts) == (num_cached, 5, (), [])
    assert opened.rows(opened.num_rows) == list(tokens[num_cached:])
    assert opened.sampling == Sampling(0.5)


def test_after_a_fault_everything_is_fed_again() -> None:
    opened = session()
    opened.sequence = 2
    opened.submit(1, [5], 0)
    opened.lost_cache()
    assert opened.sequence is None
    assert opened.rows(opened.num_rows) == [1, 2, 3, 4, 5]


def test_chunks_are_fed_one_after_the_other() -> None:
    opened = Session(Open(7, 0, (1, 2, 3, 4, 5), 5, 10, Sampling()), b"a", 100)
    assert opened.rows(2) == [1, 2]
    opened.fed(2)
    assert opened.rows(2) == [3, 4]
    opened.fed(2)
    assert (opened.rows(1), opened.num_rows) == ([5], 1)
