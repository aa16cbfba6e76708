"""The coordinator's settings, each with its bound."""

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from multispin_coordinator.control.objective import AIMING, Objective
from multispin_models.api.settings import HttpSettings
from multispin_models.channel import Security
from multispin_models.engines import DEFAULT_ENGINE
from multispin_models.records import FieldNotes
from multispin_models.verification import Rule

__all__ = [
    "DEFAULT_POLICY",
    "RELOADABLE",
    "RESERVED_ROWS",
    "Config",
    "Limits",
    "PageName",
    "PolicyName",
    "ScheduleName",
]

RESERVED_ROWS = 8  # kept for prompts in a pass that drafts could fill

# What SIGHUP changes while requests go on; the rest needs a restart. (The registry of keys is read again by itself.)
RELOADABLE = frozenset(
    {
        "limits.max_agents",
        "limits.max_sessions_per_agent",
        "limits.max_waiting",
        "limits.prefill_rows",
        "limits.session_timeout_s",
        "schedule",
        "patience_s",
        "num_groups",
    }
)

DEFAULT_POLICY: Final = "price"
PolicyName = Literal["fixed", "alone", "lookup", "price", "homogeneous", "heterogeneous", "exact"]
PageName = Literal["off", "figures", "texts"]
ScheduleName = Literal["continuous", "barrier", "groups"]
Positive = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0.0)]


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    """What one coordinator takes on; beyond it a request is refused with a reason.

    Attributes:
        max_agents: agents connected at once.
        max_sessions: sequences of the target held at once, over all agents.
        max_sessions_per_agent: of them, one agent's.
        max_waiting: requests that wait for a sequence; the next one is refused.
        max_context_tokens: prompt and text of one request; each session holds memory for as many.
        max_prompt_tokens: of one request.
        max_draft_tokens: of one round.
        max_rows: rows of one forward pass.
        prefill_rows: of them, at most so many of prompts, so that a long prompt does not stall the others.
        keep_sequences: a sequence whose request has ended stays, until its room is needed, for a prompt that begins
            with the same tokens: the next turn of a conversation. Takes no memory; done by exact engines only.
        agent_timeout_s: an agent silent for so long loses its sessions; it pings four times as often.
        session_timeout_s: a session that waits so long for its next draft is freed; its agent may open it again.
    """

    max_agents: Positive = 256
    max_sessions: Positive = 16
    max_sessions_per_agent: Positive = 8
    max_waiting: Annotated[int, Meta(ge=0)] = 64
    max_context_tokens: Annotated[int, Meta(ge=16)] = 2048
    max_prompt_tokens: Positive = 1792
    max_draft_tokens: Annotated[int, Meta(ge=0, le=64)] = 16
    max_rows: Annotated[int, Meta(ge=8)] = 256
    prefill_rows: Annotated[int, Meta(ge=8)] = 64
    keep_sequences: bool = True
    agent_timeout_s: Annotated[float, Meta(gt=0.0, le=14_400.0)] = 10.0
    session_timeout_s: Seconds = 120.0

    def __post_init__(self) -> None:
        needed = self.max_draft_tokens + 1 + RESERVED_ROWS
        if self.max_rows < needed:
            raise ValueError(
                f"max_rows is {self.max_rows}, allowed are at least {needed}: a draft of max_draft_tokens "
                f"({self.max_draft_tokens}), its last committed token, and {RESERVED_ROWS} rows of prompts"
            )


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """The settings of one coordinator.

    Attributes:
        bind: where agents connect, tcp://ADDRESS:PORT; off loopback `security` is needed.
        pair: name of a packaged pair, or the path of a pair manifest; its target is served.
        engine: "onnx" or "llamacpp", with ":RECIPE" or without.
        threads: of a forward pass.
        limits: see there.
        security: CURVE keys.
        meter: energy meter: "auto", "none", "shared", "jetson", "pmic", "rapl", "nvml", "battery", "hwmon",
            "hwmon-energy", "fnirsi", "hwmon:CHIP,covers=WHAT", "hwmon-energy:CHIP,covers=WHAT",
            "shelly:HOST[,counter]", "tasmota:HOST[,counter]", "serial:PORT[,baud=N][,covers=WHAT]",
            "modelled:BUSY_W,IDLE_W", "calibrated:NAME", "replay:FILE", "replay:FILE,loop"; each is described by
            models/docs/meters.md.
        idle_s: how long the idle baseline is measured before the model is loaded, if there is a meter.
        out: folder for the coordinator's own records, end.jsonl, conditions.jsonl and energy.jsonl; null writes none.
        run_id: in these; null makes one.
        fleet_file: JSON file for the table of agents that `multispin fleet status` shows: who is here or was, with
            what, and how their boxes are; null keeps none.
        draft_offer: name of a packaged pair, or the path of a manifest, whose draft agents with `accept_drafts` fetch
            from here and run; its vocabulary must be the target's. Null offers none.
        store: SQLite file for the records that agents upload; null keeps none.
        max_concurrent: texts that the target writes alone at once, for users of the coordinator's own HTTP interface;
            each holds one of `limits.max_sessions`.
        http_listen: HOST:PORT of that interface; null has none. Off loopback keys are needed.
        http_keys_file: bearer keys, one a line, mode 0600; null lets in everybody.
        http: bounds of the HTTP interface.
        page: the live page at /page of that interface: "off"; "figures"; or "texts", with what the users get written.
        page_keys_file: keys for the page, as in http_keys_file; where users have keys, these alone show texts.
        policy: how draft lengths are chosen, a name of `control/policies.py`.
        objective: what "price" and "exact" aim at: "goodput", tokens a second of all requests together; "fair_goodput",
            likewise, but a request that has had less counts more; or "tokens_per_joule", of the coordinator and all
            boxes together, for which all must have meters of one kind: as long as not, the goodput counts, `/metrics`
            says so and the log why.
        schedule: which drafts are verified together, a name of `schedule.py`.
        patience_s: with "barrier" and "groups", the longest time that a draft waits for others.
        num_groups: of "groups"; one of them is verified while the others draft.
        verification: rule of the drafts: "coupled" (ids alone travel, the text is the target's own), "rejection" (the
            distribution that each token was drawn from comes up) or "rejection-lean" (its own weight comes up, draws
            from the target go down); see models/README.md. At temperature 0 all three are the first.
        uplink_bytes_per_s: payload that all agents together may send a second, shared out among them; they pace their
            sending. With a policy that plans rounds ("homogeneous", "heterogeneous", "exact") the shares end all
            uploads at one time, else they are equal. Null: no bound.
        require_exact: refuse to start when the probe finds that the engine is not exact.
        notes: what no sensor tells of this box, for the records: supply, cable, ambient, ...
    """

    bind: str = "tcp://127.0.0.1:5599"
    pair: str = "smollm2-135m"
    engine: str = DEFAULT_ENGINE
    threads: Positive = 1
    limits: Limits = Limits()
    security: Security = Security()
    meter: str = "auto"
    idle_s: Annotated[float, Meta(ge=0.0, le=3600.0)] = 2.0
    out: str | None = None
    run_id: str | None = None
    fleet_file: str | None = None
    draft_offer: str | None = None
    store: str | None = None
    policy: PolicyName = DEFAULT_POLICY
    objective: Objective = "goodput"
    schedule: ScheduleName = "continuous"
    patience_s: Seconds = 1.0
    num_groups: Annotated[int, Meta(ge=2, le=64)] = 2
    verification: Rule = "coupled"
    uplink_bytes_per_s: Annotated[float, Meta(ge=100.0)] | None = None
    require_exact: bool = False
    notes: FieldNotes = FieldNotes()
    max_concurrent: Positive = 4
    http_listen: str | None = None
    http_keys_file: str | None = None
    http: HttpSettings = HttpSettings()
    page: PageName = "figures"
    page_keys_file: str | None = None

    def __post_init__(self) -> None:
        if self.objective != "goodput" and self.policy not in AIMING:
            raise ValueError(
                f'objective is "{self.objective}" with policy "{self.policy}", allowed is "goodput" with it: '
                f"only the policies {' and '.join(sorted(AIMING))} aim at something else"
            )
