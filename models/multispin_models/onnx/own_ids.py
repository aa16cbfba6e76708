"""What a draft with a trimmed head may still say: the ids that stand in its sequence already.

A trimmed head (FR-Spec, Zhao et al., arXiv 2502.14856) has the frequent ids alone. The rare ones that a text needs are
mostly in its prompt: names, numbers, words of a passage. Of 14,092 tokens that a target answered to 240 prompts, 8,192
frequent ids had 90.5 %, in answers to summarization 85 %; together with the ids of the prompt 98 % of those. A sequence
has a few hundred such ids at most, so scoring them is a small product (figures: models/README.md).

What a row may choose is a function of the sequence up to that row alone: the same in every batch, and the same after a
sequence was cut back.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from multispin_models.onnx.weights import Array

__all__ = ["OwnIds"]

_ROOM = 64


class OwnIds:
    """The rare ids of one sequence, in the order in which they were read, and the head's row for each.

    Args:
        frequent: [n_vocab] whether the trimmed head has an id.
        hidden_size: of a row.
    """

    def __init__(self, frequent: npt.NDArray[np.bool_], hidden_size: int) -> None:
        self._frequent = frequent
        self._known: set[int] = set()
        self._starts: list[int] = []  # position at which each was read first
        self._ids = np.empty(_ROOM, np.int64)
        self._rows = np.empty((_ROOM, hidden_size), np.float32)

    def read(self, token_ids: Sequence[int], start: int, rows: Array) -> None:
        """Take in tokens that were appended at a position.

        Args:
            token_ids: the tokens.
            start: position of the first.
            rows: [tokens, hidden] the head's row for each.
        """
        for place, token_id in enumerate(token_ids):
            if self._frequent[token_id] or token_id in self._known:
                continue
            number = len(self._starts)
            if number == len(self._ids):
                self._ids = np.concatenate([self._ids, np.empty_like(self._ids)])
                self._rows = np.concatenate([self._rows, np.empty_like(self._rows)])
            self._known.add(token_id)
            self._starts.append(start + place)
            self._ids[number], self._rows[number] = token_id, rows[place]

    def score(self, state: Array, position: int, logits: Array) -> None:
        """Write the logits of these ids for one row of the sequence.

        Args:
            state: [hidden] that the head multiplies.
            position: of the row; what was read behind it does not count.
            logits: [n_vocab] of the row, changed in place.
        """
        number = bisect_right(self._starts, position)
        logits[self._ids[:number]] = self._rows[:number] @ state

    def cut(self, length: int) -> None:
        """Forget what was first read at `length` or behind it."""
        number = bisect_left(self._starts, length)
        self._known.difference_update(self._ids[number : len(self._starts)].tolist())
        del self._starts[number:]

    def save(self) -> bytes:
        """Return what `restore` needs; the last 8 bytes say how long it is."""
        number = len(self._starts)
        body = np.array(self._starts, np.int64).tobytes() + self._ids[:number].tobytes() + self._rows[:number].tobytes()
        return body + number.to_bytes(8, "little")

    def restore(self, state: bytes) -> bytes | None:
        """Take over what `save` wrote at the end of a state; return the rest of the state, None if it is too short."""
        number = int.from_bytes(state[-8:], "little")
        row_bytes = self._rows.shape[1] * self._rows.itemsize
        body = len(state) - 8 - number * (16 + row_bytes)
        if len(state) < 8 or body < 0:
            return None
        self._starts = np.frombuffer(state, np.int64, number, body).tolist()
        self._ids = np.resize(np.frombuffer(state, np.int64, number, body + 8 * number), max(number, _ROOM))
        rows = np.frombuffer(state, np.float32, number * self._rows.shape[1], body + 16 * number)
        self._rows = np.resize(rows, (max(number, _ROOM), self._rows.shape[1]))
        self._known = set(self._ids[:number].tolist())
        return state[:body]
