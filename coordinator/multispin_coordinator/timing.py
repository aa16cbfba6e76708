"""Times passes of the target before agents are served, so that the control knows what a row costs from the start.

Rows of one sequence after a short text; and of two sequences, once as many of each and once not, since an engine may
compute these apart (`passes.num_sweeps`). Sizes take turns, as they do later. Later passes, of many sequences and
longer texts, correct what this says.
"""

import time
from collections.abc import Callable, Sequence
from typing import Final

from multispin_coordinator.control.pass_cost import PassTime
from multispin_coordinator.passes import num_sweeps
from multispin_models.language_model import LanguageModel, Rows

__all__ = ["OF_TWO", "ROWS", "PassTime", "time_passes"]

CONTEXT: Final = 32  # tokens of the text that the rows follow
ROWS: Final = (1, 2, 3, 4, 8, 16)  # of one sequence
OF_TWO: Final = ((2, 2), (3, 1))  # of two
REPEATS: Final = 3  # of every size, after one that is not counted


def time_passes(model: LanguageModel, now_s: Callable[[], float] = time.perf_counter) -> list[PassTime]:
    """Return passes of a few sizes, each size a few times; the sequences are freed again."""
    info = model.info
    token = 1 % info.n_vocab
    context = min(CONTEXT, info.max_rows, info.n_ctx // 2)
    most = min(info.max_rows, info.n_ctx - context)
    sizes: list[Sequence[int]] = [(rows,) for rows in ROWS if rows <= most]
    if info.max_sequences > 1:
        sizes += [rows for rows in OF_TWO if sum(rows) <= most]
    sequences: list[int] = []
    times: list[PassTime] = []
    try:
        for _ in range(max(map(len, sizes))):
            sequences.append(model.open_sequence())
            model.forward([Rows(sequences[-1], [token] * context, 1)])
        for repeat in range(1 + REPEATS):
            for rows in sizes:
                parts = list(zip(sequences, rows, strict=False))
                begun_s = now_s()
                model.forward([Rows(sequence, [token] * count, count) for sequence, count in parts])
                seconds = now_s() - begun_s
                if repeat:
                    times.append(PassTime(sum(rows), seconds, num_sweeps(parts)))
                for sequence, _ in parts:
                    model.rewind(sequence, context)
    finally:
        for sequence in sequences:
            model.close_sequence(sequence)
    return times
