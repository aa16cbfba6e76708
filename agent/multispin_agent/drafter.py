"""What guesses the next tokens: the protocol of all drafters, and the one that runs the draft model.

A drafter blocks; the shell runs it in the engine's thread. It keeps no plan of its own: given the tokens to go on from,
the model's drafter cuts its cache back to what they share with it, feeds the rest, and chooses with the noise that the
target will use. By a rejection rule it draws with its own: it truncates and quantizes, then samples from exactly that.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from multispin_agent.confidence import Evidence
from multispin_agent.draft_cache import DraftCache
from multispin_models.draft_distribution import TOTAL, DraftDistribution, quantize
from multispin_models.language_model import LanguageModel, Logits, Rows
from multispin_models.ngram import shared_length
from multispin_models.sampling import Sampling, choose_weighed, probabilities, uniform
from multispin_models.verification import DRAFT

__all__ = ["Drafted", "Drafter", "ModelDrafter"]


class Drafted(NamedTuple):
    """A token that is drafted, what speaks for it, and what it was drawn from; null by the coupled rule."""

    token_id: int
    evidence: Evidence
    drawn_from: DraftDistribution | None = None


class Drafter(Protocol):
    """Guesses for one request."""

    @property
    def num_reused(self) -> int:
        """Tokens of the request's prompt that a model did not compute anew; 0 before the first draft."""
        ...

    def draft(
        self, tokens: Sequence[int], count: int, end_token_ids: frozenset[int], interrupted: Callable[[], bool]
    ) -> list[Drafted]:
        """Return up to `count` tokens that follow `tokens`.

        Args:
            tokens: what to go on from, committed and guessed.
            count: at least 1.
            end_token_ids: nothing is drafted after one of these.
            interrupted: asked between two tokens; true ends the draft early, possibly with none.

        Returns:
            No token at all, without an interruption: there is no guess to follow these tokens.
        """
        ...

    def rewind(self, tokens: Sequence[int]) -> None:
        """Give up what is held beyond what it shares with `tokens`, which are about to be drafted on from.

        `draft` does so itself; apart, it can be timed.
        """
        ...

    def close(self) -> None:
        """Free what the request holds."""
        ...


class ModelDrafter:
    """One request's sequence of the draft model, taken when it is first asked to draft.

    Args:
        model: the draft model, shared by the requests of an agent, one call at a time.
        sampling: as the target draws.
        cache: where the model's sequences come from; null for one that keeps nothing.
        max_entries: tokens are drawn from so many, by a rejection rule; null chooses them, by the coupled one.
    """

    def __init__(
        self,
        model: LanguageModel,
        sampling: Sampling,
        cache: DraftCache | None = None,
        max_entries: int | None = None,
    ) -> None:
        self.num_reused = 0
        self._max_entries = max_entries
        self._num_drawn = 0
        self._model = model
        self._sampling = sampling
        self._cache = DraftCache(model) if cache is None else cache
        self._sequence: int | None = None
        self._cached: list[int] = []  # what the sequence holds
        self._in_engine = False  # a call that has not come back: what the sequence holds is not known
        self._max_rows = model.info.max_rows

    def draft(
        self, tokens: Sequence[int], count: int, end_token_ids: frozenset[int], interrupted: Callable[[], bool]
    ) -> list[Drafted]:
        """Return what the model writes after `tokens`; see `Drafter.draft`. A full context gives nothing."""
        drafted: list[Drafted] = []
        self.rewind(tokens)
        pending = list(tokens[len(self._cached) :])
        # The context is the draft's own bound, and may be shorter than the target's: then it just stops drafting.
        count = min(count, self._model.info.n_ctx - len(tokens))
        while len(drafted) < count and not (drafted and interrupted()):
            logits = self._feed(pending, interrupted)
            if logits is None:
                break
            drafted.append(self._next(logits, len(tokens) + len(drafted)))
            token = drafted[-1].token_id
            pending = [token]
            if token in end_token_ids:
                break
        return drafted

    def _next(self, logits: Logits, position: int) -> Drafted:
        if self._max_entries is None:
            token, probability, margin = choose_weighed(logits[-1], position, self._sampling)
            return Drafted(token, Evidence(0, probability, margin))
        drawn_from = quantize(probabilities(logits[-1], self._sampling), self._max_entries)
        # No number is used twice, also where a position is drafted again: what has been thrown away leaves no trace.
        self._num_drawn += 1
        token = drawn_from.draw(uniform(self._sampling.seed, position, DRAFT, self._num_drawn))
        return Drafted(token, Evidence(0, drawn_from.weight(token) / TOTAL), drawn_from)

    def close(self) -> None:
        """Give the sequence back; one on which the engine failed is freed."""
        if self._sequence is None:
            return
        if self._in_engine:
            self._cache.discard(self._sequence)
        else:
            self._cache.close(self._sequence, self._cached)
        self._sequence = None

    def rewind(self, tokens: Sequence[int]) -> None:
        """Cut the cache back to what it shares with all but the last of `tokens`, which must be fed for its logits."""
        if self._sequence is None:
            self._sequence, self._cached = self._cache.open(tokens)
            self.num_reused = min(len(self._cached), len(tokens) - 1)
        shared = min(shared_length(self._cached, tokens), len(tokens) - 1)
        if shared < len(self._cached):
            self._in_engine = True
            self._model.rewind(self._sequence, shared)
            self._in_engine = False
            del self._cached[shared:]

    def _feed(self, token_ids: Sequence[int], interrupted: Callable[[], bool]) -> Logits | None:
        """Feed tokens in chunks and return the logits of the last; None if interrupted between two chunks."""
        assert self._sequence is not None
        logits: Logits | None = None
        for start in range(0, len(token_ids), self._max_rows):
            if start and interrupted():
                return None
            chunk = token_ids[start : start + self._max_rows]
            last = start + len(chunk) == len(token_ids)
            self._in_engine = True
            logits = self._model.forward([Rows(self._sequence, chunk, int(last))])[0]
            self._in_engine = False
            self._cached += chunk
        return logits
