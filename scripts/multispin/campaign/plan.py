"""What a campaign asks: arms that are compared, factors that are crossed with them, devices, limits. From TOML.

name = "office"
prompts = "demo"                     # the packaged prompts, or a file of JSON lines beside the plan
blocks = 6

[factors]
users = [1, 4]
link = ["none", "20ms"]

[[devices]]
name = "bench"
copies = 4                           # agents on this machine

[[arms]]
name = "target alone"
kind = "centralised"

[[arms]]
name = "price"
kind = "cooperation"
policy = "price"

[[hypotheses]]
name = "cooperation is faster"
arm = "price"
rival = "target alone"
metric = "tpot_s"
effect = -0.1                        # tokens come 10 % sooner
"""

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from multispin_coordinator.config import PolicyName, ScheduleName
from multispin_models.draft_payload import MOST_ENTRIES
from multispin_models.engines import DEFAULT_ENGINE
from multispin_models.verification import Rule

__all__ = [
    "ARM_FACTORS",
    "METRICS",
    "SETTING_FACTORS",
    "AgentBox",
    "Arm",
    "Arrivals",
    "Centralised",
    "Cooperation",
    "Device",
    "Energy",
    "External",
    "Factors",
    "Hypothesis",
    "Limits",
    "LocalDraft",
    "Models",
    "Plan",
    "SingleNode",
    "StoppingRule",
]

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._+-]{0,47}$")]
Positive = Annotated[int, Meta(ge=1, le=1_000_000)]
Seconds = Annotated[float, Meta(ge=0.0, le=1e6)]
DraftLength = Annotated[int, Meta(ge=1, le=64)]
Celsius = Annotated[float, Meta(gt=-60.0, le=150.0)]
Metric = Literal["tpot_s", "ttft_s", "e2e_s", "goodput_tokens_per_s", "energy_j_per_token", "backhaul_bytes_per_token"]
METRICS: Final[tuple[Metric, ...]] = Metric.__args__  # type: ignore[attr-defined]
DraftSourceName = Literal["model", "lookup", "lookup+model"]


