"""The wire: messages between an agent (DEALER) and the coordinator (ROUTER), and one frame to a message.

    agent                                   coordinator
      Hello  ------------------------------>             who I am, what I draft with
             <------------------------------  Welcome    what I verify with, my limits, my epoch   (or Refused)
      Open   ------------------------------>             prompt, committed tokens, sampling
             <------------------------------  Verdict    the first token after them                (or Refused)
      Draft  ------------------------------>             round r: d1 .. dL after the committed tokens
             <------------------------------  Verdict    round r: accepted, next token             (or Refused)
      WeighedDraft  ----------------------->             by a rejection rule: also what it was drawn from
             <------------------------------  UndecidedVerdict   the agent chooses the next token among draws
             <------------------------------  Verdict    round r + 1, r + 2 ...: after a verdict that says `alone`,
                                                         each with the next token, as if an empty draft had asked
      Report ------------------------------>             what drafting beside such a stream would have been worth
      Close  ------------------------------>             done with a request
      Ping   ------------------------------>
             <------------------------------  Pong       alive, and still the same epoch
      Condition --------------------------->             the draft, power and temperature of the box, for a viewer
      BoxStatus --------------------------->             disk, heat, throttling, clock, for the table of agents
      Records ----------------------------->             what was measured, when nothing else is to be sent
             <------------------------------  RecordsAck it is on disk
             <------------------------------  DraftOffer  a draft model that the agent should run, after Welcome
      FileWanted  -------------------------->            a part of it
             <------------------------------  FileChunk  that part
             <------------------------------  Pace       how much to send a second, where the uplink is shared out

A frame is one byte of protocol version, then a msgpack array [type, fields ...]; on the ROUTER side the frame list is
[routing id, frame]. A coordinator also serves agents of the version before (`SERVED_VERSIONS`), whose messages are
those of this one but for what is new, and answers each in its own. The routing id is the agent's id. Draft and Verdict
are idempotent: (request, round) asked twice gives the same verdict. After a reconnect, or from another agent, Open with
the committed tokens resumes a request. Rounds go up for as long as a request lives, reopened or not, so nothing late is
ever taken for something new: an Open that resumes takes a round above all that the coordinator can have gone to alone.
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from multispin_models.energy.meter import Label
from multispin_models.errors import WireError, WireVersionError
from multispin_models.sampling import Sampling
from multispin_models.verification import Rule

__all__ = [
    "MAX_CHUNK_BYTES",
    "MAX_FRAME_BYTES",
    "MAX_RECORD_BYTES",
    "MOST_DRAFTED",
    "PRICE_UNIT",
    "PROTOCOL_VERSION",
    "SERVED_VERSIONS",
    "AgentMessage",
    "BoxStatus",
    "Close",
    "Condition",
    "CoordinatorMessage",
    "Draft",
    "DraftOffer",
    "FileChunk",
    "FileWanted",
    "Hello",
    "Open",
    "Pace",
    "Ping",
    "Pong",
    "Records",
    "RecordsAck",
    "Refused",
    "SpooledRecord",
    "Report",
    "UndecidedVerdict",
    "Verdict",
    "WeighedDraft",
    "Welcome",
    "decode_agent_message",
    "decode_coordinator_message",
    "encode",
]

PROTOCOL_VERSION: Final = 6
SERVED_VERSIONS: Final = (
    PROTOCOL_VERSION - 1,
    PROTOCOL_VERSION,
)  # of agents, by a coordinator; 6 brought BoxStatus, DraftOffer and files
MAX_FRAME_BYTES: Final = 1 << 20  # MAXMSGSIZE of both sockets: 200,000 tokens, far above any context served
MAX_RECORD_BYTES: Final = 1 << 19  # a text of a whole context and its token ids
MAX_CHUNK_BYTES: Final = 1 << 16  # of a file: a verdict waits behind one for 5 ms at 100 Mbit/s
MOST_DRAFTED: Final = 64  # in a round, whatever the limits
PRICE_UNIT: Final = 1000  # prices travel in thousandths

RequestId = Annotated[int, Meta(ge=0)]  # 64 bits, random
TokenId = Annotated[int, Meta(ge=0, lt=1 << 24)]
Count = Annotated[int, Meta(ge=0, lt=1 << 31)]
Name = Annotated[str, Meta(min_length=1, max_length=255)]
Text = Annotated[str, Meta(max_length=2048)]
Short = Annotated[str, Meta(max_length=255)]
ByteRate = Annotated[float, Meta(ge=1.0, le=1e12)]
Large = Annotated[int, Meta(ge=0)]  # 64 bits: nanoseconds of a clock, sums of microseconds and nanojoules


class Hello(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=1):
    """An agent introduces itself; sent first, and again when the coordinator says `hello_required`.

    Attributes:
        protocol_version: of the agent.
        agent_id: its name, also the routing id of its connection.
        software_version: of the agent.
        vocabulary_hash: of its draft model.
        draft_fingerprint: sha256 of its draft model.
        instance_id: random, new at every start of the agent; a new one frees what the last instance had open.
        draft_ahead: it drafts while a verdict is in flight.
    """

    protocol_version: int
    agent_id: Name
    software_version: Name
    vocabulary_hash: Name
    draft_fingerprint: Name
    instance_id: Name
    draft_ahead: bool = True


class Open(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=2):
    """Open a request, or resume it: the coordinator answers with the Verdict of this round.

    Attributes:
        request_id: 64 random bits, the same for as long as the request lives, on any agent.
        round: 0 at first, above all rounds before when the request is opened again.
        token_ids: the prompt, then the tokens committed so far.
        num_prompt_tokens: how many of them are prompt.
        max_tokens: most tokens to generate, those committed included.
        sampling: temperature, top-k, top-p, seed.
        ignore_end: go on past end-of-text until `max_tokens`.
        first_candidate: above 0 after a rejection that is not decided yet (`rejection-lean`): the answer brings draws
            from this number on, in place of a token.
    """

    request_id: RequestId
    round: Count
    token_ids: Annotated[tuple[TokenId, ...], Meta(min_length=1)]
    num_prompt_tokens: Annotated[int, Meta(ge=1, lt=1 << 31)]
    max_tokens: Annotated[int, Meta(ge=1, lt=1 << 31)]
    sampling: Sampling
    ignore_end: bool = False
    first_candidate: Count = 0


class Draft(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=3):
    """Propose tokens that follow the committed ones.

    Attributes:
        request_id: of an open request.
        round: one above the round before.
        num_committed: tokens committed so far, prompt included: where the draft starts.
        draft_token_ids: d1 .. dL, may be empty (the coordinator then just decodes one token).
        draft_us: recent time of the draft model per drafted token; 0 while not known.
        network_us: recent round trip less the time at the coordinator; 0 while not known.
    """

    request_id: RequestId
    round: Annotated[int, Meta(ge=1, lt=1 << 31)]
    num_committed: Count
    draft_token_ids: tuple[TokenId, ...]
    draft_us: Count = 0
    network_us: Count = 0


class WeighedDraft(Draft, frozen=True, array_like=True, forbid_unknown_fields=True, tag=8):
    """A Draft that is verified by a rejection rule, temperature above 0.

    Attributes:
        drawn_from: what each token was drawn from, packed by `draft_payload`: its own weight with `rejection-lean`, the
            whole distribution with `rejection`; null without a token.
        choice: which draw of the verdict before was taken, 0 for the first; their number asks for more of them, with an
            empty draft; null if that verdict was decided. A draw that was taken is committed.
    """

    drawn_from: bytes | None = None
    choice: Annotated[int, Meta(ge=0, lt=1 << 16)] | None = None


class Close(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=4):
    """Done with a request: its sequence is freed. Closing twice, or an unknown request, is no error."""

    request_id: RequestId


class Ping(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=5):
    """Alive. An agent that is silent for `agent_timeout_s` loses its sequences."""

    sequence_number: Count


class Condition(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=9):
    """What an agent says of its box every few seconds, for whoever watches.

    Nothing is decided by it, but where the coordinator's objective is tokens per joule: there its power counts.

    Attributes:
        draft: what it drafts with, for people.
        power_mw: mean of the last seconds, as its meter covers the box; null if not known.
        power_label: of it, "measured", "calibrated" or "modelled"; null with it.
        power_reason: why it is null; else null.
        temperature_millidegrees: Celsius, of the hottest thermal zone; null if not known.
        temperature_reason: why it is null; else null.
    """

    draft: Name
    power_mw: Count | None = None
    power_label: Label | None = None
    power_reason: Text | None = None
    temperature_millidegrees: Annotated[int, Meta(ge=-273_150, lt=1 << 31)] | None = None
    temperature_reason: Text | None = None

    def __post_init__(self) -> None:
        if (self.power_mw is None) != (self.power_label is None):
            raise ValueError(
                "power_mw and power_label are null together: joules of one kind are never those of another"
            )


class BoxStatus(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=10):
    """What an agent says of its box once a minute, or when it changes; nothing is decided by it.

    Attributes:
        wall_ms: its wall clock, Unix time.
        uptime_s: since the box booted.
        disk_free_mb, disk_mb: of the disk that holds its spool, in 10**6 bytes; null if not known.
        num_spooled: records that wait for the coordinator; null without a spool.
        temperature_millidegrees: Celsius, of the hottest thermal zone; null if not known.
        throttled: what slows it now, in words; "" for nothing, null where nothing of the kind is told.
        clock_bound_us: its wall clock is not further off, as chrony says; null if not known.
        clock_reason: why that is null; else null.
        degraded: what does not work though it serves; null if all does.
    """

    wall_ms: Large
    uptime_s: Count
    disk_free_mb: Large | None = None
    disk_mb: Large | None = None
    num_spooled: Count | None = None
    temperature_millidegrees: Annotated[int, Meta(ge=-273_150, lt=1 << 31)] | None = None
    throttled: Short | None = None
    clock_bound_us: Count | None = None
    clock_reason: Short | None = None
    degraded: Short | None = None


class SpooledRecord(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A record on its way from an agent's spool.

    Attributes:
        sequence: goes up by one or more from record to record; never used twice within a boot of an agent.
        kind: name of its type, as in `records.KINDS`.
        line: the record as one object of JSON.
    """

    sequence: Large
    kind: Name
    line: Annotated[bytes, Meta(min_length=2, max_length=MAX_RECORD_BYTES)]


