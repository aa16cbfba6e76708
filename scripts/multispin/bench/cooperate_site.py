"""A coordinator in this process, and agents in processes of their own, that stay while arms take turns.

Starting engines takes longer than measuring them, and a machine's pace drifts: so all arms are served by the same
processes, in short blocks. What differs from arm to arm is the coordinator's control; each arm keeps its own, and what
it has learnt, from block to block. Two arms need no agents: the target with drafts that it looks up in the text, and
with those of the draft model on its own core.
"""

import asyncio
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import NamedTuple, Self

import msgspec
import psutil
import zmq

from multispin.bench.by_itself import ByItself, mean_nll, write_by_itself
from multispin.bench.cooperate_agent import Start
from multispin.bench.cooperate_protocol import LONGEST_LINE, NULL_ENGINE, AgentPlace, Answer, Block
from multispin.bench.null_model import DRAFT_PASS, TARGET_PASS, NullModel, NullTokenizer
from multispin.local_run import RunSettings
from multispin.supervised import DaemonFailed
from multispin_agent.config import Config as AgentConfig
from multispin_coordinator.attribution import PassMeter
from multispin_coordinator.config import Config, Limits
from multispin_coordinator.control.online import Control, Grant
from multispin_coordinator.daemon import load_target
from multispin_coordinator.server import Server
from multispin_coordinator.timing import time_passes
from multispin_models.channel import Security
from multispin_models.engine_thread import EngineThread
from multispin_models.engines import Loaded, load_side, log_progress
from multispin_models.language_model import ModelInfo
from multispin_models.messages import Hello
from multispin_models.prompts import Job, encode_prompt
from multispin_models.records import RequestRecord, RoundRecord

__all__ = ["Arm", "Served", "Site", "Where"]


class Where(NamedTuple):
    """Where coordinator and agents meet.

    Attributes:
        bind: where the coordinator listens.
        reach: where agents find it; null where it listens.
        security: keys of the coordinator.
        agents: null for `num_agents` on this machine.
    """

    bind: str = "tcp://127.0.0.1:*"
    reach: str | None = None
    security: Security = Security()
    agents: tuple[AgentPlace, ...] | None = None


class Arm(NamedTuple):
    """What is compared: a policy; or "fixed" or "core" with L."""

    name: str
    length: int = 0

    def __str__(self) -> str:
        return f"{self.name} {self.length}" if self.length else self.name

    @property
    def has_agents(self) -> bool:
        """Whether agents take part."""
        return self.name != "core"


class Served(NamedTuple):
    """A block that agents took part in."""

    requests: list[RequestRecord]
    rounds: list[RoundRecord]


class _FixedControl(Control):
    """Grants every request the same length."""

    def __init__(self, length: int, l_max: int) -> None:
        super().__init__("exact", l_max)  # any but "fixed", with which agents keep a length of their own
        self._length = length

    def grant(self, *_: object) -> Grant:
        return Grant(self._length, 0, alone=False)


class _Greeted(Control):
    """Keeps the greetings of the agents, for the controls that come."""

    def __init__(self, l_max: int) -> None:
        super().__init__("price", l_max)
        self.hellos: list[tuple[bytes, Hello]] = []

    def on_hello(self, agent: bytes, hello: Hello) -> None:
        self.hellos.append((agent, hello))


