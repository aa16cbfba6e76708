"""Agents and a coordinator whose drafting, passes and network take time, all of it virtual: the real pure cores.

Passes take what `Costs` says, each drafted token `draft_s` on a box of its own, each way half of `network_s`.
How often drafts are right is that of toy models. Requests come one after the other, as many at once as users are there.
"""

import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from multispin_agent.draft_length import DraftHistory
from multispin_agent.drafter import Drafter, ModelDrafter
from multispin_agent.generation import Generation
from multispin_coordinator.config import Limits
from multispin_coordinator.control.online import Control
from multispin_coordinator.dispatcher import Dispatcher, Send
from multispin_coordinator.passes import PassTiming, num_sweeps
from multispin_coordinator.timing import OF_TWO, ROWS, PassTime
from multispin_coordinator.verifier import run_pass
from multispin_models.messages import PROTOCOL_VERSION, Close, Hello, Report, Verdict, encode
from multispin_models.sampling import Sampling
from tests.toy_model import ToyModel

SECOND = 1_000_000_000
NO_END: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Costs:
    """Seconds.

    Attributes:
        c0_s, c1_s: of a pass: `c0_s + c1_s * rows`;
        c2_s: and as much for each square of the rows: a row more is dearer than one before;
        jump_s: and as much for a pass of more than one row;
        splits: c0 again for each further sweep, as llama.cpp has it.
        draft_s: of a drafted token.
        network_s: both ways.
    """

    c0_s: float = 0.015
    c1_s: float = 0.001
    c2_s: float = 0.0
    jump_s: float = 0.0
    splits: bool = False
    draft_s: float = 0.003
    network_s: float = 0.002

    def pass_s(self, parts: Sequence[tuple[int, int]]) -> float:
        """Return the seconds of a pass of (sequence, rows)."""
        rows = sum(count for _, count in parts)
        sweeps = num_sweeps(parts) if self.splits else 1
        return self.c0_s * sweeps + self.c1_s * rows + self.c2_s * rows**2 + self.jump_s * (rows > 1)

    def alone(self, users: int) -> float:
        """Return tokens per second of the coordinator alone, by arithmetic."""
        return users / self.pass_s([(user, 1) for user in range(users)])


@dataclass
class Agent:
    """A box with one user; the user is there between `begins_s` and `ends_s`."""

    name: bytes
    begins_s: float
    ends_s: float
    draft_s: float
    model: ToyModel
    num_draft_tokens: int
    history: DraftHistory = field(default_factory=DraftHistory)
    requests: random.Random = field(default_factory=random.Random)
    generation: Generation | None = None
    drafter: Drafter | None = None
    drafting: bool = False
    sent_ns: int = 0
    compared: int = 0
    hits: int = 0
    tokens: list[tuple[int, int]] = field(default_factory=list)  # (time, tokens) of every verdict
    modes: list[tuple[int, bool]] = field(default_factory=list)  # (time, alone) of every change