class Records(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=7):
    """Records for the coordinator to keep. Idempotent: (agent, boot, sequence) is kept once, however often it comes.

    Attributes:
        boot_id: of the boot of the agent's machine that the records were made in.
        schema_version: of the records.
        records: in the order of their sequence.
    """

    boot_id: Name
    schema_version: Count
    records: Annotated[tuple[SpooledRecord, ...], Meta(min_length=1, max_length=4096)]


class Report(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=6):
    """What an agent drafted beside a text that the coordinator goes on with alone, one token at a time.

    Attributes:
        request_id: of the text.
        num_drafted: tokens that were compared since the last report.
        num_hits: of them, right.
        draft_us, network_us: as in Draft.
    """

    request_id: RequestId
    num_drafted: Count
    num_hits: Count
    draft_us: Count
    network_us: Count


class Welcome(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=17):
    """The coordinator accepts an agent.

    Attributes:
        protocol_version: of the coordinator.
        software_version: of the coordinator.
        epoch: random, new at every start of the coordinator; a new one means that all sessions are gone.
        vocabulary_hash: of the target.
        target_fingerprint: sha256 of the target as served.
        exact: the engine was probed to be exact to the last bit.
        max_context_tokens: prompt and generated tokens of one request.
        max_prompt_tokens: of one request.
        max_draft_tokens: of one round.
        ping_interval_s: how often to send Ping, at most an hour.
        boot_id: of its machine's kernel, which its monotonic instants belong to; null if it cannot be read.
        energy_label: of the joules in its verdicts, "measured", "calibrated" or "modelled"; null without a meter.
        policy: how the draft length is chosen; with "fixed" each agent has its own.
        verification: the rule by which drafts are verified.
        send_bytes_per_s: payload that this agent may send a second, until a Pace says otherwise; null: any.
    """

    protocol_version: int
    software_version: Name
    epoch: RequestId
    vocabulary_hash: Name
    target_fingerprint: Name
    exact: bool
    max_context_tokens: Count
    max_prompt_tokens: Count
    max_draft_tokens: Count
    ping_interval_s: Annotated[float, Meta(gt=0.0, le=3600.0)]
    boot_id: Name | None = None
    energy_label: Label | None = None
    policy: Name = "fixed"
    verification: Rule = "coupled"
    send_bytes_per_s: ByteRate | None = None


