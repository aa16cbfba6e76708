"""Which layers a model can do without: a greedy search on how far its choices are from the target's.

In each round every layer that is still there is left out in turn, and the one whose absence costs least stays out. The
measure is that of training (`loss`), on text that the target wrote. What is left is a draft by itself, if few are left
out (`multispin models quantize --drop-layers`), or what training begins with (`multispin models distill --layers`).
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from multispin_models.distillation.batches import Batch
from multispin_models.distillation.loss import grade
from multispin_models.distillation.network import Student
from multispin_models.onnx.weights import Array

__all__ = ["Dropped", "drop_layers"]


class Dropped(NamedTuple):
    """A layer that was left out, and how the rest does.

    Attributes:
        layer: its number in the target.
        loss: mean nats a row without it and those before it.
        same_choice: share of rows where the first choice is the target's.
        left: layers that are still there, in order.
    """

    layer: int
    loss: float
    same_choice: float
    left: tuple[int, ...]


def drop_layers(
    student: Student, head: Array, places: npt.NDArray[np.int32], batch: Batch, count: int
) -> Iterator[Dropped]:
    """Leave out one layer after the other.

    Args:
        student: the target itself, all its layers.
        head: [N, hidden] rows of the target's head.
        places: [n_vocab] of an id in that head, -1 where it is not.
        batch: the rows that are graded; n layers and R rows take about n * n / 2 layer passes over R rows a round.
        count: how many, below the number of layers.
    """
    left = list(range(student.architecture.num_layers))
    for _ in range(count):
        stream, flow = student.begin(batch.sequences)
        tried: list[tuple[float, float, int]] = []
        for place, number in enumerate(left):
            without = stream
            for later in left[place + 1 :]:
                without, _ = student.layer(later, without, flow)
            states, _ = student.end(without, batch.rows)
            graded = grade(states, head, places, batch.top_ids, batch.top_log_probabilities, with_gradient=False)
            tried.append((graded.loss / len(states), float(graded.same.mean()), number))
            stream, _ = student.layer(number, stream, flow)
        loss, same, layer = min(tried)
        left.remove(layer)
        yield Dropped(layer, loss, same, tuple(left))
