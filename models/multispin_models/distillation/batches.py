"""Which conversations make up each step of training: a shuffled pass over all shards after the other.

One conversation in HELD_OUT_EVERY is never trained on; it tells how the student does on unseen text.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from multispin_models.distillation.corpus import Conversation, read_corpus

__all__ = ["Batch", "Batches", "HELD_OUT_EVERY", "batch_of"]

HELD_OUT_EVERY: Final = 40
_SHORTEST: Final = 4


class Batch(NamedTuple):
    """Rows of several conversations, one below the other; S of them are graded.

    Attributes:
        sequences: token ids of each, without its last token, which nothing follows.
        rows: [S] places of the graded rows.
        in_answer: [S] whether the row chooses a token of an answer.
        top_ids, top_log_probabilities: [S, top] of the target at these rows.
    """

    sequences: list[npt.NDArray[np.int32]]
    rows: npt.NDArray[np.intp]
    in_answer: npt.NDArray[np.bool_]
    top_ids: npt.NDArray[np.uint32]
    top_log_probabilities: npt.NDArray[np.float16]

    @property
    def num_tokens(self) -> int:
        """Rows of the forward pass."""
        return sum(map(len, self.sequences))


def batch_of(conversations: Sequence[Conversation]) -> Batch:
    """Return conversations as one batch; what the row of token i says is the choice of token i + 1."""
    sequences, rows, answers, start = [], [], [], 0
    for c in conversations:
        sequences.append(c.tokens[:-1])
        positions = np.arange(c.first_scored, len(c.tokens))
        rows.append(start + positions - 1)
        answers.append(positions >= c.answer_start)
        start += len(c.tokens) - 1
    return Batch(
        sequences,
        np.concatenate(rows),
        np.concatenate(answers),
        np.concatenate([c.top_ids for c in conversations]),
        np.concatenate([c.top_log_probabilities for c in conversations]),
    )


class Batches:
    """Draws batches from a corpus that may still grow: shards that are new are read at the end of each pass.

    Args:
        folder: of the corpus.
        seed: of the order.
        batch_tokens: a step takes conversations until it has as many.
    """

    def __init__(self, folder: Path, seed: int, batch_tokens: int) -> None:
        self._folder, self._seed, self._batch_tokens = folder, seed, batch_tokens
        self._read: set[str] = set()
        self.training: list[Conversation] = []
        self.held_out: list[Conversation] = []
        self._queue: list[int] = []
        self.passes = 0
        self.reread()

    def reread(self) -> None:
        """Take in the shards that are new."""
        for name, conversations in read_corpus(self._folder, frozenset(self._read)):
            self._read.add(name)
            for c in conversations:
                if len(c.tokens) - c.first_scored >= _SHORTEST:
                    (self.held_out if c.number % HELD_OUT_EVERY == 0 else self.training).append(c)

    def next_batch(self) -> Batch:
        """Return the next step's conversations."""
        return batch_of(self._take())

    def skip(self, steps: int) -> None:
        """Pass over the conversations of some steps: a run that goes on sees those that it has not seen.

        With the corpus that the steps were trained on the order is the same to the last conversation.
        """
        for _ in range(steps):
            self._take()

    def _take(self) -> list[Conversation]:
        chosen: list[Conversation] = []
        size = 0
        while size < self._batch_tokens:
            if not self._queue:
                self.reread()
                order = np.random.default_rng([self._seed, self.passes]).permutation(len(self.training))
                self._queue = order.tolist()
                self.passes += 1
            chosen.append(self.training[self._queue.pop()])
            size += len(chosen[-1].tokens)
        return chosen
