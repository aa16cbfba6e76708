"""The agent's settings, each with its bound."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from multispin_models.api.settings import HttpSettings
from multispin_models.channel import Security
from multispin_models.draft_payload import MOST_ENTRIES
from multispin_models.engines import DEFAULT_ENGINE
from multispin_models.ngram import MAX_NGRAM, MIN_NGRAM
from multispin_models.records import FieldNotes

__all__ = ["RELOADABLE", "Config"]

# What SIGHUP changes, for requests that begin after it; the rest needs a restart.
RELOADABLE = frozenset(
    {"num_draft_tokens", "retry_s", "retry_max_s", "deadline_s", "on_deadline", "busy_s", "when_absent"}
)

Positive = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0.0)]


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """The settings of one agent.

    Attributes:
        agent_id: its name, unique among the agents of a coordinator.
        coordinator: where the coordinator listens, tcp://HOST:PORT; off loopback `security` is needed.
        pair: name of a packaged pair, or the path of a pair manifest; its draft is run.
        engine: "onnx" or "llamacpp", with ":RECIPE" or without.
        threads: of a forward pass.
        draft: where drafts come from: "model", "lookup" (the request's own text, no model) or "lookup+model" (the text
            where it knows, the model otherwise).
        lookup_min_ngram, lookup_max_ngram: tokens at the end of the text that must have stood there before: fewest and
            most.
        num_draft_tokens: L, tokens drafted a round where the coordinator's policy is `fixed`.
        draft_entries: tokens that a draft is sampled from where the coordinator verifies by a rejection rule, the
            likeliest ones: |V^| of the paper. With "rejection" all of them are uploaded.
        draft_ahead: go on drafting from one's own guess while the verdict is in flight.
        draft_ahead_on_battery: also while this box runs from its battery, as /sys/class/power_supply says; a guess that
            was wrong is energy for nothing. Without it the box follows its supply while it serves, and tells the
            coordinator.
        max_concurrent: requests served at once; each holds a sequence of the draft.
        kept_sequences: sequences of the draft beside these, each with memory for `max_context_tokens`. All that no
            request holds stay, until their room is needed, for the next turn of their conversation; 0 keeps none.
        max_context_tokens: prompt and text of one request in the draft's cache.
        send_bytes_per_s: payload that this agent may send a second; null sends at once. Where the coordinator gives it
            a share, the smaller of the two holds.
        retry_s: an answer that has not come for so long is asked for again; doubles up to `retry_max_s`.
        retry_max_s: longest wait between two askings.
        deadline_s: a request without any answer for so long is given up by its coordinator's side.
        on_deadline: what it does then: "fail" ends it with an error; "draft" writes the rest by the draft model alone.
            That is not the target's text: the reply says from where on (`degraded`), and the record does.
        busy_s: a user's request that has not begun, and for which the coordinator has no room for so long, is refused
            with 503 and the time to come back; one that has begun waits on, as does one of a file.
        when_absent: what becomes of new requests of users while the coordinator is silent: "wait" takes them, and they
            begin when it is back, up to `deadline_s`; "refuse" answers 503 and the time to come back.
        without_draft: what an agent of users does when the draft model is missing or does not work: "serve" goes on
            without drafts (L = 0; log, health and the coordinator's table say so), "fail" ends. An agent that serves a
            file always ends: its figures would be of something else.
        security: CURVE keys.
        meter: energy meter: "auto", "none", "shared", "jetson", "pmic", "rapl", "nvml", "battery", "hwmon",
            "hwmon-energy", "fnirsi", "hwmon:CHIP,covers=WHAT", "hwmon-energy:CHIP,covers=WHAT",
            "shelly:HOST[,counter]", "tasmota:HOST[,counter]", "serial:PORT[,baud=N][,covers=WHAT]",
            "modelled:BUSY_W,IDLE_W", "calibrated:NAME", "replay:FILE", "replay:FILE,loop"; each is described by
            models/docs/meters.md.
        idle_s: how long the idle baseline is measured before the model is loaded, if there is a meter.
        accept_drafts: an agent of users fetches the draft that its coordinator offers (`draft_offer`), and runs it from
            the moment when no request is open, also after restarts; if it does not load, the one before goes on.
        fetch_bytes_per_s: most of such a file.
        spool: SQLite file that keeps records until the coordinator has them; null uploads none.
        spool_max_bytes: bound of it, beyond which the oldest records of rounds are dropped; summaries never are.
        upload_bytes_per_s: of records, while a request is served; as fast as it goes when none is.
        http_listen: HOST:PORT where users are served over HTTP; null serves a file. Off loopback keys are needed.
        http_keys_file: bearer keys, one a line, mode 0600; null lets in everybody.
        http: bounds of the HTTP interface.
        record_texts: keep texts and tokens of HTTP users in the records; else the figures alone. A file's are always
            kept.
        notes: what no sensor tells of this box, for the records: supply, cable, ambient, ...
    """

    agent_id: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}$")] = "agent"
    coordinator: str = "tcp://127.0.0.1:5599"
    pair: str = "smollm2-135m"
    engine: str = DEFAULT_ENGINE
    threads: Positive = 1
    draft: Literal["model", "lookup", "lookup+model"] = "model"
    lookup_min_ngram: Annotated[int, Meta(ge=1, le=16)] = MIN_NGRAM
    lookup_max_ngram: Annotated[int, Meta(ge=1, le=16)] = MAX_NGRAM
    num_draft_tokens: Annotated[int, Meta(ge=0, le=64)] = 4
    draft_entries: Annotated[int, Meta(ge=1, le=MOST_ENTRIES)] = 1024
    draft_ahead: bool = True
    draft_ahead_on_battery: bool = True
    max_concurrent: Positive = 1
    kept_sequences: Annotated[int, Meta(ge=0, le=256)] = 1
    max_context_tokens: Annotated[int, Meta(ge=16)] = 2048
    send_bytes_per_s: Annotated[float, Meta(ge=100.0)] | None = None
    retry_s: Seconds = 2.0
    retry_max_s: Seconds = 15.0
    deadline_s: Seconds = 300.0
    on_deadline: Literal["fail", "draft"] = "fail"
    busy_s: Seconds = 20.0
    when_absent: Literal["wait", "refuse"] = "wait"
    without_draft: Literal["serve", "fail"] = "serve"
    security: Security = Security()
    meter: str = "auto"
    idle_s: Annotated[float, Meta(ge=0.0, le=3600.0)] = 2.0
    accept_drafts: bool = False
    fetch_bytes_per_s: Annotated[float, Meta(ge=100.0)] = 65_536.0
    spool: str | None = None
    spool_max_bytes: Annotated[int, Meta(ge=1 << 16)] = 1 << 28
    upload_bytes_per_s: Annotated[float, Meta(gt=0.0)] = 4096.0
    http_listen: str | None = None
    http_keys_file: str | None = None
    http: HttpSettings = HttpSettings()
    record_texts: bool = False
    notes: FieldNotes = FieldNotes()

    def __post_init__(self) -> None:
        if self.lookup_min_ngram > self.lookup_max_ngram:
            raise ValueError(
                f"lookup_min_ngram is {self.lookup_min_ngram}, allowed are 1 to lookup_max_ngram, "
                f"which is {self.lookup_max_ngram}"
            )
