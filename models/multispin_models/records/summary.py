"""The figures of a run, for the table and for `--json`. A figure that cannot be had is null, never 0.

Goodput is every verified token over the time from the first request's start to the last request's end, so waiting for
an agent counts and starting the daemons does not. Energy is that of the whole run by the rule of `run_energy.py`.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import median

import msgspec
from msgspec import Struct

from multispin_models.energy.meter import Label
from multispin_models.records.run_energy import RunEnergy, run_energy
from multispin_models.records.schema import EnergyRecord, Finish, RequestRecord, RoundRecord, RunHeader

__all__ = ["RequestSummary", "Summary", "summarize"]

_log = logging.getLogger(__name__)


class RequestSummary(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The figures of one request; as in Summary, over the request's own time from start to last token.

    Attributes:
        id, token_ids, text, finish, error: as in its record.
        energy_j_per_token: agent and coordinator together; null unless both were metered apart.
    """

    id: str
    token_ids: tuple[int, ...]
    text: str
    finish: Finish
    error: str | None
    tokens: int
    acceptance_rate: float | None
    mean_acceptance_length: float | None
    goodput_tokens_per_s: float | None
    ttft_s: float | None
    tpot_s: float | None
    payload_up_bytes_per_token: float | None
    payload_down_bytes_per_token: float | None
    energy_j_per_token: float | None
    energy_label: Label | None
    energy_reason: str | None


