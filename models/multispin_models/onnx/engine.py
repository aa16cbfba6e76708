"""A model that ONNX Runtime computes: rows of many sequences in one pass, every row the same bits in every batch."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from multispin_models.errors import ConfigError, EngineFault, LimitError, ModelError
from multispin_models.gguf_metadata import read_gguf_metadata
from multispin_models.language_model import Logits, ModelInfo, Rows
from multispin_models.onnx.arrangement import Part
from multispin_models.onnx.exported import FREQUENT_IDS, VOCABULARY_FILE, WEIGHTS_FILE, ExportManifest, read_export
from multispin_models.onnx.huge_pages import move_to_huge_pages
from multispin_models.onnx.own_ids import OwnIds
from multispin_models.onnx.session import MAX_ROWS, GraphSession
from multispin_models.onnx.variants import AttentionForm, CacheForm, Variant, WeightForm, exact_cache, exact_weights

__all__ = ["OnnxModel", "load_onnx"]

_MOST = {"n_ctx": 1 << 24, "num_threads": 512}


class OnnxModel:
    """`LanguageModel` on ONNX Runtime. Made by `load_onnx`. A sequence's number is its slot in the caches.

    Args:
        session: of the exported model.
        info: what is loaded.
        own_ids: of each slot, where the head is trimmed; otherwise none.
    """

    def __init__(self, session: GraphSession, info: ModelInfo, own_ids: Sequence[OwnIds] = ()) -> None:
        self._session: GraphSession | None = session
        self._info = info
        self._own_ids = own_ids
        self._lengths: list[int | None] = [None] * info.max_sequences  # None: not open

    @property
    def info(self) -> ModelInfo:
        """What is loaded."""
        return self._info

    def open_sequence(self) -> int:
        """Return the lowest free number: a pass looks at the slots up to the highest in it."""
        for sequence, length in enumerate(self._lengths):
            if length is None:
                self._lengths[sequence] = 0
                return sequence
        raise LimitError(f"all {len(self._lengths)} sequences are open: close one, or load with more `max_sequences`")

    def close_sequence(self, sequence: int) -> None:
        """Free a sequence."""
        self.rewind(sequence, 0)
        self._lengths[sequence] = None

    def length(self, sequence: int) -> int:
        """Return the number of tokens in an open sequence."""
        length = self._lengths[sequence] if 0 <= sequence < len(self._lengths) else None
        if length is None:
            raise ValueError(f"sequence {sequence} is not open")
        return length

    def forward(self, batch: Sequence[Rows]) -> list[Logits]:
        """Compute all parts in one pass; see `LanguageModel.forward`.

        A part of more than MAX_ROWS rows takes a pass of its own for each MAX_ROWS of them but the last.
        """
        starts = self._check(batch)
        leading: dict[int, list[Logits]] = {}
        parts = []
        for (sequence, token_ids, num_logits), start in zip(batch, starts, strict=True):
            done = (len(token_ids) - 1) // MAX_ROWS * MAX_ROWS
            for first in range(0, done, MAX_ROWS):
                left = len(token_ids) - first - MAX_ROWS
                asked = min(MAX_ROWS, max(0, num_logits - left))
                part = Part(sequence, start + first, token_ids[first : first + MAX_ROWS], asked)
                leading.setdefault(sequence, []).append(self._run([part])[0].copy())
            parts.append(Part(sequence, start + done, token_ids[done:], min(num_logits, len(token_ids) - done)))
        results = self._run(parts)
        for i, part in enumerate(parts):
            self._lengths[part.slot] = part.start + len(part.token_ids)
            if part.slot in leading:
                results[i] = np.concatenate([*leading[part.slot], results[i]])
        return results

    def _run(self, parts: Sequence[Part]) -> list[Logits]:
        assert self._session is not None
        computed = self._session.run(parts)
        ends = np.cumsum([part.num_logits for part in parts]).tolist()
        if computed.states is not None and computed.head_rows is not None:
            self._score_own_ids(parts, computed.logits, computed.states, computed.head_rows)
        return [computed.logits[end - part.num_logits : end] for part, end in zip(parts, ends, strict=True)]

    def _score_own_ids(self, parts: Sequence[Part], logits: Logits, states: Logits, head_rows: Logits) -> None:
        """Write the logits of the ids that a trimmed head lacks and a sequence has."""
        row = asked = 0
        for part in parts:
            own, end = self._own_ids[part.slot], part.start + len(part.token_ids)
            own.read(part.token_ids, part.start, head_rows[row:])
            for position in range(end - part.num_logits, end):
                own.score(states[asked], position, logits[asked])
                asked += 1
            row += len(part.token_ids)

    def _check(self, batch: Sequence[Rows]) -> list[int]:
        """Return the lengths before the pass.

        Raises:
            LimitError: too many rows or too long a sequence.
            ValueError: a batch that no caller should make.
        """
        rows = sum(len(part.token_ids) for part in batch)
        if rows > self._info.max_rows:
            raise LimitError(
                f"{rows} rows in one pass, the model was loaded for {self._info.max_rows}: split the batch"
            )
        if not batch or len({part.sequence for part in batch}) < len(batch):
            raise ValueError("a batch has at least one part, and each sequence at most once")
        starts = []
        for sequence, token_ids, num_logits in batch:
            start = self.length(sequence)
            if not 0 <= num_logits <= len(token_ids) or not len(token_ids):
                raise ValueError(f"sequence {sequence}: {len(token_ids)} rows, {num_logits} logits asked")
            if min(token_ids) < 0 or max(token_ids) >= self._info.n_vocab:
                raise ValueError(f"sequence {sequence}: a token id is outside of 0 to {self._info.n_vocab - 1}")
            if start + len(token_ids) > self._info.n_ctx:
                raise LimitError(
                    f"sequence {sequence} holds {start} tokens, {len(token_ids)} more do not fit into n_ctx = "
                    f"{self._info.n_ctx}: end it, or load with a larger n_ctx"
                )
            starts.append(start)
        return starts

    def rewind(self, sequence: int, length: int) -> None:
        """Cut a sequence back: what lies behind its length is never read."""
        current = self.length(sequence)
        if not 0 <= length <= current:
            raise ValueError(f"sequence {sequence} holds {current} tokens and cannot be cut back to {length}")
        self._lengths[sequence] = length
        if self._own_ids:
            self._own_ids[sequence].cut(length)

    def save(self, sequence: int) -> bytes:
        """Return a sequence's keys and values, and its own ids."""
        assert self._session is not None
        state: bytes = self._session.cache[:, sequence, :, : self.length(sequence)].tobytes()
        return state + self._own_ids[sequence].save() if self._own_ids else state

    def restore(self, sequence: int, state: bytes) -> None:
        """Put a saved state into an empty sequence.

        Raises:
            ValueError: the sequence is not empty.
            EngineFault: not a state of this model, or too long for the context; the sequence is left empty.
        """
        assert self._session is not None
        if self.length(sequence) != 0:
            raise ValueError(f"sequence {sequence} holds {self.length(sequence)} tokens, restore needs an empty one")
        cache = self._session.cache[:, sequence]  # [2 * layers, kv heads, capacity, head]
        token_bytes = cache[:, :, 0].nbytes
        values = self._own_ids[sequence].restore(state) if self._own_ids else state
        length, rest = (0, 1) if values is None else divmod(len(values), token_bytes)
        if values is None or rest or length > self._info.n_ctx:
            if self._own_ids:
                self._own_ids[sequence].cut(0)
            raise EngineFault(
                f"{len(state)} bytes are no state for sequence {sequence}: a token takes {token_bytes} bytes, "
                f"n_ctx is {self._info.n_ctx}"
            )
        shape = (*cache.shape[:2], length, cache.shape[3])
        cache[:, :, :length] = np.frombuffer(values, cache.dtype).reshape(shape)
        self._lengths[sequence] = length

    def close(self) -> None:
        """Free the session and the caches."""
        self._session = None
        self._lengths = []


