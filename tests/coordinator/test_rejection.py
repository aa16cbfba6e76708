"""Rejection on the coordinator, step by step: a round has one answer, a choice follows it, nonsense is refused."""

import msgspec
import pytest
from tests.coordinator.test_dispatcher import ENDS, Coordinator
from tests.toy_model import ToyModel

from multispin_coordinator.control.online import Control
from multispin_coordinator.dispatcher import Dispatcher
from multispin_models.draft_distribution import DraftDistribution
from multispin_models.draft_payload import pack_distributions, pack_weights, unpack_candidates
from multispin_models.language_model import Rows
from multispin_models.messages import Close, Draft, Open, Refused, UndecidedVerdict, Verdict, WeighedDraft, Welcome
from multispin_models.sampling import Sampling, probabilities
from multispin_models.verification import Rule

HEAT = Sampling(temperature=1.0, seed=5)
OPEN = Open(7, 0, (1, 2, 3), 3, 20, HEAT, ignore_end=True)
SURE = pack_weights([65_536])


def coordinator_by(rule: Rule, policy: str = "fixed") -> Coordinator:
    made = Coordinator()
    made.dispatcher = Dispatcher(made.target.info, ENDS, made.limits, Control(policy, 4), rule=rule)
    [welcome] = made.hello("a")
    assert isinstance(welcome, Welcome)
    assert welcome.verification == rule
    return made


def least_likely(*tokens: int) -> int:
    """Return the token that the target gives the least probability after these."""
    model = ToyModel()
    [logits] = model.forward([Rows(model.open_sequence(), tokens, 1)])
    return int(probabilities(logits[0], HEAT).argmin())


def rejected() -> tuple[Coordinator, int, UndecidedVerdict]:
    """Return a coordinator that has rejected a draft, the token committed before, and its verdict."""
    coordinator = coordinator_by("rejection-lean")
    coordinator.say("a", OPEN)
    first = coordinator.one_verdict().next_token_id
    coordinator.say("a", WeighedDraft(7, 1, 4, (least_likely(1, 2, 3, first),), 0, 0, SURE))
    verdict = coordinator.one_verdict()
    assert isinstance(verdict, UndecidedVerdict)
    return coordinator, first, verdict


def test_after_a_rejection_come_draws_from_the_target_and_the_text_goes_on_from_the_one_that_was_taken() -> None:
    coordinator, first, verdict = rejected()
    assert (verdict.num_accepted, verdict.first, verdict.finish) == (0, 0, 0)
    candidates = unpack_candidates(verdict.candidates)
    model = ToyModel()
    [logits] = model.forward([Rows(model.open_sequence(), [1, 2, 3, first], 1)])
    for token, probability in candidates:
        assert probability == pytest.approx(probabilities(logits[0], HEAT)[token])
    taken = candidates[2].token_id
    coordinator.say("a", WeighedDraft(7, 2, 5, (), 0, 0, None, 2))
    after = coordinator.one_verdict()
    assert type(after) is Verdict
    assert coordinator.dispatcher.sessions[7].tokens == [1, 2, 3, first, taken, after.next_token_id]


def test_draws_are_asked_for_again_from_where_they_ended() -> None:
    coordinator, first, verdict = rejected()
    count = len(unpack_candidates(verdict.candidates))
    coordinator.say("a", WeighedDraft(7, 2, 4, (), 0, 0, None, count))
    more = coordinator.one_verdict()
    assert isinstance(more, UndecidedVerdict)
    assert (more.first, more.num_accepted) == (count, 0)
    assert more.candidates != verdict.candidates
    # Another coordinator, which never saw the round, goes on with the very same draws.
    anew = coordinator_by("rejection-lean")
    anew.say("a", msgspec.structs.replace(OPEN, round=30, token_ids=(1, 2, 3, first), first_candidate=count))
    resumed = anew.one_verdict()
    assert isinstance(resumed, UndecidedVerdict)
    assert (resumed.candidates, resumed.first) == (more.candidates, count)


@pytest.mark.parametrize("rule", ["rejection", "rejection-lean"])
def test_a_round_asked_twice_has_one_answer_also_from_another_coordinator(rule: Rule) -> None:
    def verdicts(coordinator: Coordinator) -> list[Verdict]:
        coordinator.say("a", OPEN)
        found = [coordinator.one_verdict()]
        token = least_likely(1, 2, 3, found[0].next_token_id)
        payload = SURE if rule == "rejection-lean" else pack_distributions([DraftDistribution((token,), (65_536,))])
        draft = WeighedDraft(7, 1, 4, (token,), 0, 0, payload)
        coordinator.say("a", draft)
        found.append(coordinator.one_verdict())
        assert coordinator.say("a", draft) == [found[-1]]
        assert isinstance(found[-1], UndecidedVerdict) == (rule == "rejection-lean")
        return found

    assert verdicts(coordinator_by(rule)) == verdicts(coordinator_by(rule))


