"""Guesses the next tokens from the request's own text, without a model; and the model where the text says nothing.

Prompt lookup (github.com/apoorvumang/prompt-lookup-decoding): `multispin_models.ngram` finds where the end of the text
stood before, and what followed there is the guess. It costs microseconds, so it is asked first.
"""

from collections.abc import Callable, Sequence

from multispin_agent.confidence import Evidence
from multispin_agent.drafter import Drafted, Drafter
from multispin_models.draft_distribution import certain
from multispin_models.ngram import NgramIndex, shared_length

__all__ = ["LookupDrafter", "LookupFirstDrafter"]


class LookupDrafter:
    """One request's text and the index over it.

    Args:
        index: empty; of this request alone.
    """

    num_reused = 0  # nothing is computed

    def __init__(self, index: NgramIndex) -> None:
        self._index = index

    def draft(
        self,
        tokens: Sequence[int],
        count: int,
        end_token_ids: frozenset[int],
        interrupted: Callable[[], bool],  # noqa: ARG002 - it is done before anybody could
    ) -> list[Drafted]:
        """Return what followed the end of `tokens` when it stood there last; [] where it never did."""
        self.rewind(tokens)
        self._index.extend(tokens[len(self._index.tokens) :])
        matched, drafted = self._index.find(count)
        end = next((place for place, token in enumerate(drafted) if token in end_token_ids), count)
        return [
            Drafted(token, Evidence(matched + place), certain(token)) for place, token in enumerate(drafted[: end + 1])
        ]

    def rewind(self, tokens: Sequence[int]) -> None:
        """Take back what does not stand in `tokens`."""
        self._index.rewind(shared_length(self._index.tokens, tokens))

    def close(self) -> None:
        """Nothing is held outside of this object."""


class LookupFirstDrafter:
    """Asks the text before every token, and the model for one token where the text does not know.

    Args:
        lookup: asked first.
        model: asked for what is left. Tokens that it did not guess itself are fed to it when it is asked next.
    """

    def __init__(self, lookup: Drafter, model: Drafter) -> None:
        self._lookup = lookup
        self._model = model

    @property
    def num_reused(self) -> int:
        """Of the model."""
        return self._model.num_reused

    def draft(
        self, tokens: Sequence[int], count: int, end_token_ids: frozenset[int], interrupted: Callable[[], bool]
    ) -> list[Drafted]:
        """Return up to `count` tokens of either; see `Drafter.draft`."""
        drafted: list[Drafted] = []
        while len(drafted) < count and not (drafted and interrupted()):
            text = [*tokens, *(each.token_id for each in drafted)]
            more = self._lookup.draft(text, count - len(drafted), end_token_ids, interrupted)
            more = more or self._model.draft(text, 1, end_token_ids, interrupted)
            drafted += more
            if not more or more[-1].token_id in end_token_ids:
                break
        return drafted

    def rewind(self, tokens: Sequence[int]) -> None:
        """Rewind both."""
        self._lookup.rewind(tokens)
        self._model.rewind(tokens)

    def close(self) -> None:
        """Close both."""
        self._lookup.close()
        self._model.close()