def load_onnx(
    directory: Path,
    *,
    n_ctx: int,
    max_sequences: int,
    max_rows: int,
    num_threads: int,
    name: str | None = None,
    attention: AttentionForm = "folded",
    cache: CacheForm | None = None,
    weights: WeightForm | None = None,
) -> OnnxModel:
    """Return a loaded model.

    Args:
        directory: that `export_onnx` wrote.
        n_ctx: longest sequence, in tokens; each sequence has room of its own.
        max_sequences: open at once.
        max_rows: most rows of one pass.
        num_threads: of a pass.
        name: for people; the manifest's if not given.
        attention: "folded" is the faster one for few rows a sequence; both give the same bits.
        cache: of keys and values; if not given, the smallest that is exact on this machine.
        weights: of w8a8 products; if not given, the fastest that is exact on this machine.

    Raises:
        ConfigError: a number out of range.
        ModelError: the directory is not complete or was changed, the runtime cannot load it, or memory is too small.
    """
    _check_limits(n_ctx=n_ctx, max_sequences=max_sequences, max_rows=max_rows, num_threads=num_threads)
    manifest = read_export(directory)
    variant = Variant(attention, cache or exact_cache(), weights or exact_weights())
    trained = manifest.architecture.context_length
    if n_ctx > trained:
        raise ModelError(f"n_ctx is {n_ctx}, model {directory} was trained for {trained}: ask for that at most")
    try:
        session = GraphSession(
            directory,
            manifest,
            variant,
            n_ctx=n_ctx,
            slots=max_sequences,
            max_rows=max_rows,
            num_threads=num_threads,
        )
    except MemoryError as error:
        raise ModelError(
            f"no memory for {max_sequences} sequences of {n_ctx} tokens, {max_rows} rows of {directory}: ask for less"
        ) from error
    move_to_huge_pages()
    return OnnxModel(
        session,
        _describe(directory, manifest, session, n_ctx, max_sequences, max_rows, num_threads, name),
        _own_ids(directory, manifest, max_sequences) if manifest.recipe.trimmed else (),
    )


