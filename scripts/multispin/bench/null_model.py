"""The null engine: no model. A pass sleeps for as long as it is told, as if another device computed it.

It exists for `multispin bench overhead` only, and says "null" wherever an engine is named. With it the time of a round
that is not model time shows on a machine that has too few cores to run the models of eight agents. Scores point at the
token that follows from the last one by a rule; the draft's rule differs from the target's for a quarter of the tokens,
so that rejections and rewinds happen as in life.
"""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from multispin_models.language_model import ChatMessage, Logits, ModelInfo, Rows

__all__ = ["DRAFT_PASS", "TARGET_PASS", "NullModel", "NullTokenizer", "PassTime"]

N_VOCAB = 49_152  # as the default target, so that choosing costs what it costs
N_CTX = 2048
MAX_ROWS = 256


class PassTime(NamedTuple):
    """How long a pass sleeps: `c0_s + c1_s * rows`."""

    c0_s: float
    c1_s: float


TARGET_PASS = PassTime(0.012, 0.0002)
DRAFT_PASS = PassTime(0.003, 0.0)


class NullModel:
    """`LanguageModel` that sleeps.

    Args:
        pass_time: of a pass.
        max_sequences: open at once.
        is_draft: errs for a quarter of the tokens.
    """

    def __init__(self, pass_time: PassTime, max_sequences: int, *, is_draft: bool) -> None:
        self._pass_time = pass_time
        self._is_draft = is_draft
        self._lengths: dict[int, int] = {}
        self._scores: Logits = np.zeros((MAX_ROWS, N_VOCAB), np.float32)
        self._pointed: list[tuple[int, int]] = []  # (row, token) that the last pass raised
        self.info = ModelInfo(
            name="null engine, no model",
            fingerprint="null",
            vocabulary_hash="null",
            engine="null",
            engine_version="sleeps",
            recipe="null",
            n_vocab=N_VOCAB,
            n_ctx=N_CTX,
            max_sequences=max_sequences,
            max_rows=MAX_ROWS,
            num_threads=1,
            exact=True,
            memory_bytes=self._scores.nbytes,
        )

    def open_sequence(self) -> int:
        """Return the lowest free number."""
        number = next(i for i in range(self.info.max_sequences) if i not in self._lengths)
        self._lengths[number] = 0
        return number

    def close_sequence(self, sequence: int) -> None:
        """Free a sequence."""
        del self._lengths[sequence]

    def length(self, sequence: int) -> int:
        """Return its number of tokens."""
        return self._lengths[sequence]

    def forward(self, batch: Sequence[Rows]) -> list[Logits]:
        """Sleep, then point each scored row at the token that follows its own."""
        rows = sum(len(part.token_ids) for part in batch)
        time.sleep(self._pass_time.c0_s + self._pass_time.c1_s * rows)
        for row, token in self._pointed:
            self._scores[row, token] = 0.0
        self._pointed = []
        views, row = [], 0
        for part in batch:
            self._lengths[part.sequence] += len(part.token_ids)
            first = row
            for token in part.token_ids[len(part.token_ids) - part.num_logits :]:
                self._pointed.append((row, self._next(token)))
                self._scores[self._pointed[-1]] = 1.0
                row += 1
            views.append(self._scores[first:row])
        return views

    def _next(self, token: int) -> int:
        errs = self._is_draft and token % 4 == 0
        return (token * 5 + 3 + errs) % N_VOCAB

    def rewind(self, sequence: int, length: int) -> None:
        """Cut a sequence back."""
        assert 0 <= length <= self._lengths[sequence]
        self._lengths[sequence] = length

    def save(self, sequence: int) -> bytes:
        """Return its length."""
        return self._lengths[sequence].to_bytes(4, "little")

    def restore(self, sequence: int, state: bytes) -> None:
        """Set its length."""
        self._lengths[sequence] = int.from_bytes(state, "little")

    def close(self) -> None:
        """Free nothing."""


class NullTokenizer:
    """One token a character, and no end of text."""

    vocabulary_hash = "null"
    n_vocab = N_VOCAB
    end_token_ids: frozenset[int] = frozenset()

    def encode(self, text: str, *, parse_special: bool = False, add_special: bool = False) -> list[int]:  # noqa: ARG002
        """Return the code points of a text."""
        return [ord(character) % N_VOCAB for character in text]

    def token_bytes(self, token_id: int) -> bytes:
        """Return a letter."""
        return b"abcdefgh"[token_id % 8 :][:1]

    def apply_chat_template(self, messages: Sequence[ChatMessage], **variables: Any) -> str:  # noqa: ARG002
        """Return the messages as they are."""
        return "\n".join(message.content for message in messages)
