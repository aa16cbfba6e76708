"""The joules of an agent's box, shared out to its requests and their rounds.

The rule. At every instant the box's power is shared equally by the requests that are open then, whatever the draft
model computes for whom: waiting for a verdict costs as well. So the shares of all requests sum exactly to the meter's
window over the times at which any was open. While none was, the joules belong to nobody: they are counted as that. The
idle baseline is in all of it, and is never subtracted.
"""

import math
from bisect import bisect_right
from collections.abc import Callable
from itertools import pairwise
from typing import Final, NamedTuple

from multispin_models.clock import monotonic_ns
from multispin_models.energy import LongWindow, Sampler, Window
from multispin_models.records import EnergyRecord, IdleBaseline, energy_record
from multispin_models.records.journal import Account

__all__ = ["BoxEnergy", "account_of"]

_EDGES_KEPT: Final = 100_000  # the sampler remembers an hour, which holds fewer
_SHARES_KEPT: Final = 10_000


class _Edge(NamedTuple):
    """From then on so many requests were open."""

    t_ns: int
    num_open: int


def account_of(box: "BoxEnergy | str", run_id: str, agent_id: str) -> Account:
    """Return the account of this box for its journal.

    Args:
        box: its joules; or the reason why there are none.
        run_id, agent_id: in the record.
    """
    if isinstance(box, str):
        return Account(box, lambda: None, lambda: None)
    return Account(box.info, box.settle, lambda: box.record(run_id, agent_id))


class BoxEnergy:
    """Which requests were open when, and what the meter saw meanwhile.

    Args:
        sampler: running; closed by `close`.
        idle: the baseline that was measured before.
        now_ns: the clock of the samples.
    """

    def __init__(
        self, sampler: Sampler, idle: IdleBaseline | None = None, now_ns: Callable[[], int] = monotonic_ns
    ) -> None:
        self.info = sampler.info
        self.sampler = sampler
        self._idle = idle
        self._now_ns = now_ns
        self._started_ns = now_ns()
        self._edges = [_Edge(self._started_ns, 0)]
        self._shares: list[float | None] = []  # of the requests that have ended
        self._nobody: list[float | None] = []  # of what was settled while none was open
        self._whole = LongWindow(sampler, self._started_ns)

    def start(self) -> None:
        """Begin the account now, before the first request: what came before, as loading the model, is no part of it."""
        self.sampler.read_now()
        self._started_ns = self._now_ns()
        self._edges = [_Edge(self._started_ns, 0)]
        self._nobody = []
        self._whole = LongWindow(self.sampler, self._started_ns)

    def settle(self) -> int:
        """Count what was drawn up to now, before the sampler forgets it; returns when that is."""
        now_ns = self._now_ns()
        self.sampler.read_now()
        pieces = self._pieces(self._whole.settled_ns, now_ns)
        self._nobody = [_sum([*self._nobody, *(self._piece(a, b) for a, b, count in pieces if count == 0)])]
        self._whole.settle(now_ns)
        return now_ns

    def opened(self) -> int:
        """Note that a request is open from now on; returns when that is."""
        return self._note(1)

    def ended(self) -> int:
        """Note that a request is not open any more; returns when, with a sample so that the window can be asked."""
        t_ns = self._note(-1)
        self.sampler.read_now()
        return t_ns

    def joules(self, t0_ns: int, t1_ns: int) -> Window:
        """Return one request's share from t0 to t1, in all of which it was open; both are past."""
        whole = self.sampler.joules(t0_ns, t1_ns, min_samples=0)
        if whole.joules is None:
            return whole
        parts = [self._piece(a, b) for a, b, _ in self._pieces(t0_ns, t1_ns)]
        counts = [count for _, _, count in self._pieces(t0_ns, t1_ns)]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return whole._replace(joules=None, reason="the samples do not carry a part of the window")
        return whole._replace(joules=math.fsum(part / max(count, 1) for part, count in zip(known, counts, strict=True)))

    def add_share(self, joules: float | None) -> None:
        """Add what a request was given to the account of the run."""
        self._shares.append(joules)
        if len(self._shares) > _SHARES_KEPT:
            self._shares = [_sum(self._shares)]

    def record(self, run_id: str, agent_id: str) -> EnergyRecord:
        """Return the account from the start to now."""
        ended_ns = self.settle()
        return energy_record(
            run_id,
            f"agent:{agent_id}",
            self._started_ns,
            ended_ns,
            self._whole.window(),
            attributed_j=_sum(self._shares),
            unattributed_j=_sum(self._nobody),
            idle=self._idle,
            sampler_cpu_s=self.sampler.cpu_s,
        )

    def close(self) -> None:
        """End the sampler and free the meter."""
        self.sampler.stop()

    def _note(self, change: int) -> int:
        t_ns = max(self._now_ns(), self._edges[-1].t_ns)
        self._edges.append(_Edge(t_ns, self._edges[-1].num_open + change))
        if len(self._edges) > _EDGES_KEPT:
            del self._edges[: _EDGES_KEPT // 2]
        return t_ns

    def _piece(self, t0_ns: int, t1_ns: int) -> float | None:
        return self.sampler.joules(t0_ns, t1_ns, min_samples=0).joules

    def _pieces(self, t0_ns: int, t1_ns: int) -> list[tuple[int, int, int]]:
        """Return the pieces of a window, (from, to, requests open): within each it is the same number."""
        first = max(bisect_right(self._edges, t0_ns, key=_time) - 1, 0)
        inside = [edge for edge in self._edges[first:] if edge.t_ns < t1_ns]
        cuts = [*(max(edge.t_ns, t0_ns) for edge in inside), t1_ns]
        return [(a, b, edge.num_open) for (a, b), edge in zip(pairwise(cuts), inside, strict=True) if a < b]


def _time(edge: _Edge) -> int:
    return edge.t_ns


def _sum(parts: list[float | None]) -> float | None:
    known = [part for part in parts if part is not None]
    return math.fsum(known) if len(known) == len(parts) else None
