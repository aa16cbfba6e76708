"""Agents, a coordinator and a network that loses, repeats and reorders, all in virtual time: the real pure cores."""

import random
from dataclasses import dataclass, field

from multispin_agent.config import Config
from multispin_agent.draft_source import lookup_first_source, lookup_source, model_source
from multispin_agent.drafter import Drafter
from multispin_agent.generation import Generation
from multispin_coordinator.config import Limits
from multispin_coordinator.dispatcher import Dispatcher
from multispin_coordinator.passes import PassTiming
from multispin_coordinator.verifier import run_pass
from multispin_models.engines import Loaded
from multispin_models.messages import (
    PROTOCOL_VERSION,
    Close,
    Hello,
    Ping,
    Refused,
    Verdict,
    Welcome,
    decode_coordinator_message,
    encode,
)
from multispin_models.sampling import Sampling
from tests.toy_api import ToyTokenizer
from tests.toy_model import END_TOKEN, ToyModel

ENDS = frozenset({END_TOKEN})


@dataclass
class Faults:
    """Chances per message, and of a node's death per step."""

    loss: float = 0.0
    repeat: float = 0.0
    max_delay: int = 3
    agent_death: float = 0.0
    coordinator_death: float = 0.0
    engine_fault: float = 0.0


@dataclass
class SimulatedAgent:
    """One agent with one request at a time; what its death loses is all but the prompt."""

    name: bytes
    model: ToyModel
    prompts: list[tuple[list[int], Sampling, int]]
    num_draft_tokens: int
    texts: list[list[int]] = field(default_factory=list)
    generation: Generation | None = None
    drafter: Drafter | None = None
    asked_at: int = 0
    instance: int = 0
    welcomed: bool = False
    draft: str = "model"

    def open_drafter(self, sampling: Sampling) -> Drafter:
        model = model_source(Loaded(self.model, ToyTokenizer()))
        config = Config(lookup_min_ngram=1)
        lookup = lookup_source(ToyTokenizer(), config)
        sources = {"model": model, "lookup": lookup, "lookup+model": lookup_first_source(model, config)}
        return sources[self.draft].open_drafter(sampling)


