"""A model that llama.cpp computes: many sequences in one decode, each cut back at will.

Settings on which exactness hangs: flash attention off, one cache a sequence (`kv_unified` off), and a build without
LLAMAFILE and REPACK. Measured in DESIGN section 1; `probes.probe_exactness` says whether it holds here.
"""

import ctypes
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import llama_cpp.llama_cpp as lib
import numpy as np

from multispin_models.errors import EngineFault, LimitError, ModelError, UnsupportedModel
from multispin_models.language_model import Logits, ModelInfo, Rows
from multispin_models.llamacpp.engine_log import recent_errors, recorded_log
from multispin_models.llamacpp.gguf_file import GgufFile, engine_version, open_gguf
from multispin_models.llamacpp.tokenizer import LlamaCppTokenizer

__all__ = ["LlamaCppModel", "load_llamacpp"]

_logger = logging.getLogger(__name__)
_FLASH_ATTENTION_OFF = 0
_NO_ROOM = 1  # llama_decode: no slot in the cache, nothing was changed
_BUFFER_SIZE = re.compile(r"(?:model|KV|compute|output) buffer size = +([0-9.]+) MiB")


class _Batch:
    """One llama_batch over numpy arrays, allocated once and filled by slices."""

    def __init__(self, max_rows: int, n_ctx: int) -> None:
        self.tokens = np.zeros(max_rows, np.int32)
        self.positions = np.zeros(max_rows, np.int32)
        self.sequences = np.zeros(max_rows, np.int32)
        self.scored = np.zeros(max_rows, np.int8)
        self._ones = np.ones(max_rows, np.int32)
        self._sequence_pointers = self.sequences.ctypes.data + 4 * np.arange(max_rows, dtype=np.uintp)
        self._counting = np.arange(n_ctx, dtype=np.int32)
        self.struct = lib.llama_batch()
        fields = (
            ("token", self.tokens),
            ("pos", self.positions),
            ("n_seq_id", self._ones),
            ("seq_id", self._sequence_pointers),
            ("logits", self.scored),
        )
        types = dict(lib.llama_batch._fields_)
        for name, array in fields:
            setattr(self.struct, name, ctypes.cast(array.ctypes.data, types[name]))

    def put(self, row: int, part: Rows, position: int) -> int:
        """Write the rows of one part from `row` on, and return the next free row."""
        end = row + len(part.token_ids)
        self.tokens[row:end] = part.token_ids
        self.positions[row:end] = self._counting[position : position + end - row]
        self.sequences[row:end] = part.sequence
        self.scored[row : end - part.num_logits] = 0
        self.scored[end - part.num_logits : end] = 1
        return end


class LlamaCppModel:
    """`LanguageModel` on llama.cpp. Made by `load_llamacpp`."""

    def __init__(self, file: GgufFile, context: Any, info: ModelInfo, tokenizer: LlamaCppTokenizer) -> None:
        self._file = file
        self._context = context
        self._memory = lib.llama_get_memory(context)
        self._info = info
        self._tokenizer = tokenizer
        self._lengths: list[int | None] = [None] * info.max_sequences  # None: not open
        self._batch = _Batch(info.max_rows, info.n_ctx)

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
        parts = sorted(batch, key=lambda part: part.sequence)
        starts = self._check(parts)
        rows = 0
        for part, start in zip(parts, starts, strict=True):
            rows = self._batch.put(rows, part, start)
        tokens = self._batch.tokens[:rows]
        if rows == 0 or tokens.min() < 0 or tokens.max() >= self._info.n_vocab:
            raise ValueError(f"a batch of {rows} rows needs 1 row and token ids of 0 to {self._info.n_vocab - 1}")
        self._batch.struct.n_tokens = rows
        code = lib.llama_decode(self._context, self._batch.struct)
        if code != 0:
            self._fail(code, parts, starts)
        for part, start in zip(parts, starts, strict=True):
            self._lengths[part.sequence] = start + len(part.token_ids)
        return self._logits(batch, parts)

    def _check(self, parts: list[Rows]) -> list[int]:
        """Return the length of every part's sequence, or raise with nothing changed."""
        starts = []
        rows, previous = 0, -1
        for part in parts:
            start, size = self.length(part.sequence), len(part.token_ids)
            if part.sequence == previous or not 0 <= part.num_logits <= size or size == 0:
                raise ValueError(
                    f"sequence {part.sequence}: {size} tokens, {part.num_logits} logits; "
                    "a sequence stands once in a batch, with a token at least and no more logits than tokens"
                )
            if start + size > self._info.n_ctx:
                raise LimitError(
                    f"sequence {part.sequence} would grow from {start} to {start + size} tokens, "
                    f"the context holds {self._info.n_ctx}"
                )
            starts.append(start)
            rows += size
            previous = part.sequence
        if rows > self._info.max_rows:
            raise LimitError(f"a batch of {rows} rows, allowed are {self._info.max_rows}: send it in chunks")
        return starts

    def _logits(self, batch: Sequence[Rows], parts: list[Rows]) -> list[Logits]:
        """Return views of llama.cpp's output buffer, in the caller's order; the buffer is in the order of `parts`."""
        n_vocab = self._info.n_vocab
        scored = sum(part.num_logits for part in parts)
        if scored == 0:
            return [np.empty((0, n_vocab), np.float32) for _ in batch]
        pointer = lib.llama_get_logits(self._context)
        if not pointer:
            raise EngineFault("llama.cpp gave no logits")
        values = (ctypes.c_float * (scored * n_vocab)).from_address(ctypes.addressof(pointer.contents))
        table: Logits = np.frombuffer(memoryview(values), np.float32).reshape(scored, n_vocab)
        views, end = {}, 0
        for part in parts:
            views[part.sequence] = table[end : end + part.num_logits]
            end += part.num_logits
        return [views[part.sequence] for part in batch]

    def _fail(self, code: int, parts: list[Rows], starts: list[int]) -> NoReturn:
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
        """Return a sequence's cache."""
        self.length(sequence)
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
        if read != len(state) or length > self._info.n_ctx:
            lib.llama_memory_seq_rm(self._memory, sequence, -1, -1)
            raise EngineFault(f"{len(state)} bytes are no state for sequence {sequence}: {recent_errors()}")
        self._lengths[sequence] = length

    def close(self) -> None:
        """Free the context; the weights go with the last user of the file."""
        if self._context is not None:
            lib.llama_free(self._context)
            self._context = None
            self._lengths = []


