"""The daemons' own code in one virtual-time loop: agents' clients and generations, the coordinator's server.

Everything that decides is the real thing; only sockets, engines, clocks and users are modelled.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from multispin.simulate.language import Agreement, KnownText, KnownTokenizer, ModelledModel, Texts
from multispin.simulate.network import Network
from multispin.simulate.scenario import AgentGroup, SimulatedScenario, agent_config, coordinator_config
from multispin.simulate.virtual_time import VirtualEngine, now_ns, run_virtually
from multispin_agent.client import Client
from multispin_agent.config import Config
from multispin_agent.draft_source import DraftSource, model_source
from multispin_agent.generate import generate
from multispin_agent.request import Finished, Request
from multispin_coordinator.attribution import PassMeter
from multispin_coordinator.config import Config as CoordinatorConfig
from multispin_coordinator.dispatcher import Dispatcher
from multispin_coordinator.passes import Pass
from multispin_coordinator.server import Server
from multispin_coordinator.timing import ROWS, PassTime
from multispin_models.engines import Loaded
from multispin_models.messages import Draft, Verdict, decode_agent_message, decode_coordinator_message
from multispin_models.provenance import Piece
from multispin_models.sampling import Sampling

__all__ = ["Observed", "RunningAgent", "RunningCoordinator", "Served", "World", "run_scenario"]

NO_CONTEXT: Any = None  # of ZeroMQ


class Observed:
    """Counts what is sent: drafts and their tokens, verdicts and what they accept."""

    def __init__(self) -> None:
        self.drafts = self.drafted = self.verdicts = self.accepted = 0

    def up(self, frame: bytes) -> int:
        """Take a frame of an agent; return how many drafted tokens it carries."""
        message = decode_agent_message(frame)
        if not isinstance(message, Draft):
            return 0
        self.drafts += 1
        self.drafted += len(message.draft_token_ids)
        return len(message.draft_token_ids)

    def down(self, frame: bytes) -> None:
        """Take a frame of the coordinator."""
        message = decode_coordinator_message(frame)
        if isinstance(message, Verdict):
            self.verdicts += 1
            self.accepted += message.num_accepted


class RunningCoordinator:
    """A coordinator from its start to its death.

    Args:
        config: of its daemon.
        loaded: target and tokenizer.
        network: it is reached by.
        pass_times: as the daemon measures them before it serves.
    """

    def __init__(
        self,
        config: CoordinatorConfig,
        loaded: Loaded,
        network: Network,
        pass_times: Sequence[PassTime] = (),
    ) -> None:
        self.server = Server(
            config,
            loaded,
            loaded.model.info,
            PassMeter(None),
            NO_CONTEXT,
            open_channel=network.open_coordinator_channel,
            engine=VirtualEngine(),
            now_ns=now_ns,
            pass_times=pass_times,
        )
        self._serving = asyncio.create_task(self.server.serve())

    async def end(self) -> None:
        """End it; what it was computing is lost. A fault of the server is raised here."""
        self._serving.cancel()
        with suppress(asyncio.CancelledError):
            await self._serving


def wait_for_all(dispatcher: Dispatcher) -> None:
    """Let a dispatcher begin a pass only when every open request has something for it: the paper's synchronous round.

    Stricter than the daemon's own barrier, for comparison: no prompt is computed meanwhile, and one silent agent holds
    up all, until it is dropped.
    """
    next_pass = dispatcher.next_pass

    def when_all_are_ready(now_ns: int = 0) -> Pass | None:
        if any(session.job is None for session in dispatcher.sessions.values()):
            return None
        return next_pass(now_ns)

    dispatcher.next_pass = when_all_are_ready  # type: ignore[method-assign]


class RunningAgent:
    """An agent from its start to its death, with its draft model and its engine.

    Args:
        config: of its daemon.
        drafts: its draft model, or another source.
        network: in which it has a link.
    """

    def __init__(self, config: Config, drafts: DraftSource, network: Network) -> None:
        self._config = config
        self._drafts = drafts
        self._engine = VirtualEngine()
        self._client = Client(config, drafts.info, NO_CONTEXT, open_channel=network.open_agent_channel, now_ns=now_ns)

    async def generate(self, request: Request, on_text: Callable[[Piece], None] = lambda _piece: None) -> Finished:
        """Serve a request, as the daemon does."""
        return await generate(
            request,
            config=self._config,
            client=self._client,
            drafts=self._drafts,
            engine=self._engine,
            on_text=on_text,
        )

    async def close(self) -> None:
        """Leave the network."""
        await self._client.close()


@dataclass
class Served:
    """A request of a simulation.

    Attributes:
        group: number of its agent's group.
        text: what it must be.
        started_s: when the user asked.
        pieces: (time, tokens so far) at every verdict.
        written: the text so far, a letter a token.
        finished: null if it was not at the end.
    """

    group: int
    text: KnownText
    started_s: float
    pieces: list[tuple[float, int]] = field(default_factory=list)
    written: str = ""
    finished: Finished | None = None


class World:
    """A scenario under way.

    Args:
        scenario: checked.
        traces: by path, of the groups that have one.
    """

    def __init__(self, scenario: SimulatedScenario, traces: dict[str, list[Agreement]]) -> None:
        self._scenario = scenario
        self._traces = traces
        self.texts = Texts()
        self.observed = Observed()
        self.network = Network(scenario.seed, self.observed)
        self.requests: list[Served] = []
        limits = scenario.coordinator.limits
        cost = scenario.coordinator
        self.target = ModelledModel(
            self.texts,
            lambda rows, users: cost.c0_s + cost.per_row_s * rows + cost.per_user_s * users,
            is_draft=False,
            max_sequences=limits.max_sessions,
            max_rows=limits.max_rows,
            n_ctx=limits.max_context_tokens,
        )
        self.agent_ids: list[str] = []

    async def run(self) -> None:
        """Let it run for the scenario's duration."""
        described = self._scenario.coordinator
        coordinator = RunningCoordinator(
            coordinator_config(described),
            Loaded(self.target, KnownTokenizer()),
            self.network,
            pass_times=[
                PassTime(rows, described.c0_s + described.per_row_s * rows + described.per_user_s) for rows in ROWS
            ],
        )
        if described.schedule == "barrier":
            wait_for_all(coordinator.server.dispatcher)
        agents: list[RunningAgent] = []
        users: list[asyncio.Task[None]] = []
        for number, group in enumerate(self._scenario.agents):
            for index in range(group.count):
                agent, rng = self._start_agent(number, group, index)
                agents.append(agent)
                users += [
                    asyncio.create_task(self._user(number, group, agent, random.Random(f"{rng}/{user}")))  # noqa: S311
                    for user in range(group.users)
                ]
        await asyncio.wait(users, timeout=self._scenario.duration_s)
        for user in users:
            user.cancel()
        ended = await asyncio.gather(*users, return_exceptions=True)
        for agent in agents:
            await agent.close()
        await coordinator.end()
        for end in ended:
            if isinstance(end, Exception):
                raise end

    def _start_agent(self, number: int, group: AgentGroup, index: int) -> tuple[RunningAgent, str]:
        agent_id = f"agent-{number}-{index}"
        seed = f"{self._scenario.seed}/{agent_id}"
        draft_s = group.draft_s * (1 + group.draft_spread * random.Random(seed).uniform(-1, 1))  # noqa: S311
        model = ModelledModel(
            self.texts,
            lambda _rows, _users: draft_s,
            is_draft=True,
            max_sequences=group.users,
            max_rows=max(64, group.prompt_tokens),
            n_ctx=self._scenario.coordinator.limits.max_context_tokens,
        )
        self.network.connect(agent_id, group.link)
        self.agent_ids.append(agent_id)
        config = agent_config(group, agent_id)
        return RunningAgent(config, model_source(Loaded(model, KnownTokenizer())), self.network), seed

    async def _user(self, number: int, group: AgentGroup, agent: RunningAgent, rng: random.Random) -> None:
        """Ask one request after the other."""
        loop = asyncio.get_running_loop()
        # Not all in the same instant, which no user is.
        await asyncio.sleep(group.start_s + rng.random() * group.draft_s)
        while loop.time() < group.end_s:
            text = self.texts.add(group.prompt_tokens, self._agreement(group, rng), rng)
            served = Served(number, text, loop.time())
            self.requests.append(served)
            request = Request(rng.getrandbits(64), text.prompt_ids, Sampling(), group.max_tokens, ignore_end=True)
            serving = asyncio.create_task(agent.generate(request, _noting(served)))
            done, _ = await asyncio.wait({serving}, timeout=group.end_s - loop.time())
            if not done:
                serving.cancel()
                await asyncio.wait({serving})
                return
            served.finished = serving.result()
            if group.pause_s:
                await asyncio.sleep(rng.expovariate(1 / group.pause_s))

    def _agreement(self, group: AgentGroup, rng: random.Random) -> list[bool]:
        if group.trace is not None:
            trace = rng.choice(self._traces[group.trace])
            known = [bit for bit in trace if bit is not None]
            rate = sum(known) / len(known) if known else 0.0
            bits = [*trace[: group.max_tokens], *[None] * (group.max_tokens - len(trace))]
            return [rng.random() < rate if bit is None else bit for bit in bits]
        assert group.alpha is not None
        alpha = group.alpha
        if group.alpha_std:
            weight = alpha * (1 - alpha) / group.alpha_std**2 - 1
            alpha = rng.betavariate(alpha * weight, (1 - alpha) * weight)
        return [rng.random() < alpha for _ in range(group.max_tokens)]


def _noting(served: Served) -> Callable[[Piece], None]:
    loop = asyncio.get_running_loop()

    def note(piece: Piece) -> None:
        served.written += piece.text
        served.pieces.append((loop.time(), len(served.written)))

    return note


def run_scenario(scenario: SimulatedScenario, traces: dict[str, list[Agreement]]) -> World:
    """Return a scenario's world after its duration.

    Args:
        scenario: checked.
        traces: by path, of the groups that have one.
    """

    async def run() -> World:
        world = World(scenario, traces)
        await world.run()
        return world

    kept = random.getstate()
    random.seed(scenario.seed)  # the agents' back-off
    try:
        return run_virtually(run())
    finally:
        random.setstate(kept)