def _own_ids(directory: Path, manifest: ExportManifest, slots: int) -> list[OwnIds]:
    frequent = np.zeros(manifest.architecture.n_vocab, np.bool_)
    frequent[list(read_gguf_metadata(directory / VOCABULARY_FILE).get(FREQUENT_IDS, tuple) or ())] = True
    return [OwnIds(frequent, manifest.architecture.hidden_size) for _ in range(slots)]


def _check_limits(**limits: int) -> None:
    for name, value in limits.items():
        most = _MOST.get(name, 1 << 16)
        if not 1 <= value <= most:
            raise ConfigError(f"{name} is {value}, allowed are 1 to {most}")


def _describe(
    directory: Path,
    manifest: ExportManifest,
    session: GraphSession,
    n_ctx: int,
    max_sequences: int,
    max_rows: int,
    num_threads: int,
    name: str | None,
) -> ModelInfo:
    return ModelInfo(
        name=name or manifest.name,
        fingerprint=manifest.fingerprint,
        vocabulary_hash=manifest.vocabulary_hash,
        engine="onnx",
        engine_version=f"onnxruntime {onnxruntime.__version__} CPU",
        recipe=f"{manifest.recipe.name}, {session.cache.dtype} cache",
        n_vocab=manifest.architecture.n_vocab,
        n_ctx=n_ctx,
        max_sequences=max_sequences,
        max_rows=max_rows,
        num_threads=num_threads,
        exact=None,
        memory_bytes=(directory / WEIGHTS_FILE).stat().st_size + session.memory_bytes,
    )
