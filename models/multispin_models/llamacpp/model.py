"""A model that llama.cpp computes: many sequences in one decode, each cut back at will.

One decode is one pass over the weights only where the sequences' numbers follow each other and all have the same
number of rows. llama.cpp splits any other batch into several passes (`llama_batch_allocr::split_equal`), with the same
results.
"""

import ctypes
import weakref
from collections.abc import Sequence
from operator import attrgetter
from typing import Any, NoReturn

import llama_cpp.llama_cpp as lib
import numpy as np

from multispin_models.errors import EngineFault, LimitError
from multispin_models.language_model import Logits, ModelInfo, Rows
from multispin_models.llamacpp.batch import RowBatch
from multispin_models.llamacpp.engine_log import recent_errors
from multispin_models.llamacpp.gguf_file import GgufFile
from multispin_models.llamacpp.tokenizer import LlamaCppTokenizer

__all__ = ["LlamaCppModel"]

_NO_ROOM = 1  # llama_decode: no slot in the cache, nothing was changed
_sequence_of = attrgetter("sequence")


class LlamaCppModel:
    """`LanguageModel` on llama.cpp. Made by `load_llamacpp`."""

    def __init__(self, file: GgufFile, context: Any, info: ModelInfo, tokenizer: LlamaCppTokenizer) -> None:
        self._file = file
        self._context = context
        self._free = weakref.finalize(self, lib.llama_free, context)  # before the weights, which `file` holds
        self._memory = lib.llama_get_memory(context)
        self._info = info
        self._tokenizer = tokenizer
        self._window = int(lib.llama_model_n_swa(file.model))  # 0: no sliding window
        self._lengths: list[int | None] = [None] * info.max_sequences  # None: not open
        self._batch = RowBatch(info.max_rows)
        self._table: Logits = np.empty((0, info.n_vocab), np.float32)  # llama.cpp's output buffer
        self._table_address = 0

    @property
    def info(self) -> ModelInfo:
        """What is loaded."""
        return self._info

    @property
    def tokenizer(self) -> LlamaCppTokenizer:
        """The tokenizer of the same file; outlives `close`."""
        return self._tokenizer

    def open_sequence(self) -> int:
        """Return the lowest free number: neighbours are computed in one pass, gaps split it."""
        for sequence, length in enumerate(self._lengths):
            if length is None:
                self._lengths[sequence] = 0
                return sequence
        raise LimitError(f"all {len(self._lengths)} sequences are open: close one, or load with more `max_sequences`")

    def close_sequence(self, sequence: int) -> None:
        """Free a sequence."""
        self.length(sequence)
        lib.llama_memory_seq_rm(self._memory, sequence, -1, -1)
        self._lengths[sequence] = None

    def length(self, sequence: int) -> int:
        """Return the number of tokens in an open sequence."""
        length = self._lengths[sequence] if 0 <= sequence < len(self._lengths) else None
        if length is None:
            raise ValueError(f"sequence {sequence} is not open")
        return length

    def forward(self, batch: Sequence[Rows]) -> list[Logits]:
        """Compute all parts in one `llama_decode`; see `LanguageModel.forward`."""
        # llama.cpp puts sequences into one pass only where their numbers follow each other.
        parts = sorted(batch, key=_sequence_of) if len(batch) > 1 else batch
        starts = self._check(parts)
        rows = 0
        for part, start in zip(parts, starts, strict=True):
            rows = self._batch.put(rows, part, start)
        self._batch.struct.n_tokens = rows
        code = lib.llama_decode(self._context, self._batch.struct)
        if code != 0:
            self._fail(code, parts, starts)
        for part, start in zip(parts, starts, strict=True):
            self._lengths[part.sequence] = start + len(part.token_ids)
        return self._logits(batch, parts)

    def _check(self, parts: Sequence[Rows]) -> list[int]:
        """Return the length of every part's sequence, or raise with nothing changed."""
        starts: list[int] = []
        rows, previous = 0, -1
        for part in parts:
            start, size = self.length(part.sequence), len(part.token_ids)
            if part.sequence == previous or not 0 <= part.num_logits <= size or size == 0:
                raise ValueError(
                    f"sequence {part.sequence}: {size} tokens, {part.num_logits} logits; "
                    "a sequence stands once in a batch, with a token at least and no more logits than tokens"
                )
            if not 0 <= min(part.token_ids) <= max(part.token_ids) < self._info.n_vocab:
                raise ValueError(
                    f"sequence {part.sequence}: token ids {min(part.token_ids)} to {max(part.token_ids)}, "
                    f"allowed are 0 to {self._info.n_vocab - 1}"
                )
            if start + size > self._info.n_ctx:
                raise LimitError(
                    f"sequence {part.sequence} would grow from {start} to {start + size} tokens, "
                    f"the context holds {self._info.n_ctx}"
                )
            starts.append(start)
            rows += size
            previous = part.sequence
        if not 0 < rows <= self._info.max_rows:
            raise LimitError(f"a batch of {rows} rows, allowed are 1 to {self._info.max_rows}: send it in chunks")
        return starts

    def _logits(self, batch: Sequence[Rows], parts: Sequence[Rows]) -> list[Logits]:
        """Return views of llama.cpp's output buffer, in the caller's order; the buffer is in the order of `parts`."""
        n_vocab = self._info.n_vocab
        scored = sum(part.num_logits for part in parts)
        if scored == 0:
            return [np.empty((0, n_vocab), np.float32) for _ in batch]
        pointer = lib.llama_get_logits(self._context)
        if not pointer:
            raise EngineFault("llama.cpp gave no logits")
        address = ctypes.addressof(pointer.contents)
        if address != self._table_address or scored > len(self._table):
            values = (ctypes.c_float * (scored * n_vocab)).from_address(address)
            self._table = np.frombuffer(memoryview(values), np.float32).reshape(scored, n_vocab)
            self._table_address = address
        table = self._table
        if len(parts) == 1:
            return [table[:scored]]
        views, end = {}, 0
        for part in parts:
            views[part.sequence] = table[end : end + part.num_logits]
            end += part.num_logits
        return [views[part.sequence] for part in batch]

    def _fail(self, code: int, parts: Sequence[Rows], starts: list[int]) -> NoReturn:
        """Cut the sequences back to what they were, and say what happened."""
        reason = recent_errors()
        if code == _NO_ROOM:
            raise LimitError(f"llama.cpp found no room in its cache for {len(parts)} sequences: {reason}")
        kept = [self._cut(part.sequence, start) for part, start in zip(parts, starts, strict=True)]
        state = "was cut back" if all(kept) else "could not be cut back"
        raise EngineFault(f"llama_decode returned {code} ({reason}); the state {state}, close the sequences")

    def _cut(self, sequence: int, length: int) -> bool:
        """Remove all positions from `length` on; return whether llama.cpp then holds exactly what is left."""
        removed = bool(lib.llama_memory_seq_rm(self._memory, sequence, length, -1))
        return removed and self._held(sequence) == length

    def _held(self, sequence: int) -> int:
        return int(lib.llama_memory_seq_pos_max(self._memory, sequence)) + 1

    def rewind(self, sequence: int, length: int) -> None:
        """Cut a sequence back; see `LanguageModel.rewind`."""
        current = self.length(sequence)
        if not 0 <= length <= current:
            raise ValueError(f"sequence {sequence} holds {current} tokens and cannot be cut back to {length}")
        if length == current:
            return
        if not self._cut(sequence, length):
            raise EngineFault(
                f"sequence {sequence} holds {self._held(sequence)} tokens after it was cut from {current} to {length}"
            )
        self._lengths[sequence] = length

    def save(self, sequence: int) -> bytes:
        """Return a sequence's cache.

        Raises:
            LimitError: longer than a sliding window. llama.cpp leaves out what has left the window
                (`llama_kv_cache::state_write`), so a rollback after `restore` would miss it without a word.
        """
        length = self.length(sequence)
        if 0 < self._window < length:
            raise LimitError(
                f"sequence {sequence} holds {length} tokens, a state of this sliding-window model has at most "
                f"{self._window}: compute the text again instead"
            )
        size = lib.llama_state_seq_get_size(self._context, sequence)
        buffer = np.empty(size, np.uint8)
        pointer = buffer.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        if lib.llama_state_seq_get_data(self._context, pointer, size, sequence) != size:
            raise EngineFault(f"the state of sequence {sequence} could not be saved: {recent_errors()}")
        return buffer.tobytes()

    def restore(self, sequence: int, state: bytes) -> None:
        """Put a saved cache into an empty sequence.

        Raises:
            ValueError: the sequence is not empty.
            EngineFault: not a state of this model, or too long for the context; the sequence is left empty.
        """
        if self.length(sequence) != 0:
            raise ValueError(f"sequence {sequence} holds {self.length(sequence)} tokens, restore needs an empty one")
        buffer = np.frombuffer(state, np.uint8)
        pointer = buffer.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        read = lib.llama_state_seq_set_data(self._context, pointer, len(state), sequence)
        length = self._held(sequence)
        if not 0 < read == len(state) or length > self._info.n_ctx:
            lib.llama_memory_seq_rm(self._memory, sequence, -1, -1)
            raise EngineFault(f"{len(state)} bytes are no state for sequence {sequence}: {recent_errors()}")
        self._lengths[sequence] = length

    def close(self) -> None:
        """Free the context; the weights go with the last user of the file."""
        self._free()
        self._context = None
        self._lengths = []
