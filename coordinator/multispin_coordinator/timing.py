"""Times passes of the target before agents are served, so that the control knows what a row costs from the start.

Rows of one sequence after a short text. Later passes, of many sequences and longer texts, correct what this says.
"""

import time
from collections.abc import Callable
from typing import Final

from multispin_models.language_model import LanguageModel, Rows

__all__ = ["ROWS", "PassTime", "time_passes"]

PassTime = tuple[int, float]

CONTEXT: Final = 32  # tokens of the text that the rows follow
ROWS: Final = (1, 2, 4, 8, 16)
REPEATS: Final = 3


def time_passes(model: LanguageModel, now_s: Callable[[], float] = time.perf_counter) -> list[PassTime]:
    """Return (rows, seconds) of passes of a few sizes, each size a few times; the sequence is freed again."""
    sequence = model.open_sequence()
    token = 1 % model.info.n_vocab
    times: list[PassTime] = []
    try:
        context = min(CONTEXT, model.info.max_rows, model.info.n_ctx // 2)
        model.forward([Rows(sequence, [token] * context, 1)])
        for rows in (rows for rows in ROWS if rows <= min(model.info.max_rows, model.info.n_ctx - context)):
            for _ in range(REPEATS):
                begun_s = now_s()
                model.forward([Rows(sequence, [token] * rows, rows)])
                times.append((rows, now_s() - begun_s))
                model.rewind(sequence, context)
    finally:
        model.close_sequence(sequence)
    return times