class Refused(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=18):
    """The coordinator will not do it.

    Attributes:
        code: one of the snake_case codes in `models/README.md`, for programs.
        message: what, the value, what is allowed, what to do.
        request_id: the request it is about, 0 for the agent as a whole.
        round: the round it is about.
    """

    code: Name
    message: Text
    request_id: RequestId = 0
    round: Count = 0


class Verdict(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=19):
    """The answer to every Open and Draft, and to the empty drafts that are taken for granted after an `alone`.

    Attributes:
        request_id, round: what is answered.
        num_accepted: drafted tokens that are committed.
        next_token_id: the token after them, committed too; the end token itself when the text ends.
        finish: 0 goes on; 1 end of text; 2 max_tokens or the context reached. The session is freed when not 0.
        received_ns: coordinator's monotonic clock when the frame was read (t2 of four).
        residence_us: from there to this frame being sent (t3 - t2).
        verify_us: of it, the forward passes that its rows were in.
        batch_rows: rows of the last of them, of all sessions.
        energy_nj: this round's share of the coordinator's energy, of all those passes; null if any is not known.
        num_draft_tokens: most to be drafted next; beside an `alone`, whether to draft one at a time and report.
        price: least predicted survival worth verifying, in thousandths; the agent drafts no token below it.
        alone: the coordinator goes on by itself: the next round's verdict comes without a draft.
        num_reused: in answer to an Open, the first of its tokens that were taken over from an earlier request.
    """

    request_id: RequestId
    round: Count
    num_accepted: Count
    next_token_id: TokenId
    finish: Annotated[int, Meta(ge=0, le=2)]
    received_ns: Large
    residence_us: Large
    verify_us: Count
    batch_rows: Count
    energy_nj: Large | None = None
    num_draft_tokens: Annotated[int, Meta(ge=0, le=MOST_DRAFTED)] = MOST_DRAFTED
    price: Annotated[int, Meta(ge=0, le=PRICE_UNIT)] = 0
    alone: bool = False
    num_reused: Count = 0


