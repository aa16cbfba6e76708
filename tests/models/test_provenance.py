"""Whose each part of a text is: spans make up the text, whatever is held back or cut."""

from hypothesis import given
from hypothesis import strategies as st

from multispin_models.provenance import Piece, Provenance, Source, Span, sources_of_round
from multispin_models.text import TextAssembler

TOKENS = [b"", b"a", b"bc", b"stop", b"st", b"op", b" s", "é".encode()[:1], "é".encode()[1:], b"\xff", "日本".encode()]


def test_a_token_that_is_held_back_is_told_with_the_text_that_it_brought() -> None:
    provenance = Provenance(lambda token: [b"ab", b"cd", b"e"][token])
    provenance.add([0, 1], sources_of_round(1, 1))
    assert provenance.take("abc") == Piece("abc", (Span("ab", "accepted"), Span("c", "bonus")))
    provenance.add([2], sources_of_round(2, 0))
    assert provenance.take("de") == Piece("de", (Span("d", "bonus"), Span("e", "recovered")))


def test_a_character_cut_between_tokens_belongs_to_the_one_that_completes_it_and_one_cut_short_to_the_last() -> None:
    provenance = Provenance(TOKENS.__getitem__)
    provenance.add([7, 8, 7], ["accepted", "recovered", "target"])
    assert provenance.take("é").spans == (Span("é", "recovered"),)
    assert provenance.take("\ufffd").spans == (Span("\ufffd", "target"),)


@given(
    rounds=st.lists(st.lists(st.integers(0, len(TOKENS) - 1), min_size=1, max_size=4)),
    stop=st.lists(st.sampled_from(["stop", "s", "pa", "é"]), max_size=2),
)
def test_spans_make_up_every_piece_of_any_text(rounds: list[list[int]], stop: list[str]) -> None:
    assembler = TextAssembler(TOKENS.__getitem__, stop)
    provenance = Provenance(TOKENS.__getitem__)
    sources: list[Source] = ["accepted", "bonus", "recovered", "target"]
    pieces = []
    for token_ids in rounds:
        provenance.add(token_ids, sources[: len(token_ids)])
        pieces.append(provenance.take(assembler.feed(token_ids)))
    pieces.append(provenance.take(assembler.finish()))
    for piece in pieces:
        assert "".join(span.text for span in piece.spans) == piece.text
        assert all(span.text for span in piece.spans)
    assert "".join(piece.text for piece in pieces) == assembler.text
