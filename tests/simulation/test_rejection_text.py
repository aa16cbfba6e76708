"""By a rejection rule a text has the target's distribution: the daemons' own code, in virtual time, by chi-square.

Every request has a seed of its own. What is counted of its text is compared with the target's enumerated probabilities;
a text that has ended goes on with end tokens. Bounds: a sound rule fails one of these tests once in ten thousand times.
"""

import asyncio
import itertools
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import multispin_coordinator.verifier
from multispin.simulate.network import Network
from multispin.simulate.scenario import Link
from multispin.simulate.toy_model import ToyTokenizer
from multispin.simulate.virtual_time import run_virtually
from multispin.simulate.world import Observed, RunningAgent, RunningCoordinator
from multispin_agent.config import Config
from multispin_agent.draft_source import model_source
from multispin_agent.drafter import Drafted, ModelDrafter
from multispin_agent.request import Finished, Request
from multispin_agent.weighing import Weighing
from multispin_coordinator.config import Config as CoordinatorConfig
from multispin_coordinator.config import Limits
from multispin_coordinator.dispatcher import Dispatcher, Send
from multispin_models.draft_distribution import quantize
from multispin_models.engines import Loaded
from multispin_models.language_model import Logits, Rows
from multispin_models.messages import Draft, WeighedDraft
from multispin_models.sampling import Sampling, probabilities, uniform
from multispin_models.target_alone import generate_alone
from multispin_models.verification import DRAFT, Rule
from tests.toy_model import END_TOKEN, ToyModel

N_VOCAB = 5
LENGTH = 4
SAMPLES = 700
AT_ONCE = 8
PROMPT = [1, 2, 3]
HEAT = Sampling(temperature=3.0)  # nearly level: much lies outside of the head of a distribution
# Quantiles of chi-square at 1 - 1e-4 (R: qchisq(1 - 1e-4, df)); a cell that is expected less than 5 times is joined.
CHI_SQUARE = [15.14, 18.42, 21.11, 23.51, 25.74, 27.86, 29.88, 31.83, 33.72, 35.56, 37.37, 39.13, 40.87, 42.58, 44.26]
CHI_SQUARE += [45.92, 47.57, 49.19, 50.80, 52.39, 53.96, 55.52, 57.07, 58.61]
RULES: tuple[Rule, ...] = ("rejection", "rejection-lean")

LOSSY = Link(delay_s=0.01, loss=0.1, duplicate=0.1)

Texts = list[tuple[int, ...]]
Prepare = Callable[[Dispatcher], None]


def serve(
    rule: Rule,
    samplings: Sequence[Sampling],
    *,
    entries: int = 3,
    link: Link | None = None,
    prepare: Prepare = lambda _dispatcher: None,
    draft_noise: float = 2.0,
    **agent_settings: Any,
) -> list[Finished]:
    """Return what became of a request of every sampling, by one agent and one coordinator."""

    async def run() -> list[Finished]:
        link_ = Link(delay_s=0.01) if link is None else link
        network = Network(1, Observed())
        network.connect("agent", link_)
        limits = Limits(
            max_sessions=AT_ONCE, max_sessions_per_agent=AT_ONCE, max_context_tokens=96, max_rows=32, prefill_rows=8
        )
        target = Loaded(ToyModel(n_vocab=N_VOCAB, max_sequences=AT_ONCE), ToyTokenizer())
        coordinator = RunningCoordinator(
            CoordinatorConfig(policy="fixed", verification=rule, limits=limits), target, network
        )
        prepare(coordinator.server.dispatcher)
        settings = {"num_draft_tokens": 2, "draft_entries": entries, "retry_s": 0.2, **agent_settings}
        config = Config(agent_id="agent", max_concurrent=AT_ONCE, **settings)
        draft = ToyModel(n_vocab=N_VOCAB, max_sequences=AT_ONCE, noise=draft_noise)
        agent = RunningAgent(config, model_source(Loaded(draft, ToyTokenizer())), network)
        done: list[Finished] = []

        async def user(own: Sequence[Sampling]) -> None:
            for sampling in own:
                done.append(await agent.generate(Request(len(done) * 64 + 1 + sampling.seed, PROMPT, sampling, LENGTH)))

        await asyncio.gather(*(user(samplings[number::AT_ONCE]) for number in range(AT_ONCE)))
        await agent.close()
        await coordinator.end()
        return done

    random.seed(1)  # the agent's back-off
    return run_virtually(run())


def sampled(rule: Rule, num_samples: int = SAMPLES, **options: Any) -> Texts:
    samplings = [Sampling(HEAT.temperature, seed=seed) for seed in range(num_samples)]
    texts = [tuple(finished.token_ids) for finished in serve(rule, samplings, **options)]
    return [text + (END_TOKEN,) * (LENGTH - len(text)) for text in texts]


