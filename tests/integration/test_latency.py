"""The parts of real rounds over real sockets: both ends on one machine, so the true offset of their clocks is 0."""

import asyncio
import math
from typing import Any
from urllib.parse import urlsplit

import pytest
import zmq
from tests.agent.test_client import ToyTokenizer
from tests.toy_model import ToyModel

from multispin.bench.relay import Relay
from multispin_agent.client import Client
from multispin_agent.config import Config
from multispin_agent.draft_source import model_source
from multispin_agent.generate import generate
from multispin_agent.request import Finished, Request
from multispin_coordinator.attribution import PassMeter
from multispin_coordinator.config import Config as CoordinatorConfig
from multispin_coordinator.config import Limits
from multispin_coordinator.server import Server
from multispin_models.engine_thread import EngineThread
from multispin_models.engines import Loaded
from multispin_models.sampling import Sampling

N_CTX = 256
LIMITS = Limits(max_context_tokens=N_CTX, max_prompt_tokens=64, max_sessions=2)


def serve(up_s: float | None, down_s: float = 0.0, num_requests: int = 2) -> list[Finished]:
    """Serve requests at once over a relay with these delays, or over none; return what became of them."""

    async def run(context: zmq.Context[Any]) -> list[Finished]:
        target = ToyModel(n_ctx=N_CTX, max_sequences=2)
        draft = ToyModel(n_ctx=N_CTX, max_sequences=2, noise=0.5)
        config = CoordinatorConfig(bind="tcp://127.0.0.1:*", policy="fixed", limits=LIMITS)
        server = Server(config, Loaded(target, ToyTokenizer()), target.info, PassMeter(None), context)  # type: ignore[arg-type]
        serving = asyncio.create_task(server.serve())
        relay = Relay("127.0.0.1", urlsplit(server.endpoint).port or 0, up_s=up_s or 0.0, down_s=down_s)
        async with relay:
            endpoint = server.endpoint if up_s is None else f"tcp://127.0.0.1:{relay.port}"
            agent = Config(agent_id="a", coordinator=endpoint, max_concurrent=2, max_context_tokens=N_CTX)
            client = Client(agent, draft.info, context)
            with EngineThread() as engine:
                finished = await asyncio.gather(
                    *(
                        generate(
                            Request(number, [1, 2, number + 1], Sampling(), 60, ignore_end=True),
                            config=agent,
                            client=client,
                            drafts=model_source(Loaded(draft, ToyTokenizer())),  # type: ignore[arg-type]
                            engine=engine,
                        )
                        for number in range(num_requests)
                    )
                )
            await client.close()
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        return finished

    with zmq.Context() as context:
        return asyncio.run(run(context))


def check(finished: list[Finished]) -> list[tuple[float, float, float]]:
    """Check every round; return (offset, bound, uplink) of each, seconds."""
    found = []
    for request in finished:
        assert len(request.rounds) > 10
        assert math.fsum(timing.parts.round_s for timing in request.rounds if timing.parts) == pytest.approx(
            (request.ended_ns - request.started_ns) / 1e9, abs=1e-9
        ), "the rounds add up to the request"
        for timing in request.rounds:
            parts = timing.parts
            assert parts is not None
            assert parts.uplink_s is not None
            assert parts.downlink_s is not None
            assert parts.clock_offset_ns is not None
            assert parts.clock_bound_s is not None
            assert parts.clock_event is None
            whole = [
                *(parts.draft_wait_s, parts.rewind_s, parts.agent_queue_s, parts.uplink_s),
                *(parts.coordinator_queue_s, parts.verify_s, parts.downlink_s),
            ]
            assert min(whole) >= 0.0
            assert abs(math.fsum(whole) - parts.round_s) <= min(parts.clock_bound_s, 1e-9)
            assert abs(parts.clock_offset_ns) / 1e9 <= parts.clock_bound_s, "both clocks are one: the offset is 0"
            # What the uplink truly took: both ends read the same clock.
            true_uplink_s = (timing.verdict.received_ns - timing.sent_ns) / 1e9
            assert abs(parts.uplink_s - true_uplink_s) <= parts.clock_bound_s + 1e-9
            found.append((parts.clock_offset_ns / 1e9, parts.clock_bound_s, true_uplink_s))
    return found


def test_on_loopback_the_parts_add_up_and_the_offset_is_0_within_its_bound() -> None:
    found = check(serve(None))
    assert min(bound for _, bound, _ in found) < 0.005


@pytest.mark.parametrize(("up_s", "down_s"), [(0.030, 0.002), (0.002, 0.030)])
def test_over_a_relay_with_unequal_ways_the_bound_covers_the_asymmetry(up_s: float, down_s: float) -> None:
    found = check(serve(up_s, down_s))
    asymmetry_s = (up_s - down_s) / 2
    # The estimate is off by half of the difference of the two ways, and cannot know it: the bound must say so.
    offset_s, bound_s, _ = found[-1]
    assert abs(offset_s) > 0.5 * abs(asymmetry_s)
    assert math.copysign(1.0, offset_s) == math.copysign(1.0, asymmetry_s)
    assert bound_s >= abs(asymmetry_s)
    assert min(uplink for _, _, uplink in found) >= up_s