class World:
    """Steps of virtual time; every step delivers what is due, lets each agent act once, and may run a pass."""

    def __init__(self, agents: list[SimulatedAgent], faults: Faults, seed: int, limits: Limits) -> None:
        self.random = random.Random(seed)
        self.faults = faults
        self.limits = limits
        self.agents = {agent.name: agent for agent in agents}
        self.now = 0
        self.deaths_left = 6  # a death costs an agent its text: with no bound a long one might never end
        self.mail: list[tuple[int, str, bytes, bytes]] = []  # due, direction, agent, frame
        self.start_coordinator()

    def start_coordinator(self) -> None:
        self.target = ToyModel(max_sequences=self.limits.max_sessions, max_rows=self.limits.max_rows)
        self.dispatcher = Dispatcher(self.target.info, ENDS, self.limits)
        self.dispatcher.epoch = self.random.getrandbits(64)

    @property
    def now_ns(self) -> int:
        return self.now * 100_000_000

    def post(self, direction: str, agent: bytes, frame: bytes) -> None:
        copies = 0 if self.random.random() < self.faults.loss else 1
        copies += self.random.random() < self.faults.repeat
        for _ in range(copies):
            self.mail.append((self.now + self.random.randint(0, self.faults.max_delay), direction, agent, frame))

    def to_coordinator(self, agent: SimulatedAgent, message: object) -> None:
        agent.asked_at = self.now
        self.post("up", agent.name, encode(message))  # type: ignore[arg-type]

    def run(self, max_steps: int = 20_000) -> None:
        while any(agent.prompts or agent.generation for agent in self.agents.values()):
            self.now += 1
            assert self.now < max_steps, "a request is stuck"
            self.deliver()
            self.compute()
            for agent in self.agents.values():
                self.act(agent)
            self.strike()
        for agent in self.agents.values():
            self.forget(agent)
        for _ in range(2):  # what is still in the mail comes, and then nobody asks any more
            self.now += 1000
            self.deliver()
            self.dispatcher.on_tick(self.now_ns)
            self.compute()

    def deliver(self) -> None:
        due = [item for item in self.mail if item[0] <= self.now]
        self.mail = [item for item in self.mail if item[0] > self.now]
        self.random.shuffle(due)
        for _, direction, name, frame in due:
            if direction == "up":
                for agent, message in self.dispatcher.on_frame(name, [frame], self.now_ns):
                    self.post("down", agent, encode(message))
            else:
                self.receive(self.agents[name], frame)
        self.dispatcher.on_tick(self.now_ns)

    def compute(self) -> None:
        next_pass = self.dispatcher.next_pass()
        if next_pass is None:
            return
        if next_pass.work and self.random.random() < self.faults.engine_fault:
            self.target.faults = 1
        outcomes = run_pass(self.target, next_pass)
        timing = PassTiming(self.now_ns, 1, [None] * len(next_pass.work))
        for agent, message in self.dispatcher.on_pass_done(outcomes, timing):
            self.post("down", agent, encode(message))

    def act(self, agent: SimulatedAgent) -> None:
        if not agent.welcomed:
            if self.now - agent.asked_at > 10 or agent.asked_at == 0:
                hello = Hello(PROTOCOL_VERSION, agent.name.decode(), "1", "toy", "toy", str(agent.instance))
                self.to_coordinator(agent, hello)
            return
        if agent.generation is None and agent.prompts:
            self.begin(agent)
        generation, drafter = agent.generation, agent.drafter
        if generation is None or drafter is None:
            return
        if self.now % 20 == 0:
            self.post("up", agent.name, encode(Ping(1)))
        if generation.can_send():
            self.to_coordinator(agent, generation.next_draft())
        elif count := generation.num_to_draft():
            count = self.random.randint(1, count)
            drafted = drafter.draft(generation.tokens + generation.guess, count, ENDS, lambda: False)
            generation.drafted(drafted)
            if not drafted:
                generation.rest()
        elif self.now - agent.asked_at > 15:
            self.to_coordinator(agent, generation.repeat())

    def begin(self, agent: SimulatedAgent) -> None:
        prompt, sampling, max_tokens = agent.prompts[0]
        agent.generation = Generation(
            self.random.getrandbits(64),
            prompt,
            sampling,
            max_tokens=max_tokens,
            num_draft_tokens=agent.num_draft_tokens,
            draft_ahead=self.random.random() < 0.8,
            end_token_ids=ENDS,
        )
        agent.drafter = agent.open_drafter(sampling)
        self.to_coordinator(agent, agent.generation.open())

    def receive(self, agent: SimulatedAgent, frame: bytes) -> None:
        message = decode_coordinator_message(frame)
        generation = agent.generation
        if isinstance(message, Welcome):
            if not agent.welcomed and generation is not None:
                self.to_coordinator(agent, generation.open())
            agent.welcomed = True
        elif isinstance(message, Refused) and message.code == "hello_required":
            agent.welcomed, agent.asked_at = False, 0
        elif generation is None:
            return
        elif isinstance(message, Refused) and message.request_id == generation.request_id:
            if message.round == generation.round and message.code in {"unknown_request", "out_of_step"}:
                self.to_coordinator(agent, generation.open())
        elif isinstance(message, Verdict) and message.request_id == generation.request_id:
            generation.on_verdict(message)
            if generation.finish:
                agent.texts.append(generation.generated)
                self.post("up", agent.name, encode(Close(generation.request_id)))
                agent.prompts.pop(0)
                self.forget(agent)

    def forget(self, agent: SimulatedAgent) -> None:
        if agent.drafter is not None:
            agent.drafter.close()
        agent.generation = agent.drafter = None

    def strike(self) -> None:
        if self.deaths_left and self.random.random() < self.faults.coordinator_death:
            self.deaths_left -= 1
            self.start_coordinator()
        for agent in self.agents.values():
            if self.deaths_left and self.random.random() < self.faults.agent_death:
                self.deaths_left -= 1
                self.forget(agent)
                agent.welcomed, agent.asked_at = False, 0
                agent.instance += 1