def target_distribution() -> dict[tuple[int, ...], float]:
    """Return the probability of every text."""
    model = ToyModel(n_vocab=N_VOCAB)
    sequence = model.open_sequence()
    shares: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(LENGTH):
        longer: dict[tuple[int, ...], float] = {}
        for text, share in shares.items():
            if text and text[-1] == END_TOKEN:
                longer[(*text, END_TOKEN)] = share
                continue
            model.rewind(sequence, 0)
            [logits] = model.forward([Rows(sequence, [*PROMPT, *text], 1)])
            for token, p in enumerate(probabilities(logits[0], HEAT)):
                longer[(*text, token)] = share * p
        shares = longer
    return shares


EXPECTED = target_distribution()


def excess(texts: Texts, *places: int) -> float:
    """Return chi-square of the tokens at these places, over its bound."""
    cells = {cell: [0.0, 0.0] for cell in itertools.product(range(N_VOCAB), repeat=len(places))}
    for text, share in EXPECTED.items():
        cells[tuple(text[place] for place in places)][1] += share * len(texts)
    for text in texts:
        cells[tuple(text[place] for place in places)][0] += 1
    rare = [cell for cell in cells.values() if cell[1] < 5]
    joined = [cell for cell in cells.values() if cell[1] >= 5]
    if rare:
        joined.append([sum(cell[0] for cell in rare), sum(cell[1] for cell in rare) + 1e-9])
    return sum((seen - wanted) ** 2 / wanted for seen, wanted in joined) / CHI_SQUARE[len(joined) - 2]


def is_the_targets(texts: Texts) -> bool:
    return all(excess(texts, *places) < 1.0 for places in ((0, 1), (1, 2), (2, 3)))


@pytest.mark.parametrize("rule", RULES)
def test_texts_have_the_targets_distribution_over_a_link_that_loses_and_repeats(rule: Rule) -> None:
    texts = sampled(rule, link=LOSSY)
    assert len(set(texts)) > 100
    assert is_the_targets(texts)


@pytest.mark.parametrize("rule", ["coupled", *RULES])
def test_at_temperature_0_every_rule_is_greedy(rule: Rule) -> None:
    alone = generate_alone(ToyModel(n_vocab=N_VOCAB), PROMPT, Sampling(), LENGTH, frozenset({END_TOKEN}))
    [finished] = serve(rule, [Sampling()])
    assert finished.token_ids == alone
    assert finished.verification == "coupled"


def test_what_these_tests_rest_on_happens_in_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drafts are accepted and rejected, draws run out, messages are lost."""
    monkeypatch.setattr(multispin_coordinator.verifier, "CANDIDATES", 2)
    finished = serve("rejection-lean", [Sampling(HEAT.temperature, seed=seed) for seed in range(100)], link=LOSSY)
    rounds = [timing for each in finished for timing in each.rounds]
    assert sum(timing.verdict.num_accepted for timing in rounds) > 20
    assert sum(timing.next_token_id is None for timing in rounds) > 20
    assert sum(timing.parts.num_sends > 1 for timing in rounds if timing.parts) > 20
    assert all(each.token_ids and sum(t.num_committed for t in each.rounds) == len(each.token_ids) for each in finished)


def forgetful(dispatcher: Dispatcher) -> None:
    """Let a coordinator lose a session just when its agent asks for more draws for the first time."""
    on_draft = dispatcher._on_draft

    def forget(agent: bytes, draft: Draft, now_ns: int) -> list[Send]:
        session = dispatcher.sessions.get(draft.request_id)
        asks = isinstance(draft, WeighedDraft) and draft.choice == multispin_coordinator.verifier.CANDIDATES
        if asks and session is not None and session.first_candidate == 0:
            dispatcher._drop(session, now_ns)
        return on_draft(agent, draft, now_ns)

    dispatcher._on_draft = forget  # type: ignore[method-assign]


def test_an_undecided_position_outlives_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multispin_coordinator.verifier, "CANDIDATES", 1)
    assert is_the_targets(sampled("rejection-lean", prepare=forgetful))


def test_a_fresh_token_for_an_undecided_position_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multispin_coordinator.verifier, "CANDIDATES", 1)
    reopen = Weighing.reopen

    def forget(self: Weighing) -> None:
        reopen(self)
        self._undecided = None

    monkeypatch.setattr(Weighing, "reopen", forget)
    assert not is_the_targets(sampled("rejection-lean", prepare=forgetful))


def test_an_agent_that_samples_before_it_truncates_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def sample_first(self: ModelDrafter, logits: Logits, position: int) -> Drafted:
        whole = probabilities(logits[-1], self._sampling)
        head = quantize(whole, 2)
        self._num_drawn += 1
        token = quantize(whole, N_VOCAB).draw(uniform(self._sampling.seed, position, DRAFT, self._num_drawn))
        if head.weight(token) == 0:  # cannot even be said on the wire
            token = head.token_ids[int(np.argmin(head.weights))]
        return Drafted(token, honest(self, logits, position).evidence, head)

    honest = ModelDrafter._next
    monkeypatch.setattr(ModelDrafter, "_next", sample_first)
    assert not is_the_targets(sampled("rejection", 1000))