class Site:
    """The processes of a measurement; an async context.

    Args:
        settings: of a local run; `num_agents` is the most users of a block.
        folder: for logs.
        where: they meet.

    Attributes:
        drafts: what each agent drafts with.
    """

    def __init__(self, settings: RunSettings, folder: Path, where: Where | None = None) -> None:
        self._settings = settings
        self._folder = folder
        self._where = Where() if where is None else where
        self._places = self._where.agents or tuple(
            AgentPlace(f"agent-{index}", cpus=settings.agent_cpus) for index in range(settings.num_agents)
        )
        self.drafts: list[ModelInfo] = []
        self._controls: dict[Arm, Control] = {}
        self._agents: list[asyncio.subprocess.Process] = []
        self._draft: Loaded | None = None

    async def __aenter__(self) -> Self:
        settings = self._settings
        most = len(self._places) * settings.concurrent_per_agent
        self._limits = Limits(
            max_sessions=2 * most,  # a block's sequences are freed with the next one's first pass
            max_sessions_per_agent=2 * settings.concurrent_per_agent,
            max_context_tokens=settings.max_context_tokens,
            max_prompt_tokens=settings.max_context_tokens - 1,
            keep_sequences=False,
        )
        config = Config(
            bind=self._where.bind,
            pair=settings.pair,
            engine=settings.engine,
            threads=settings.coordinator_threads,
            limits=self._limits,
            security=self._where.security,
            schedule=settings.schedule,
            verification=settings.verification,
        )
        async with AsyncExitStack() as stack:
            engine = stack.enter_context(EngineThread())
            self._engine = engine
            self._target, self.info = await engine.run(_load_target, config, 2 * most)
            stack.callback(self._target.model.close)
            self._pass_times = await engine.run(time_passes, self._target.model)
            context = stack.enter_context(zmq.Context())
            self._server = Server(config, self._target, self.info, PassMeter(None), context, engine=engine)
            self._greeted = _Greeted(self._limits.max_draft_tokens)
            self._server.dispatcher.control = self._greeted
            serving = asyncio.create_task(self._server.serve())
            stack.push_async_callback(_end, serving)
            stack.push_async_callback(self._end_agents)
            for place in self._places:  # one after the other: each has the cores to itself while it loads
                await self._start_agent(place)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _start_agent(self, place: AgentPlace) -> None:
        settings = self._settings
        config = AgentConfig(
            agent_id=place.agent_id,
            coordinator=self._where.reach or self._server.endpoint,
            pair=settings.pair,
            engine=settings.draft_engine,
            threads=settings.agent_threads,
            draft=settings.draft,
            draft_entries=settings.draft_entries,
            lookup_min_ngram=settings.lookup_min_ngram,
            draft_ahead=settings.draft_ahead,
            max_concurrent=settings.concurrent_per_agent,
            max_context_tokens=settings.max_context_tokens,
            meter="shared",
        )
        start = msgspec.json.encode(Start(config, place.file)).decode()
        python = place.python or sys.executable
        parent = "0" if place.launch else str(os.getpid())
        words = [*place.launch, python, "-m", "multispin.bench.cooperate_agent", parent]
        words.append(shlex.quote(start) if place.launch else start)  # ssh hands its words to a shell
        with self._log_of(place).open("ab") as log_file:
            agent = await asyncio.create_subprocess_exec(
                *words,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log_file,
                limit=LONGEST_LINE,
            )
        if place.cpus is not None:
            psutil.Process(agent.pid).cpu_affinity(list(place.cpus))
        self._agents.append(agent)
        ready = await self._hear(len(self._agents) - 1, b"ready")
        self.drafts.append(msgspec.json.decode(ready, type=ModelInfo))

    def _log_of(self, place: AgentPlace) -> Path:
        return self._folder / f"{place.agent_id}.log"

    async def _hear(self, index: int, word: bytes) -> bytes:
        """Return what follows a word that an agent is to say."""
        agent, place = self._agents[index], self._places[index]
        assert agent.stdout is not None
        said, _, rest = (await agent.stdout.readline()).partition(b" ")
        if said != word:
            log_tail = self._log_of(place).read_text(encoding="utf-8")[-2000:]
            raise DaemonFailed(
                f"agent {place.agent_id} said {said[:80]!r} in place of {word!r} ({agent.returncode}):\n{log_tail}"
            )
        return rest

    async def _end_agents(self) -> None:
        for agent in self._agents:
            assert agent.stdin is not None
            agent.stdin.close()
        for agent in self._agents:
            try:
                await asyncio.wait_for(agent.wait(), 10.0)
            except TimeoutError:
                agent.kill()
                await agent.wait()

    # -- blocks -------------------------------------------------------------------------------------------------------

    async def serve(self, arm: Arm, jobs: Sequence[Job], first_agent: int = 0) -> Served:
        """Serve each job at an agent of its own, from the first on, all at once, under an arm's control."""
        blocks = {index: Block(jobs=[job]) for index, job in enumerate(jobs, first_agent)}
        answers = (await self.ask(arm, blocks)).values()
        return Served(
            [record for answer in answers for record in answer.requests],
            [record for answer in answers for record in answer.rounds],
        )

    async def ask(self, arm: Arm, blocks: Mapping[int, Block]) -> dict[int, Answer]:
        """Give each of these agents its block, all at once, under an arm's control; return their answers."""
        if arm not in self._controls:
            self._controls[arm] = self._control(arm)
        self._server.dispatcher.control = self._controls[arm]
        for index, block in blocks.items():
            stdin = self._agents[index].stdin
            assert stdin is not None
            stdin.write(msgspec.json.encode(block) + b"\n")
        said = await asyncio.gather(*(self._hear(index, b"done") for index in blocks))
        return {index: msgspec.json.decode(each, type=Answer) for index, each in zip(blocks, said, strict=True)}

    def _control(self, arm: Arm) -> Control:
        l_max = self._limits.max_draft_tokens
        control = _FixedControl(arm.length, l_max) if arm.name == "fixed" else Control(arm.name, l_max)
        control.on_timed(self._pass_times)
        for agent, hello in self._greeted.hellos:
            control.on_hello(agent, hello)
        return control

    async def write(self, arm: Arm, jobs: Sequence[Job]) -> ByItself:
        """Let the target write each job's text, all at once, with drafts that are made on its own core."""
        return await self._engine.run(self._write, arm, jobs)

    def _write(self, arm: Arm, jobs: Sequence[Job]) -> ByItself:
        return write_by_itself(self._target, self._draft_model().model, jobs, arm.length)

    async def likelihood(self, texts: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[float | None]:
        """Return the mean negative log-likelihood, in nats, of a token of each text under the target.

        Args:
            texts: (prompt, text) in tokens; null is returned for a text without any.
        """
        return await self._engine.run(mean_nll, self._target.model, texts)

    def encoded(self, prompt: str) -> list[int]:
        """Return a prompt in tokens, as the target is asked."""
        return encode_prompt(self._target.tokenizer, prompt)

    def decoded(self, token_ids: Sequence[int]) -> str:
        """Return the text of tokens."""
        return b"".join(map(self._target.tokenizer.token_bytes, token_ids)).decode("utf-8", "replace")

    def _draft_model(self) -> Loaded:
        if self._draft is None:
            settings = self._settings
            users = len(self._places) * settings.concurrent_per_agent
            if settings.draft_engine == NULL_ENGINE:
                self._draft = Loaded(NullModel(DRAFT_PASS, users, is_draft=True), NullTokenizer())
            else:
                self._draft = load_side(
                    settings.pair,
                    "draft",
                    settings.draft_engine,
                    n_ctx=settings.max_context_tokens,
                    max_sequences=users,
                    max_rows=64,
                    num_threads=settings.coordinator_threads,
                    progress=log_progress,
                )
            self._stack.callback(self._draft.model.close)
        return self._draft


def _load_target(config: Config, max_sequences: int) -> tuple[Loaded, ModelInfo]:
    if config.engine == NULL_ENGINE:
        model = NullModel(TARGET_PASS, max_sequences, is_draft=False)
        return Loaded(model, NullTokenizer()), model.info
    return load_target(config, log_progress)


async def _end(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
