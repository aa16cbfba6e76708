"""What a text's own past is worth where the coordinator goes on alone: what to verify of it, what that yields. No I/O.

Every text is replayed as it is written, whoever drafts for it: after each of these rounds, what followed the text's end
when it stood there before is kept, and compared with what comes. So it is known what looking up would yield before it
is done, and a match is verified only where that is worth its rows. Acceptance is learnt by how many tokens have
matched, the drafted ones before a token included.

    text = LookedUp(record); text.extend(tokens)      the record learns
    text.draft(price)                                 what is worth verifying now

Prior: SmolLM2-135M on Spec-Bench, accepted per token after matches of 2, 3, 4 (models/README.md), rounded.
"""

from collections.abc import Sequence
from typing import Final

from multispin_models.ngram import MAX_NGRAM, MIN_NGRAM, NgramIndex

__all__ = ["LOOKED_UP", "LookedUp", "LookupRecord"]

LOOKED_UP: Final = 8  # tokens at most
PRIOR: Final = (0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.8, 0.8, 0.8, 0.8)  # after MIN_NGRAM, MIN_NGRAM + 1, ...
PRIOR_TOKENS: Final = 8.0  # that a prior weighs as much as
KEPT: Final = 1 - 1 / 512  # of what is known, from round to round
PRIOR_ROUNDS: Final = 32.0  # without a match, believed at first: nothing is expected of looking up before it is seen


class LookupRecord:
    """How looked up tokens fared, over all texts, the last ones above all."""

    def __init__(self) -> None:
        self._trials = [PRIOR_TOKENS] * len(PRIOR)
        self._hits = [PRIOR_TOKENS * rate for rate in PRIOR]
        self._begun = dict.fromkeys(range(MIN_NGRAM, MAX_NGRAM + 1), 0.0)  # rounds with so long a match
        self._rounds = PRIOR_ROUNDS

    def add_round(self, num_matched: int, num_drafted: int, num_accepted: int) -> None:
        """Take a round: 0 <= num_accepted <= num_drafted, which is 0 without a match."""
        self._rounds = self._rounds * KEPT + 1.0
        for length in self._begun:
            self._begun[length] *= KEPT
        if not num_drafted:
            return
        self._begun[num_matched] += 1.0
        for index in range(min(num_accepted + 1, num_drafted)):
            place = self._place(num_matched + index)
            self._trials[place] = self._trials[place] * KEPT + 1.0
            self._hits[place] = self._hits[place] * KEPT + (index < num_accepted)

    @staticmethod
    def _place(num_matched: int) -> int:
        return min(num_matched - MIN_NGRAM, len(PRIOR) - 1)

    def acceptance(self, num_matched: int) -> float:
        """Return the probability that a token is accepted after so many that matched, at least MIN_NGRAM."""
        place = self._place(num_matched)
        return self._hits[place] / self._trials[place]

    def worth(self, num_matched: int, price: float) -> list[float]:
        """Return the survival of each token that is worth verifying after a match."""
        found: list[float] = []
        survival = 1.0
        for index in range(LOOKED_UP):
            survival *= self.acceptance(num_matched + index)
            if survival < price:
                break
            found.append(survival)
        return found

    def expected(self, price: float) -> tuple[float, float]:
        """Return (tokens, rows) of a pass in the mean, for one text, with what is worth its price looked up."""
        tokens = rows = 1.0
        for length, begun in self._begun.items():
            worth = self.worth(length, price)
            tokens += begun / self._rounds * sum(worth)
            rows += begun / self._rounds * len(worth)
        return tokens, rows


class LookedUp:
    """One text and its index.

    Args:
        record: of all texts.
    """

    def __init__(self, record: LookupRecord) -> None:
        self._record = record
        self._index = NgramIndex()
        self._matched = 0
        self._guess: list[int] = []  # of the round that is replayed
        self._come = 0  # of its tokens, that were right

    def __len__(self) -> int:
        return len(self._index.tokens)

    def extend(self, token_ids: Sequence[int]) -> None:
        """Take what was committed; the first call brings the prompt, which is no round."""
        if not len(self):
            self._index.extend(token_ids)
            self._matched, self._guess = self._index.find(LOOKED_UP)
            return
        for token in token_ids:
            self._index.extend([token])
            if self._come < len(self._guess) and self._guess[self._come] == token:
                self._come += 1
                continue
            self._record.add_round(self._matched, len(self._guess), self._come)
            self._matched, self._guess = self._index.find(LOOKED_UP)
            self._come = 0

    def draft(self, price: float, most: int) -> tuple[int, ...]:
        """Return what followed the text's end before, as far as it is worth its price, at most `most` tokens."""
        matched, guess = self._index.find(min(most, LOOKED_UP))
        return tuple(guess[: len(self._record.worth(matched, price))]) if guess else ()