class Models(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is served, by all arms but the external ones.

    Attributes:
        pair: packaged, or a manifest (.toml).
        engine, draft_engine: ENGINE[:RECIPE] of coordinator and agents; the agents' is the coordinator's without one.
        threads, draft_threads: of a forward pass.
        max_context_tokens: prompt and text of one request.
        coordinator_cpus: cores of this machine that the coordinator may run on; null for all.
        bind: where agents connect; off loopback `coordinator_config` must name keys.
        reach: where agents elsewhere find it, tcp://HOST:PORT; null where all are on this machine.
        coordinator_config: a coordinator.toml whose `security` is used; null for none.
    """

    pair: str = "smollm2-135m"
    engine: str = DEFAULT_ENGINE
    draft_engine: str | None = None
    threads: Positive = 1
    draft_threads: Positive = 1
    max_context_tokens: Annotated[int, Meta(ge=16, le=1 << 20)] = 1024
    coordinator_cpus: tuple[int, ...] | None = None
    bind: str = "tcp://127.0.0.1:*"
    reach: str | None = None
    coordinator_config: str | None = None


class AgentBox(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One agent of a device.

    Attributes:
        name: unique in the device.
        launch: words before the command that starts it there, as ["ssh", "-o", "BatchMode=yes", "pi5-a"]; empty for
            this machine. The agent speaks on its standard input and output alone, and ends with them.
        python: the interpreter there; null for this one.
        cpus: cores of this machine it may run on; null for all. For an agent elsewhere, put taskset into `launch`.
        config: an agent.toml there, whose `security`, `meter` and `notes` are used; null for none.
    """

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
    launch: tuple[str, ...] = ()
    python: str | None = None
    cpus: tuple[int, ...] | None = None
    config: str | None = None


class Device(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Agents that are measured together; a block holds every cell once for each device.

    Attributes:
        name: unique.
        copies: agents on this machine, all alike; 0 where `agents` names them.
        cpus: cores of the copies.
        agents: one by one.
    """

    name: Name
    copies: Annotated[int, Meta(ge=0, le=1024)] = 0
    cpus: tuple[int, ...] | None = None
    agents: tuple[AgentBox, ...] = ()

    def __post_init__(self) -> None:
        if bool(self.copies) == bool(self.agents):
            raise ValueError(f"device {self.name!r}: give either copies (agents on this machine) or agents, one by one")

    @property
    def boxes(self) -> tuple[AgentBox, ...]:
        """Its agents, one by one."""
        return self.agents or tuple(AgentBox(name=f"agent-{index}", cpus=self.cpus) for index in range(self.copies))


class Centralised(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="centralised", tag_field="kind"):
    """The target alone, its tokens streamed over the same link to the same boxes: the first rival."""

    name: Name


class SingleNode(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="single-node", tag_field="kind"):
    """Speculation on the coordinator alone: the second rival.

    Attributes:
        drafts: "lookup": from the text, streamed over the link as the target's own tokens are; "model": by the draft
            model on the coordinator's cores, whose texts do not travel (its times leave out the link).
        num_draft_tokens: L of the draft model; the coordinator's control chooses with lookup.
    """

    name: Name
    drafts: Literal["model", "lookup"]
    num_draft_tokens: DraftLength = 4


class LocalDraft(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="local", tag_field="kind"):
    """The draft model alone on each box: no network, and another text, whose quality is recorded."""

    name: Name


class Cooperation(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="cooperation", tag_field="kind"):
    """Agents draft, the coordinator verifies. What is null is left to a factor of that name, or else the default.

    Attributes:
        policy, schedule, verification: as in coordinator.toml (default price, continuous, coupled).
        num_draft_tokens: L of the policy "fixed" (default 4).
        draft, draft_entries, draft_ahead: as in agent.toml (default model, 1024, true).
    """

    name: Name
    policy: PolicyName | None = None
    schedule: ScheduleName | None = None
    verification: Rule | None = None
    num_draft_tokens: DraftLength | None = None
    draft: DraftSourceName | None = None
    draft_entries: Annotated[int, Meta(ge=1, le=MOST_ENTRIES)] | None = None
    draft_ahead: bool = True


class External(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="external", tag_field="kind"):
    """Any OpenAI-compatible server, asked the same prompts: llama.cpp's with its own draft, vLLM, a cloud's.

    Attributes:
        url: http://HOST:PORT/v1, where it answers.
        command: starts it on this machine, before the first cell of its group and until the last; {threads} stands for
            the target's. Null where it runs already.
        cpus: cores of the command.
        model: to ask for; null asks for the first that it lists.
        model_files: files that it serves, for their sha256.
        key_file: a bearer key, mode 0600; null for none.
        ready_s: longest wait for its first answer.
        body: further keys of every request, as { cache_prompt = false }: a server that keeps prompts would be asked
            some of them a second time.
        ignores_end: asks it to write on after its end of text ("ignore_eos" of llama.cpp and vLLM).
    """

    name: Name
    url: Annotated[str, Meta(pattern=r"^https?://[^/]+(/.*)?$")]
    command: tuple[str, ...] | None = None
    cpus: tuple[int, ...] | None = None
    model: str | None = None
    model_files: tuple[str, ...] = ()
    key_file: str | None = None
    ready_s: Seconds = 120.0
    body: dict[str, bool | int | float | str] = {}
    ignores_end: bool = False


Arm = Centralised | SingleNode | LocalDraft | Cooperation | External


class Factors(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Levels that are crossed with the arms and with each other; one that an arm sets itself does not concern it.

    Attributes:
        link: "none", a rate as "64kbit/s" (network namespace), a round trip as "20ms" (relay); for agents elsewhere
            any name of the link that they really have.
        users: served at once, spread over the device's agents.
        task: categories of the prompts; "all" takes any.
        temperature: of the draws.
        max_tokens: length of a text.
        policy, schedule, verification, num_draft_tokens, draft, draft_entries: of cooperation arms that leave it open.
    """

    link: tuple[str, ...] = ("none",)
    users: tuple[Annotated[int, Meta(ge=1, le=4096)], ...] = (1,)
    task: tuple[str, ...] = ("all",)
    temperature: tuple[Annotated[float, Meta(ge=0.0, le=100.0)], ...] = (0.0,)
    max_tokens: tuple[Annotated[int, Meta(ge=2, le=1 << 20)], ...] = (64,)
    policy: tuple[PolicyName, ...] = ()
    schedule: tuple[ScheduleName, ...] = ()
    verification: tuple[Rule, ...] = ()
    num_draft_tokens: tuple[DraftLength, ...] = ()
    draft: tuple[DraftSourceName, ...] = ()
    draft_entries: tuple[Annotated[int, Meta(ge=1, le=MOST_ENTRIES)], ...] = ()


SETTING_FACTORS: Final = ("policy", "schedule", "verification", "num_draft_tokens", "draft", "draft_entries")
ARM_FACTORS: Final[dict[type, tuple[str, ...]]] = {
    Centralised: ("link", "users", "task", "temperature", "max_tokens"),
    SingleNode: ("link", "users", "task", "temperature", "max_tokens"),  # with a draft model not the link
    LocalDraft: ("users", "task", "temperature", "max_tokens"),
    Cooperation: ("link", "users", "task", "temperature", "max_tokens", *SETTING_FACTORS),
    External: ("link", "users", "task", "temperature", "max_tokens"),
}
"""What concerns an arm of a kind."""


class Arrivals(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When users ask.

    Attributes:
        spacing: "together": every user at once, and again when served; "poisson": requests come by themselves.
        rate_per_s: mean rate of all users together, with "poisson".
    """

    spacing: Literal["together", "poisson"] = "together"
    rate_per_s: Annotated[float, Meta(gt=0.0, le=1e4)] | None = None

    def __post_init__(self) -> None:
        if (self.spacing == "poisson") != (self.rate_per_s is not None):
            raise ValueError(f"spacing is {self.spacing!r}: rate_per_s belongs to 'poisson', and to it alone")


class Limits(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is waited for before a cell, and what spoils one.

    Attributes:
        cool_down_s: before every cell.
        start_below_c: wait until the hottest zone of every machine is below; null does not.
        cool_down_most_s: longest wait for it, after which the cell is run and the journal says so.
        max_temperature_c: a cell that gets hotter is excluded; null sets no limit.
        on_throttling: "exclude" a cell in which a machine throttled, or "keep" it and say so.
    """

    cool_down_s: Seconds = 0.0
    start_below_c: Celsius | None = None
    cool_down_most_s: Seconds = 600.0
    max_temperature_c: Celsius | None = None
    on_throttling: Literal["exclude", "keep"] = "exclude"


class Energy(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The meter of the driver's machine; boxes elsewhere meter themselves, as their agent.toml says.

    Attributes:
        meter: as everywhere (`multispin meter list`).
        idle_s: window before every cell, its processes up and nothing asked; 0 measures none.
        hz: samples a second.
        conditions_s: between two looks at clocks, heat and load.
    """

    meter: str = "auto"
    idle_s: Annotated[float, Meta(ge=0.0, le=3600.0)] = 2.0
    hz: Annotated[float, Meta(gt=0.0, le=1000.0)] = 10.0
    conditions_s: Annotated[float, Meta(ge=0.2, le=3600.0)] = 5.0


class Hypothesis(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A difference that the campaign is to show, or to rule out: ln(arm / rival), paired within blocks.

    Attributes:
        name: in words.
        arm, rival: names of arms.
        metric: what is compared.
        effect: relative, which the campaign should find if it is there: -0.1 is 10 % less.
        sd: of the paired ln(arm / rival) from block to block, from a pilot; it decides the power.
        alpha: of the two-sided test.
    """

    name: str
    arm: str
    rival: str
    metric: Metric = "tpot_s"
    effect: Annotated[float, Meta(gt=-1.0, le=100.0)] = -0.1
    sd: Annotated[float, Meta(gt=0.0, le=10.0)] = 0.1
    alpha: Annotated[float, Meta(gt=0.0, lt=0.5)] = 0.05


class StoppingRule(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Stop before `blocks` are done when every hypothesis' interval is narrow enough, for every device and level.

    Attributes:
        half_width: of the interval of ln(arm / rival), so about the relative error.
        confidence: of the interval (Student's t over block differences).
        min_blocks: first look.
    """

    half_width: Annotated[float, Meta(gt=0.0, le=10.0)]
    confidence: Annotated[float, Meta(gt=0.5, lt=1.0)] = 0.95
    min_blocks: Annotated[int, Meta(ge=3)] = 5


class Plan(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A campaign. See the module's example.

    Attributes:
        name: of the campaign.
        prompts: "demo", or a file of JSON lines, beside the plan if it is no absolute path.
        devices, arms: what is compared, on what.
        blocks: repetitions; the most, with a stopping rule.
        seed: of order, prompts and draws.
        requests_per_user: in a cell.
        ignore_end: write every text to its full length.
        max_prompt_tokens: longer prompts are left out.
        warm_up_requests: for every agent when processes have started; not recorded.
        warm_up_tokens: of each.
        attempts: of a cell, before the run goes on without it.
        retry_s: before the second attempt; doubles with each further one, up to five minutes.
        passes: over the schedule in one call: what had failed at all its attempts is tried anew after all the rest.
        cell_timeout_s: longest time of a cell, after which its processes are ended.
        hypotheses, factors, models, arrivals, limits, energy, stop: see there.
    """

    name: Name
    prompts: str = "demo"
    devices: Annotated[tuple[Device, ...], Meta(min_length=1)]
    arms: Annotated[tuple[Arm, ...], Meta(min_length=1)]
    blocks: Annotated[int, Meta(ge=1, le=100_000)] = 6
    seed: Annotated[int, Meta(ge=0, lt=1 << 32)] = 1
    requests_per_user: Positive = 1
    ignore_end: bool = True
    max_prompt_tokens: Positive = 256
    warm_up_requests: Annotated[int, Meta(ge=0, le=1000)] = 1
    warm_up_tokens: Annotated[int, Meta(ge=2, le=4096)] = 8
    attempts: Annotated[int, Meta(ge=1, le=100)] = 3
    retry_s: Seconds = 2.0
    passes: Annotated[int, Meta(ge=1, le=1000)] = 2
    cell_timeout_s: Annotated[float, Meta(gt=0.0, le=1e6)] = 1800.0
    hypotheses: tuple[Hypothesis, ...] = ()
    factors: Factors = Factors()
    models: Models = Models()
    arrivals: Arrivals = Arrivals()
    limits: Limits = Limits()
    energy: Energy = Energy()
    stop: StoppingRule | None = None
