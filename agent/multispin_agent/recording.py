"""Records of a request and of its rounds, from what became of it. No I/O."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from multispin_agent.attribution import BoxEnergy
from multispin_agent.request import Finished, Request, RoundTiming, coordinator_energy_j
from multispin_models.energy.meter import Label
from multispin_models.records import RequestRecord, RoundRecord

__all__ = ["AgentEnergy", "Sources", "request_energy", "request_record", "round_records"]


class AgentEnergy(NamedTuple):
    """The share of a request in its agent's box.

    Attributes:
        joules: of all of it; null if the samples do not carry it.
        rounds: of each, in order; they sum to `joules`.
        label: of them.
        reason: why they are null; else null.
    """

    joules: float | None
    rounds: Sequence[float | None]
    label: Label
    reason: str | None


class Sources(NamedTuple):
    """What stands in all records of a request.

    Attributes:
        run_id, agent_id: as in the records.
        agent_energy: the share in its agent's box, or why there is none.
        coordinator_label: of the joules in verdicts; null if it has no meter.
    """

    run_id: str
    agent_id: str
    agent_energy: AgentEnergy | str
    coordinator_label: Label | None


def request_energy(box: BoxEnergy, finished: Finished, ended_ns: int) -> AgentEnergy:
    """Return the share of a request that has ended, and add it to the account of the box.

    A round lasts from the verdict before to its own, the last one until the request has ended; so they follow each
    other without a gap, and the request is all of them.
    """
    whole = box.joules(finished.started_ns, ended_ns)
    box.add_share(whole.joules)
    ends = [timing.received_ns for timing in finished.rounds]
    edges = [finished.started_ns, *ends[:-1], ended_ns]
    rounds = [box.joules(a, b).joules for a, b in pairwise(edges)] if ends else []
    return AgentEnergy(whole.joules, rounds, box.info.label, whole.reason)


def request_record(
    request: Request,
    finished: Finished,
    sources: Sources,
    *,
    name: str,
    prompt_sha256: str,
    error: str | None,
    with_text: bool = True,
) -> RequestRecord:
    """Return the record of a request.

    Args:
        request: what was asked.
        finished: what became of it.
        sources: see there.
        name: its id for the user.
        prompt_sha256: hex.
        error: why it failed; else null.
        with_text: keep the text and its tokens.
    """
    count = sum(timing.num_committed for timing in finished.rounds)
    num_tokens = count + finished.num_unverified
    first_s = (finished.first_token_ns - finished.started_ns) / 1e9 if finished.first_token_ns else None
    total_s = (finished.ended_ns - finished.started_ns) / 1e9
    drafts = [timing for timing in finished.rounds if not timing.is_open]
    agent = sources.agent_energy
    agent_j = agent.joules if isinstance(agent, AgentEnergy) else None
    agent_label = agent.label if isinstance(agent, AgentEnergy) and agent_j is not None else None
    coordinator_j = coordinator_energy_j(finished.rounds)
    coordinator_label = None if coordinator_j is None else sources.coordinator_label
    return RequestRecord(
        run_id=sources.run_id,
        id=name,
        wire_request_id=request.request_id,
        agent_id=sources.agent_id,
        prompt_sha256=prompt_sha256,
        num_prompt_tokens=len(request.prompt_ids),
        token_ids=tuple(finished.token_ids) if with_text else (),
        text=finished.text if with_text else "",
        finish="error" if error else finished.finish,
        error=error,
        num_rounds=len(drafts),
        num_drafted=sum(timing.num_draft_tokens for timing in drafts),
        num_accepted=sum(timing.verdict.num_accepted for timing in drafts),
        num_generated=count,
        started_ns=finished.started_ns,
        ended_ns=finished.ended_ns,
        ttft_s=first_s,
        tpot_s=(total_s - first_s) / (num_tokens - 1) if first_s is not None and num_tokens > 1 else None,
        e2e_s=total_s,
        payload_up_bytes=finished.payload_up_bytes,
        payload_down_bytes=finished.payload_down_bytes,
        energy_agent_j=agent_j,
        energy_coordinator_j=coordinator_j,
        energy_coordinator_prefill_j=coordinator_energy_j([t for t in finished.rounds if t.is_open]),
        energy_agent_label=agent_label,
        energy_coordinator_label=coordinator_label,
        energy_label=agent_label if agent_label == coordinator_label else None,
        energy_reason=_reason(agent, coordinator_j),
        num_reopens=finished.num_reopens,
        verification=finished.verification,
        num_unverified=finished.num_unverified,
    )


def _reason(agent: AgentEnergy | str, coordinator_j: float | None) -> str | None:
    why = agent if isinstance(agent, str) else agent.reason
    if coordinator_j is None:
        return "; ".join(filter(None, [why, "not every verdict came with its share of the coordinator"]))
    return why


def round_records(request: Request, finished: Finished, sources: Sources) -> list[RoundRecord]:
    """Return the records of all rounds of a request."""
    agent = sources.agent_energy
    shares = agent.rounds if isinstance(agent, AgentEnergy) else [None] * len(finished.rounds)
    return [
        _round_record(request, timing, sources, share) for timing, share in zip(finished.rounds, shares, strict=True)
    ]


def _round_record(request: Request, timing: RoundTiming, sources: Sources, agent_j: float | None) -> RoundRecord:
    verdict = timing.verdict
    residence_s = verdict.residence_us / 1e6
    parts = timing.parts
    return RoundRecord(
        run_id=sources.run_id,
        wire_request_id=request.request_id,
        agent_id=sources.agent_id,
        round=verdict.round,
        is_open=timing.is_open,
        num_draft_tokens=timing.num_draft_tokens,
        num_accepted=verdict.num_accepted,
        next_token_id=timing.next_token_id,
        sent_ns=timing.sent_ns,
        draft_s=timing.draft_s,
        round_trip_s=timing.round_trip_s,
        residence_s=residence_s,
        verify_s=verdict.verify_us / 1e6,
        network_s=timing.round_trip_s - residence_s,
        batch_rows=verdict.batch_rows,
        ahead_hit=timing.ahead_hit,
        payload_up_bytes=timing.payload_up_bytes,
        payload_down_bytes=timing.payload_down_bytes,
        energy_coordinator_j=None if verdict.energy_nj is None else verdict.energy_nj / 1e9,
        confidences=tuple(None if each is None else round(each, 4) for each in timing.confidences),
        energy_agent_j=agent_j,
        round_s=None if parts is None else parts.round_s,
        draft_wait_s=None if parts is None else parts.draft_wait_s,
        rewind_s=None if parts is None else parts.rewind_s,
        agent_queue_s=None if parts is None else parts.agent_queue_s,
        uplink_s=None if parts is None else parts.uplink_s,
        coordinator_queue_s=None if parts is None else parts.coordinator_queue_s,
        downlink_s=None if parts is None else parts.downlink_s,
        clock_offset_ns=None if parts is None else parts.clock_offset_ns,
        clock_bound_s=None if parts is None else parts.clock_bound_s,
        clock_event=None if parts is None else parts.clock_event,
        num_sends=None if parts is None else parts.num_sends,
    )
