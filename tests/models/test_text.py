"""Tokens to text: characters and stop strings cut between tokens."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multispin_models.text import TextAssembler


def assembler(pieces: list[bytes], *stop: str) -> TextAssembler:
    """Return an assembler whose token i is piece i."""
    return TextAssembler(pieces.__getitem__, stop)


def test_text_comes_out_as_it_goes_in() -> None:
    text = assembler([b"Hel", b"lo"])
    assert [text.feed([0]), text.feed([1]), text.finish(), text.text] == ["Hel", "lo", "", "Hello"]


def test_a_character_cut_across_tokens_is_given_once_it_is_whole() -> None:
    text = assembler([b"\xe2", b"\x82", b"\xac5"])
    assert [text.feed([0]), text.feed([1]), text.feed([2])] == ["", "", "€5"]
    assert text.text == "€5"


def test_a_character_that_is_never_completed_is_a_replacement_character_at_the_end() -> None:
    text = assembler([b"a\xe2\x82"])
    assert text.feed([0]) == "a"
    assert text.finish() == "\ufffd"
    assert text.text == "a\ufffd"


def test_bytes_that_are_no_text_do_not_stop_what_follows() -> None:
    text = assembler([b"\xff", b"ok"])
    assert text.feed([0, 1]) == "\ufffdok"


def test_control_tokens_have_no_text() -> None:
    text = assembler([b"a", b"", b"b"])
    assert text.feed([0, 1, 2]) == "ab"
    assert text.num_tokens == 3


def test_the_text_ends_before_a_stop_string_that_is_cut_across_tokens() -> None:
    text = assembler([b"one S", b"TO", b"P two", b"three"], "STOP")
    assert [text.feed([0]), text.feed([1])] == ["one ", ""]
    assert text.feed([2, 3]) == ""
    assert (text.stopped, text.text, text.num_tokens) == (True, "one ", 3)
    assert text.finish() == ""


def test_what_only_began_like_a_stop_string_is_given_out() -> None:
    text = assembler([b"S", b"TO", b"W"], "STOP")
    assert [text.feed([0]), text.feed([1]), text.feed([2])] == ["", "", "STOW"]


def test_the_beginning_of_a_stop_string_at_the_end_is_given_out_at_last() -> None:
    text = assembler([b"xST"], "STOP")
    assert (text.feed([0]), text.finish(), text.text) == ("x", "ST", "xST")


def test_a_stop_string_may_begin_inside_what_looked_like_its_beginning() -> None:
    text = assembler([b"aa", b"ab"], "aab")
    assert text.feed([0, 1]) == "a"
    assert text.stopped


def test_of_several_stop_strings_the_first_in_the_text_counts() -> None:
    text = assembler([b"x END y STOP"], "STOP", "END")
    assert text.feed([0]) == "x "


def test_a_stop_string_may_have_characters_that_are_cut_across_tokens() -> None:
    text = assembler([b"1\xe2\x82", b"\xac2"], "€")
    assert text.feed([0]) == "1"
    assert text.feed([1]) == ""
    assert text.stopped


@given(
    text=st.text("abé€", max_size=30),
    stop=st.lists(st.text("abé€", min_size=1, max_size=4), max_size=2),
    cuts=st.lists(st.integers(0, 120), max_size=12),
)
def test_however_it_is_cut_the_text_is_the_same(text: str, stop: list[str], cuts: list[int]) -> None:
    data = text.encode()
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[a:b] for a, b in itertools.pairwise(edges)]
    whole = assembler(pieces, *stop)
    given_out = "".join(whole.feed([token]) for token in range(len(pieces))) + whole.finish()
    found = [at for at in (text.find(string) for string in stop) if at >= 0]
    assert whole.text == given_out
    if len(pieces) <= 1 or len(stop) <= 1:
        assert given_out == text[: min(found, default=len(text))]
    else:  # of two that overlap the one that is complete first ends the text
        assert text.startswith(given_out)
        assert whole.stopped == bool(found)


@pytest.mark.parametrize("tokens", [[], [0]])
def test_finishing_without_more_text_gives_nothing(tokens: list[int]) -> None:
    text = assembler([b""])
    text.feed(tokens)
    assert text.finish() == ""
