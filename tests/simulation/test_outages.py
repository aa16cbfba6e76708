"""Links that are down for half of the time: what is served is what the rest is worth, and every text is right.

The agents' and the coordinator's own code in virtual time. How soon a request goes on after an outage is what decides
here: its back-off has grown to 15 s by then, so it must ask as soon as anything is heard again.
"""

import functools

import msgspec
import pytest

from multispin.simulate.scenario import AgentGroup, Coordinator, Link, SimulatedScenario
from multispin.simulate.summary import Summary, summarize
from multispin.simulate.world import run_scenario
from multispin_coordinator.config import Limits

AGENTS = AgentGroup(
    count=2, draft_s=0.1, alpha=0.74, num_draft_tokens=4, prompt_tokens=32, max_tokens=64, link=Link(delay_s=0.03)
)
DURATION_S = 900.0


@functools.cache
def simulate(*outages_s: tuple[float, float]) -> Summary:
    agents = msgspec.structs.replace(AGENTS, link=msgspec.structs.replace(AGENTS.link, outages_s=outages_s))
    scenario = SimulatedScenario(
        coordinator=Coordinator(c0_s=0.5, limits=Limits(max_sessions=4, max_agents=4)),
        agents=(agents,),
        seed=3,
        duration_s=DURATION_S,
    )
    return summarize(scenario, run_scenario(scenario, {}), 0.0, 0.0)


@pytest.mark.parametrize("phase_s", [60.0, 25.0])
def test_with_the_link_up_half_of_the_time_goodput_is_half_within_a_tenth(phase_s: float) -> None:
    always = simulate()
    starts = [phase_s * (2 * number + 1) for number in range(int(DURATION_S / phase_s / 2))]
    half = simulate(*((start, start + phase_s) for start in starts))
    up_share = 1.0 - len(starts) * phase_s / DURATION_S
    assert always.num_texts_differ == half.num_texts_differ == 0
    assert half.all.goodput_tokens_per_s == pytest.approx(up_share * always.all.goodput_tokens_per_s, rel=0.1)
    assert half.all.num_finished >= 0.8 * up_share * always.all.num_finished
