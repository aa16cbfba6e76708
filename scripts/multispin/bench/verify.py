"""The time of one verification against its rows, sequences and context, for several engines side by side.

A verification is one `forward` with every row scored and the rewinds that take the rows back. All points of a context
are measured in turn, round after round, so that what else the machine does falls on all alike. In a round the points of
one model stand together, in random order, behind a pass that is not timed: no model pays for the caches that another
one filled. Contexts are measured one after the other, each in sequences of its own, since an engine's time may depend
on which sequences are open.
"""

import random
import time
from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import NamedTuple

from msgspec import Struct

from multispin.bench.percentile import percentile_90
from multispin_models.errors import LimitError
from multispin_models.language_model import LanguageModel, Rows, prefill

__all__ = ["Clock", "Point", "Shape", "Subject", "measure", "shapes_of"]

WARM_UP_ROUNDS = 2

Clock = Callable[[], int]


class Shape(NamedTuple):
    """Rows of a verification, spread over so many sequences as evenly as they go."""

    rows: int
    sequences: int

    def parts(self) -> list[int]:
        """Return the rows of each sequence, the longer ones first.

        >>> Shape(9, 4).parts()
        [3, 2, 2, 2]
        """
        each, left = divmod(self.rows, self.sequences)
        return [each + (i < left) for i in range(self.sequences)]


class Subject(NamedTuple):
    """A loaded model that is measured, and its name in the result: the pair that it is of."""

    pair: str
    model: LanguageModel


class Point(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The times of one shape on one model.

    Attributes:
        pair, engine, recipe, threads: the model.
        rows, sequences: the shape.
        context: tokens in every sequence before the rows.
        ms_median, ms_min, ms_p90: of `n` verifications.
        n: timed, after the warm-up.
    """

    pair: str
    engine: str
    recipe: str
    threads: int
    rows: int
    sequences: int
    context: int
    ms_median: float
    ms_min: float
    ms_p90: float
    n: int


def shapes_of(rows: Iterable[int], sequences: Iterable[int]) -> list[Shape]:
    """Return all shapes in which every sequence has a row at least."""
    numbers = list(rows)
    return [Shape(count, number) for number in sequences for count in numbers if count >= number]


def measure(
    subjects: Sequence[Subject],
    shapes: Sequence[Shape],
    context: int,
    *,
    repeat: int,
    seed: int,
    clock: Clock = time.perf_counter_ns,
    on_round: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[Point]:
    """Return the points of all subjects, subject by subject in the order of the shapes.

    Args:
        subjects: models with enough free sequences, rows and context.
        shapes: to be measured.
        context: tokens in every sequence.
        repeat: timed verifications of every point.
        seed: of the order in which points are measured.
        clock: nanoseconds.
        on_round: told the rounds done and their total.
    """
    order = random.Random(seed)  # noqa: S311 - an order, not a secret
    widest = max(shape.sequences for shape in shapes)
    opened: list[list[int]] = []
    times_ms: dict[tuple[int, Shape], list[float]] = {(i, shape): [] for i in range(len(subjects)) for shape in shapes}
    try:
        for subject in subjects:
            opened.append([])
            _open(subject.model, widest, context, opened[-1])
        for done in range(WARM_UP_ROUNDS + repeat):
            for i in order.sample(range(len(subjects)), len(subjects)):
                model, sequences = subjects[i].model, opened[i]
                _verify(model, sequences, Shape(1, 1), context, clock)
                for shape in order.sample(shapes, len(shapes)):
                    elapsed_ms = _verify(model, sequences, shape, context, clock)
                    if done >= WARM_UP_ROUNDS:
                        times_ms[i, shape].append(elapsed_ms)
            on_round(done + 1, WARM_UP_ROUNDS + repeat)
    finally:
        for subject, numbers in zip(subjects, opened, strict=False):
            for sequence in numbers:
                subject.model.close_sequence(sequence)
    return [_point(subjects[i], shape, context, times) for (i, shape), times in times_ms.items()]


def _open(model: LanguageModel, count: int, context: int, opened: list[int]) -> None:
    """Open sequences that hold the same context, and append their numbers."""
    tokens = _tokens(model, 0, context)
    opened.append(model.open_sequence())
    prefill(model, opened[0], tokens, model.info.max_rows)
    while len(opened) < count:
        opened.append(model.open_sequence())
        try:
            model.restore(opened[-1], model.save(opened[0]))
        except LimitError:  # a sliding window cannot be saved: computed once more
            prefill(model, opened[-1], tokens, model.info.max_rows)


def _verify(model: LanguageModel, sequences: Sequence[int], shape: Shape, context: int, clock: Clock) -> float:
    """Return the milliseconds of one verification; the sequences are as before."""
    batch = [
        Rows(sequence, _tokens(model, context + i, count), count)
        for i, (sequence, count) in enumerate(zip(sequences, shape.parts(), strict=False))
    ]
    started = clock()
    model.forward(batch)
    for part in batch:
        model.rewind(part.sequence, context)
    return (clock() - started) / 1e6


def _tokens(model: LanguageModel, start: int, count: int) -> list[int]:
    """Return tokens spread over the vocabulary; what they are does not change the time."""
    return [(1 + i * 7919) % model.info.n_vocab for i in range(start, start + count)]


def _point(subject: Subject, shape: Shape, context: int, times_ms: Sequence[float]) -> Point:
    info = subject.model.info
    return Point(
        pair=subject.pair,
        engine=info.engine,
        recipe=info.recipe,
        threads=info.num_threads,
        rows=shape.rows,
        sequences=shape.sequences,
        context=context,
        ms_median=median(times_ms),
        ms_min=min(times_ms),
        ms_p90=percentile_90(times_ms),
        n=len(times_ms),
    )
