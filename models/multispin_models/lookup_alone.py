"""The text that the target writes alone with drafts that it looks up in the text itself: no draft model, no network.

This is what cooperation has to beat where a text repeats itself. Every user has a text and an index over it; a pass
computes, for each, the last token and what followed it before; the choice of every row says how far that was right. So
the text is the one of `target_alone.py`, token for token, in fewer passes.

    batch = LookupBatch(model, users, num_draft_tokens=4)
    try:
        batch.prefill()
        while batch.step():
            pass
    finally:
        batch.close()
    batch.texts[0].token_ids, batch.texts[0].rounds
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from multispin_models.language_model import LanguageModel, Logits, Rows, prefill
from multispin_models.ngram import MAX_NGRAM, MIN_NGRAM, NgramIndex
from multispin_models.sampling import Sampling, choose

__all__ = ["Guess", "LookupBatch", "LookupRound", "LookupText", "LookupUser"]


Guess = Callable[[Sequence[int], int], list[int]]  # given a text, up to so many tokens that may follow it


class LookupUser(NamedTuple):
    """What one user asks, as in `generate_alone`."""

    prompt_ids: Sequence[int]
    sampling: Sampling
    max_tokens: int
    end_token_ids: frozenset[int]


class LookupRound(NamedTuple):
    """One pass for one user.

    Attributes:
        num_matched: tokens at the end of the text that stood there before, 0 without a match.
        num_draft_tokens: looked up, 0 without a match.
        num_accepted: of them, the target's own.
    """

    num_matched: int
    num_draft_tokens: int
    num_accepted: int


@dataclass
class LookupText:
    """A user's text.

    Attributes:
        token_ids: generated, the end token included.
        rounds: one a pass; the token that the prompt's pass gives is of no round.
    """

    token_ids: list[int] = field(default_factory=list)
    rounds: list[LookupRound] = field(default_factory=list)


class _Writing:
    """One user's text under way."""

    def __init__(
        self, user: LookupUser, sequence: int, n_ctx: int, index: NgramIndex, guess: Guess | None = None
    ) -> None:
        self.user = user
        self._guess = guess
        self.sequence = sequence
        self.text = LookupText()
        self.index = index  # over the prompt and the text
        self.is_done = False
        self._length = min(len(user.prompt_ids) + user.max_tokens, n_ctx)
        index.extend(user.prompt_ids)

    def draft(self, count: int) -> tuple[int, list[int]]:
        """Return how many tokens matched, and up to `count` tokens to verify, with room left for the target's own."""
        count = min(count, self._length - len(self.index.tokens) - 1)
        return self.index.find(count) if self._guess is None else (0, self._guess(self.index.tokens, count))

    def take(self, logits: Logits, draft: Sequence[int]) -> int:
        """Commit what the target chooses, up to the first token that was not drafted; return how many were."""
        for row, scores in enumerate(logits):
            token = choose(scores, len(self.index.tokens), self.user.sampling)
            self.index.extend([token])
            self.text.token_ids.append(token)
            self.is_done = token in self.user.end_token_ids or len(self.index.tokens) >= self._length
            if self.is_done or row == len(draft) or token != draft[row]:
                return row + int(row < len(draft) and token == draft[row])
        raise AssertionError("the row after the last drafted token ends the loop")


class LookupBatch:
    """Several users served by one model; blocks.

    Args:
        model: the target, with a free sequence for each user and a row for each in a pass.
        users: one a text.
        num_draft_tokens: most tokens looked up for a user in a pass; fewer where the pass has no rows left.
        min_ngram, max_ngram: shortest and longest match, in tokens.
        guesses: of each user, in place of looking up: a draft model on the target's own machine.

    Raises:
        ValueError: more users than rows of a pass, or bounds of the match that make no sense.
        LimitError: the model has no free sequence for each user.
    """

    def __init__(
        self,
        model: LanguageModel,
        users: Sequence[LookupUser],
        *,
        num_draft_tokens: int,
        min_ngram: int = MIN_NGRAM,
        max_ngram: int = MAX_NGRAM,
        guesses: Sequence[Guess] | None = None,
    ) -> None:
        if len(users) > model.info.max_rows:
            raise ValueError(f"{len(users)} users, a pass of this model has {model.info.max_rows} rows")
        self._model = model
        self._num_draft_tokens = num_draft_tokens
        self._writing: list[_Writing] = []
        try:
            for place, user in enumerate(users):
                index = NgramIndex(min_ngram, max_ngram)
                guess = None if guesses is None else guesses[place]
                self._writing.append(_Writing(user, model.open_sequence(), model.info.n_ctx, index, guess))
        except BaseException:
            self.close()
            raise

    @property
    def texts(self) -> list[LookupText]:
        """What is written so far, in the order of the users."""
        return [writing.text for writing in self._writing]

    def prefill(self) -> None:
        """Compute the prompts, one after the other, and draw each user's first token."""
        for writing in self._writing:
            prompt = list(writing.user.prompt_ids)
            writing.take(prefill(self._model, writing.sequence, prompt, self._model.info.max_rows), [])

    def step(self) -> bool:
        """Give every user that is not done at least one token, in one pass; return whether there was one to serve."""
        writing = [each for each in self._writing if not each.is_done]
        if not writing:
            return False
        spare = self._model.info.max_rows // len(writing) - 1
        drafts = [each.draft(min(self._num_draft_tokens, spare)) for each in writing]
        batch = [
            Rows(each.sequence, [each.index.tokens[-1], *draft], len(draft) + 1)
            for each, (_, draft) in zip(writing, drafts, strict=True)
        ]
        for each, (matched, draft), logits in zip(writing, drafts, self._model.forward(batch), strict=True):
            accepted = each.take(logits, draft)
            each.text.rounds.append(LookupRound(matched if draft else 0, len(draft), accepted))
        for each in writing:  # not before all logits are read: they are views into the engine
            self._model.rewind(each.sequence, len(each.index.tokens) - 1)
        return True

    def close(self) -> None:
        """Free the sequences; what is written stays."""
        for writing in self._writing:
            self._model.close_sequence(writing.sequence)
