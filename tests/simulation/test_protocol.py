"""The invariant in virtual time: the text is the target's own, whatever is lost, repeated, late, or dies."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multispin_coordinator.config import Limits
from multispin_models.sampling import Sampling
from multispin_models.target_alone import generate_alone
from tests.simulation.protocol_world import ENDS, Faults, SimulatedAgent, World
from tests.toy_model import ToyModel

SMALL = Limits(
    max_sessions=3,
    max_sessions_per_agent=2,
    max_context_tokens=96,
    max_prompt_tokens=64,
    max_draft_tokens=8,
    max_rows=24,
    prefill_rows=8,
    agent_timeout_s=15.0,
    session_timeout_s=30.0,
)


def make_agents(rng: random.Random, num_agents: int) -> list[SimulatedAgent]:
    agents = []
    for index in range(num_agents):
        prompts = [
            (
                [rng.randrange(1, 16) for _ in range(rng.randrange(1, 40))],
                Sampling(rng.choice([0.0, 0.7, 1.5]), rng.choice([0, 4]), rng.choice([1.0, 0.9]), rng.getrandbits(64)),
                rng.randrange(1, 40),
            )
            for _ in range(2)
        ]
        draft = ToyModel(noise=rng.choice([0.0, 0.5, 2.0, 50.0]), n_ctx=96, max_sequences=1)
        source = rng.choice(["model", "lookup", "lookup+model"])
        agents.append(SimulatedAgent(f"a{index}".encode(), draft, prompts, rng.randrange(0, 9), draft=source))
    return agents


def assert_texts_are_the_targets(faults: Faults, seed: int, num_agents: int) -> World:
    agents = make_agents(random.Random(seed), num_agents)
    wanted = {agent.name: list(agent.prompts) for agent in agents}
    world = World(agents, faults, seed, SMALL)
    world.run()
    alone = ToyModel()
    for agent in agents:
        texts = [generate_alone(alone, prompt, how, length, ENDS) for prompt, how, length in wanted[agent.name]]
        assert agent.texts == texts
    return world


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), num_agents=st.integers(1, 5))
def test_the_text_is_the_targets_on_a_sound_network(seed: int, num_agents: int) -> None:
    world = assert_texts_are_the_targets(Faults(), seed, num_agents)
    assert world.target.num_open == 0, "a sequence was left behind"
    assert not world.dispatcher.sessions


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    num_agents=st.integers(1, 5),
    loss=st.sampled_from([0.0, 0.1, 0.4]),
    repeat=st.sampled_from([0.0, 0.3]),
    max_delay=st.sampled_from([0, 5, 30]),
    agent_death=st.sampled_from([0.0, 0.005]),
    coordinator_death=st.sampled_from([0.0, 0.005]),
    engine_fault=st.sampled_from([0.0, 0.01]),
)
def test_the_text_is_the_targets_whatever_fails(seed: int, num_agents: int, **chances: float) -> None:
    chances["max_delay"] = int(chances["max_delay"])
    world = assert_texts_are_the_targets(Faults(**chances), seed, num_agents)  # type: ignore[arg-type]
    assert world.target.num_open == 0, "a sequence was left behind"


@pytest.mark.parametrize("num_agents", [1, 8])
def test_drafts_of_all_ready_agents_go_into_one_pass(num_agents: int) -> None:
    agents = [
        SimulatedAgent(f"a{i}".encode(), ToyModel(max_sequences=1), [([1, 2, i + 1], Sampling(), 12)], 2)
        for i in range(num_agents)
    ]
    limits = Limits(max_sessions=8, max_context_tokens=96, max_prompt_tokens=64, max_draft_tokens=8, max_rows=64)
    world = World(agents, Faults(max_delay=0), 1, limits)
    world.run()
    assert max(len(parts) for parts in world.target.passes) == num_agents
