"""The coordinator goes on alone: a verdict a pass without being asked, given again when lost, and handed back."""

import msgspec
from tests.coordinator.test_dispatcher import ALONE, LIMITS, OPEN, SECOND, WRONG, Coordinator

from multispin_coordinator.control.online import Control, Grant
from multispin_coordinator.dispatcher import MOST_REPEATED, Dispatcher
from multispin_coordinator.page.journal import PageJournal
from multispin_models.messages import PROTOCOL_VERSION, Close, Draft, Hello, Verdict

BY_ITSELF = Grant(0, 1000, alone=True)
YOURS = Grant(4, 0, alone=False)


class Scripted(Control):
    """Grants what the test says."""

    def __init__(self) -> None:
        super().__init__("price", 4)
        self.now = BY_ITSELF

        self.past: tuple[int, ...] = ()

    def grant(self, *_: object) -> Grant:
        return self.now

    def look_up(self, *_: object) -> tuple[int, ...]:
        return self.past


def coordinator(**limits: int) -> tuple[Coordinator, Scripted]:
    made = Coordinator("a", **limits)
    control = Scripted()
    made.dispatcher = Dispatcher(made.target.info, frozenset({0}), msgspec.structs.replace(LIMITS, **limits), control)
    made.hello("a")
    return made, control


def verdicts(made: Coordinator, passes: int) -> list[Verdict]:
    found = [message for _ in range(passes) for message in made.compute()]
    assert all(isinstance(each, Verdict) for each in found)
    return found  # type: ignore[return-value]


def test_every_pass_brings_a_token_and_nobody_asks() -> None:
    made, _ = coordinator()
    made.say("a", OPEN)
    found = verdicts(made, 6)
    assert [(each.round, each.num_accepted, each.next_token_id) for each in found] == [
        (number, 0, ALONE[number]) for number in range(6)
    ]
    assert all(each.alone for each in found)
    assert made.target.passes == [[3], [1], [1], [1], [1], [1]]


def test_the_text_ends_with_its_last_token_and_the_sequence_is_freed() -> None:
    made, _ = coordinator()
    made.say("a", msgspec.structs.replace(OPEN, max_tokens=3))
    assert [(each.finish, each.alone) for each in verdicts(made, 5)] == [(0, True), (0, True), (2, False)]
    assert not made.dispatcher.sessions
    assert made.target.num_open == 0


def test_what_is_looked_up_brings_several_tokens_a_pass_and_the_agent_is_told_one_by_one() -> None:
    made, control = coordinator()
    made.say("a", OPEN)
    control.past = (ALONE[1], ALONE[2], WRONG)
    verdicts(made, 1)
    control.past = ()
    found = verdicts(made, 1)
    assert [(each.round, each.num_accepted, each.next_token_id, each.alone) for each in found] == [
        (number, 0, ALONE[number], True) for number in (1, 2, 3)
    ]
    assert [each.verify_us for each in found] == [5, 0, 0], "one pass, told of once"
    assert made.target.passes == [[3], [4]]
    assert verdicts(made, 1)[0].round == 4
    assert (made.dispatcher.tally.looked_up.num_draft_tokens, made.dispatcher.tally.drafts.num_drafts) == (3, 0)
    assert made.say("a", Draft(7, 2, 5, ()))[:2] == found[1:], "and lost ones are given again"


def test_the_page_is_told_of_what_was_looked_up_as_one_round() -> None:
    made, control = coordinator()
    made.dispatcher.journal = journal = PageJournal(0, keeps_tokens=True)
    made.say("a", msgspec.structs.replace(OPEN, max_tokens=4))
    control.past = (ALONE[1], ALONE[2], WRONG)
    verdicts(made, 2)
    opening, found = journal.rounds.since(0)
    assert (opening.kind, opening.next_token, opening.finish) == ("open", ALONE[0], 0)
    assert (found.kind, found.num_drafted, found.num_accepted, found.next_token) == ("alone", 2, 2, ALONE[3])
    assert (found.round, found.verify_us, found.finish) == (1, 5, 2), "the third had no room"
    [request] = journal.requests.values()
    assert (request.end, request.num_tokens) == ("length", 4)


def test_the_last_of_several_tokens_ends_the_text_or_hands_it_back() -> None:
    made, control = coordinator()
    made.say("a", msgspec.structs.replace(OPEN, max_tokens=6))
    control.past = (ALONE[1], ALONE[2])
    verdicts(made, 1)
    control.now = YOURS
    assert [each.alone for each in verdicts(made, 1)] == [True, True, False]
    control.now, control.past = BY_ITSELF, (ALONE[5], WRONG, WRONG)
    made.say("a", Draft(7, 4, 7, ()))
    verdicts(made, 1)
    found = verdicts(made, 1)
    assert [(each.next_token_id, each.finish) for each in found] == [(ALONE[5], 2)], "only what there was room for"
    assert not made.dispatcher.sessions


