"""What an engine must offer: sequences that grow by rows, give logits, and can be cut back.

One protocol serves target and draft, llama.cpp and ONNX Runtime. A *sequence* is one session's state in the
engine (its key/value cache). A *row* is one token of one sequence in one forward pass. An engine is used by one
thread at a time and blocks while it computes; the shells run it in a worker thread.

    seq = model.open_sequence()
    [logits] = model.forward([Rows(seq, prompt_ids, 1)])      # [1, n_vocab]: the choice after the prompt
    [logits] = model.forward([Rows(seq, [t, d1, d2], 3)])     # three rows verified at once
    model.rewind(seq, model.length(seq) - 2)                  # d1, d2 rejected
    model.close_sequence(seq)
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

__all__ = ["ChatMessage", "LanguageModel", "Logits", "ModelInfo", "Rows", "Tokenizer", "prefill"]

Logits = npt.NDArray[np.float32]  # [rows, n_vocab]


class Rows(NamedTuple):
    """The rows of one sequence in one forward pass.

    Attributes:
        sequence: a number from `open_sequence`.
        token_ids: appended to the sequence, in order; at least one.
        num_logits: how many of the last rows are scored, 0 to len(token_ids).
    """

    sequence: int
    token_ids: Sequence[int]
    num_logits: int


class ModelInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is loaded, as it stands in records and in the handshake.

    Attributes:
        name: the model's name, for people.
        fingerprint: sha256 (hex) of the file that is served.
        vocabulary_hash: sha256 (hex) of the tokens, `models.vocabulary.vocabulary_hash`.
        engine: "llamacpp" or "onnx".
        engine_version: version of the library, with the build flags that matter.
        recipe: quantization as served, "BF16", "Q8_0", "w8a8", ...
        n_vocab: size of the vocabulary.
        n_ctx: longest sequence, in tokens.
        max_sequences: how many sequences can be open at once.
        max_rows: most rows of one forward pass.
        num_threads: threads of a forward pass.
        exact: whether a row's logits are the same to the last bit in every batch shape; null before the probe.
        memory_bytes: weights and caches, allocated at load.
    """

    name: str
    fingerprint: str
    vocabulary_hash: str
    engine: str
    engine_version: str
    recipe: str
    n_vocab: int
    n_ctx: int
    max_sequences: int
    max_rows: int
    num_threads: int
    exact: bool | None
    memory_bytes: int


class LanguageModel(Protocol):
    """A loaded model with a bounded set of sequences."""

    @property
    def info(self) -> ModelInfo:
        """What is loaded."""
        ...

    def open_sequence(self) -> int:
        """Return the number of a new, empty sequence.

        Raises:
            LimitError: all `max_sequences` are open.
        """
        ...

    def close_sequence(self, sequence: int) -> None:
        """Free a sequence; its number may be given out again."""
        ...

    def length(self, sequence: int) -> int:
        """Return the number of tokens that the sequence holds."""
        ...

    def forward(self, batch: Sequence[Rows]) -> list[Logits]:
        """Append each part's rows to its sequence, in one pass, and return the asked logits.

        Args:
            batch: parts of distinct open sequences, together at most `max_rows` rows.

        Returns:
            One array [num_logits, n_vocab] float32 a part, a view that is valid until the next call.

        Raises:
            LimitError: too many rows, or a sequence would outgrow `n_ctx`. Nothing was changed.
            EngineFault: the pass failed; the sequences of the batch must be closed.
        """
        ...

    def rewind(self, sequence: int, length: int) -> None:
        """Cut a sequence back to `length` tokens (0 to its length); the result is checked.

        Raises:
            EngineFault: the engine could not do it; the sequence must be closed.
        """
        ...

    def save(self, sequence: int) -> bytes:
        """Return the state of a sequence, to be restored in this process by `restore`."""
        ...

    def restore(self, sequence: int, state: bytes) -> None:
        """Give an open, empty sequence a state that `save` returned."""
        ...

    def close(self) -> None:
        """Free everything. The model must not be used after."""
        ...


class ChatMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One message of a conversation, as the chat template takes it."""

    role: str
    content: str


class Tokenizer(Protocol):
    """Text to token ids and back, for one vocabulary."""

    @property
    def vocabulary_hash(self) -> str:
        """The vocabulary, as in ModelInfo."""
        ...

    @property
    def n_vocab(self) -> int:
        """Number of tokens."""
        ...

    @property
    def end_token_ids(self) -> frozenset[int]:
        """Ids that end a generation (end of text, end of turn)."""
        ...

    def encode(self, text: str, *, parse_special: bool = False, add_special: bool = False) -> list[int]:
        """Return the ids of a text; `parse_special` reads "<|im_start|>" as one token."""
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes that a token stands for; b"" for control tokens."""
        ...

    def apply_chat_template(self, messages: Sequence[ChatMessage], **variables: Any) -> str:
        """Return the prompt text for a conversation, with the generation prompt at its end."""
        ...


def prefill(model: LanguageModel, sequence: int, token_ids: Sequence[int], chunk: int) -> Logits:
    """Append a prompt in chunks and return the logits after its last token.

    Args:
        model: any engine.
        sequence: an open sequence.
        token_ids: at least one.
        chunk: rows of one pass, 1 to the model's `max_rows`.

    Returns:
        [1, n_vocab] float32, a view that is valid until the next call.

    Raises:
        LimitError: the prompt does not fit; the chunks before the one that failed are in the sequence.
    """
    last = (len(token_ids) - 1) // chunk * chunk
    for start in range(0, last, chunk):
        model.forward([Rows(sequence, token_ids[start : start + chunk], 0)])
    return model.forward([Rows(sequence, token_ids[last:], 1)])[0]
