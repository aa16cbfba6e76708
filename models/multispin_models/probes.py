"""What a running engine really does: can it roll back, and is a row's result the same in every batch shape?

Both probes use only the `LanguageModel` protocol, open the sequences that they use, and close them again.
"""

import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import msgspec
import numpy as np

from multispin_models.errors import EngineFault, LimitError, UnsupportedModel
from multispin_models.language_model import LanguageModel, Logits, Rows, prefill

__all__ = ["ExactnessReport", "probe_exactness", "probe_rollback"]

# A rollback that fails leaves about the whole effect of the rejected tokens; repeated in the same batch shapes, an
# engine's own rounding is nothing (llama.cpp and ONNX Runtime on a CPU) or far below this share of it (a GPU).
_ROLLBACK_TOLERANCE = 0.02


class ExactnessReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How rows of the same tokens compared over batch shapes, bit for bit.

    Attributes:
        rows_compared: rows compared with the same row computed one by one.
        rows_different: of them, how many differed in any bit.
        max_difference: largest absolute difference of a logit.
        exact: none differed.
    """

    rows_compared: int
    rows_different: int
    max_difference: float
    exact: bool


@contextmanager
def _opened(model: LanguageModel, count: int) -> Iterator[list[int]]:
    """Open up to `count` sequences for a block, one at least, and close them whatever happens."""
    sequences = [model.open_sequence()]
    try:
        while len(sequences) < min(count, model.info.max_sequences):
            try:
                sequences.append(model.open_sequence())
            except LimitError:  # others are in use: the probe makes do with what is free
                break
        yield sequences
    finally:
        for sequence in sequences:
            model.close_sequence(sequence)


def _some_tokens(model: LanguageModel, count: int, stride: int = 7919) -> list[int]:
    """Return token ids spread over the vocabulary, always the same for one vocabulary size."""
    return [(1 + i * stride) % model.info.n_vocab for i in range(count)]


def probe_rollback(model: LanguageModel, length: int = 8) -> None:
    """Check that tokens can be taken back: after a rewind the model must score as if they had never been.

    Args:
        model: with one free sequence at least.
        length: tokens before the rewind, 2 at least; more than the window of a sliding-window model.

    Raises:
        UnsupportedModel: the engine refuses the rewind, or the scores after it are those of another text.
    """
    tokens = _some_tokens(model, length + 4)
    prompt, last, rejected, following = tokens[: length - 1], tokens[length - 1], tokens[length:-2], tokens[-2:]
    try:
        with _opened(model, 1) as [sequence]:
            prefill(model, sequence, prompt, model.info.max_rows)
            tainted = _one_by_one(model, sequence, [last, *rejected, *following])[-2:]
            model.rewind(sequence, length - 1)
            after = _one_by_one(model, sequence, [last, *following])
        with _opened(model, 1) as [sequence]:
            prefill(model, sequence, prompt, model.info.max_rows)
            fresh = _one_by_one(model, sequence, [last, *following])
    except EngineFault as error:
        raise UnsupportedModel(f"model {model.info.name} cannot be rolled back: {error}") from error
    effect, difference = _largest(tainted, fresh[-2:]), _largest(after, fresh)
    if not difference <= _ROLLBACK_TOLERANCE * effect:  # a NaN fails too
        raise UnsupportedModel(
            f"model {model.info.name}: after a rollback logits are off by {difference:.3g}, where the rejected tokens "
            f"themselves make {effect:.3g}: its state keeps what was taken back; take a model with plain attention"
        )


def _largest(a: Logits, b: Logits) -> float:
    """Return the largest difference; a trimmed head gives minus infinity on both sides, which is none."""
    with np.errstate(invalid="ignore"):
        return float(np.where(a == b, np.float32(0.0), np.abs(a - b)).max())


def _one_by_one(model: LanguageModel, sequence: int, token_ids: Sequence[int]) -> Logits:
    """Return [len(token_ids), n_vocab], each row computed in a pass of its own, copied."""
    rows = [model.forward([Rows(sequence, [token], 1)])[0].copy() for token in token_ids]
    return np.concatenate(rows)


class _Text(NamedTuple):
    """What all shapes compute: `tokens` after a context that is in every sequence already."""

    context: int
    tokens: list[int]

    def next_rows(self, model: LanguageModel, sequence: int, size: int) -> list[int]:
        """Return the next `size` tokens of a sequence, fewer at the end of the text."""
        start = model.length(sequence) - self.context
        return self.tokens[start : start + size]


_Compared = Iterator[tuple[int, Logits]]  # (index of the first row, logits): to be compared before a shape goes on


def _in_chunks(model: LanguageModel, sequences: Sequence[int], text: _Text) -> _Compared:
    """Rows of one sequence, 2, 3, 5, 7 and so on at a time, up to what a pass takes."""
    start = 0
    for size in itertools.cycle((2, 3, 5, 7, model.info.max_rows)):
        chunk = text.next_rows(model, sequences[0], min(size, model.info.max_rows))
        if not chunk:
            return
        yield start, model.forward([Rows(sequences[0], chunk, len(chunk))])[0]
        start += len(chunk)


def _side_by_side(model: LanguageModel, sequences: Sequence[int], text: _Text) -> _Compared:
    """Several sequences in one pass, with unequal numbers of rows, each at another place of the text."""
    sequences = sequences[: model.info.max_rows]
    limit = model.info.max_rows // len(sequences)
    for step in itertools.count():
        starts, batch = [], []
        for i, sequence in enumerate(sequences):
            chunk = text.next_rows(model, sequence, min(1 + (step + 2 * i) % 5, limit))
            if chunk:
                starts.append(model.length(sequence) - text.context)
                batch.append(Rows(sequence, chunk, len(chunk)))
        if not batch:
            return
        yield from zip(starts, model.forward(batch), strict=True)


def _with_rejected(model: LanguageModel, sequences: Sequence[int], text: _Text) -> _Compared:
    """Two right rows before two wrong ones, which are then taken back."""
    wrong = _some_tokens(model, 2, stride=104729)
    start = 0
    while right := text.next_rows(model, sequences[0], min(2, model.info.max_rows)):
        drafted = [*right, *wrong][: model.info.max_rows]
        yield start, model.forward([Rows(sequences[0], drafted, len(drafted))])[0][: len(right)]
        start += len(right)
        model.rewind(sequences[0], text.context + start)


def _singly(model: LanguageModel, sequences: Sequence[int], text: _Text) -> _Compared:
    """One row at a time after a context that was restored, or computed in small chunks."""
    for start, token in enumerate(text.tokens):
        yield start, model.forward([Rows(sequences[-1], [token], 1)])[0]


_SHAPES = (_in_chunks, _side_by_side, _with_rejected, _singly)


def probe_exactness(model: LanguageModel, budget_s: float = 2.0) -> ExactnessReport:
    """Return how rows compare, to the last bit, between passes of one row and passes of other shapes.

    The context before the rows is computed in the largest chunks, in small ones, and restored from a saved state. What
    the budget does not reach is not seen: kernels can change with the length (llama.cpp's flash attention does at 64
    rows, which is why the context has some more, and at 512 cells), so a longer look is worth its time where a machine
    is set up.

    Args:
        model: with one free sequence at least; three are used if free.
        budget_s: how long it may take; lengths follow from it, at least 8 rows after a context of 72.
    """
    different = compared = 0
    largest = 0.0
    with _opened(model, 3) as sequences:
        length, rows = _affordable(model, sequences[0], budget_s)
        context, tokens = (all_tokens := _some_tokens(model, length + rows))[:length], all_tokens[length:]
        prefill(model, sequences[0], context, model.info.max_rows)
        expected = _one_by_one(model, sequences[0], tokens)
        model.rewind(sequences[0], length)
        _give_context(model, sequences, context)
        for shape in _SHAPES:
            for first, logits in shape(model, sequences, _Text(length, tokens)):
                wanted = expected[first : first + len(logits)]
                differs = (wanted.view(np.int32) != np.ascontiguousarray(logits).view(np.int32)).any(axis=1)
                compared += len(logits)
                different += int(differs.sum())
                if differs.any():
                    largest = max(largest, float(np.abs(wanted - logits).max()))
            for sequence in sequences:
                model.rewind(sequence, length)
    return ExactnessReport(compared, different, largest, different == 0)


def _give_context(model: LanguageModel, sequences: Sequence[int], context: Sequence[int]) -> None:
    """Put the context into all sequences but the first in other ways than the first got it.

    A single sequence has its own replaced. Saving may be bounded (sliding windows): then small chunks do.
    """
    small = min(5, model.info.max_rows)
    if len(sequences) == 1:
        model.rewind(sequences[0], 0)
    for sequence in sequences[-2:] if len(sequences) > 2 else sequences[-1:]:
        if sequence != sequences[0] and sequence == sequences[-1]:
            try:
                model.restore(sequence, model.save(sequences[0]))
                continue
            except LimitError:
                pass
        prefill(model, sequence, context, small)


def _affordable(model: LanguageModel, sequence: int, budget_s: float) -> tuple[int, int]:
    """Return the lengths of context and compared text that the budget allows, from passes of one row and of eight."""
    size = min(8, model.info.max_rows)
    durations = []
    for rows in (1, 1, size):  # the first is slower than the others and not counted
        begun = time.monotonic()
        model.forward([Rows(sequence, _some_tokens(model, rows), rows)])
        durations.append(time.monotonic() - begun)
        model.rewind(sequence, 0)
    row_s = durations[2] / size
    # A token of text costs two single rows and five in company; one of context is computed twice.
    token_s = 2 * durations[1] + 5 * row_s
    room = model.info.n_ctx - 4
    tokens = min(max(8, int(0.4 * budget_s / token_s)), 64, room // 2)
    context = min(max(72, int((budget_s - tokens * token_s) / (2 * row_s))), 1024, room - tokens)
    return context, tokens