class UndecidedVerdict(Verdict, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True, tag=22):
    """A Verdict after a rejection, by the lean rule: the next token is the first of these draws that the agent keeps.

    `next_token_id` is the first draw. With `finish` 2 the text ends with the token that is taken; the session stays
    until its Close, for the agent may have to ask for more draws.

    Attributes:
        candidates: draws from the target, packed by `draft_payload`.
        first: number of the first of them.
    """

    candidates: Annotated[bytes, Meta(min_length=1, max_length=4096)]
    first: Count


class FileWanted(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=11):
    """Ask for a part of the file that was offered; nothing is remembered of it, so it may be asked again.

    Attributes:
        sha256: of the whole file, in hex.
        offset: of the part.
        max_bytes: of it.
    """

    sha256: Name
    offset: Large
    max_bytes: Annotated[int, Meta(ge=1, le=MAX_CHUNK_BYTES)]


class DraftOffer(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=24):
    """The draft model that agents should run; an agent that does not take offers passes it over.

    Attributes:
        file_name: of the GGUF file.
        sha256: of it, in hex.
        num_bytes: of it.
        recipe: in which llama.cpp is to serve it.
        onnx_recipe: in which ONNX Runtime is; null for what the agent's settings say.
    """

    file_name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$")]
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
    num_bytes: Annotated[int, Meta(ge=1, lt=1 << 40)]
    recipe: Name
    onnx_recipe: Name | None = None


