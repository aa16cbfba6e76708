"""The records of a run. Durations and instants are of a monotonic clock; wall time is in the header only."""

from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct

from multispin_models.clock_watch import ClockSync
from multispin_models.energy.conditions import Conditions
from multispin_models.energy.meter import Label, MeterInfo
from multispin_models.language_model import ModelInfo
from multispin_models.records.notes import FieldNotes

__all__ = [
    "SCHEMA_VERSION",
    "ConditionsRecord",
    "EndRecord",
    "EnergyRecord",
    "Finish",
    "IdleBaseline",
    "GapRecord",
    "Machine",
    "MeteredEnd",
    "RequestRecord",
    "RoundRecord",
    "RunHeader",
]

SCHEMA_VERSION: Final = 1  # goes up when a field changes its meaning or goes away

Count = Annotated[int, Meta(ge=0)]
Instant = Annotated[int, Meta(ge=0)]
Seconds = Annotated[float, Meta(ge=0.0)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Joules = Annotated[float, Meta(ge=0.0)]
Finish = Literal["end", "length", "stop", "error"]


class Machine(Struct, frozen=True, forbid_unknown_fields=True):
    """The machine that a run was made on.

    Attributes:
        node: its name, or the first 12 hex digits of the sha256 of its name.
        cpu_model: as the kernel calls the processor.
        num_cores: logical cores that this process may use.
        memory_bytes: installed.
        kernel: system and release.
        python: version.
        multispin: version.
        device_id: the first 12 hex digits of the sha256 of the system's own id; null, as all that follow, where the
            machine does not tell, and in records of earlier versions.
        board: maker and model, as the firmware calls them.
        board_revision: of it.
        firmware: version of the boot firmware.
        l4t: release of NVIDIA's board support package, as "R36.4.3"; of a Jetson only.
        operating_system: name and version.
        commit: of multispin's source, with "-dirty" if files were changed since.
    """

    node: str
    cpu_model: str
    num_cores: int
    memory_bytes: int
    kernel: str
    python: str
    multispin: str
    device_id: str | None = None
    board: str | None = None
    board_revision: str | None = None
    firmware: str | None = None
    l4t: str | None = None
    operating_system: str | None = None
    commit: str | None = None


class MeteredEnd(Struct, frozen=True, forbid_unknown_fields=True):
    """An end of the wire and the meter that covers it.

    Attributes:
        end: "coordinator", "agent:NAME", or "machine" for all ends on one.
        domain: what is metered, from `energy_domain`: ends of one domain share their joules, which count once.
        meter: what it measures; null if this end reads none.
        reason: why it reads none; else null.
    """

    end: str
    domain: str
    meter: MeterInfo | None
    reason: str | None


class RunHeader(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What was run, once a run.

    Attributes:
        schema_version: of all records of the run.
        run_id: random, in every record of the run.
        started_at: UTC wall time, ISO 8601; never subtract two of these.
        machine: of the coordinator.
        boot_id: of that machine's kernel, which monotonic instants belong to; null if it cannot be read.
        governor: of its processor's frequency; null if it has none.
        command_line: as it was called.
        configuration: every setting that was in force.
        seed, temperature, top_k, top_p: how tokens are drawn, `sampling.Sampling`.
        num_draft_tokens: L, the most drafted in a round.
        policy: how the draft length is chosen: "fixed", "price", ...; the coordinator's README lists them.
        schedule: which rounds are verified together: "continuous", "barrier" or "groups".
        verification: the rule: "coupled", "rejection" or "rejection-lean".
        target, draft: the models as served.
        exact: the target's engine was probed to be exact to the last bit.
        energy_meters: every end, with its meter or the reason why it has none.
        clock_sync: how chrony keeps the wall clock of that machine; null in records of earlier versions.
        notes: what was said of the run; null likewise.
    """

    schema_version: int = SCHEMA_VERSION
    run_id: str
    started_at: str
    machine: Machine
    boot_id: str | None
    governor: str | None
    command_line: tuple[str, ...]
    configuration: dict[str, Any]
    seed: Count
    temperature: Annotated[float, Meta(ge=0.0)]
    top_k: Count = 0
    top_p: float = 1.0
    num_draft_tokens: Count
    policy: str
    schedule: str
    verification: str
    target: ModelInfo
    draft: ModelInfo
    exact: bool
    energy_meters: tuple[MeteredEnd, ...]
    clock_sync: ClockSync | None = None
    notes: FieldNotes | None = None

    def __post_init__(self) -> None:
        if self.schema_version != SCHEMA_VERSION:
            raise ValueError(
                f"records have schema {self.schema_version}, this version of multispin reads {SCHEMA_VERSION}"
            )


class RequestRecord(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One user's generation, as its agent saw it.

    Attributes:
        run_id: as in the header.
        id: of the request in the prompt file; over HTTP, the request on the wire in hex.
        wire_request_id: of the request on the wire, 64 bits.
        agent_id: the agent that finished it.
        prompt_sha256: of the prompt's UTF-8 text, hex; over HTTP, of its tokens as 32-bit little-endian numbers. Empty
            where texts are not recorded.
        num_prompt_tokens: after the chat template.
        token_ids: generated, the end token included; empty where texts are not recorded.
        text: of them, cut before a stop string; likewise.
        finish: "end" of text, "length" reached, "stop" string, or "error".
        error: the message of an error; else null.
        num_rounds: drafts answered; opening a request is no round.
        num_drafted, num_accepted: tokens over all rounds.
        num_generated: tokens verified, those of openings, recovered and bonus tokens included.
        started_ns, ended_ns: from the request's start to its last token, monotonic, in one machine's boot only.
        ttft_s: to the first token; null without a token.
        tpot_s: (e2e_s - ttft_s) / (tokens - 1), unverified ones counted; null below two.
        e2e_s: to the last token.
        payload_up_bytes, payload_down_bytes: frames from and to the agent for this request, without ZeroMQ's and
            TCP's own bytes.
        energy_agent_j: of its agent; null without a meter of its own.
        energy_coordinator_j: its share of the coordinator; null without a meter of its own.
        energy_coordinator_prefill_j: of it, for the prompt, and for what was fed again when it was opened again.
        energy_agent_label, energy_coordinator_label: "measured", "calibrated" or "modelled"; null without joules.
        energy_label: of both; null if either has none, or if they differ.
        energy_reason: why an energy is null; else null.
        num_reopens: how often it was opened again after its first opening.
        verification: the rule of its rounds, "coupled" at temperature 0; null in records of earlier versions.
        num_unverified: tokens at the end of the text, beside `num_generated`, that the draft model wrote alone since
            the coordinator was silent past the deadline (`on_deadline`): not the target's text.
    """

    run_id: str
    id: str
    wire_request_id: Count
    agent_id: str
    prompt_sha256: str
    num_prompt_tokens: Count
    token_ids: tuple[int, ...]
    text: str
    finish: Finish
    error: str | None = None
    num_rounds: Count
    num_drafted: Count
    num_accepted: Count
    num_generated: Count
    started_ns: Instant
    ended_ns: Instant
    ttft_s: Seconds | None
    tpot_s: Seconds | None
    e2e_s: Seconds
    payload_up_bytes: Count
    payload_down_bytes: Count
    energy_agent_j: Joules | None = None
    energy_coordinator_j: Joules | None = None
    energy_coordinator_prefill_j: Joules | None = None
    energy_agent_label: Label | None = None
    energy_coordinator_label: Label | None = None
    energy_label: Label | None = None
    energy_reason: str | None = None
    num_reopens: Count = 0
    verification: str | None = None
    num_unverified: Count = 0


class RoundRecord(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One draft and its verdict, as the agent saw them.

    Attributes:
        run_id: as in the header.
        wire_request_id: as in the request's record.
        agent_id: who drafted.
        round: 0, 1, 2 ... in the order of the wire.
        is_open: this round opened the request, or opened it again; nothing was drafted.
        num_draft_tokens: L of this round.
        num_accepted: of them.
        next_token_id: the recovered or bonus token; null if no draw of the target passed, by the lean rule of
            rejection: the next round brings more of them.
        sent_ns: when the draft was sent, agent's monotonic clock.
        draft_s: spent drafting this round's tokens, also while the last verdict was in flight.
        round_trip_s: from sending the draft to reading the verdict.
        residence_s: of it, at the coordinator.
        verify_s: of that, the forward pass.
        network_s: round_trip_s - residence_s: both ways, and the queues of both sockets.
        batch_rows: rows of the pass, of all sessions.
        ahead_hit: whether the tokens drafted ahead could be used; null if none were.
        payload_up_bytes, payload_down_bytes: of the two frames.
        energy_coordinator_j: this round's share of the coordinator; null without a meter.
        confidences: of each drafted token, that it is accepted if all before it are; stated before the verdict, to four
            decimals; null for a token of unknown origin.
        energy_agent_j: this round's share of the agent's box, from the verdict before to this one; that of the last
            round goes on until the request has ended.
        round_s: from the verdict before (the request's start, for the first) to this one: the sum of draft_wait_s,
            rewind_s, agent_queue_s, uplink_s, coordinator_queue_s, verify_s and downlink_s. This and all that follow
            are null in records of earlier versions.
        draft_wait_s: of it, drafting; not what was drafted ahead, in the round before.
        rewind_s: of it, cutting back what the draft model holds.
        agent_queue_s: of it, the rest until the draft was sent: the engine's other requests, the event loop, and
            whatever was lost on the way until the request was opened again.
        uplink_s: one way, from the (first) sending to the coordinator's reading; not surer than clock_bound_s. Null in
            a round without a sending of its own.
        coordinator_queue_s: at the coordinator, but not in a pass.
        downlink_s: one way, as uplink_s.
        clock_offset_ns: the coordinator's monotonic clock minus the agent's, as estimated in this round.
        clock_bound_s: it is not further off than this, nor are uplink_s and downlink_s, in opposite directions.
        clock_event: what happened to a clock since the round before: "suspend" or "step" of the agent's, "offset" if
            the two no longer agree with what was known, joined by "+"; null if nothing was noticed. The times of such
            a round are not to be used.
        num_sends: how often the draft was sent; above 1 the uplink holds the time until it got through.
    """

    run_id: str
    wire_request_id: Count
    agent_id: str
    round: Count
    is_open: bool
    num_draft_tokens: Count
    num_accepted: Count
    next_token_id: Count | None
    sent_ns: Instant
    draft_s: Seconds
    round_trip_s: Seconds
    residence_s: Seconds
    verify_s: Seconds
    network_s: float
    batch_rows: Count
    ahead_hit: bool | None
    payload_up_bytes: Count
    payload_down_bytes: Count
    energy_coordinator_j: Joules | None = None
    confidences: tuple[Share | None, ...] = ()
    energy_agent_j: Joules | None = None
    round_s: Seconds | None = None
    draft_wait_s: Seconds | None = None
    rewind_s: Seconds | None = None
    agent_queue_s: Seconds | None = None
    uplink_s: float | None = None
    coordinator_queue_s: Seconds | None = None
    downlink_s: float | None = None
    clock_offset_ns: int | None = None
    clock_bound_s: Seconds | None = None
    clock_event: str | None = None
    num_sends: Count | None = None


class IdleBaseline(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What an end drew before anything was asked of it. Reported beside joules, never subtracted from them.

    Attributes:
        power_w: mean; null if it was not measured.
        length_s: of the window.
        reason: why it is null; else null.
    """

    power_w: Annotated[float, Meta(ge=0.0)] | None
    length_s: Seconds
    reason: str | None = None


class EnergyRecord(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The energy of one end over the whole run, and what the figure rests on; fields as in `energy.Window`.

    Attributes:
        run_id: as in the header.
        end: as in the header's `energy_meters`.
        started_ns, ended_ns: the window, monotonic, of that end's machine.
        energy_j: idle power included; null if the samples do not carry it.
        reason: why it is null; else null.
        achieved_hz: rate of the samples; null below two.
        largest_gap_s: longest time without a sample; null without one.
        coverage: share of the window that lies between samples that can be joined.
        num_samples: in the window.
        attributed_j: of it, shared out to requests; null if that is not known of any.
        prefill_j: of attributed_j, for prompts; at the coordinator only.
        unattributed_j: of it, while no request was open (agent), or no pass was computed (coordinator): counted apart,
            and not by subtraction. attributed_j + unattributed_j = energy_j.
        idle: the baseline, measured before; null in records of earlier versions and of ends that measure none.
        sampler_cpu_s: processor time that the sampler's thread took since it was started: the cost of metering, which
            is in energy_j like everything else. Null in records of earlier versions.
    """

    run_id: str
    end: str
    started_ns: Instant
    ended_ns: Instant
    energy_j: Joules | None
    reason: str | None
    achieved_hz: float | None
    largest_gap_s: Seconds | None
    coverage: Annotated[float, Meta(ge=0.0, le=1.0)]
    num_samples: Count
    attributed_j: Joules | None = None
    prefill_j: Joules | None = None
    unattributed_j: Joules | None = None
    idle: IdleBaseline | None = None
    sampler_cpu_s: Seconds | None = None


class EndRecord(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One start of an end: the box, what it loaded, and how it was set up.

    Attributes:
        run_id: as in the records that follow.
        end: "coordinator" or "agent:NAME".
        started_at: UTC wall time, ISO 8601.
        machine: it runs on.
        boot_id: of that machine's kernel, which its monotonic instants belong to; null if it cannot be read.
        governor: of its processor's frequency; null if it has none.
        model: target or draft as served; a lookup's name and vocabulary where no model drafts.
        configuration: every setting that was in force; of keys, the names of their files.
        meter: with what it covers, its rails, shunts and calibration; null if this end reads none.
        meter_reason: why it reads none; else null.
        clock_sync: how chrony keeps the wall clock.
        notes: what was said of the box.
    """

    run_id: str
    end: str
    started_at: str
    machine: Machine
    boot_id: str | None
    governor: str | None
    model: ModelInfo
    configuration: dict[str, Any]
    meter: MeterInfo | None
    meter_reason: str | None
    clock_sync: ClockSync
    notes: FieldNotes


class ConditionsRecord(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The state of a machine before, during and after.

    Attributes:
        run_id: as in the header.
        end: whose machine, as in the header's `energy_meters`; "machine" for all ends on one.
        conditions: see there.
    """

    run_id: str
    end: str
    conditions: Conditions


class GapRecord(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Records of rounds that an agent had to drop, so that a gap in the data is known to be one.

    Attributes:
        run_id: of the dropped records.
        agent_id: who dropped them.
        num_dropped: how many.
        reason: why: the spool had reached its bound, or the disk took nothing for too long.
        first_sequence, last_sequence: of those that had been spooled, the numbers that were given up, both included;
            null if they never had any. What of them was on its way just then may have arrived all the same.
    """

    run_id: str
    agent_id: str
    num_dropped: Annotated[int, Meta(ge=1)]
    reason: str
    first_sequence: Count | None = None
    last_sequence: Count | None = None
