"""What a text's own past is worth where the coordinator goes on alone: what to verify of it, what that yields. No I/O.

Every text is replayed as it is written, whoever drafts for it: after each of these rounds, what followed the text's end
when it stood there before is kept, and compared with what comes. So it is known what looking up would yield before it
is done, and costs nothing to know. Of a match those tokens are verified that yield most beyond the time of their rows;
and only if what they are sure to yield, a standard error less than is expected, is more than all would get in that time
without looking up. Acceptance is learnt by how many tokens have matched, the drafted ones before a token included.

    text = LookedUp(record); text.extend(tokens)      the record learns
    text.draft(cost, most)                            what is worth verifying now

Prior: SmolLM2-135M on Spec-Bench, accepted per token after matches of 2, 3, 4 (models/README.md), rounded.
"""

from collections.abc import Sequence
from itertools import accumulate
from math import sqrt
from operator import mul
from typing import Final, NamedTuple

from multispin_models.ngram import MAX_NGRAM, MIN_NGRAM, NgramIndex

__all__ = ["LOOKED_UP", "LookedUp", "LookupCost", "LookupRecord"]

LOOKED_UP: Final = 8  # tokens at most
PRIOR: Final = (0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.8, 0.8, 0.8, 0.8)  # after MIN_NGRAM, MIN_NGRAM + 1, ...
PRIOR_TOKENS: Final = 8.0  # that a prior weighs as much as
KEPT: Final = 1 - 1 / 512  # of what is known, from round to round
MARGIN: Final = 1.1  # of what all would get without, that a match is sure to yield
PRIOR_ROUNDS: Final = 32.0  # without a match, believed at first: nothing is expected of looking up before it is seen


class LookupCost(NamedTuple):
    """What verifying looked-up rows of one text costs.

    Attributes:
        seconds: [1 + LOOKED_UP], that 0, 1, ... rows more add to a pass.
        tokens_per_s: of all requests together, as they go on now.
        bare_tokens_per_s: the same if nothing were looked up.
    """

    seconds: Sequence[float]
    tokens_per_s: float = 1.0
    bare_tokens_per_s: float = 1.0


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

    def sure_acceptance(self, num_matched: int) -> float:
        """Return the same less its standard error."""
        rate = self.acceptance(num_matched)
        return max(0.0, rate - sqrt(rate * (1 - rate) / self._trials[self._place(num_matched)]))

    def num_worth(self, num_matched: int, cost: "LookupCost") -> int:
        """Return how many tokens are to be verified after a match.

        >>> LookupRecord().num_worth(4, LookupCost([0.0] * 9)), LookupRecord().num_worth(4, LookupCost([0.5] * 9))
        (8, 0)
        """
        best, most = 0, 0.0
        survival = sure_survival = 1.0
        tokens = sure_tokens = 0.0
        for index in range(LOOKED_UP):
            survival *= self.acceptance(num_matched + index)
            sure_survival *= self.sure_acceptance(num_matched + index)
            tokens, sure_tokens = tokens + survival, sure_tokens + sure_survival
            gain = tokens - cost.tokens_per_s * cost.seconds[index + 1]
            if gain > most and sure_tokens >= MARGIN * cost.bare_tokens_per_s * cost.seconds[index + 1]:
                best, most = index + 1, gain
        return best

    def survival(self, num_matched: int, count: int) -> list[float]:
        """Return the probability that the first 1, 2, ... `count` tokens after a match are all accepted."""
        return list(accumulate((self.acceptance(num_matched + index) for index in range(count)), mul))

    def expected(self, cost: "LookupCost") -> tuple[float, float]:
        """Return (tokens, seconds more) of a pass in the mean, for one text, with what is worth its cost looked up."""
        tokens, more_s = 1.0, 0.0
        for length, begun in self._begun.items():
            count = self.num_worth(length, cost)
            tokens += begun / self._rounds * sum(self.survival(length, count))
            more_s += begun / self._rounds * cost.seconds[count]
        return tokens, more_s


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

    def draft(self, cost: LookupCost, most: int) -> tuple[int, ...]:
        """Return what followed the text's end before, as far as it is worth its cost, at most `most` tokens."""
        matched, guess = self._index.find(min(most, LOOKED_UP))
        return tuple(guess[: self._record.num_worth(matched, cost)]) if guess else ()