class TimedWorld:
    """Runs until a time.

    Args:
        policy: of the coordinator.
        costs: of everything.
        noise: of the draft models: how much they differ from the target.
        temperature: of all requests; at 0 texts soon repeat themselves.
    """

    def __init__(
        self,
        policy: str,
        costs: Costs,
        noise: float,
        *,
        seed: int = 1,
        num_draft_tokens: int = 4,
        temperature: float = 1.0,
    ) -> None:
        self._temperature = temperature
        self.costs, self.noise = costs, noise
        self.random = random.Random(seed)
        self.now_ns = 0
        self.agents: dict[bytes, Agent] = {}
        self._num_draft_tokens = num_draft_tokens
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0
        self._computing = False
        limits = Limits(max_sessions=16, max_context_tokens=1024, max_prompt_tokens=64, max_draft_tokens=12)
        self.limits = limits
        self.target = ToyModel(n_ctx=1024, max_sequences=16, max_rows=limits.max_rows)
        self.control = Control(policy, limits.max_draft_tokens)
        shapes = [list(enumerate(rows)) for rows in [(rows,) for rows in ROWS] + list(OF_TWO)]
        self.control.on_timed(
            [
                PassTime(sum(rows for _, rows in parts), self._noisy(costs.pass_s(parts)), num_sweeps(parts))
                for _ in range(3)
                for parts in shapes
            ]
        )
        self.dispatcher = Dispatcher(self.target.info, NO_END, limits, self.control)

    def add_agent(self, begins_s: float = 0.0, ends_s: float = 1e9, draft_s: float | None = None) -> Agent:
        name = f"a{len(self.agents)}".encode()
        model = ToyModel(noise=self.noise, n_ctx=1024, max_sequences=1)
        draft_s = self.costs.draft_s if draft_s is None else draft_s
        agent = Agent(name, begins_s, ends_s, draft_s, model, self._num_draft_tokens)
        agent.requests.seed(len(self.agents))  # the same requests whatever the policy
        self.agents[name] = agent
        self.at(begins_s, lambda: self._join(agent))
        return agent

    def at(self, seconds: float, event: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (int(seconds * SECOND), self._count, event))

    def after(self, seconds: float, event: Callable[[], None]) -> None:
        self.at(self.now_ns / SECOND + seconds, event)

    def run(self, until_s: float) -> None:
        while self._events and self._events[0][0] <= until_s * SECOND:
            self.now_ns, _, event = heapq.heappop(self._events)
            event()

    def _noisy(self, seconds: float) -> float:
        return seconds * self.random.uniform(0.97, 1.03)

    # -- the coordinator --

    def _say(self, agent: Agent, message: object) -> None:
        frame = encode(message)  # type: ignore[arg-type]
        self.after(self.costs.network_s / 2, lambda: self._on_frame(agent.name, frame))

    def _on_frame(self, name: bytes, frame: bytes) -> None:
        self._send(self.dispatcher.on_frame(name, [frame], self.now_ns))
        self._begin_pass()

    def _send(self, sends: list[Send]) -> None:
        for name, message in sends:
            if isinstance(message, Verdict):
                self.after(self.costs.network_s / 2, lambda n=name, m=message: self._hear(self.agents[n], m))  # type: ignore[misc]

    def _begin_pass(self) -> None:
        if self._computing or (work := self.dispatcher.next_pass()) is None:
            return
        self._computing = True
        outcomes = run_pass(self.target, work)
        parts = [
            (outcome.sequence, len(part.token_ids))
            for part, outcome in zip(work.work, outcomes, strict=True)
            if outcome.sequence is not None
        ]
        seconds = self._noisy(self.costs.pass_s(parts)) if parts else 0.0

        def end() -> None:
            self._computing = False
            timing = PassTiming(self.now_ns, int(seconds * 1e6), [None] * len(work.work))
            self._send(self.dispatcher.on_pass_done(outcomes, timing))
            self._begin_pass()

        self.after(seconds, end)

    # -- an agent --

    def _join(self, agent: Agent) -> None:
        self._say(agent, Hello(PROTOCOL_VERSION, agent.name.decode(), "1", "toy", "toy", "1"))
        self._open(agent)

    def _open(self, agent: Agent) -> None:
        if self.now_ns >= agent.ends_s * SECOND:
            return
        fixed = self.control.policy == "fixed"
        agent.generation = generation = Generation(
            agent.requests.getrandbits(64),
            [agent.requests.randrange(1, 16) for _ in range(8)],
            Sampling(temperature=self._temperature, seed=agent.requests.getrandbits(64)),
            max_tokens=400,
            num_draft_tokens=agent.num_draft_tokens if fixed else self.limits.max_draft_tokens,
            draft_ahead=True,
            end_token_ids=NO_END,
            history=agent.history,
        )
        if not fixed and (last := agent.history.verdict) is not None:
            generation.begin_with(last.num_draft_tokens, last.price)
        agent.drafter = ModelDrafter(agent.model, generation.sampling)
        agent.sent_ns = self.now_ns
        self._say(agent, generation.open())
        self._go_on(agent)

    def _hear(self, agent: Agent, verdict: Verdict) -> None:
        generation = agent.generation
        if generation is None or verdict.request_id != generation.request_id:
            return
        was_alone = generation.alone
        done = generation.on_verdict(verdict)
        assert done is not None
        if not was_alone:
            agent.history.network_s.add((self.now_ns - agent.sent_ns) / SECOND - verdict.residence_us / 1e6)
        elif done.ahead_hit is not None:
            self._compare(agent, done.ahead_hit)
        agent.tokens.append((self.now_ns, len(done.token_ids)))
        if not generation.finish and (not agent.modes or agent.modes[-1][1] != generation.alone):
            agent.modes.append((self.now_ns, generation.alone))
        if generation.finish or self.now_ns >= agent.ends_s * SECOND:
            self._say(agent, Close(generation.request_id))
            assert agent.drafter is not None
            agent.drafter.close()
            agent.generation = agent.drafter = None
            self._open(agent)
        else:
            self._go_on(agent)

    def _go_on(self, agent: Agent) -> None:
        generation, drafter = agent.generation, agent.drafter
        if agent.drafting or generation is None or drafter is None:
            return
        if generation.can_send():
            agent.sent_ns = self.now_ns
            self._say(agent, generation.next_draft())
        if not generation.num_to_draft():
            return
        agent.drafting = True
        known = generation.tokens + generation.guess
        [guess] = drafter.draft(known, 1, NO_END, lambda: False)
        token = guess.token_id
        agent.history.draft_s.add(agent.draft_s)

        def end() -> None:
            agent.drafting = False
            if agent.generation is generation:
                if generation.tokens + generation.guess == known:
                    generation.drafted([token])
                elif generation.alone and len(generation.tokens) > len(known):
                    self._compare(agent, generation.tokens[len(known)] == token)
            self._go_on(agent)

        self.after(agent.draft_s, end)

    def _compare(self, agent: Agent, hit: bool) -> None:
        agent.compared, agent.hits = agent.compared + 1, agent.hits + hit
        if agent.compared == 8 and agent.generation is not None:
            times = agent.history.draft_us, agent.history.network_us
            agent.history.add_compared(8, agent.hits)
            self._say(agent, Report(agent.generation.request_id, 8, agent.hits, *times))
            agent.compared = agent.hits = 0

    # -- what came out --

    def goodput(self, begin_s: float, end_s: float) -> float:
        """Tokens per second of all users."""
        within = [
            count
            for agent in self.agents.values()
            for at_ns, count in agent.tokens
            if begin_s * SECOND <= at_ns < end_s * SECOND
        ]
        return sum(within) / (end_s - begin_s)
