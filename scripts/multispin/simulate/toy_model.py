"""A language model that is a hash: exact, instant, and as strict as a real engine."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from multispin_models.errors import EngineFault, LimitError
from multispin_models.language_model import ChatMessage, Logits, ModelInfo, Rows

__all__ = ["END_TOKEN", "ToyModel", "ToyTokenizer"]

END_TOKEN = 0


@functools.cache
def _hashed_logits(tokens: tuple[int, ...], n_vocab: int, noise: float) -> Logits:
    own = np.random.default_rng([7, *tokens]).standard_normal(n_vocab) * 2.0
    if noise:
        own += np.random.default_rng([8, *tokens]).standard_normal(n_vocab) * noise
    own[END_TOKEN] -= 2.0
    logits: Logits = own.astype(np.float32)
    return logits


class ToyModel:
    """Logits are a function of the last three tokens; a sibling with `noise` agrees with it most of the time."""

    def __init__(
        self, *, n_vocab: int = 16, n_ctx: int = 96, max_sequences: int = 4, max_rows: int = 32, noise: float = 0.0
    ) -> None:
        self.info = ModelInfo(
            name="toy",
            fingerprint="toy",
            vocabulary_hash="toy",
            engine="toy",
            engine_version="1",
            recipe="none",
            n_vocab=n_vocab,
            n_ctx=n_ctx,
            max_sequences=max_sequences,
            max_rows=max_rows,
            num_threads=1,
            exact=True,
            memory_bytes=0,
        )
        self.noise = noise
        self.faults = 0  # forward passes that will fail
        self.passes: list[list[int]] = []  # rows of each part of every pass
        self._sequences: dict[int, list[int]] = {}

    def open_sequence(self) -> int:
        """Return a free number."""
        free = [s for s in range(self.info.max_sequences) if s not in self._sequences]
        if not free:
            raise LimitError(f"all {self.info.max_sequences} sequences are open")
        self._sequences[free[0]] = []
        return free[0]

    def close_sequence(self, sequence: int) -> None:
        """Free a sequence."""
        self.length(sequence)
        del self._sequences[sequence]

    def length(self, sequence: int) -> int:
        """Return its number of tokens."""
        if sequence not in self._sequences:
            raise ValueError(f"sequence {sequence} is not open")
        return len(self._sequences[sequence])

    def forward(self, batch: Sequence[Rows]) -> list[Logits]:
        """Feed rows and return the logits that were asked for."""
        self._check(batch)
        if self.faults:
            self.faults -= 1
            raise EngineFault("a planted fault")
        self.passes.append([len(part.token_ids) for part in batch])
        return [self._part(part) for part in batch]

    def _check(self, batch: Sequence[Rows]) -> None:
        if len({part.sequence for part in batch}) < len(batch):
            raise ValueError("a sequence stands once in a batch")
        for part in batch:
            length, rows = self.length(part.sequence), len(part.token_ids)
            if not rows or not 0 <= part.num_logits <= rows:
                raise ValueError(f"sequence {part.sequence}: {rows} rows, {part.num_logits} logits")
            if not 0 <= min(part.token_ids) <= max(part.token_ids) < self.info.n_vocab:
                raise ValueError(f"sequence {part.sequence}: a token is outside of 0 to {self.info.n_vocab - 1}")
            if length + rows > self.info.n_ctx:
                raise LimitError(f"{length} tokens and {rows} more do not fit into {self.info.n_ctx}")
        rows = sum(len(part.token_ids) for part in batch)
        if rows > self.info.max_rows:
            raise LimitError(f"{rows} rows, allowed are {self.info.max_rows}")

    def _part(self, part: Rows) -> Logits:
        tokens = self._sequences[part.sequence]
        tokens += part.token_ids
        ends = range(len(tokens) - part.num_logits + 1, len(tokens) + 1)
        rows = [_hashed_logits(tuple(tokens[max(0, end - 3) : end]), self.info.n_vocab, self.noise) for end in ends]
        return np.array(rows, np.float32).reshape(part.num_logits, self.info.n_vocab)

    def rewind(self, sequence: int, length: int) -> None:
        """Cut a sequence back."""
        if not 0 <= length <= self.length(sequence):
            held = self.length(sequence)
            raise ValueError(f"sequence {sequence} holds {held} tokens and cannot be cut back to {length}")
        del self._sequences[sequence][length:]

    def save(self, sequence: int) -> bytes:
        """Return its tokens, a byte each, behind their number."""
        tokens = self._sequences[sequence]
        return len(tokens).to_bytes(4, "big") + bytes(tokens)

    def restore(self, sequence: int, state: bytes) -> None:
        """Set its tokens."""
        if self.length(sequence):
            raise ValueError(f"sequence {sequence} holds tokens, restore needs an empty one")
        tokens = list(state[4:])
        if len(state) < 4 or len(tokens) != int.from_bytes(state[:4], "big"):
            raise EngineFault(f"{len(state)} bytes are no state for sequence {sequence}")
        self._sequences[sequence] = tokens

    def close(self) -> None:
        """Free everything."""
        self._sequences = {}

    @property
    def num_open(self) -> int:
        """Sequences that are open."""
        return len(self._sequences)


class ToyTokenizer:
    """Every id but the end is a letter."""

    vocabulary_hash = "toy"
    n_vocab = 16
    end_token_ids = frozenset({END_TOKEN})

    def encode(self, text: str, *, parse_special: bool = False, add_special: bool = False) -> list[int]:  # noqa: ARG002
        """Return the tokens of letters."""
        return [ord(letter) - 96 for letter in text]

    def token_bytes(self, token_id: int) -> bytes:
        """Return a letter."""
        return b"" if token_id == END_TOKEN else bytes([96 + token_id])

    def apply_chat_template(self, messages: Sequence[ChatMessage], **variables: Any) -> str:  # noqa: ARG002
        """Return the messages as they are."""
        return "".join(message.content for message in messages)
