"""What is simulated: groups of agents, their links, a coordinator, and when what dies; from TOML.

seed = 1
duration_s = 60.0

[coordinator]               # a pass takes c0_s + per_row_s * rows + per_user_s * users
c0_s = 0.025
per_row_s = 0.00025
limits = { max_sessions = 1000, max_agents = 1000, max_rows = 4096 }

[[agents]]
count = 1000
draft_s = 0.02              # per drafted token
alpha = 0.74                # a drafted token is accepted; or trace = "runs/a", a run's records
num_draft_tokens = 4
link = { uplink_bit_per_s = 1e6, delay_s = 0.01 }
"""

import math
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from multispin_agent.config import Config as AgentConfig
from multispin_coordinator.config import Config as CoordinatorConfig
from multispin_coordinator.config import Limits
from multispin_models.errors import ConfigError

__all__ = [
    "AgentGroup",
    "Coordinator",
    "Link",
    "SimulatedScenario",
    "agent_config",
    "coordinator_config",
    "read_simulated_scenario",
]

Positive = Annotated[float, Meta(gt=0.0, le=1e15)]
NotNegative = Annotated[float, Meta(ge=0.0, le=1e15)]
Probability = Annotated[float, Meta(ge=0.0, le=1.0)]
BelowOne = Annotated[float, Meta(ge=0.0, lt=1.0)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]


class Link(Struct, frozen=True, forbid_unknown_fields=True):
    """The link between an agent and the coordinator, the same both ways but for the rates.

    Attributes:
        uplink_bit_per_s, downlink_bit_per_s: rates; infinite without a number.
        delay_s: one way.
        jitter_s: added to it, uniform from 0.
        loss: probability that a message never comes.
        duplicate: probability that it comes twice.
        reorder: probability that it may overtake others.
        bits_per_drafted_token: sent beside a draft's own bytes, for each token drafted.
        bandwidth_hz: of this agent's share; with it the rate is bandwidth_hz * log2(1 + snr * gain) both ways.
        snr: mean signal to noise ratio.
        fading: the gain, drawn anew every `coherence_s` and for each direction.
        coherence_s: see `fading`.
        outages_s: intervals in which nothing gets through.
    """

    uplink_bit_per_s: Positive = math.inf
    downlink_bit_per_s: Positive = math.inf
    delay_s: NotNegative = 0.0
    jitter_s: NotNegative = 0.0
    loss: BelowOne = 0.0
    duplicate: Probability = 0.0
    reorder: Probability = 0.0
    bits_per_drafted_token: NotNegative = 0.0
    bandwidth_hz: Positive | None = None
    snr: Positive = 10.0
    fading: Literal["none", "rayleigh"] = "none"
    coherence_s: Annotated[float, Meta(ge=1e-3, le=1e6)] = 0.1
    outages_s: tuple[tuple[NotNegative, NotNegative], ...] = ()


class AgentGroup(Struct, frozen=True, forbid_unknown_fields=True):
    """Agents that are alike.

    Attributes:
        count: of them.
        draft_s: a pass of the draft model, and so a drafted token.
        draft_spread: each agent's draft_s is drawn within this share of it, uniform.
        alpha: probability that a drafted token after a right one is the target's.
        alpha_std: of each request's own alpha around it, a beta distribution; 0 gives all the same.
        trace: a folder of records; requests then agree where the recorded drafts did, and alpha is not needed.
        num_draft_tokens: L.
        draft_ahead: draft on while a verdict is in flight.
        users: requests at once on an agent.
        prompt_tokens, max_tokens: of a request.
        pause_s: mean time between a text's end and the user's next request, exponential.
        start_s, end_s: when its users come, and go for good.
        settings: what else stands in agent.toml.
        link: of each.
    """

    draft_s: Positive
    count: Count = 1
    draft_spread: BelowOne = 0.0
    alpha: Probability | None = None
    alpha_std: BelowOne = 0.0
    trace: str | None = None
    num_draft_tokens: Annotated[int, Meta(ge=0, le=64)] = 4
    draft_ahead: bool = True
    users: Count = 1
    prompt_tokens: Annotated[int, Meta(ge=2, le=100_000)] = 64
    max_tokens: Annotated[int, Meta(ge=1, le=100_000)] = 128
    pause_s: NotNegative = 0.0
    start_s: NotNegative = 0.0
    end_s: Positive = math.inf
    settings: dict[str, Any] = {}
    link: Link = Link()