class FileChunk(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=25):
    """A part of an offered file; `data` is empty at or behind its end."""

    sha256: Name
    offset: Large
    data: Annotated[bytes, Meta(max_length=MAX_CHUNK_BYTES)]


class RecordsAck(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=21):
    """The records of one batch are on the coordinator's disk: the agent may forget them.

    Attributes:
        boot_id: as in the batch.
        first_sequence, last_sequence: of its first and its last record.
    """

    boot_id: Name
    first_sequence: Large
    last_sequence: Large


class Pace(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=23):
    """What an agent may send a second from now on, payload, where the coordinator shares out the uplink."""

    send_bytes_per_s: ByteRate


class Pong(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=20):
    """Answer to Ping, with the epoch."""

    sequence_number: Count
    epoch: RequestId


AgentMessage = (
    Hello | Open | Draft | WeighedDraft | Close | Ping | Report | Condition | BoxStatus | FileWanted | Records
)
CoordinatorMessage = Welcome | Refused | Verdict | UndecidedVerdict | Pong | RecordsAck | Pace | DraftOffer | FileChunk

_encoder = msgspec.msgpack.Encoder()
_agent_decoder: msgspec.msgpack.Decoder[AgentMessage] = msgspec.msgpack.Decoder(AgentMessage)
_coordinator_decoder: msgspec.msgpack.Decoder[CoordinatorMessage] = msgspec.msgpack.Decoder(CoordinatorMessage)


def encode(message: AgentMessage | CoordinatorMessage, version: int = PROTOCOL_VERSION) -> bytes:
    """Return the frame of a message; the inverse of the two `decode` functions.

    Args:
        message: any.
        version: that the other side speaks.
    """
    return bytes([version]) + _encoder.encode(message)


def decode_agent_message(frame: bytes) -> AgentMessage:
    """Return the message in a frame that an agent sent.

    Raises:
        WireError: too long, or not a message of this protocol; says which field.
        WireVersionError: of none of `SERVED_VERSIONS`.
    """
    try:
        return _agent_decoder.decode(_body(frame, "an agent", SERVED_VERSIONS))
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise WireError(f"frame of {len(frame)} bytes from an agent is no message: {error}") from error


def decode_coordinator_message(frame: bytes) -> CoordinatorMessage:
    """Return the message in a frame that the coordinator sent.

    Raises:
        WireError: too long, or not a message of this protocol; says which field.
        WireVersionError: of another version.
    """
    try:
        return _coordinator_decoder.decode(_body(frame, "the coordinator", (PROTOCOL_VERSION,)))
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise WireError(f"frame of {len(frame)} bytes from the coordinator is no message: {error}") from error


def _body(frame: bytes, sender: str, versions: tuple[int, ...]) -> memoryview:
    if not 2 <= len(frame) <= MAX_FRAME_BYTES:
        raise WireError(f"frame from {sender} has {len(frame)} bytes, allowed are 2 to {MAX_FRAME_BYTES}")
    if frame[0] not in versions:
        raise WireVersionError(
            f"frame from {sender} has protocol version {frame[0]}, this side speaks {' and '.join(map(str, versions))}"
        )
    return memoryview(frame)[1:]
