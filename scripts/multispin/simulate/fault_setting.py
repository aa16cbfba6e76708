"""What a seed stands for: agents, users, models, links, and what befalls them."""

import random
from typing import Final, Literal

from msgspec import Struct

from multispin.simulate.scenario import Link
from multispin_coordinator.config import Limits, ScheduleName

__all__ = ["N_CTX", "FaultyRun", "FaultySetting", "draw_setting"]

N_CTX = 96
SOURCES: Final[tuple[Literal["model", "lookup", "lookup+model"], ...]] = ("model", "model", "lookup", "lookup+model")

SCHEDULES: Final[tuple[ScheduleName, ...]] = ("continuous", "continuous", "barrier", "groups")


class FaultySetting(Struct, frozen=True):
    """What a seed draws. Probabilities are of a message (link), of a pass (engine), of a second (deaths, hang-ups)."""

    seed: int
    num_agents: int
    users: int
    num_draft_tokens: tuple[int, ...]
    draft_noise: tuple[float, ...]
    draft_sources: tuple[Literal["model", "lookup", "lookup+model"], ...]
    draft_ahead: bool
    links: tuple[Link, ...]
    limits: Limits
    pass_s: float
    draft_s: float
    engine_fault: float
    agent_death: float
    coordinator_death: float
    hang_up: float
    policy: Literal["fixed", "price", "exact", "erratic"] = "fixed"
    schedule: ScheduleName = "continuous"


class FaultyRun(Struct, frozen=True):
    """What became of a seed.

    Attributes:
        seed: draws it all.
        problems: what broke; none is a sound run.
        virtual_s: until the last text.
        num_messages: that arrived.
        num_texts: compared.
        num_agent_deaths, num_coordinator_deaths, num_hang_ups, num_engine_faults: that happened.
        digest: of all that happened to users, the same whenever the seed is run.
    """

    seed: int
    problems: tuple[str, ...]
    virtual_s: float
    num_messages: int
    num_texts: int
    num_agent_deaths: int
    num_coordinator_deaths: int
    num_hang_ups: int
    num_engine_faults: int
    digest: str


def draw_setting(seed: int) -> FaultySetting:
    """Return what a seed stands for; about one in thirty has a sound network and no deaths."""
    rng = random.Random(f"faulty/{seed}")  # noqa: S311
    num_agents = rng.choice([1, 2, 2, 3, 5])
    links = tuple(_draw_link(rng) for _ in range(num_agents))
    limits = Limits(
        max_sessions=rng.choice([1, 3, 8]),
        max_sessions_per_agent=rng.choice([1, 2, 8]),
        max_waiting=rng.choice([0, 2, 64]),
        max_context_tokens=N_CTX,
        max_prompt_tokens=64,
        max_draft_tokens=8,
        max_rows=rng.choice([24, 64]),
        prefill_rows=rng.choice([8, 32]),
        agent_timeout_s=rng.choice([4.0, 15.0, 15.0]),
        session_timeout_s=rng.choice([8.0, 30.0]),
    )
    return FaultySetting(
        seed=seed,
        num_agents=num_agents,
        users=rng.choice([1, 1, 1, 2]),
        num_draft_tokens=tuple(rng.randint(0, 9) for _ in range(num_agents)),
        draft_noise=tuple(rng.choice([0.0, 0.5, 2.0, 50.0]) for _ in range(num_agents)),
        draft_sources=tuple(rng.choice(SOURCES) for _ in range(num_agents)),
        draft_ahead=rng.random() < 0.8,
        links=links,
        limits=limits,
        pass_s=rng.choice([0.01, 0.1, 0.4]),
        draft_s=rng.choice([0.005, 0.03, 0.1]),
        engine_fault=rng.choice([0.0, 0.0, 0.01, 0.05]),
        agent_death=rng.choice([0.0, 0.02, 0.1]),
        coordinator_death=rng.choice([0.0, 0.02, 0.1]),
        hang_up=rng.choice([0.0, 0.0, 0.05]),
        policy=rng.choice(["fixed", "price", "exact", "erratic", "erratic"]),
        schedule=rng.choice(SCHEDULES),
    )


def _draw_link(rng: random.Random) -> Link:
    outages = []
    if rng.random() < 0.3:
        begin = rng.uniform(0.0, 20.0)
        outages.append((begin, begin + rng.uniform(0.5, 20.0)))
    rate = rng.choice([8e3, 1e6, 1e9])
    return Link(
        uplink_bit_per_s=rate,
        downlink_bit_per_s=rate,
        delay_s=rng.choice([0.0, 0.01, 0.1]),
        jitter_s=rng.choice([0.0, 0.2, 2.0]),
        loss=rng.choice([0.0, 0.1, 0.3]),
        duplicate=rng.choice([0.0, 0.3]),
        reorder=rng.choice([0.0, 0.5, 1.0]),
        outages_s=tuple(outages),
    )
