"""A coordinator in this process, and agents in processes of their own, that stay while arms take turns.

Starting engines takes longer than measuring them, and a machine's pace drifts: so all arms are served by the same
processes, in short blocks. What differs from arm to arm is the coordinator's control; each arm keeps its own, and what
it has learnt, from block to block. Two arms need no agents: the target with drafts that it looks up in the text, and
with those of the draft model on its own core.
"""

import asyncio
import os
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple, Self

import msgspec
import psutil
import zmq

from multispin.bench.cooperate_agent import Block
from multispin.local_run import RunSettings
from multispin.supervised import DaemonFailed
from multispin_agent.config import Config as AgentConfig
from multispin_agent.drafter import ModelDrafter
from multispin_coordinator.attribution import PassMeter
from multispin_coordinator.config import Config, Limits
from multispin_coordinator.control.online import Control, Grant
from multispin_coordinator.daemon import load_target
from multispin_coordinator.server import Server
from multispin_coordinator.timing import time_passes
from multispin_models.engine_thread import EngineThread
from multispin_models.engines import Loaded, load_side, log_progress
from multispin_models.lookup_alone import LookupBatch, LookupUser
from multispin_models.messages import Hello
from multispin_models.prompts import Job, encode_prompt
from multispin_models.records import RequestRecord, RoundRecord, read_jsonl

__all__ = ["Arm", "ByItself", "Served", "Site"]

NEVER_END: frozenset[int] = frozenset()


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


