"""The coordinator's figures for Prometheus."""

from collections.abc import Iterable

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from multispin_coordinator.dispatcher import ALONE, Dispatcher
from multispin_models.api.prometheus import counter, counters, drafts, gauge, gauges, histogram
from multispin_models.energy.meter import Label

__all__ = ["CoordinatorCollector"]


class CoordinatorCollector(Collector):
    """Reads what the dispatcher has counted.

    Args:
        dispatcher: of the server.
        energy_label: of its joules; null without a meter.
    """

    def __init__(self, dispatcher: Dispatcher, energy_label: Label | None) -> None:
        self._dispatcher = dispatcher
        self._energy_label = energy_label

    def collect(self) -> Iterable[Metric]:
        """Yield the figures of now."""
        dispatcher, tally = self._dispatcher, self._dispatcher.tally
        sessions = list(dispatcher.sessions.values())
        held = sum(session.sequence is not None for session in sessions)
        own = sum(session.agent == ALONE for session in sessions)
        yield gauge("agents_connected", "Agents that were welcomed and are not silent", len(dispatcher.agents))
        yield gauges("sessions", "Open requests", "of", {"agents": len(sessions) - own, "own_users": own})
        yield gauge("sessions_without_sequence", "Of them, those that wait for a sequence", len(sessions) - held)
        yield gauge("sequences_kept", "Sequences kept for a next turn", dispatcher.num_kept_sequences)
        yield gauge("jobs_queued", "Drafts and prompts to be computed", sum(s.job is not None for s in sessions))
        yield from drafts(tally.drafts)
        tokens = {"cooperative": tally.num_tokens_cooperative, "alone": tally.num_tokens_alone}
        yield counters("committed_tokens", "Tokens committed: with agents, and for own users", "mode", tokens)
        yield histogram("batch_rows", "Rows of a forward pass", tally.rows)
        yield histogram("verify_seconds", "A forward pass and its choices", tally.verify_s)
        asked, aim = dispatcher.control.objective, dispatcher.control.aim
        in_force: dict[str, float] = {asked: float(aim.objective == asked), aim.objective: 1.0}
        yield gauges("objective_in_force", "1 for what is aimed at now; the log says why", "objective", in_force)
        line = tally.fit.estimate()
        if line is not None:
            parts = {"intercept": line.intercept, "slope_per_row": line.slope, "error": line.error}
            yield gauges("verify_fit_seconds", "Line through the last passes: seconds against rows", "part", parts)
        yield counter("received_bytes", "Payload from agents", tally.received_bytes)
        yield counter("sent_bytes", "Payload to agents", tally.sent_bytes)
        if self._energy_label is not None:
            joules: dict[str, float] = {self._energy_label: tally.energy_j}
            yield counters("pass_energy_joules", "Joules of passes that were metered", "label", joules)
        yield counter("unmetered_passes", "Passes whose joules are not known", tally.num_unmetered)
        yield counters("events", "What was refused, ignored or lost", "event", dict(dispatcher.counters))
