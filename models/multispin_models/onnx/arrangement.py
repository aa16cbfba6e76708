"""Where each row of a batch stands: pure arithmetic from parts to the index arrays of one pass.

Rows of all parts lie one below the other; attention sees them by slot, [slots, width], as the graph's `attention` says.
The rule that keeps a row's bits the same in every batch: a slot never has a lone row, because products of a single row
take another kernel, and has at least three places of filler behind its rows, because on arm64 the last one to three
keys, which do not fill a vector, take another kernel too. Filler is written to the cache behind the sequence's end,
where the next row overwrites it.

    >>> arrange([Part(slot=1, start=7, token_ids=[5], num_logits=1)], Heads(2, 2, False))["slot_counts"].tolist()
    [0, 4]
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["FILLER", "Heads", "Part", "arrange", "slot_width"]

FILLER: Final = 3  # least places behind the rows of a slot

Arrays = dict[str, npt.NDArray[Any]]


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


class Heads(NamedTuple):
    """Query heads, the key heads that they share, and the form of attention.

    Attributes:
        queries, keys: how many.
        folded: the query heads of a key head stand as rows below each other.
    """

    queries: int
    keys: int
    folded: bool

    @property
    def places(self) -> int:
        """Places that a row takes up in its slot."""
        return self.queries // self.keys if self.folded else 1


def slot_width(rows: int, heads: Heads) -> int:
    """Return how many places a slot with so many rows takes up behind its start: an even number."""
    places = max(rows * heads.places, rows + FILLER)
    return places + places % 2


def arrange(parts: Sequence[Part], heads: Heads) -> Arrays:
    """Return the small inputs of one pass over parts of distinct slots, named as in the graph."""
    token_ids: list[int] = []
    logit_rows: list[int] = []
    slots = 1 + max(part.slot for part in parts)
    firsts, starts, lengths = np.zeros((3, slots), np.int64)  # of each slot: first row, tokens held, rows
    for slot, start, ids, num_logits in parts:
        firsts[slot], starts[slot], lengths[slot] = len(token_ids), start, len(ids)
        token_ids.extend(ids)
        logit_rows.extend(range(len(token_ids) - num_logits, len(token_ids)))
    counts = np.array([slot_width(rows, heads) if rows else 0 for rows in lengths.tolist()])
    width = int(counts.max())
    ends = starts + counts
    places = np.arange(width)
    newest = np.maximum(lengths - 1, 0)[:, None]
    slot_rows = firsts[:, None] + np.minimum(places, newest)  # [slots, width]
    row_slot = np.repeat([part.slot for part in parts], [len(part.token_ids) for part in parts])  # [rows]
    row_place = np.arange(len(token_ids)) - firsts[row_slot]
    arrays: Arrays = {
        "token_ids": np.array(token_ids, np.int64),
        "logit_rows": np.array(logit_rows, np.int64),
        "slot_rows": slot_rows,
        "row_positions": (starts[row_slot] + row_place)[None],
        "last_positions": np.where(counts > 0, ends - 1, 0).astype(np.int32),
        "slot_counts": counts.astype(np.int32),
        "span": np.array(max(int(ends.max()), width), np.int32),
    }
    if not heads.folded:
        return arrays | {"row_slots": row_slot * width + row_place}
    tokens = np.minimum(places // heads.places, newest)  # [slots, width], which of a slot's rows stands at each place
    arrays |= _fold(arrays, heads, firsts[:, None] + tokens, places % heads.places)
    arrays["mask"] = _mask(starts[:, None] + tokens, int(arrays["span"]))
    arrays["folded_back"] = _fold_back(row_slot * width + row_place * heads.places, heads)
    return arrays


def _fold(arrays: Arrays, heads: Heads, rows: npt.NDArray[np.int64], within: npt.NDArray[np.int64]) -> Arrays:
    """Return which head of which row stands at each place, for rows of all query heads, then all key heads.

    Args:
        arrays: with `slot_rows`.
        heads: of the model.
        rows: [slots, width] row whose query heads stand there.
        within: [width] which query head of each group.
    """
    each = heads.queries + heads.keys
    key_heads = np.arange(heads.keys)
    return {
        "folded_queries": (rows * each + within)[..., None] + key_heads * heads.places,
        "folded_keys": (arrays["slot_rows"] * each + heads.queries)[..., None] + key_heads,
    }


def _fold_back(places: npt.NDArray[np.int64], heads: Heads) -> npt.NDArray[np.int64]:
    """Return [rows, query heads], where each head of each row stands in [slots * width * key heads]."""
    head = np.arange(heads.queries)
    return (places[:, None] + head % heads.places) * heads.keys + head // heads.places


def _mask(positions: npt.NDArray[np.int64], span: int) -> npt.NDArray[np.float32]:
    """Return [slots, 1, width, span], minus infinity where a key lies behind the place's position."""
    hidden = np.arange(span) > positions[..., None]
    return np.where(hidden, np.float32(-np.inf), np.float32(0.0))[:, None]