class ByItself(NamedTuple):
    """A block that the target wrote by itself: texts, tokens while all were written, seconds, of a token each."""

    texts: dict[str, tuple[int, ...]]
    tokens: int
    seconds: float
    tpot_s: list[float]


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
        folder: for records and logs.
    """

    def __init__(self, settings: RunSettings, folder: Path) -> None:
        self._settings = settings
        self._folder = folder
        self._controls: dict[Arm, Control] = {}
        self._agents: list[asyncio.subprocess.Process] = []
        self._draft: Loaded | None = None
        self._num_blocks = 0

    async def __aenter__(self) -> Self:
        settings = self._settings
        most = settings.num_agents
        self._limits = Limits(
            max_sessions=2 * most,  # a block's sequences are freed with the next one's first pass
            max_context_tokens=settings.max_context_tokens,
            max_prompt_tokens=settings.max_context_tokens - 1,
            keep_sequences=False,
        )
        config = Config(
            bind="tcp://127.0.0.1:*",
            pair=settings.pair,
            engine=settings.engine,
            threads=settings.coordinator_threads,
            limits=self._limits,
        )
        async with AsyncExitStack() as stack:
            engine = stack.enter_context(EngineThread())
            self._engine = engine
            self._target, info = await engine.run(load_target, config, log_progress)
            stack.callback(self._target.model.close)
            self._pass_times = await engine.run(time_passes, self._target.model)
            context = stack.enter_context(zmq.Context())
            self._server = Server(config, self._target, info, PassMeter(None), context, engine=engine)
            self._greeted = _Greeted(self._limits.max_draft_tokens)
            self._server.dispatcher.control = self._greeted
            serving = asyncio.create_task(self._server.serve())
            stack.push_async_callback(_end, serving)
            stack.push_async_callback(self._end_agents)
            for index in range(most):  # one after the other: each has the cores to itself while it loads
                self._agents.append(await self._start_agent(index))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _start_agent(self, index: int) -> asyncio.subprocess.Process:
        settings = self._settings
        config = AgentConfig(
            agent_id=f"agent-{index}",
            coordinator=self._server.endpoint,
            pair=settings.pair,
            engine=settings.draft_engine,
            threads=settings.agent_threads,
            draft=settings.draft,
            lookup_min_ngram=settings.lookup_min_ngram,
            draft_ahead=settings.draft_ahead,
            max_context_tokens=settings.max_context_tokens,
        )
        with (self._folder / f"agent-{index}.log").open("ab") as log_file:
            agent = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "multispin.bench.cooperate_agent", str(os.getpid())),
                msgspec.json.encode(config).decode(),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log_file,
            )
        if settings.agent_cpus is not None:
            psutil.Process(agent.pid).cpu_affinity(list(settings.agent_cpus))
        await self._hear(agent, index, "ready")
        return agent

    async def _hear(self, agent: asyncio.subprocess.Process, index: int, expected: str) -> None:
        assert agent.stdout is not None
        line = (await agent.stdout.readline()).decode().strip()
        if line != expected:
            log_tail = (self._folder / f"agent-{index}.log").read_text(encoding="utf-8")[-2000:]
            raise DaemonFailed(f"agent {index} said {line!r} in place of {expected!r}:\n{log_tail}")

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
        if arm not in self._controls:
            self._controls[arm] = self._control(arm)
        self._server.dispatcher.control = self._controls[arm]
        self._num_blocks += 1
        folders = [self._folder / f"block-{self._num_blocks}" / str(index) for index in range(len(jobs))]
        agents = self._agents[first_agent : first_agent + len(jobs)]
        for agent, folder, job in zip(agents, folders, jobs, strict=True):
            assert agent.stdin is not None
            agent.stdin.write(msgspec.json.encode(Block(str(folder), [job])) + b"\n")
        await asyncio.gather(*(self._hear(agent, index, "done") for index, agent in enumerate(agents, first_agent)))
        requests = [each for folder in folders for each in read_jsonl(folder / "requests.jsonl", RequestRecord).records]
        rounds = [each for folder in folders for each in read_jsonl(folder / "rounds.jsonl", RoundRecord).records]
        return Served(requests, rounds)

    def _control(self, arm: Arm) -> Control:
        l_max = self._limits.max_draft_tokens
        control = _FixedControl(arm.length, l_max) if arm.name == "fixed" else Control(arm.name, l_max)
        for rows, seconds in self._pass_times:
            control.on_pass(rows, seconds)
        for agent, hello in self._greeted.hellos:
            control.on_hello(agent, hello)
        return control

    async def write(self, arm: Arm, jobs: Sequence[Job]) -> ByItself:
        """Let the target write each job's text, all at once, with drafts that are made on its own core."""
        return await self._engine.run(partial(self._write, arm, jobs))

    def _write(self, arm: Arm, jobs: Sequence[Job]) -> ByItself:
        users = [
            LookupUser(encode_prompt(self._target.tokenizer, job.prompt), job.sampling, job.max_tokens, NEVER_END)
            for job in jobs
        ]
        drafters = [ModelDrafter(self._draft_model().model, job.sampling) for job in jobs]
        guesses = [partial(_guess, drafter) for drafter in drafters]
        batch = LookupBatch(self._target.model, users, num_draft_tokens=arm.length, guesses=guesses)
        try:
            batch.prefill()
            for user, drafter in zip(users, drafters, strict=True):
                _guess(drafter, user.prompt_ids, 1)
            ended_s: dict[int, float] = {}
            tokens = 0
            started_s = time.perf_counter()
            while batch.step():
                now_s = time.perf_counter()
                if not ended_s:
                    tokens, seconds = sum(len(text.token_ids) - 1 for text in batch.texts), now_s - started_s
                for index, text in enumerate(batch.texts):
                    if len(text.token_ids) == jobs[index].max_tokens:
                        ended_s.setdefault(index, now_s)
            tpot_s = [(end - started_s) / (jobs[index].max_tokens - 1) for index, end in ended_s.items()]
            texts = {job.job_id: tuple(text.token_ids) for job, text in zip(jobs, batch.texts, strict=True)}
        finally:
            batch.close()
            for drafter in drafters:
                drafter.close()
        return ByItself(texts, tokens, seconds, tpot_s)

    def _draft_model(self) -> Loaded:
        if self._draft is None:
            settings = self._settings
            self._draft = load_side(
                settings.pair,
                "draft",
                settings.draft_engine,
                n_ctx=settings.max_context_tokens,
                max_sequences=settings.num_agents,
                max_rows=64,
                num_threads=settings.coordinator_threads,
                progress=log_progress,
            )
            self._stack.callback(self._draft.model.close)
        return self._draft


def _guess(drafter: ModelDrafter, tokens: Sequence[int], count: int) -> list[int]:
    if count < 1:
        return []
    return [each.token_id for each in drafter.draft(tokens, count, NEVER_END, lambda: False)]


async def _end(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