def test_handed_back_the_agent_drafts_in_the_next_round() -> None:
    made, control = coordinator()
    made.say("a", OPEN)
    verdicts(made, 2)
    control.now = YOURS
    [last] = verdicts(made, 1)
    assert (last.round, last.alone, last.num_draft_tokens) == (2, False, 4)
    assert made.compute() == [], "it waits for the draft"
    made.say("a", Draft(7, 3, 6, (ALONE[3], ALONE[4], WRONG)))
    [verdict] = verdicts(made, 1)
    assert (verdict.round, verdict.num_accepted, verdict.next_token_id) == (3, 2, ALONE[5])


def test_tokens_that_were_lost_on_the_way_are_given_again_from_the_first_on() -> None:
    made, _ = coordinator()
    made.say("a", OPEN)
    found = verdicts(made, 4)
    assert made.say("a", Draft(7, 2, 5, ())) == found[2:]
    assert made.say("a", OPEN) == found, "the Open itself, too"
    assert made.say("a", Draft(7, 4, 7, ())) == [], "under way"
    assert verdicts(made, 1)[0].next_token_id == ALONE[4]


def test_a_question_for_a_long_time_brings_no_more_than_so_many_verdicts() -> None:
    made, _ = coordinator()
    made.say("a", msgspec.structs.replace(OPEN, max_tokens=90))
    found = verdicts(made, 80)
    again = made.say("a", Draft(7, 1, 4, ()))
    assert again == found[1 : 1 + MOST_REPEATED]


def test_rounds_before_the_agents_last_message_are_late() -> None:
    made, control = coordinator()
    made.say("a", OPEN)
    verdicts(made, 2)
    control.now = YOURS
    verdicts(made, 1)
    made.say("a", Draft(7, 3, 6, ()))
    verdicts(made, 1)
    assert made.say("a", Draft(7, 2, 5, ())) == []
    assert made.dispatcher.counters["ignored_stale_round"] == 1


def test_closing_ends_it_in_the_middle_of_a_pass() -> None:
    made, _ = coordinator()
    made.say("a", OPEN)
    verdicts(made, 2)
    begun = made.begin_pass()
    assert begun is not None
    made.say("a", Close(7))
    assert made.end_pass(begun) == []
    assert made.compute() == []
    assert made.target.num_open == 0


def test_a_request_opened_again_in_the_middle_goes_on_from_what_its_agent_has() -> None:
    made, _ = coordinator()
    made.say("a", OPEN)
    verdicts(made, 5)
    begun = made.begin_pass()
    assert begun is not None
    made.say("a", msgspec.structs.replace(OPEN, round=21, token_ids=(1, 2, 3, *ALONE[:2])))
    made.end_pass(begun)
    found = verdicts(made, 2)
    assert [(each.round, each.next_token_id) for each in found] == [(21, ALONE[2]), (22, ALONE[3])]


def test_a_lost_agents_request_is_not_gone_on_with() -> None:
    made, _ = coordinator()
    made.say("a", OPEN)
    verdicts(made, 2)
    made.now_ns += 11 * SECOND
    made.dispatcher.on_tick(made.now_ns)
    assert not made.dispatcher.sessions
    assert made.compute() == []
    assert made.target.num_open == 0


def test_a_pass_that_fails_is_computed_again_and_the_text_goes_on() -> None:
    made, _ = coordinator()
    made.say("a", OPEN)
    verdicts(made, 3)
    made.target.faults = 1
    assert made.compute() == []
    assert verdicts(made, 1)[0].next_token_id == ALONE[3]


def test_two_requests_alone_share_their_passes() -> None:
    made, _ = coordinator()
    made.say("b", Hello(PROTOCOL_VERSION, "b", "1", "toy", "toy", "1"))
    made.say("a", OPEN)
    made.say("b", msgspec.structs.replace(OPEN, request_id=8))
    found = verdicts(made, 4)
    assert made.target.passes == [[3, 3], [1, 1], [1, 1], [1, 1]]
    assert [each.next_token_id for each in found if each.request_id == 8] == ALONE[:4]


def test_an_agent_that_says_in_the_middle_that_it_does_not_draft_ahead_is_counted_so_and_keeps_its_requests() -> None:
    made, _ = coordinator()
    control = made.dispatcher.control = Control("price", 4)
    hello = Hello(PROTOCOL_VERSION, "b", "1", "toy", "toy", "1")
    made.say("b", hello)
    made.say("b", OPEN)
    verdicts(made, 1)
    assert [user.drafts_ahead for user in control.view(made.dispatcher.sessions.values()).users] == [True]
    made.say("b", msgspec.structs.replace(hello, draft_ahead=False))
    assert [user.drafts_ahead for user in control.view(made.dispatcher.sessions.values()).users] == [False]
