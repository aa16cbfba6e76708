"""Agents keep to their share of an uplink: the daemons' own code, in virtual time."""

import asyncio

import pytest

from multispin.simulate.network import Network
from multispin.simulate.scenario import Link
from multispin.simulate.toy_model import ToyTokenizer
from multispin.simulate.virtual_time import now_ns, run_virtually
from multispin.simulate.world import RunningAgent, RunningCoordinator
from multispin_agent.config import Config
from multispin_agent.draft_source import model_source
from multispin_agent.pacing import BURST_BYTES
from multispin_agent.request import Request
from multispin_coordinator.config import Config as CoordinatorConfig
from multispin_coordinator.config import Limits
from multispin_models.engines import Loaded
from multispin_models.messages import Close, decode_agent_message
from multispin_models.sampling import Sampling
from multispin_models.target_alone import generate_alone
from tests.toy_model import END_TOKEN, ToyModel

LENGTH = 60
HELLO_BYTES = 100  # sent before the share is known
PROMPT = [1, 2, 3]
ALONE = generate_alone(ToyModel(), PROMPT, Sampling(), LENGTH, frozenset({END_TOKEN}))


class Scales:
    """Weighs what agents send, and when."""

    def __init__(self) -> None:
        self.sent: list[tuple[float, int]] = []

    def up(self, frame: bytes) -> int:
        if not isinstance(decode_agent_message(frame), Close):  # the last words are not held back
            self.sent.append((now_ns() / 1e9, len(frame)))
        return 0

    def down(self, frame: bytes) -> None:
        pass


def serve(
    num_agents: int, share: float | None, own: float | None, num_texts: int = 8
) -> tuple[list[tuple[float, int]], float]:
    """Return what all agents sent while each served some texts, and the seconds that it took."""
    scales = Scales()

    async def one(agent: RunningAgent, number: int) -> None:
        for text in range(num_texts):
            finished = await agent.generate(Request(8 * number + text, PROMPT, Sampling(), LENGTH))
            assert finished.token_ids == ALONE
        await agent.close()

    async def run() -> float:
        network = Network(1, scales)
        limits = Limits(max_context_tokens=96, max_rows=32, prefill_rows=8)
        config = CoordinatorConfig(policy="fixed", limits=limits, uplink_bytes_per_s=share)
        coordinator = RunningCoordinator(config, Loaded(ToyModel(max_sequences=16), ToyTokenizer()), network)
        agents = []
        for number in range(num_agents):
            network.connect(f"agent-{number}", Link(delay_s=0.001))
            drafts = model_source(Loaded(ToyModel(noise=1.0), ToyTokenizer()))
            settings = Config(agent_id=f"agent-{number}", num_draft_tokens=2, send_bytes_per_s=own, retry_s=60.0)
            agents.append(RunningAgent(settings, drafts, network))
        started_ns = now_ns()
        await asyncio.gather(*(one(agent, number) for number, agent in enumerate(agents)))
        took_s = (now_ns() - started_ns) / 1e9
        await coordinator.end()
        return took_s

    return scales.sent, run_virtually(run())


def most_within(sent: list[tuple[float, int]], seconds: float) -> int:
    return max(sum(count for at, count in sent if begin <= at < begin + seconds) for begin, _ in sent)


def test_an_agent_keeps_to_its_own_rate_and_writes_the_same_text() -> None:
    free, quick_s = serve(1, None, None)
    paced, slow_s = serve(1, None, 200.0)
    assert most_within(paced, 2.0) <= BURST_BYTES + 2.0 * 200.0
    assert sum(count for _, count in free) > 2 * BURST_BYTES
    assert slow_s > (sum(count for _, count in paced) - BURST_BYTES) / 200.0 - 1e-6
    assert quick_s < slow_s / 3


def test_agents_share_what_the_coordinator_gives_them() -> None:
    sent, took_s = serve(3, 450.0, None, num_texts=5)
    at_once = 3 * (BURST_BYTES + HELLO_BYTES)
    assert sum(count for _, count in sent) <= at_once + 450.0 * took_s
    assert most_within(sent, 2.0) <= at_once + 450.0 * 2.0
    assert serve(3, None, None, num_texts=5)[1] < took_s / 1.5


def test_the_smaller_of_both_rates_holds() -> None:
    assert serve(1, 100_000.0, 200.0)[1] == pytest.approx(serve(1, 200.0, 100_000.0)[1], rel=0.05)