def test_the_last_token_may_be_one_that_the_agent_takes_and_its_session_stays_until_the_close() -> None:
    coordinator = coordinator_by("rejection-lean")
    coordinator.say("a", msgspec.structs.replace(OPEN, max_tokens=3))
    first = coordinator.one_verdict().next_token_id
    coordinator.say("a", WeighedDraft(7, 1, 4, (least_likely(1, 2, 3, first),), 0, 0, SURE))
    verdict = coordinator.one_verdict()
    assert isinstance(verdict, UndecidedVerdict)
    assert verdict.finish == 0
    coordinator.say("a", WeighedDraft(7, 2, 5, (), 0, 0, None, 0))
    assert coordinator.one_verdict().finish == 2
    coordinator.say("a", msgspec.structs.replace(OPEN, request_id=8, max_tokens=2))
    first = coordinator.one_verdict().next_token_id
    coordinator.say("a", WeighedDraft(8, 1, 4, (), 0, 0, None))
    assert coordinator.one_verdict().finish == 2
    again = msgspec.structs.replace(OPEN, request_id=9, round=40, token_ids=(1, 2, 3, first), max_tokens=2)
    coordinator.say("a", msgspec.structs.replace(again, first_candidate=16))
    verdict = coordinator.one_verdict()
    assert isinstance(verdict, UndecidedVerdict)
    assert verdict.finish == 2
    assert coordinator.refusal("a", WeighedDraft(9, 41, 5, (), 0, 0, None, 0)) == "out_of_step"  # the text has ended
    assert set(coordinator.dispatcher.sessions) == {9}
    coordinator.say("a", Close(9))
    assert not coordinator.dispatcher.sessions


def test_the_coordinator_does_not_go_on_alone_before_it_knows_the_choice() -> None:
    coordinator = coordinator_by("rejection-lean", "alone")
    coordinator.say("a", msgspec.structs.replace(OPEN, first_candidate=16))
    verdict = coordinator.one_verdict()
    assert isinstance(verdict, UndecidedVerdict)
    assert (verdict.alone, verdict.num_draft_tokens) == (False, 0)
    assert coordinator.compute() == []
    coordinator.say("a", WeighedDraft(7, 1, 4, (), 0, 0, None, 0))
    assert coordinator.one_verdict().alone
    assert coordinator.one_verdict().alone


WRONG_DRAFTS: dict[str, tuple[Rule, Draft]] = {
    "no weights": ("rejection-lean", Draft(7, 1, 4, (5,))),
    "weights, and nothing drafted": ("rejection-lean", WeighedDraft(7, 1, 4, (), 0, 0, b"")),
    "too few weights": ("rejection-lean", WeighedDraft(7, 1, 4, (5, 6), 0, 0, SURE)),
    "a weight where a distribution is asked for": ("rejection", WeighedDraft(7, 1, 4, (5,), 0, 0, SURE)),
    "a token that cannot have been drawn": (
        "rejection",
        WeighedDraft(7, 1, 4, (5,), 0, 0, pack_distributions([DraftDistribution((6,), (65_536,))])),
    ),
    "weights for the coupled rule": ("coupled", WeighedDraft(7, 1, 4, (5,), 0, 0, SURE)),
}


@pytest.mark.parametrize("name", WRONG_DRAFTS)
def test_a_draft_that_does_not_say_what_its_rule_asks_for_is_refused(name: str) -> None:
    rule, draft = WRONG_DRAFTS[name]
    coordinator = coordinator_by(rule)
    coordinator.say("a", OPEN)
    coordinator.one_verdict()
    assert coordinator.refusal("a", draft) == "bad_distribution"
    assert coordinator.compute() == []
    assert not coordinator.target.faults


@pytest.mark.parametrize("choice", [None, 17, 65_535])
def test_a_choice_that_there_is_not_is_out_of_step(choice: int | None) -> None:
    coordinator, _, _ = rejected()
    for num_committed in (4, 5):
        assert coordinator.refusal("a", WeighedDraft(7, 2, num_committed, (), 0, 0, None, choice)) == "out_of_step"


def test_a_choice_without_an_undecided_verdict_is_out_of_step() -> None:
    coordinator = coordinator_by("rejection-lean")
    coordinator.say("a", OPEN)
    coordinator.one_verdict()
    assert coordinator.refusal("a", WeighedDraft(7, 1, 4, (), 0, 0, None, 0)) == "out_of_step"


def test_draws_are_given_by_the_lean_rule_alone() -> None:
    for rule, sampling in (("coupled", HEAT), ("rejection", HEAT), ("rejection-lean", Sampling())):
        coordinator = coordinator_by(rule)  # type: ignore[arg-type]
        opened = msgspec.structs.replace(OPEN, sampling=sampling, first_candidate=3)
        [refused] = coordinator.say("a", opened)
        assert isinstance(refused, Refused)
        assert refused.code == "bad_request"


def test_a_fault_of_the_engine_under_a_choice_feeds_everything_again() -> None:
    coordinator, first, verdict = rejected()
    coordinator.target.faults = 1
    coordinator.say("a", WeighedDraft(7, 2, 5, (), 0, 0, None, 1))
    assert coordinator.compute() == []
    after = coordinator.one_verdict()
    taken = unpack_candidates(verdict.candidates)[1].token_id
    assert coordinator.dispatcher.sessions[7].tokens == [1, 2, 3, first, taken, after.next_token_id]
