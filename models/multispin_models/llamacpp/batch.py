"""Rows as llama.cpp takes them: one llama_batch over memory that is allocated once."""

import ctypes
from typing import Any

import llama_cpp.llama_cpp as lib

from multispin_models.language_model import Rows

__all__ = ["RowBatch"]


class RowBatch:
    """One llama_batch over C arrays that are allocated once and filled by slices.

    Plain ctypes and Python: after a forward pass the processor's caches are cold, and each numpy routine costs tens of
    microseconds there.
    """

    def __init__(self, max_rows: int) -> None:
        # Any: the stubs of ctypes do not know that a slice takes every sequence
        self.tokens: Any = (ctypes.c_int32 * max_rows)()
        self.positions: Any = (ctypes.c_int32 * max_rows)()
        self.sequences: Any = (ctypes.c_int32 * max_rows)()
        self.scored: Any = (ctypes.c_int8 * max_rows)()
        self._ones = (ctypes.c_int32 * max_rows)(*[1] * max_rows)
        first = ctypes.addressof(self.sequences)
        self._sequence_pointers = (ctypes.c_void_p * max_rows)(*range(first, first + 4 * max_rows, 4))
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
            setattr(self.struct, name, ctypes.cast(array, types[name]))

    def put(self, row: int, part: Rows, position: int) -> int:
        """Write the rows of one part from `row` on, and return the next free row."""
        size = len(part.token_ids)
        end = row + size
        self.tokens[row:end] = part.token_ids
        self.positions[row:end] = range(position, position + size)
        self.sequences[row:end] = [part.sequence] * size
        self.scored[row:end] = [0] * (size - part.num_logits) + [1] * part.num_logits
        return end
