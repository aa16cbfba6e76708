"""The protocol tested to destruction: everything that can fail does, and every text must still be the target's own.

A seed draws agents, users, models, links and what befalls them. Messages are lost, doubled, reordered and late, links
are dead for a while, agents, coordinator and engine passes die, users hang up. Checked in every run: each text equals
target-only decoding, token for token; no request is stuck; no sequence is left behind on either end.

The models are hashes of the last tokens (`toy_model`), so that a cache that holds anything but the text shows at once.
"""

import asyncio
import hashlib
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from msgspec import Struct

from multispin.simulate.fault_setting import N_CTX, FaultyRun, FaultySetting
from multispin.simulate.network import Network
from multispin.simulate.toy_model import END_TOKEN, ToyModel, ToyTokenizer
from multispin.simulate.virtual_time import NothingLeft, run_virtually, spend
from multispin.simulate.world import Observed, RunningAgent, RunningCoordinator
from multispin_agent.config import Config
from multispin_agent.draft_source import lookup_first_source, lookup_source, model_source
from multispin_agent.request import Request
from multispin_coordinator.config import Config as CoordinatorConfig
from multispin_coordinator.control.online import Control, Grant
from multispin_models.engines import Loaded
from multispin_models.errors import MultispinError
from multispin_models.language_model import Logits, Rows
from multispin_models.sampling import Sampling
from multispin_models.target_alone import generate_alone

__all__ = ["run_faulty"]

ENDS = frozenset({END_TOKEN})
STUCK_S = 20_000.0  # of virtual time; the slowest runs that end take a tenth of it
SYSTEM_PROMPT = [1 + place % 15 for place in range(20)]  # of every other user: enough to be copied
MOST_BEFORE = 40  # tokens of a turn before; with what is new they stay below the limit of prompts
MAX_DEATHS = 6  # a death costs an agent its texts: with no bound a run might never end


class _ErraticControl(Control):
    """Changes its mind with every verdict: whatever a policy could do, and what none would."""

    def __init__(self, rng: random.Random, l_max: int) -> None:
        super().__init__("price", l_max)
        self._random = rng

    def grant(self, *_: object) -> Grant:
        rng = self._random
        price = rng.randint(0, 1000) if rng.random() < 0.5 else 0
        return Grant(rng.randint(0, 9), price, alone=rng.random() < 0.6)

    def look_up(self, _request_id: int, tokens: Sequence[int]) -> tuple[int, ...]:
        start = self._random.randrange(len(tokens))
        return tuple(tokens[start : start + self._random.randrange(5)])


class _TimedToyModel(ToyModel):
    """A toy whose passes take time, and fail now and then."""

    def __init__(self, pass_s: float, fault: float, rng: random.Random, **sizes: Any) -> None:
        super().__init__(**sizes)
        self._pass_s = pass_s
        self._fault = fault
        self._random = rng
        self.num_faults = 0

    def forward(self, batch: Sequence[Rows]) -> list[Logits]:
        """Spend the time of a pass, then compute it, or fail."""
        spend(self._pass_s)
        if self._fault and self._random.random() < self._fault:
            self.faults = 1
            self.num_faults += 1
        return super().forward(batch)


class _Job(Struct, frozen=True):
    prompt_ids: list[int]
    sampling: Sampling
    max_tokens: int