class Summary(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The figures of a run.

    Attributes:
        requests: asked for.
        completed: of them, ended without an error.
        tokens: verified, of all requests.
        text_differences: tokens that differ from those of the target alone; null if that was not checked.
        acceptance_rate: accepted / drafted; null if nothing was drafted.
        mean_acceptance_length: 1 + accepted / rounds; null without a round.
        goodput_tokens_per_s: tokens over the time from the first start to the last end.
        ttft_s_median, tpot_s_median: over the requests that have one.
        payload_up_bytes_per_token, payload_down_bytes_per_token: frames of all requests over tokens.
        energy_j_per_token: joules of the run's window, idle power included, over tokens.
        energy_label: of it; null if it is null.
        energy_reason: why it is null, or else what it covers.
        energy_agent_j_per_token, energy_agent_label, energy_agent_reason: the same of all agents alone.
        energy_coordinator_j_per_token, energy_coordinator_label, energy_coordinator_reason: of the coordinator alone.
        energy_network_j_per_token: payload both ways times the header's `network_nj_per_byte`; in no other figure.
        energy_network_label: "modelled"; null if it is null.
        energy_network_reason: why it is null, or else where the model is from.
        exact: the target's engine is exact to the last bit.
        per_request: in the order of the records.
    """

    requests: int
    completed: int
    tokens: int
    text_differences: int | None
    acceptance_rate: float | None
    mean_acceptance_length: float | None
    goodput_tokens_per_s: float | None
    ttft_s_median: float | None
    tpot_s_median: float | None
    payload_up_bytes_per_token: float | None
    payload_down_bytes_per_token: float | None
    energy_j_per_token: float | None
    energy_label: Label | None
    energy_reason: str | None
    energy_agent_j_per_token: float | None = None
    energy_agent_label: Label | None = None
    energy_agent_reason: str | None = None
    energy_coordinator_j_per_token: float | None = None
    energy_coordinator_label: Label | None = None
    energy_coordinator_reason: str | None = None
    energy_network_j_per_token: float | None = None
    energy_network_label: Label | None = None
    energy_network_reason: str | None = None
    exact: bool
    per_request: tuple[RequestSummary, ...]


def summarize(
    header: RunHeader,
    requests: Sequence[RequestRecord],
    rounds: Iterable[RoundRecord],
    text_differences: int | None,
    energy: Iterable[EnergyRecord] = (),
) -> Summary:
    """Return the figures of a run.

    Args:
        header: of the run.
        requests: one record a request; their instants are of one machine.
        rounds: of these requests; counted against the requests' own counts, and a difference is logged.
        text_differences: from a comparison with the target alone; null if there was none.
        energy: one record an end.
    """
    _count_rounds(requests, rounds)
    tokens = sum(request.num_generated for request in requests)
    drafted = sum(request.num_drafted for request in requests)
    accepted = sum(request.num_accepted for request in requests)
    num_rounds = sum(request.num_rounds for request in requests)
    energy = list(energy)
    joules = run_energy(header, energy)
    agents = _energy_of_ends(header, energy, "agent:")
    coordinator = _energy_of_ends(header, energy, "coordinator")
    network = _modelled_network(header, requests)
    return Summary(
        requests=len(requests),
        completed=sum(request.finish != "error" for request in requests),
        tokens=tokens,
        text_differences=text_differences,
        acceptance_rate=_ratio(accepted, drafted),
        mean_acceptance_length=_acceptance_length(accepted, num_rounds),
        goodput_tokens_per_s=_ratio(tokens, _span_s(requests)),
        ttft_s_median=_median([request.ttft_s for request in requests]),
        tpot_s_median=_median([request.tpot_s for request in requests]),
        payload_up_bytes_per_token=_ratio(sum(request.payload_up_bytes for request in requests), tokens),
        payload_down_bytes_per_token=_ratio(sum(request.payload_down_bytes for request in requests), tokens),
        energy_j_per_token=_ratio(joules.joules, tokens),
        energy_label=joules.label if tokens else None,
        energy_reason=joules.reason if tokens else "no token was generated",
        energy_agent_j_per_token=_ratio(agents.joules, tokens),
        energy_agent_label=agents.label if tokens else None,
        energy_agent_reason=agents.reason if tokens else "no token was generated",
        energy_coordinator_j_per_token=_ratio(coordinator.joules, tokens),
        energy_coordinator_label=coordinator.label if tokens else None,
        energy_coordinator_reason=coordinator.reason if tokens else "no token was generated",
        energy_network_j_per_token=_ratio(network.joules, tokens),
        energy_network_label=network.label if tokens else None,
        energy_network_reason=network.reason if tokens else "no token was generated",
        exact=header.exact,
        per_request=tuple(map(_summarize_request, requests)),
    )


def _energy_of_ends(header: RunHeader, energy: Sequence[EnergyRecord], prefix: str) -> RunEnergy:
    """Return the energy of the ends whose name begins so, each metered apart from the other ends."""
    ends = tuple(end for end in header.energy_meters if end.end.startswith(prefix))
    if not ends:
        return RunEnergy(None, None, f"no meter of its own ({prefix.rstrip(':')})")
    return run_energy(msgspec.structs.replace(header, energy_meters=ends), energy)


def _modelled_network(header: RunHeader, requests: Sequence[RequestRecord]) -> RunEnergy:
    """Return what the header's model makes of the payload; no meter sees the network."""
    notes = header.notes
    if notes is None or notes.network_nj_per_byte is None:
        return RunEnergy(None, None, "no model of the network was given")
    num_bytes = sum(request.payload_up_bytes + request.payload_down_bytes for request in requests)
    said = f"{notes.network_nj_per_byte:g} nJ a byte of payload both ways: {notes.network_source}; in no other figure"
    return RunEnergy(notes.network_nj_per_byte * num_bytes * 1e-9, "modelled", said)


def _summarize_request(request: RequestRecord) -> RequestSummary:
    tokens = request.num_generated
    agent_j, coordinator_j = request.energy_agent_j, request.energy_coordinator_j
    joules = (
        None if agent_j is None or coordinator_j is None or request.energy_label is None else agent_j + coordinator_j
    )
    return RequestSummary(
        id=request.id,
        token_ids=request.token_ids,
        text=request.text,
        finish=request.finish,
        error=request.error,
        tokens=tokens,
        acceptance_rate=_ratio(request.num_accepted, request.num_drafted),
        mean_acceptance_length=_acceptance_length(request.num_accepted, request.num_rounds),
        goodput_tokens_per_s=_ratio(tokens, request.e2e_s),
        ttft_s=request.ttft_s,
        tpot_s=request.tpot_s,
        payload_up_bytes_per_token=_ratio(request.payload_up_bytes, tokens),
        payload_down_bytes_per_token=_ratio(request.payload_down_bytes, tokens),
        energy_j_per_token=_ratio(joules, tokens),
        energy_label=None if joules is None else request.energy_label,
        energy_reason=request.energy_reason,
    )


def _count_rounds(requests: Sequence[RequestRecord], rounds: Iterable[RoundRecord]) -> None:
    """Log requests whose rounds are not those that their record counts: lines lost in a kill, or a fault of ours."""
    counted = Counter(record.wire_request_id for record in rounds if not record.is_open)
    for request in requests:
        found = counted[request.wire_request_id]
        if counted and found != request.num_rounds:
            _log.warning("request %s counts %d rounds, %d are recorded", request.id, request.num_rounds, found)


def _ratio(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole


def _acceptance_length(accepted: int, num_rounds: int) -> float | None:
    return 1.0 + accepted / num_rounds if num_rounds else None


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _span_s(requests: Sequence[RequestRecord]) -> float | None:
    if not requests:
        return None
    return (max(request.ended_ns for request in requests) - min(request.started_ns for request in requests)) / 1e9
