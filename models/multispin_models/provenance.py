"""Which part of a text came from whom: drafted and accepted, or the target's own. No I/O.

accepted    drafted by the agent, and what the target would have written
recovered   the target's, in place of a drafted token that it rejected
bonus       the target's, after a draft that was accepted to its end
target      the target's, where nothing had been drafted
unverified  the draft's alone: the coordinator was silent past the deadline, and the agent's settings let it go on
"""

import codecs
from collections import deque
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from msgspec import Struct

__all__ = ["Piece", "Provenance", "Source", "Span", "sources_of_round"]

Source = Literal["accepted", "recovered", "bonus", "target", "unverified"]


class Span(Struct, frozen=True):
    """A part of a text that one token brought.

    Attributes:
        text: of it; a character cut between tokens belongs to the one that completes it.
        source: whose token it was: "accepted", "recovered", "bonus", "target" or "unverified".
    """

    text: str
    source: Source


class Piece(NamedTuple):
    """A piece of a text, and whose it is: spans that make up the text, or none if nobody asked."""

    text: str
    spans: tuple[Span, ...] = ()


class Provenance:
    """Splits a text that is given out in pieces into what its tokens brought.

    Args:
        token_bytes: bytes of a token, `Tokenizer.token_bytes`.
    """

    def __init__(self, token_bytes: Callable[[int], bytes]) -> None:
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._ahead: deque[Span] = deque()  # of tokens whose text is not given out yet
        self._last: Source = "target"

    def add(self, token_ids: Sequence[int], sources: Sequence[Source]) -> None:
        """Take tokens, and whose each is."""
        for token_id, source in zip(token_ids, sources, strict=True):
            self._last = source
            if text := self._decoder.decode(self._token_bytes(token_id)):
                self._ahead.append(Span(text, source))

    def take(self, text: str) -> Piece:
        """Return the next piece of the text with its spans; a character cut short at the end is the last token's."""
        spans = []
        rest = text
        while rest and self._ahead:
            span = self._ahead.popleft()
            if len(span.text) > len(rest):
                self._ahead.appendleft(Span(span.text[len(rest) :], span.source))
                span = Span(rest, span.source)
            spans.append(span)
            rest = rest[len(span.text) :]
        if rest:
            spans.append(Span(rest, self._last))
        return Piece(text, tuple(spans))


def sources_of_round(num_drafted: int, num_accepted: int) -> list[Source]:
    """Return whose the tokens are that one verdict commits.

    >>> sources_of_round(4, 2), sources_of_round(1, 1), sources_of_round(0, 0)
    (['accepted', 'accepted', 'recovered'], ['accepted', 'bonus'], ['target'])
    """
    last: Source = "target" if num_drafted == 0 else "bonus" if num_accepted == num_drafted else "recovered"
    sources: list[Source] = ["accepted"] * num_accepted
    return [*sources, last]