class _FaultyWorld:
    def __init__(self, setting: FaultySetting) -> None:
        self._setting = setting
        self._random = random.Random(f"world/{setting.seed}")  # noqa: S311
        self._network = Network(setting.seed, Observed())
        self._agents: list[RunningAgent | None] = [None] * setting.num_agents
        self._models: list[_TimedToyModel] = []
        self._num_kept: list[Callable[[], int]] = []  # sequences that each keeps
        self._back = [asyncio.Event() for _ in range(setting.num_agents)]
        # Dicts and not sets, whose order differs from process to process.
        self._serving: list[dict[asyncio.Task[Any], None]] = [{} for _ in range(setting.num_agents)]
        self._deaths_left = MAX_DEATHS
        self._agent_deaths = self._coordinator_deaths = self._hang_ups = 0
        self._texts = self._engine_faults = 0
        self._problems: list[str] = []
        self._digest = hashlib.sha256()
        for index in range(setting.num_agents):
            self._network.connect(self._name(index), setting.links[index])

    async def run(self) -> FaultyRun:
        setting, loop = self._setting, asyncio.get_running_loop()
        self._start_coordinator()
        for index in range(setting.num_agents):
            self._start_agent(index)
        users = [
            asyncio.create_task(self._user(index, user))
            for index in range(setting.num_agents)
            for user in range(setting.users)
        ]
        reaper = asyncio.create_task(self._reap())
        _, stuck = await asyncio.wait(users, timeout=STUCK_S)
        virtual_s = loop.time()
        await _end(reaper)
        if stuck:
            self._problems.append(f"{len(stuck)} users are stuck after {STUCK_S:.0f} virtual seconds")
        for user in stuck:
            await _end(user)
        self._problems += [repr(user.exception()) for user in users if not user.cancelled() and user.exception()]
        await self._look_for_leftovers()
        return FaultyRun(
            setting.seed,
            tuple(self._problems),
            virtual_s,
            self._network.num_messages,
            self._texts,
            self._agent_deaths,
            self._coordinator_deaths,
            self._hang_ups,
            self._engine_faults + self._target.num_faults,
            self._digest.hexdigest()[:16],
        )

    # -- births and deaths --------------------------------------------------------------------------------------------

    def _name(self, index: int) -> str:
        return f"a{index}"

    def _start_coordinator(self) -> None:
        limits = self._setting.limits
        self._target = _TimedToyModel(
            self._setting.pass_s,
            self._setting.engine_fault,
            self._random,
            n_ctx=N_CTX,
            max_sequences=limits.max_sessions,
            max_rows=limits.max_rows,
        )
        loaded = Loaded(self._target, ToyTokenizer())
        policy = self._setting.policy
        config = CoordinatorConfig(
            bind="simulated",
            limits=limits,
            policy="price" if policy == "erratic" else policy,
            schedule=self._setting.schedule,
        )
        self._coordinator = RunningCoordinator(config, loaded, self._network)
        if policy == "erratic":
            self._coordinator.server.dispatcher.control = _ErraticControl(self._random, limits.max_draft_tokens)

    def _start_agent(self, index: int) -> None:
        setting = self._setting
        model = _TimedToyModel(
            setting.draft_s,
            0.0,
            self._random,
            n_ctx=N_CTX,
            max_sequences=setting.users,
            noise=setting.draft_noise[index],
        )
        self._models.append(model)
        config = Config(
            agent_id=self._name(index),
            draft=setting.draft_sources[index],
            lookup_min_ngram=1,
            num_draft_tokens=setting.num_draft_tokens[index],
            draft_ahead=setting.draft_ahead,
            max_concurrent=setting.users,
            retry_s=1.0,
            retry_max_s=5.0,
            deadline_s=10 * STUCK_S,
        )
        drafts = model_source(Loaded(model, ToyTokenizer()), keeps=True)
        self._num_kept.append(drafts.num_kept)
        if config.draft == "lookup":
            drafts = lookup_source(ToyTokenizer(), config)
        elif config.draft == "lookup+model":
            drafts = lookup_first_source(drafts, config)
        self._agents[index] = RunningAgent(config, drafts, self._network)
        self._back[index].set()

    async def _reap(self) -> None:
        setting = self._setting
        while self._deaths_left:
            await asyncio.sleep(1.0)
            if self._random.random() < setting.coordinator_death:
                self._deaths_left -= 1
                self._coordinator_deaths += 1
                await self._coordinator.end()
                self._engine_faults += self._target.num_faults
                await asyncio.sleep(self._random.choice([0.0, 3.0]))
                self._start_coordinator()
            for index in range(setting.num_agents):
                if self._deaths_left and self._random.random() < setting.agent_death:
                    self._deaths_left -= 1
                    self._agent_deaths += 1
                    await self._kill_agent(index)

    async def _kill_agent(self, index: int) -> None:
        """End an agent in the middle of what it does: from here on it says nothing, not even goodbye."""
        agent = self._agents[index]
        if agent is None:
            return
        self._agents[index] = None
        self._back[index].clear()
        self._network.cut(self._name(index))
        for serving in list(self._serving[index]):
            serving.cancel()
        await agent.close()
        await asyncio.sleep(self._random.choice([0.0, 0.5, 10.0]))
        self._start_agent(index)

    # -- users --------------------------------------------------------------------------------------------------------

    async def _user(self, index: int, user: int) -> None:
        """Ask two requests, each until it is answered whole; the second may go on from the first."""
        rng = random.Random(f"user/{self._setting.seed}/{index}/{user}")  # noqa: S311
        before = SYSTEM_PROMPT if rng.random() < 0.5 else []
        for _ in range(2):
            job = _Job(
                [*before, *(rng.randrange(1, 16) for _ in range(rng.randrange(1, 33 - len(before) // 2)))],
                Sampling(rng.choice([0.0, 0.7, 1.5]), rng.choice([0, 4]), rng.choice([1.0, 0.9]), rng.getrandbits(64)),
                rng.randrange(1, 21),
            )
            got: list[int] | None = None
            while got is None:
                await self._back[index].wait()
                got = await self._ask(index, job, rng)
            self._compare(index, job, got)
            before = [*job.prompt_ids, *got][:MOST_BEFORE] if rng.random() < 0.5 else []

    async def _ask(self, index: int, job: _Job, rng: random.Random) -> list[int] | None:
        """Return the text of a request; None if its agent died or the user hung up."""
        agent = self._agents[index]
        assert agent is not None
        request = Request(rng.getrandbits(64), job.prompt_ids, job.sampling, job.max_tokens)
        serving = asyncio.create_task(agent.generate(request))
        self._serving[index][serving] = None
        patience_s = rng.expovariate(self._setting.hang_up) if self._setting.hang_up and self._hang_ups < 20 else None
        try:
            done, _ = await asyncio.wait({serving}, timeout=patience_s)
            if not done:
                self._hang_ups += 1
                serving.cancel()
            return (await serving).token_ids
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise
            return None
        finally:
            self._serving[index].pop(serving, None)

    def _compare(self, index: int, job: _Job, got: list[int]) -> None:
        wanted = generate_alone(_alone, job.prompt_ids, job.sampling, job.max_tokens, ENDS)
        self._texts += 1
        self._digest.update(f"{index} {asyncio.get_running_loop().time():.9f} {got}\n".encode())
        if got != wanted:
            self._problems.append(f"agent {index}: text {got}, the target's is {wanted}, of {job}")

    async def _look_for_leftovers(self) -> None:
        for index, (model, num_kept) in enumerate(zip(self._models, self._num_kept, strict=True)):
            if model.num_open > num_kept() and any(agent is not None for agent in self._agents):
                await asyncio.sleep(60.0)  # a draft under way ends
            if model.num_open != num_kept():
                self._problems.append(f"draft model {index}: {model.num_open - num_kept()} sequences left open")
        for agent in self._agents:
            if agent is not None:
                await agent.close()
        limits = self._setting.limits
        await asyncio.sleep(2 * (limits.agent_timeout_s + limits.session_timeout_s) + 100 * self._setting.pass_s)
        dispatcher = self._coordinator.server.dispatcher
        left_open = self._target.num_open - dispatcher.num_kept_sequences
        if dispatcher.sessions or left_open:
            self._problems.append(f"{len(dispatcher.sessions)} sessions and {left_open} sequences left open")
        await self._coordinator.end()


_alone = ToyModel(n_ctx=N_CTX)  # the reference takes no virtual time


async def _end(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def _run(setting: FaultySetting) -> FaultyRun:
    return await _FaultyWorld(setting).run()


def run_faulty(setting: FaultySetting) -> FaultyRun:
    """Return what became of a setting; whatever the programs raise is a problem of the run."""
    kept = random.getstate()
    random.seed(setting.seed)  # the agents' back-off
    try:
        return run_virtually(_run(setting))
    except (MultispinError, NothingLeft, AssertionError, ValueError, KeyError, IndexError, RuntimeError) as error:
        return FaultyRun(setting.seed, (repr(error),), 0.0, 0, 0, 0, 0, 0, 0, "")
    finally:
        random.setstate(kept)