def load_llamacpp(
    path: Path, *, n_ctx: int, max_sequences: int, max_rows: int, num_threads: int, name: str | None = None
) -> LlamaCppModel:
    """Return a loaded model.

    Args:
        path: GGUF file.
        n_ctx: longest sequence, in tokens; each sequence has room of its own.
        max_sequences: open at once.
        max_rows: most rows of one pass.
        num_threads: of a pass.
        name: for people; the file's own name if not given.

    Raises:
        ModelError: the file cannot be loaded, or memory does not suffice.
        UnsupportedModel: the model cannot be rolled back.
    """
    with recorded_log() as log:
        file = open_gguf(path, vocab_only=False)
        trained = lib.llama_model_n_ctx_train(file.model)
        if n_ctx > trained:
            raise ModelError(f"n_ctx is {n_ctx}, model {path} was trained for {trained}: ask for that at most")
        context = _new_context(file, n_ctx, max_sequences, max_rows, num_threads)
    if not lib.llama_get_memory(context):
        lib.llama_free(context)
        raise UnsupportedModel(f"model {path} keeps no key/value cache: it is an encoder, take a decoder-only model")
    tokenizer = LlamaCppTokenizer(file)
    mebibytes = sum(float(match.group(1)) for line in log if (match := _BUFFER_SIZE.search(line)))
    info = ModelInfo(
        name=name or file.metadata("general.name") or path.stem,
        fingerprint=file.sha256(),
        vocabulary_hash=tokenizer.vocabulary_hash,
        engine="llamacpp",
        engine_version=engine_version(),
        recipe=file.recipe,
        n_vocab=tokenizer.n_vocab,
        n_ctx=n_ctx,
        max_sequences=max_sequences,
        max_rows=max_rows,
        num_threads=num_threads,
        exact=None,
        memory_bytes=int(mebibytes * (1 << 20)),
    )
    return LlamaCppModel(file, context, info, tokenizer)


def _new_context(file: GgufFile, n_ctx: int, max_sequences: int, max_rows: int, num_threads: int) -> Any:
    params = lib.llama_context_default_params()
    params.n_ctx = n_ctx * max_sequences
    params.n_seq_max = max_sequences
    params.n_batch = params.n_ubatch = params.n_outputs_max = params.n_outputs_max_per_seq = max_rows
    params.n_threads = params.n_threads_batch = num_threads
    params.flash_attn_type = _FLASH_ATTENTION_OFF
    params.offload_kqv = params.op_offload = False
    params.kv_unified = False
    params.swa_full = True  # keep positions that left the window, so that they can be rolled back to
    params.no_perf = True
    context = lib.llama_init_from_model(file.model, params)
    asked = f"{max_sequences} sequences of {n_ctx} tokens, {max_rows} rows"
    if not context:
        raise ModelError(f"llama.cpp cannot hold {asked} of {file.path}: {recent_errors()}; ask for less")
    given = (lib.llama_n_seq_max(context), lib.llama_n_ctx_seq(context), lib.llama_n_ubatch(context))
    if given[0] < max_sequences or given[1] < n_ctx or given[2] < max_rows:
        lib.llama_free(context)
        raise ModelError(f"llama.cpp gave {given[0]} sequences of {given[1]}, {given[2]} rows; asked were {asked}")
    return context
