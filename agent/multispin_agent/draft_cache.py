"""The draft model's sequences: one for each request that drafts, and those kept for the next turn of a conversation.

A next turn goes on from the sequence of the turn before it; a prompt that shares its beginning with another one, as the
system prompt, starts from a copy of that. What is kept makes room, the least recently used first. Nothing of it changes
a text: it is what the same tokens would give anew, and drafts are verified anyway.
"""

from collections.abc import Sequence

from multispin_models.errors import EngineFault, LimitError
from multispin_models.kept_sequences import KeptSequences
from multispin_models.language_model import LanguageModel
from multispin_models.ngram import shared_length

__all__ = ["DraftCache"]


class DraftCache:
    """Opens and keeps sequences; used in the engine's thread only.

    Args:
        model: whose `max_sequences` bound those that are open and those that are kept, together.
        keeps: keep a sequence after its request.
    """

    def __init__(self, model: LanguageModel, *, keeps: bool = False) -> None:
        self._model = model
        self._keeps = keeps
        self._kept = KeptSequences()
        self._num_open = 0

    @property
    def num_kept(self) -> int:
        """Sequences that no request holds."""
        return len(self._kept)

    def open(self, tokens: Sequence[int]) -> tuple[int, list[int]]:
        """Return a sequence for a text, and the first of its tokens that it holds already; nothing else is in it.

        Raises:
            LimitError: all sequences are held by requests.
            EngineFault: the engine failed; no sequence is left open by it.
        """
        kept = self._kept.take(tokens)
        if kept is not None:
            self._num_open += 1
            return kept.sequence, self._cut_back(kept.sequence, tokens, shared_length(kept.token_ids, tokens))
        state, num_shared = self._copy_for(tokens)
        if len(self._kept) and self._num_open + len(self._kept) >= self._model.info.max_sequences:
            self._model.close_sequence(self._kept.take_oldest().sequence)
        sequence = self._model.open_sequence()
        self._num_open += 1
        if state is None:
            return sequence, []
        try:
            self._model.restore(sequence, state)
        except EngineFault:
            self.discard(sequence)
            raise
        return sequence, self._cut_back(sequence, tokens, num_shared)

    def _copy_for(self, tokens: Sequence[int]) -> tuple[bytes | None, int]:
        """Return the state of the kept sequence that shares most with a text, if it is worth copying."""
        found = self._kept.nearest(tokens)
        if found is None:
            return None, 0
        kept, num_shared = found
        try:
            return self._model.save(kept.sequence), num_shared
        except LimitError:  # beyond a sliding window there is no state to go back to
            return None, 0

    def _cut_back(self, sequence: int, tokens: Sequence[int], length: int) -> list[int]:
        try:
            self._model.rewind(sequence, length)
        except EngineFault:
            self.discard(sequence)
            raise
        return list(tokens[:length])

    def close(self, sequence: int, held: Sequence[int]) -> None:
        """Take back a sequence that holds just these tokens; it is kept, if there is anything to keep."""
        if not self._keeps or not held:
            self.discard(sequence)
            return
        self._num_open -= 1
        self._kept.keep(sequence, held)

    def discard(self, sequence: int) -> None:
        """Free a sequence."""
        self._num_open -= 1
        self._model.close_sequence(sequence)
