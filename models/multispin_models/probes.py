"""What a running engine really does: can it roll back, and is a row's result the same in every batch shape?

Both probes use only the `LanguageModel` protocol, open the sequences that they use, and close them again.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

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
    effect = float(np.abs(tainted - fresh[-2:]).max())
    difference = float(np.abs(after - fresh).max())
    if not difference <= _ROLLBACK_TOLERANCE * effect:  # a NaN fails too
        raise UnsupportedModel(
            f"model {model.info.name}: after a rollback logits are off by {difference:.3g}, where the rejected tokens "
            f"themselves make {effect:.3g}: its state keeps what was taken back; take a model with plain attention"
        )


def _one_by_one(model: LanguageModel, sequence: int, token_ids: Sequence[int]) -> Logits:
    """Return [len(token_ids), n_vocab], each row computed in a pass of its own, copied."""
    rows = [model.forward([Rows(sequence, [token], 1)])[0].copy() for token in token_ids]
    return np.concatenate(rows)


# One shape: yields (index of the first row, logits), to be compared before it goes on.
_Shape = Callable[[LanguageModel, Sequence[int], Sequence[int]], Iterator[tuple[int, Logits]]]


def _in_chunks(model: LanguageModel, sequences: Sequence[int], tokens: Sequence[int]) -> Iterator[tuple[int, Logits]]:
    """Rows of one sequence, 2, 3, 5, 7 and so on at a time, up to what a pass takes."""
    start = 0
    for size in itertools.cycle((2, 3, 5, 7, model.info.max_rows)):
        chunk = tokens[start : start + min(size, model.info.max_rows)]
        if not chunk:
            return
        yield start, model.forward([Rows(sequences[0], chunk, len(chunk))])[0]
        start += len(chunk)


def _side_by_side(
    model: LanguageModel, sequences: Sequence[int], tokens: Sequence[int]
) -> Iterator[tuple[int, Logits]]:
    """Several sequences in one pass, with unequal numbers of rows, each at another place of the text."""
    limit = model.info.max_rows // len(sequences)
    for step in range(2 * len(tokens)):
        batch = []
        for i, sequence in enumerate(sequences):
            start = model.length(sequence)
            chunk = tokens[start : start + min(1 + (step + 2 * i) % 5, limit)]
            if chunk:
                batch.append((start, Rows(sequence, chunk, len(chunk))))
        if not batch or limit == 0:
            return
        yield from zip([start for start, _ in batch], model.forward([rows for _, rows in batch]), strict=True)


def _with_rejected(
    model: LanguageModel, sequences: Sequence[int], tokens: Sequence[int]
) -> Iterator[tuple[int, Logits]]:
    """Two right rows before two wrong ones, which are then taken back."""
    if model.info.max_rows < 3:
        return
    wrong = _some_tokens(model, 2, stride=104729)
    for start in range(0, len(tokens) - 2, 2):
        right = tokens[start : start + 2]
        drafted = [*right, *wrong][: model.info.max_rows]
        yield start, model.forward([Rows(sequences[0], drafted, len(drafted))])[0][: len(right)]
        model.rewind(sequences[0], start + len(right))


def _after_restore(
    model: LanguageModel, sequences: Sequence[int], tokens: Sequence[int]
) -> Iterator[tuple[int, Logits]]:
    """The second half of the text, from the saved state of the first, in another sequence where there is one."""
    half = len(tokens) // 2
    prefill(model, sequences[0], tokens[:half], model.info.max_rows)
    state = model.save(sequences[0])
    model.rewind(sequences[0], 0)
    model.restore(sequences[-1], state)
    for start in range(half, len(tokens)):
        yield start, model.forward([Rows(sequences[-1], tokens[start : start + 1], 1)])[0]


_SHAPES: tuple[_Shape, ...] = (_in_chunks, _side_by_side, _with_rejected, _after_restore)
_ROWS_OF_ALL_SHAPES = 7  # rows that all shapes compute, for each token of the text, rounded up


def probe_exactness(model: LanguageModel, budget_s: float = 2.0) -> ExactnessReport:
    """Return how rows compare, to the last bit, between passes of one row and passes of other shapes.

    Args:
        model: with one free sequence at least; three are used if free.
        budget_s: how long it may take; the number of rows follows, at least 8 tokens are compared.
    """
    different = compared = 0
    largest = 0.0
    with _opened(model, 3) as sequences:
        tokens = _some_tokens(model, _affordable_tokens(model, sequences[0], budget_s))
        expected = _one_by_one(model, sequences[0], tokens)
        model.rewind(sequences[0], 0)
        for shape in _SHAPES:
            for first, logits in shape(model, sequences, tokens):
                wanted = expected[first : first + len(logits)]
                differs = (wanted.view(np.int32) != np.ascontiguousarray(logits).view(np.int32)).any(axis=1)
                compared += len(logits)
                different += int(differs.sum())
                if differs.any():
                    largest = max(largest, float(np.abs(wanted - logits).max()))
            for sequence in sequences:
                model.rewind(sequence, 0)
    return ExactnessReport(compared, different, largest, different == 0)


def _affordable_tokens(model: LanguageModel, sequence: int, budget_s: float) -> int:
    """Return how many tokens of text the probe can afford, from the time of a pass of one row and of eight."""
    size = min(8, model.info.max_rows)
    durations = []
    for rows in (1, 1, size):  # the first is slower than the others and not counted
        begun = time.monotonic()
        model.forward([Rows(sequence, _some_tokens(model, rows), rows)])
        durations.append(time.monotonic() - begun)
        model.rewind(sequence, 0)
    cost_s = durations[1] + _ROWS_OF_ALL_SHAPES * durations[2] / size
    return min(max(8, int(budget_s / cost_s)), 64, model.info.n_ctx - 4)
