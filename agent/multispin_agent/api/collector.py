"""The agent's figures for Prometheus."""

from collections.abc import Callable, Iterable

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from multispin_agent.request import Finished
from multispin_models.api.prometheus import counter, counters, drafts, gauge
from multispin_models.clock import monotonic_ns
from multispin_models.energy import Sampler
from multispin_models.tally import DraftTally

__all__ = ["AgentCollector"]


class AgentCollector(Collector):
    """Counts the requests that ended, and adds up the meter from one asking to the next.

    Args:
        meter: of this box, running; or the reason why there is none.
        num_kept: tells how many sequences of the draft are kept.
    """

    def __init__(self, meter: Sampler | str, num_kept: Callable[[], int] = lambda: 0) -> None:
        self._num_kept = num_kept
        self._drafts = DraftTally()
        self._up_bytes = self._down_bytes = self._num_reopens = 0
        self._meter = meter
        self._joules = 0.0
        self._num_gaps = 0
        self._counted_ns = monotonic_ns()

    def add(self, finished: Finished) -> None:
        """Count a request that has ended, well or not."""
        for timing in finished.rounds:
            if not timing.is_open:
                self._drafts.add(timing.num_draft_tokens, timing.verdict.num_accepted)
        self._up_bytes += finished.payload_up_bytes
        self._down_bytes += finished.payload_down_bytes
        self._num_reopens += finished.num_reopens

    def collect(self) -> Iterable[Metric]:
        """Yield the figures of now."""
        yield from drafts(self._drafts)
        yield gauge("sequences_kept", "Sequences of the draft kept for a next turn", self._num_kept())
        yield counter("sent_bytes", "Payload to the coordinator, of requests that ended", self._up_bytes)
        yield counter("received_bytes", "Payload from the coordinator, of requests that ended", self._down_bytes)
        yield counter("reopened_requests", "Requests opened again after a loss", self._num_reopens)
        yield gauge("meter_present", "Whether this box has an energy meter", not isinstance(self._meter, str))
        if isinstance(self._meter, Sampler):
            self._count_joules(self._meter)
            joules: dict[str, float] = {self._meter.info.label: self._joules}
            yield counters("energy_joules", "Joules of this box, as its meter covers it", "label", joules)
            yield counter("energy_gaps", "Stretches between two readings of this that were not covered", self._num_gaps)

    def _count_joules(self, meter: Sampler) -> None:
        meter.read_now()
        now_ns = monotonic_ns()
        joules = meter.joules(self._counted_ns, now_ns).joules
        if joules is None:
            self._num_gaps += 1
        else:
            self._joules += joules
        self._counted_ns = now_ns
