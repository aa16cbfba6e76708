"""The lookup drafter's index: longest run first, last occurrence, and taking back leaves no trace."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multispin_models.ngram import NgramIndex

TEXT = st.lists(st.integers(0, 3), max_size=40)


def index_of(token_ids: list[int], min_ngram: int = 2, max_ngram: int = 4) -> NgramIndex:
    index = NgramIndex(min_ngram, max_ngram)
    index.extend(token_ids)
    return index


def search(text: list[int], min_ngram: int, max_ngram: int) -> int | None:
    """Return where the match's continuation starts, by trying all places."""
    for n in range(max_ngram, min_ngram - 1, -1):
        for start in range(len(text) - n - 1, -1, -1):
            if text[start : start + n] == text[len(text) - n :]:
                return start + n
    return None


def test_what_followed_the_same_run_is_guessed_to_follow_again() -> None:
    assert index_of([1, 2, 3, 4, 5, 1, 2]).follow(3) == [3, 4, 5]


def test_a_text_whose_end_is_new_is_not_guessed() -> None:
    assert index_of([]).follow(3) == []
    assert index_of([5]).follow(3) == []
    assert index_of([1, 2, 3, 4]).follow(3) == []
    assert index_of([1, 9, 1]).follow(3) == [], "one token is no match where two are asked for"


def test_the_last_occurrence_wins() -> None:
    assert index_of([1, 2, 7, 1, 2, 8, 1, 2]).follow(1) == [8]


def test_a_longer_run_wins_over_a_later_one() -> None:
    assert index_of([5, 1, 2, 7, 6, 1, 2, 8, 5, 1, 2]).follow(1) == [7]


def test_a_repetition_under_way_is_taken_to_go_on() -> None:
    assert index_of([1, 2, 3, 1, 2, 3, 1, 2]).follow(7) == [3, 1, 2, 3, 1, 2, 3]
    assert index_of([4, 4, 4]).follow(3) == [4, 4, 4]


def test_nothing_asked_is_nothing_guessed() -> None:
    assert index_of([1, 2, 3, 1, 2]).follow(0) == []


@given(text=TEXT, count=st.integers(1, 6), bounds=st.sampled_from([(1, 1), (1, 3), (2, 4), (3, 3)]))
def test_it_finds_what_a_search_of_the_whole_text_finds(text: list[int], count: int, bounds: tuple[int, int]) -> None:
    source = search(text, *bounds)
    expected = list(text)
    if source is not None:
        for i in range(count):
            expected.append(expected[source + i])
    assert index_of(text, *bounds).follow(count) == expected[len(text) :]


@given(kept=TEXT, dropped=TEXT, later=TEXT)
def test_a_text_that_was_taken_back_leaves_no_trace(kept: list[int], dropped: list[int], later: list[int]) -> None:
    index = index_of(kept + dropped)
    index.rewind(len(kept))
    index.extend(later)
    assert list(index.tokens) == kept + later
    assert index.follow(5) == index_of(kept + later).follow(5)
    index.rewind(0)
    assert index._followed == {}


def test_bounds_that_make_no_sense_are_refused() -> None:
    for bounds in ((0, 2), (3, 2)):
        with pytest.raises(ValueError, match="allowed is 1 <= min_ngram <= max_ngram"):
            NgramIndex(*bounds)
    with pytest.raises(ValueError, match="has 2 tokens and cannot be cut back to 3"):
        index_of([1, 2]).rewind(3)
