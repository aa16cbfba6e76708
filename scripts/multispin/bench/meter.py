"""What sampling a meter costs: processor time alone, and goodput beside a model that computes in the same process.

Blocks with the sampler and without it stand side by side in the order ABBA, so that a drift of the machine falls on
both alike; a pair of blocks gives one ratio, and the ratios one interval.
"""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import NamedTuple

from msgspec import Struct

from multispin_models.clock import monotonic_ns
from multispin_models.energy import Meter, Sampler
from multispin_models.energy.calibration import student_t_975
from multispin_models.language_model import LanguageModel, Rows, prefill

__all__ = ["Alone", "SideBySide", "beside_a_model", "sample_alone", "summarize_pairs"]

LEAST_PAIRS = 9  # the quantile of t is good from 8 degrees of freedom up
_CONTEXT = 64


class Alone(Struct, frozen=True, forbid_unknown_fields=True):
    """A sampler in a process that does nothing else.

    Attributes:
        hz: asked for.
        achieved_hz: of the samples; null below two.
        largest_gap_s: longest time without a sample.
        process_cpu_share, thread_cpu_share: processor time over time, of one core: of the whole process, and of the
            sampler's thread alone.
        mean_w: that the meter showed; null with `reason`. The difference between two rates is what sampling draws.
        num_failures: reads that failed.
        seconds: how long.
    """

    hz: float
    achieved_hz: float | None
    largest_gap_s: float | None
    process_cpu_share: float
    thread_cpu_share: float
    mean_w: float | None
    reason: str | None
    num_failures: int
    seconds: float


class SideBySide(Struct, frozen=True, forbid_unknown_fields=True):
    """Goodput with the sampler over goodput without it.

    Attributes:
        with_tokens_per_s, without_tokens_per_s: median of the blocks.
        ratio_mean: of the pairs.
        ratio_ci95: of the mean, by Student's t.
        thread_cpu_share: of one core, of the sampler's thread while the model computed.
        achieved_hz: lowest of the blocks; null if one had under two samples.
        pairs: number of pairs.
        block_s: length of a block.
    """

    with_tokens_per_s: float
    without_tokens_per_s: float
    ratio_mean: float
    ratio_ci95: tuple[float, float]
    thread_cpu_share: float
    achieved_hz: float | None
    pairs: int
    block_s: float


class _Block(NamedTuple):
    tokens_per_s: float
    thread_cpu_share: float
    achieved_hz: float | None


def sample_alone(meter: Meter, hz: float, seconds: float, wait: Callable[[float], None] = time.sleep) -> Alone:
    """Return what sampling costs for so long; closes the meter."""
    with Sampler(meter, hz) as sampler:
        begin_ns, begin_cpu_s = monotonic_ns(), time.process_time()
        wait(seconds)
        end_ns, end_cpu_s = monotonic_ns(), time.process_time()
        thread_s = sampler.cpu_s
        sampler.read_now()
        window = sampler.joules(begin_ns, end_ns)
    elapsed_s = (end_ns - begin_ns) / 1e9
    return Alone(
        hz=sampler.hz,
        achieved_hz=window.achieved_hz,
        largest_gap_s=window.largest_gap_s,
        process_cpu_share=(end_cpu_s - begin_cpu_s) / elapsed_s,
        thread_cpu_share=thread_s / elapsed_s,
        mean_w=window.joules / elapsed_s if window.joules is not None else None,
        reason=window.reason,
        num_failures=sampler.num_failures,
        seconds=elapsed_s,
    )


def beside_a_model(
    model: LanguageModel,
    open_meter: Callable[[], Meter],
    hz: float,
    *,
    pairs: int,
    block_s: float,
    on_pair: Callable[[int, int], None] = lambda _done, _total: None,
) -> SideBySide:
    """Return goodput with a sampler beside goodput without it.

    Args:
        model: drafts a row at a time in one sequence, at a context that stays the same.
        open_meter: gives the meter of a block, which is closed after it.
        hz: of the samples.
        pairs: of blocks, LEAST_PAIRS or more.
        block_s: length of a block.
        on_pair: told the pairs done and their total.
    """
    sequence = model.open_sequence()
    try:
        prefill(model, sequence, [1] * _CONTEXT, model.info.max_rows)
        _draft(model, sequence, None, block_s / 4.0)  # warm
        blocks: list[tuple[_Block, _Block]] = []  # with, without
        for i in range(pairs):
            first = _draft(model, sequence, Sampler(open_meter(), hz) if i % 2 == 0 else None, block_s)
            second = _draft(model, sequence, None if i % 2 == 0 else Sampler(open_meter(), hz), block_s)
            blocks.append((first, second) if i % 2 == 0 else (second, first))
            on_pair(i + 1, pairs)
    finally:
        model.close_sequence(sequence)
    return summarize_pairs(blocks, block_s)


def summarize_pairs(blocks: Sequence[tuple[_Block, _Block]], block_s: float) -> SideBySide:
    """Return the figures of pairs of blocks, with the sampler first."""
    ratios = [with_.tokens_per_s / without.tokens_per_s for with_, without in blocks]
    n = len(ratios)
    mean = statistics.fmean(ratios)
    half = student_t_975(n - 1) * statistics.stdev(ratios) / math.sqrt(n)
    rates = [with_.achieved_hz for with_, _ in blocks]
    known = [rate for rate in rates if rate is not None]
    return SideBySide(
        with_tokens_per_s=statistics.median(with_.tokens_per_s for with_, _ in blocks),
        without_tokens_per_s=statistics.median(without.tokens_per_s for _, without in blocks),
        ratio_mean=mean,
        ratio_ci95=(mean - half, mean + half),
        thread_cpu_share=statistics.fmean(with_.thread_cpu_share for with_, _ in blocks),
        achieved_hz=min(known) if len(known) == n else None,
        pairs=n,
        block_s=block_s,
    )


def _draft(model: LanguageModel, sequence: int, sampler: Sampler | None, seconds: float) -> _Block:
    """Compute a row after the other for so long, and ask for the joules of it."""
    num_tokens = 0
    with sampler or nullcontext():
        begin_ns = monotonic_ns()
        due_ns = begin_ns + round(seconds * 1e9)
        while (now_ns := monotonic_ns()) < due_ns:
            model.forward([Rows(sequence, [2], 1)])
            model.rewind(sequence, _CONTEXT)
            num_tokens += 1
        thread_s = sampler.cpu_s if sampler else 0.0
        window = sampler.joules(begin_ns, now_ns) if sampler else None  # samples not understood yet cost the block, too
        elapsed_s = (monotonic_ns() - begin_ns) / 1e9
    return _Block(num_tokens / elapsed_s, thread_s / elapsed_s, window.achieved_hz if window else None)