class Coordinator(Struct, frozen=True, forbid_unknown_fields=True):
    """The coordinator: what a pass takes, and the settings of its daemon.

    Attributes:
        c0_s, per_row_s, per_user_s: seconds of a pass, its rows, and the sequences in it.
        limits: as in coordinator.toml.
        settings: what else stands in coordinator.toml.
        schedule: "continuous": whatever is ready is verified; "barrier": only when all open requests are.
    """

    c0_s: NotNegative
    per_row_s: NotNegative = 0.0
    per_user_s: NotNegative = 0.0
    limits: Limits = Limits()
    settings: dict[str, Any] = {}
    schedule: Literal["continuous", "barrier"] = "continuous"

    def __post_init__(self) -> None:
        if self.c0_s + self.per_row_s + self.per_user_s <= 0:
            raise ValueError("c0_s, per_row_s and per_user_s are all 0, allowed is a pass that takes time")


class SimulatedScenario(Struct, frozen=True, forbid_unknown_fields=True):
    """A simulation. See the module's example."""

    coordinator: Coordinator
    agents: Annotated[tuple[AgentGroup, ...], Meta(min_length=1)]
    seed: Annotated[int, Meta(ge=0)] = 0
    duration_s: Annotated[float, Meta(gt=0.0, le=1e6)] = 60.0


def read_simulated_scenario(path: Path) -> SimulatedScenario:
    """Return the scenario of a TOML file.

    Raises:
        ConfigError: the file cannot be read, a key is unknown or out of range, or a group lacks what is needed.
    """
    try:
        values = msgspec.toml.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"scenario {path} cannot be read: {error}") from error
    try:
        scenario = msgspec.convert(values, SimulatedScenario)
    except msgspec.ValidationError as error:
        raise ConfigError(f"scenario {path}: {error}; {_allowed(str(error))}") from error
    coordinator_config(scenario.coordinator)
    for number, group in enumerate(scenario.agents):
        agent_config(group, f"agents[{number}]")
        if fault := _fault(group, scenario.coordinator.limits):
            raise ConfigError(f"scenario {path}: `$.agents[{number}]`: {fault}")
    return scenario


def coordinator_config(coordinator: Coordinator) -> CoordinatorConfig:
    """Return the settings of the coordinator's daemon.

    Raises:
        ConfigError: `settings` has what no coordinator.toml may have.
    """
    try:
        config = msgspec.convert({"policy": "fixed"} | coordinator.settings, CoordinatorConfig)
    except msgspec.ValidationError as error:
        raise ConfigError(f"settings of the coordinator: {error}") from error
    return msgspec.structs.replace(config, bind="simulated", limits=coordinator.limits)


def agent_config(group: AgentGroup, agent_id: str) -> AgentConfig:
    """Return the settings of an agent's daemon.

    Raises:
        ConfigError: `settings` has what no agent.toml may have.
    """
    try:
        config = msgspec.convert(group.settings, AgentConfig)
    except msgspec.ValidationError as error:
        raise ConfigError(f"settings of {agent_id}: {error}") from error
    return msgspec.structs.replace(
        config,
        agent_id=agent_id,
        num_draft_tokens=group.num_draft_tokens,
        draft_ahead=group.draft_ahead,
        max_concurrent=group.users,
        max_context_tokens=group.prompt_tokens + group.max_tokens,
    )


def _allowed(fault: str) -> str:
    """Return the keys of the table that a fault is in."""
    tables: tuple[tuple[str, str, type[Struct]], ...] = (
        (".link", "a link", Link),
        ("$.agents[", "[[agents]]", AgentGroup),
        (".limits", "limits", Limits),
        ("$.coordinator", "[coordinator]", Coordinator),
        ("", "a scenario", SimulatedScenario),
    )
    name, table = next((name, table) for place, name, table in tables if place in fault)
    return f"the keys of {name} are {', '.join(table.__struct_fields__)}"


def _fault(group: AgentGroup, limits: Limits) -> str:
    if (group.alpha is None) == (group.trace is None):
        return "give either alpha or trace"
    if group.alpha_std and (group.alpha is None or group.alpha_std**2 >= group.alpha * (1 - group.alpha)):
        return f"alpha_std is {group.alpha_std}, allowed is below sqrt(alpha * (1 - alpha))"
    if group.prompt_tokens > limits.max_prompt_tokens:
        return f"prompt_tokens is {group.prompt_tokens}, the coordinator's limits allow {limits.max_prompt_tokens}"
    if group.prompt_tokens + group.max_tokens > limits.max_context_tokens:
        return (
            f"prompt_tokens + max_tokens is {group.prompt_tokens + group.max_tokens}, the coordinator's limits allow "
            f"{limits.max_context_tokens} (max_context_tokens)"
        )
    if group.end_s <= group.start_s:
        return f"end_s is {group.end_s}, allowed is above start_s ({group.start_s})"
    return ""
