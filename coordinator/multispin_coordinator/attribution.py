"""The joules of forward passes, shared out to their parts by rows; what is left over is kept in the account, too.

The rule. A pass costs what the meter's window from its begin to its end holds. Each part bears its rows' fraction, in
whole nanojoules; what the division leaves over goes to the part with the most rows. So the shares sum exactly to the
pass. A prompt's rows are prefill, a draft's are verification: the two stand apart. What the machine drew between passes
belongs to nobody: it is counted as that, and neither shared out nor subtracted, nor is the idle baseline.

Passes and the times between them follow each other without a gap, so all of them together are the meter's window over
the run, which is computed apart and recorded beside.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from multispin_models.clock import monotonic_ns
from multispin_models.energy import LongWindow, Sampler
from multispin_models.energy.meter import Label
from multispin_models.records import EnergyRecord, IdleBaseline, energy_record

__all__ = ["PassMeter", "split_by_rows"]

log = logging.getLogger(__name__)

QUICK_NS: Final = 2_000_000  # a sensor that takes longer to read would hold up every pass
QUICK_TRIES: Final = 8


def split_by_rows(nanojoules: int, rows: Sequence[int]) -> list[int]:
    """Return the share of every part; they sum to `nanojoules`.

    >>> split_by_rows(10, [1, 2])
    [3, 7]
    """
    total = sum(rows)
    shares = [nanojoules * count // total for count in rows]
    shares[max(range(len(rows)), key=rows.__getitem__)] += nanojoules - sum(shares)
    return shares


class PassMeter:
    """The account of one coordinator.

    Args:
        sampler: running, closed by `close`; null when there is no meter.
        idle: the baseline that was measured before.
        now_ns: the clock of the samples.
    """

    def __init__(
        self,
        sampler: Sampler | None,
        idle: IdleBaseline | None = None,
        now_ns: Callable[[], int] = monotonic_ns,
    ) -> None:
        self._sampler = sampler
        self._idle = idle
        self._now_ns = now_ns
        self._started_ns = self._settled_ns = now_ns()
        self._joules = 0.0  # of all that was settled
        self._nanojoules = 0  # the same, in whole ones
        self._attributed_nj = self._prefill_nj = self._between_nj = 0
        self._num_unknown = 0
        self._whole = None if sampler is None else LongWindow(sampler, self._started_ns)
        self._lock = threading.Lock()  # passes are settled in the engine's thread, the rest of the time in the loop's
        self._in_pass = False
        self._quick = sampler is None or self._is_quick(sampler)
        if not self._quick:
            log.warning("the meter is slow to read: joules of passes are not known, those of the run are")

    @property
    def label(self) -> Label | None:
        """Of its joules; null without a meter."""
        return None if self._sampler is None else self._sampler.info.label

    @property
    def idle(self) -> IdleBaseline | None:
        """The baseline that was measured before; null without a meter."""
        return self._idle

    def start(self) -> None:
        """Begin the account now: what came before, as loading the model, is no part of it."""
        if self._sampler is not None:
            self._sampler.read_now()
        self._started_ns = self._settled_ns = self._now_ns()
        self._whole = None if self._sampler is None else LongWindow(self._sampler, self._started_ns)

    def settle(self) -> None:
        """Count what was drawn up to now, before the sampler forgets it; not in a pass, which is settled at its end."""
        if self._sampler is None or self._whole is None:
            return
        with self._lock:
            if not self._in_pass:
                self._settle_idle(self._sampler, self._whole)

    def _settle_idle(self, sampler: Sampler, whole: LongWindow) -> int:
        """Count what nobody caused up to now; returns when that is."""
        now_ns = self._now_ns()
        sampler.read_now()
        whole.settle(now_ns)
        if self._quick:
            between = self._settle(now_ns)
            self._num_unknown += between is None
            self._between_nj += between or 0
        return now_ns

    def begin(self) -> int:
        """Note that a pass begins; returns when."""
        if self._sampler is None or not self._quick:
            return self._now_ns()
        with self._lock:
            self._in_pass = True
        self._sampler.read_now()
        return self._now_ns()

    def shares_nj(self, begun_ns: int, rows: Sequence[int], *, is_prefill: Sequence[bool]) -> list[int | None]:
        """Return the share of every part of the pass that began then and ends now; null where they are not known.

        Args:
            begun_ns: as `begin` gave it.
            rows: of every part; with none nothing was computed, and nothing is settled.
            is_prefill: of every part.
        """
        if self._sampler is None or not self._quick:
            return [None] * len(rows)
        with self._lock:
            self._in_pass = False
            return self._shares_nj(self._sampler, begun_ns, rows, is_prefill) if rows else []

    def _shares_nj(
        self, sampler: Sampler, begun_ns: int, rows: Sequence[int], is_prefill: Sequence[bool]
    ) -> list[int | None]:
        ended_ns = self._now_ns()
        sampler.read_now()
        between, spent = self._settle(begun_ns), self._settle(ended_ns)
        if between is None or spent is None:
            self._num_unknown += 1
            return [None] * len(rows)
        shares = split_by_rows(spent, rows)
        self._between_nj += between
        self._attributed_nj += spent
        self._prefill_nj += sum(share for share, prefill in zip(shares, is_prefill, strict=True) if prefill)
        return list(shares)

    def record(self, run_id: str) -> EnergyRecord | None:
        """Return the account from the start to now; None without a meter."""
        if self._sampler is None or self._whole is None:
            return None
        with self._lock:
            ended_ns = self._settle_idle(self._sampler, self._whole)
        window = self._whole.window()
        known = self._quick and self._num_unknown == 0
        return energy_record(
            run_id,
            "coordinator",
            self._started_ns,
            ended_ns,
            window,
            attributed_j=self._attributed_nj / 1e9 if known else None,
            prefill_j=self._prefill_nj / 1e9 if known else None,
            unattributed_j=self._between_nj / 1e9 if known else None,
            idle=self._idle,
            sampler_cpu_s=self._sampler.cpu_s,
        )

    def close(self) -> None:
        """End the sampler and free the meter."""
        if self._sampler is not None:
            self._sampler.stop()

    def _settle(self, until_ns: int) -> int | None:
        """Return the nanojoules since what was settled last; null if the samples do not carry them."""
        assert self._sampler is not None
        window = self._sampler.joules(self._settled_ns, until_ns, min_samples=0)
        self._settled_ns = until_ns
        if window.joules is None:
            return None
        self._joules += window.joules
        before, self._nanojoules = self._nanojoules, round(self._joules * 1e9)  # the parts sum to the rounded whole
        return max(0, self._nanojoules - before)

    @staticmethod
    def _is_quick(sampler: Sampler) -> bool:
        for _ in range(QUICK_TRIES):  # on a busy machine any one read may be held up
            begun_ns = time.monotonic_ns()
            sampler.read_now()
            if time.monotonic_ns() - begun_ns <= QUICK_NS:
                return True
        return False
