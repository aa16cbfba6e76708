"""Guesses what follows a text from the text itself: the last place where its end stood before, and what came then.

Prompt lookup (Saxena, github.com/apoorvumang/prompt-lookup-decoding): no weights, no model file. Good where answers
quote their prompt (summaries, code, extraction), and where a text repeats itself.

    >>> index = NgramIndex()
    >>> index.extend([7, 8, 9, 1, 7, 8])
    >>> index.follow(2)
    [9, 1]

The concession: only the last `MAX_NGRAM` tokens decide, so that a token costs a fixed number of table look-ups.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

__all__ = ["MAX_NGRAM", "MIN_NGRAM", "Match", "NgramIndex", "shared_length"]

MIN_NGRAM: Final = 2
MAX_NGRAM: Final = 4


class Match(NamedTuple):
    """What the text says of its own continuation.

    Attributes:
        num_matched: tokens at its end that stood there before, 0 if none did.
        token_ids: what followed them then.
    """

    num_matched: int
    token_ids: list[int]


class NgramIndex:
    """A text, and where each of its short runs of tokens was last followed by something.

    Appending and taking back a token cost O(max_ngram), a guess O(max_ngram + count).

    Args:
        min_ngram: shortest run that counts as a match, 1 at least; a shorter one guesses more often, and worse.
        max_ngram: longest run that is looked for, the first to be tried.

    Raises:
        ValueError: not 1 <= min_ngram <= max_ngram.
    """

    def __init__(self, min_ngram: int = MIN_NGRAM, max_ngram: int = MAX_NGRAM) -> None:
        if not 1 <= min_ngram <= max_ngram:
            raise ValueError(f"n-grams of {min_ngram} to {max_ngram} tokens, allowed is 1 <= min_ngram <= max_ngram")
        self._lengths = range(min_ngram, max_ngram + 1)
        self._tokens: list[int] = []
        self._followed: dict[tuple[int, ...], int] = {}  # run of tokens -> position of what followed it last
        self._before: list[list[int | None]] = []  # [position][n] what the table said before that position

    @property
    def tokens(self) -> Sequence[int]:
        """The text; not to be changed."""
        return self._tokens

    def extend(self, token_ids: Sequence[int]) -> None:
        """Append tokens to the text."""
        for token in token_ids:
            position = len(self._tokens)
            before = []
            for run in self._runs():
                before.append(self._followed.get(run))
                self._followed[run] = position
            self._before.append(before)
            self._tokens.append(token)

    def rewind(self, length: int) -> None:
        """Cut the text back to `length` tokens, 0 to its length; the index is then as if no more had been appended."""
        if not 0 <= length <= len(self._tokens):
            raise ValueError(f"the text has {len(self._tokens)} tokens and cannot be cut back to {length}")
        while len(self._tokens) > length:
            self._tokens.pop()
            for run, position in zip(self._runs(), self._before.pop(), strict=True):
                if position is None:
                    del self._followed[run]
                else:
                    self._followed[run] = position

    def follow(self, count: int) -> list[int]:
        """Return `count` tokens that may follow the text, [] where its end never stood before; as `find`."""
        return self.find(count).token_ids

    def find(self, count: int) -> Match:
        """Return the longest run at the text's end that stood before, and `count` tokens that followed it.

        The longest run wins, and its last occurrence. A source that reaches the text's end goes on in the guess itself:
        a repetition under way is taken to go on.
        """
        for run in reversed(self._runs()):
            if (source := self._followed.get(run)) is not None:
                known = self._tokens[source : source + count]
                period = len(known)
                return Match(len(run), [known[i % period] for i in range(count)])
        return Match(0, [])

    def _runs(self) -> list[tuple[int, ...]]:
        """Return the last tokens of the text as runs, shortest first; a short text has fewer."""
        end = len(self._tokens)
        return [tuple(self._tokens[end - n :]) for n in self._lengths if n <= end]


def shared_length(known: Sequence[int], tokens: Sequence[int]) -> int:
    """Return how many tokens two texts share from their beginning.

    >>> shared_length([1, 2, 3], [1, 2, 9, 9])
    2
    """
    limit = min(len(known), len(tokens))
    if list(known[:limit]) == list(tokens[:limit]):  # nearly always, and much faster than token by token
        return limit
    return next(i for i in range(limit) if known[i] != tokens[i])
