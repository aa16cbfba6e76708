"""Where each row of a batch stands: pure arithmetic from parts to the index arrays of one pass.

Rows of all parts lie one below the other; attention sees them by slot, [slots, width]. The rule that keeps a row's bits
the same in every batch: a slot never has a lone row, because products of a single row take another kernel. The lone row
stands twice; the copy is written to the cache behind the sequence's end, where the next row overwrites it.

    >>> arrange([Part(slot=1, start=7, token_ids=[5], num_logits=1)]).slot_counts
    array([0, 2], dtype=int32)
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Arrangement", "LEAST_ROWS", "Part", "arrange"]

LEAST_ROWS = 2


class Part(NamedTuple):
    """The rows of one slot in one pass.

    Attributes:
        slot: of the cache.
        start: tokens that it holds already.
        token_ids: the rows.
        num_logits: how many of the last rows are scored.
    """

    slot: int
    start: int
    token_ids: Sequence[int]
    num_logits: int


class Arrangement(NamedTuple):
    """The small inputs of one pass, named as in the graph.

    Attributes:
        token_ids: int64 [rows]
        slot_rows: int64 [slots, width], which row stands at each place of a slot; any row where there is none.
        row_slots: int64 [rows], the place of each row in the flattened [slots * width].
        last_positions: int32 [slots], position of a slot's last row; 0 for a slot without rows.
        slot_counts: int32 [slots], rows of a slot, 0 or at least LEAST_ROWS.
        logit_rows: int64 [asked]
    """

    token_ids: npt.NDArray[np.int64]
    slot_rows: npt.NDArray[np.int64]
    row_slots: npt.NDArray[np.int64]
    last_positions: npt.NDArray[np.int32]
    slot_counts: npt.NDArray[np.int32]
    logit_rows: npt.NDArray[np.int64]


def arrange(parts: Sequence[Part]) -> Arrangement:
    """Return the index arrays of one pass over parts of distinct slots."""
    slots = 1 + max(part.slot for part in parts)
    width = max(LEAST_ROWS, max(len(part.token_ids) for part in parts))
    slot_rows = np.zeros((slots, width), np.int64)
    last_positions = np.zeros(slots, np.int32)
    slot_counts = np.zeros(slots, np.int32)
    token_ids: list[int] = []
    row_slots: list[npt.NDArray[np.int64]] = []
    logit_rows: list[int] = []
    for slot, start, ids, num_logits in parts:
        first, count = len(token_ids), len(ids)
        token_ids.extend(ids)
        slot_rows[slot, :count] = np.arange(first, first + count)
        slot_rows[slot, count:] = first
        slot_counts[slot] = max(count, LEAST_ROWS)
        last_positions[slot] = start + slot_counts[slot] - 1
        row_slots.append(np.arange(slot * width, slot * width + count))
        logit_rows.extend(range(first + count - num_logits, first + count))
    return Arrangement(
        np.array(token_ids, np.int64),
        slot_rows,
        np.concatenate(row_slots),
        last_positions,
        slot_counts,
        np.array(logit_rows, np.int64),
    )
