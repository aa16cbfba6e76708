"""The coordinator's decisions, step by step, in virtual time."""

import logging
from typing import Any

import msgspec
import pytest
from tests.toy_model import END_TOKEN, ToyModel

from multispin_coordinator.admission import Reject
from multispin_coordinator.config import Limits
from multispin_coordinator.dispatcher import ALONE as OWN_USERS
from multispin_coordinator.dispatcher import MAX_BATCHES, MAX_FAULTS, Dispatcher, Send
from multispin_coordinator.passes import Pass, PassTiming
from multispin_coordinator.verifier import run_pass
from multispin_models.errors import LimitError
from multispin_models.messages import (
    PROTOCOL_VERSION,
    AgentMessage,
    Close,
    CoordinatorMessage,
    Draft,
    Hello,
    Open,
    Ping,
    Pong,
    Records,
    Refused,
    SpooledRecord,
    Verdict,
    Welcome,
    encode,
)
from multispin_models.records import SCHEMA_VERSION
from multispin_models.sampling import Sampling
from multispin_models.target_alone import generate_alone

ENDS = frozenset({END_TOKEN})
LIMITS = Limits(
    max_agents=3,
    max_sessions=2,
    max_sessions_per_agent=2,
    max_waiting=1,
    max_context_tokens=96,
    max_prompt_tokens=64,
    max_draft_tokens=4,
    max_rows=16,
    prefill_rows=8,
    keep_sequences=False,
    agent_timeout_s=10.0,
    session_timeout_s=30.0,
)
OPEN = Open(7, 0, (1, 2, 3), 3, 20, Sampling(), ignore_end=True)
ALONE = generate_alone(ToyModel(), [1, 2, 3], Sampling(), 20, frozenset())
WRONG = next(token for token in range(1, 16) if token not in ALONE)
SECOND = 1_000_000_000


class Coordinator:
    """A dispatcher with its engine, and agents that were welcomed."""

    def __init__(self, *agents: str, **limits: Any) -> None:
        self.limits = msgspec.structs.replace(LIMITS, **limits)
        self.target = ToyModel(max_sequences=self.limits.max_sessions, max_rows=self.limits.max_rows)
        self.dispatcher = Dispatcher(self.target.info, ENDS, self.limits)
        self.now_ns = 0
        for agent in agents:
            [welcome] = self.hello(agent)
            assert isinstance(welcome, Welcome)

    def hello(self, agent: str, instance: str = "1") -> list[CoordinatorMessage]:
        return self.say(agent, Hello(PROTOCOL_VERSION, agent, "1", "toy", "toy", instance))

    def say(self, agent: str, message: AgentMessage) -> list[CoordinatorMessage]:
        sends = self.dispatcher.on_frame(agent.encode(), [encode(message)], self.now_ns)
        assert all(send.agent == agent.encode() for send in sends)
        return [send.message for send in sends]

    def begin_pass(self) -> Pass | None:
        return self.dispatcher.next_pass()

    def end_pass(self, begun: Pass) -> list[Send]:
        timing = PassTiming(self.now_ns, 5, [None] * len(begun.work))
        return self.dispatcher.on_pass_done(run_pass(self.target, begun), timing)

    def compute(self) -> list[CoordinatorMessage]:
        """Run one pass; return what is sent after it."""
        begun = self.begin_pass()
        return [] if begun is None else [send.message for send in self.end_pass(begun)]

    def one_verdict(self) -> Verdict:
        [verdict] = self.compute()
        assert isinstance(verdict, Verdict)
        return verdict

    def refusal(self, agent: str, message: AgentMessage) -> str:
        [refused] = self.say(agent, message)
        assert isinstance(refused, Refused)
        assert self.dispatcher.counters[f"refused_{refused.code}"] >= 1
        return refused.code


def opened_at_round_0() -> Coordinator:
    coordinator = Coordinator("a")
    assert coordinator.say("a", OPEN) == []
    assert coordinator.one_verdict().next_token_id == ALONE[0]
    return coordinator


def test_what_an_agent_says_of_itself_cannot_forge_a_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        Coordinator().say("a\nb", Hello(PROTOCOL_VERSION, "a\nb", "1\n2", "toy", "toy", "1"))
    assert "joined" in caplog.text
    assert not any("\n" in record.getMessage() for record in caplog.records)


# -- rounds --


def test_an_open_gets_the_first_token_and_drafts_get_the_accepted_ones_and_the_next() -> None:
    coordinator = opened_at_round_0()
    assert coordinator.say("a", Draft(7, 1, 4, (ALONE[1], ALONE[2], WRONG))) == []
    verdict = coordinator.one_verdict()
    assert (verdict.round, verdict.num_accepted, verdict.next_token_id) == (1, 2, ALONE[3])
    coordinator.say("a", Draft(7, 2, 7, tuple(ALONE[4:8])))
    verdict = coordinator.one_verdict()
    assert (verdict.num_accepted, verdict.next_token_id, verdict.finish) == (4, ALONE[8], 0)
    assert coordinator.target.passes == [[3], [4], [5]]


def test_an_empty_draft_gets_one_token() -> None:
    coordinator = opened_at_round_0()
    coordinator.say("a", Draft(7, 1, 4, ()))
    verdict = coordinator.one_verdict()
    assert (verdict.num_accepted, verdict.next_token_id) == (0, ALONE[1])


def test_the_same_round_twice_gets_the_same_verdict_without_a_pass() -> None:
    coordinator = opened_at_round_0()
    draft = Draft(7, 1, 4, (ALONE[1],))
    coordinator.say("a", draft)
    verdict = coordinator.one_verdict()
    assert coordinator.say("a", draft) == [verdict]
    assert coordinator.compute() == []
    assert coordinator.dispatcher.counters["repeated_verdicts"] == 1


def test_the_same_round_twice_before_its_pass_is_counted_and_computed_once() -> None:
    coordinator = opened_at_round_0()
    for _ in range(2):
        assert coordinator.say("a", Draft(7, 1, 4, ())) == []
    assert len(coordinator.compute()) == 1
    assert coordinator.compute() == []
    assert coordinator.dispatcher.counters["ignored_repeated_round"] == 1


def test_an_older_round_is_counted_and_gets_nothing() -> None:
    coordinator = opened_at_round_0()
    coordinator.say("a", Draft(7, 1, 4, ()))
    coordinator.compute()
    assert coordinator.say("a", OPEN) == []
    assert coordinator.dispatcher.counters["ignored_stale_round"] == 1


@pytest.mark.parametrize("draft", [Draft(7, 3, 4, ()), Draft(7, 1, 3, ()), Draft(7, 1, 5, ())])
def test_a_draft_that_does_not_follow_is_out_of_step(draft: Draft) -> None:
    assert opened_at_round_0().refusal("a", draft) == "out_of_step"


def test_a_verdict_says_how_long_it_took_here_and_what_was_in_its_pass() -> None:
    coordinator = Coordinator("a", "b")
    coordinator.now_ns = 5 * SECOND
    coordinator.say("a", OPEN)
    coordinator.say("b", msgspec.structs.replace(OPEN, request_id=8, token_ids=(4, 5), num_prompt_tokens=2))
    coordinator.now_ns += 3_000_000
    first, second = coordinator.compute()
    assert isinstance(first, Verdict)
    assert isinstance(second, Verdict)
    assert (first.received_ns, first.residence_us, first.verify_us, first.batch_rows) == (5 * SECOND, 3000, 5, 5)
    assert (second.request_id, second.batch_rows) == (8, 5)


# -- ends --


def test_max_tokens_ends_the_text_and_frees_the_sequence() -> None:
    coordinator = Coordinator("a")
    coordinator.say("a", msgspec.structs.replace(OPEN, max_tokens=3))
    coordinator.compute()
    coordinator.say("a", Draft(7, 1, 4, tuple(ALONE[1:5])))  # longer than the room that is left
    verdict = coordinator.one_verdict()
    assert (verdict.num_accepted, verdict.next_token_id, verdict.finish) == (1, ALONE[2], 2)
    assert not coordinator.dispatcher.sessions
    coordinator.compute()
    assert coordinator.target.num_open == 0


def test_a_full_context_ends_the_text() -> None:
    coordinator = Coordinator("a", max_context_tokens=16)
    coordinator.say("a", msgspec.structs.replace(OPEN, token_ids=(1, 2, 3, *ALONE[:12])))
    assert coordinator.compute() == [], "a prompt of 15 tokens goes in chunks of 8"
    verdict = coordinator.one_verdict()
    assert (verdict.next_token_id, verdict.finish) == (ALONE[12], 2)


def test_closing_frees_the_sequence_and_closing_again_is_no_error() -> None:
    coordinator = opened_at_round_0()
    for _ in range(2):
        assert coordinator.say("a", Close(7)) == []
    coordinator.compute()
    assert coordinator.target.num_open == 0
    assert coordinator.refusal("a", Draft(7, 1, 4, ())) == "unknown_request"


def test_closing_while_the_engine_computes_frees_the_sequence_after_it() -> None:
    coordinator = Coordinator("a")
    coordinator.say("a", OPEN)
    begun = coordinator.begin_pass()
    assert begun is not None
    coordinator.say("a", Close(7))
    assert coordinator.end_pass(begun) == []
    coordinator.compute()
    assert coordinator.target.num_open == 0


# -- resuming --


def test_opening_again_from_the_committed_tokens_feeds_only_what_the_cache_does_not_hold() -> None:
    coordinator = opened_at_round_0()
    coordinator.say("a", msgspec.structs.replace(OPEN, round=5, token_ids=(1, 2, 3, *ALONE[:2])))
    verdict = coordinator.one_verdict()
    assert (verdict.round, verdict.next_token_id) == (5, ALONE[2])
    assert coordinator.target.passes == [[3], [2]]


def test_opening_again_while_the_engine_computes_is_answered_after_the_pass() -> None:
    coordinator = opened_at_round_0()
    coordinator.say("a", Draft(7, 1, 4, tuple(ALONE[1:4])))
    begun = coordinator.begin_pass()
    assert begun is not None
    assert coordinator.say("a", msgspec.structs.replace(OPEN, round=2, token_ids=(1, 2, 3, ALONE[0]))) == []
    assert [send.message.round for send in coordinator.end_pass(begun) if isinstance(send.message, Verdict)] == [1]
    verdict = coordinator.one_verdict()
    assert (verdict.round, verdict.next_token_id) == (2, ALONE[1])


def test_opening_again_during_the_pass_that_ends_the_text_is_answered_too() -> None:
    coordinator = Coordinator("a")
    coordinator.say("a", msgspec.structs.replace(OPEN, max_tokens=1))
    begun = coordinator.begin_pass()
    assert begun is not None
    assert coordinator.say("a", msgspec.structs.replace(OPEN, round=1, max_tokens=1)) == []
    [ended] = coordinator.end_pass(begun)
    assert isinstance(ended.message, Verdict)
    assert (ended.message.round, ended.message.finish) == (0, 2)
    verdict = coordinator.one_verdict()
    assert (verdict.round, verdict.next_token_id, verdict.finish) == (1, ALONE[0], 2)


def test_a_late_copy_of_an_open_does_not_begin_its_round_again_when_the_text_has_ended() -> None:
    coordinator = Coordinator("a", "b")
    opened = msgspec.structs.replace(OPEN, max_tokens=1)
    coordinator.say("a", opened)
    assert coordinator.one_verdict().finish == 2
    assert coordinator.refusal("a", opened) == "out_of_step"
    coordinator.say("a", msgspec.structs.replace(opened, round=1))  # as an agent does that is refused
    assert coordinator.one_verdict().next_token_id == ALONE[0]
    coordinator.say("b", opened)  # another agent has rounds of its own
    assert coordinator.one_verdict().round == 0


def test_a_late_copy_of_an_open_does_not_begin_its_round_again_when_it_was_closed() -> None:
    coordinator = opened_at_round_0()
    coordinator.say("a", Close(7))
    assert coordinator.refusal("a", OPEN) == "out_of_step"
    assert coordinator.dispatcher.sessions == {}


def test_opening_again_during_the_pass_that_fails_for_the_last_time_is_answered_too() -> None:
    coordinator = Coordinator("a")
    coordinator.say("a", OPEN)
    coordinator.target.faults = MAX_FAULTS + 1
    for _ in range(MAX_FAULTS):
        assert coordinator.compute() == []
    begun = coordinator.begin_pass()
    assert begun is not None
    coordinator.say("a", msgspec.structs.replace(OPEN, round=1))
    [refused] = coordinator.end_pass(begun)
    assert isinstance(refused.message, Refused)
    verdict = coordinator.one_verdict()
    assert (verdict.round, verdict.next_token_id) == (1, ALONE[0])


def test_a_new_instance_of_an_agent_frees_what_the_last_one_had_open() -> None:
    coordinator = opened_at_round_0()
    coordinator.hello("a", instance="1")
    assert set(coordinator.dispatcher.sessions) == {7}, "the same instance keeps its requests"
    coordinator.hello("a", instance="2")
    assert not coordinator.dispatcher.sessions


def test_a_lost_agents_request_can_be_opened_by_another() -> None:
    coordinator = Coordinator("a", "b")
    coordinator.say("a", OPEN)
    coordinator.compute()
    assert coordinator.refusal("b", msgspec.structs.replace(OPEN, round=1)) == "request_owned"
    coordinator.now_ns += 9 * SECOND
    coordinator.say("b", Ping(1))
    coordinator.now_ns += 2 * SECOND
    coordinator.dispatcher.on_tick(coordinator.now_ns)
    assert coordinator.dispatcher.counters["agents_lost"] == 1
    assert coordinator.say("b", msgspec.structs.replace(OPEN, round=1, token_ids=(1, 2, 3, ALONE[0]))) == []
    assert coordinator.one_verdict().next_token_id == ALONE[1]
    assert coordinator.refusal("a", Draft(7, 2, 5, ())) == "hello_required"


def test_a_session_that_nobody_goes_on_with_is_freed() -> None:
    coordinator = opened_at_round_0()
    for second in range(0, 40, 5):
        coordinator.now_ns = second * SECOND
        assert coordinator.say("a", Ping(second)) == [Pong(second, coordinator.dispatcher.epoch)]
        coordinator.dispatcher.on_tick(coordinator.now_ns)
    assert coordinator.dispatcher.counters["sessions_abandoned"] == 1
    assert not coordinator.dispatcher.sessions


# -- faults --


def test_after_a_fault_everything_is_fed_again_and_the_text_is_the_same() -> None:
    coordinator = opened_at_round_0()
    coordinator.say("a", Draft(7, 1, 4, (ALONE[1], WRONG)))
    coordinator.target.faults = 1
    assert coordinator.compute() == []
    verdict = coordinator.one_verdict()
    assert (verdict.num_accepted, verdict.next_token_id) == (1, ALONE[2])
    assert coordinator.target.passes == [[3], [6]]
    assert coordinator.dispatcher.counters["engine_faults"] == 1


def test_a_request_under_which_passes_keep_failing_is_refused() -> None:
    coordinator = Coordinator("a")
    coordinator.say("a", OPEN)
    coordinator.target.faults = MAX_FAULTS + 1
    for _ in range(MAX_FAULTS):
        assert coordinator.compute() == []
    [refused] = coordinator.compute()
    assert isinstance(refused, Refused)
    assert (refused.code, refused.request_id, refused.round) == ("engine_fault", 7, 0)
    assert not coordinator.dispatcher.sessions


# -- limits --


def test_beyond_the_sequences_requests_wait_and_beyond_the_queue_they_are_refused() -> None:
    coordinator = Coordinator("a", "b")
    opens = [msgspec.structs.replace(OPEN, request_id=number, max_tokens=1) for number in range(1, 6)]
    assert [coordinator.say("a", opens[0]), coordinator.say("a", opens[1]), coordinator.say("b", opens[2])] == [[]] * 3
    assert coordinator.refusal("a", opens[3]) == "too_many_sessions"
    assert coordinator.refusal("b", opens[4]) == "busy"
    assert [message.request_id for message in coordinator.compute() if isinstance(message, Verdict)] == [1, 2]
    assert [message.request_id for message in coordinator.compute() if isinstance(message, Verdict)] == [3]


def test_one_agent_too_many_is_refused_and_those_that_are_there_may_greet_again() -> None:
    coordinator = Coordinator("a", "b", "c")
    [refused] = coordinator.hello("d")
    assert isinstance(refused, Refused)
    assert refused.code == "too_many_agents"
    assert isinstance(coordinator.hello("a")[0], Welcome)


def test_a_context_that_the_engine_does_not_have_is_not_promised() -> None:
    coordinator = Coordinator(max_context_tokens=5000)
    [welcome] = coordinator.hello("a")
    assert isinstance(welcome, Welcome)
    assert welcome.max_context_tokens == 96
    assert (
        coordinator.refusal("a", msgspec.structs.replace(OPEN, token_ids=(1,) * 96, max_tokens=200))
        == "context_exceeded"
    )


# -- accounts --


@pytest.mark.parametrize(("joules", "total"), [([100, 10, 1], 111), ([100, None, 1], None)])
def test_a_prompt_in_chunks_bears_the_time_and_joules_of_all_its_passes(
    joules: list[int | None], total: int | None
) -> None:
    coordinator = Coordinator("a")
    coordinator.say("a", Open(7, 0, (*range(1, 16), 1, 2, 3), 18, 20, Sampling(), ignore_end=True))  # 8 + 8 + 2
    sends: list[Send] = []
    for energy_nj in joules:
        assert not sends
        begun = coordinator.begin_pass()
        assert begun is not None
        timing = PassTiming(coordinator.now_ns, 5, [energy_nj])
        sends = coordinator.dispatcher.on_pass_done(run_pass(coordinator.target, begun), timing)
    [verdict] = [send.message for send in sends]
    assert isinstance(verdict, Verdict)
    assert (verdict.verify_us, verdict.energy_nj, verdict.batch_rows) == (15, total, 2)


# -- records --

BATCH = Records("boot", SCHEMA_VERSION, (SpooledRecord(1, "RoundRecord", b"{}"),))


def test_records_are_taken_for_the_shell_once_and_no_more_than_it_can_hold() -> None:
    coordinator = Coordinator()
    coordinator.dispatcher = Dispatcher(coordinator.target.info, ENDS, coordinator.limits, keeps_records=True)
    [refused] = coordinator.say("a", BATCH)
    assert isinstance(refused, Refused)
    assert refused.code == "hello_required"
    coordinator.hello("a")
    for _ in range(MAX_BATCHES + 3):
        assert coordinator.say("a", BATCH) == []
    taken = coordinator.dispatcher.take_batches()
    assert len(taken) == MAX_BATCHES
    assert (taken[0].agent, taken[0].records) == (b"a", BATCH)
    assert coordinator.dispatcher.take_batches() == []
    assert coordinator.dispatcher.counters["ignored_record_batches"] == 3


def test_records_are_refused_where_none_are_kept_and_in_another_schema() -> None:
    coordinator = Coordinator("a")
    [refused] = coordinator.say("a", BATCH)
    assert isinstance(refused, Refused)
    assert refused.code == "records_not_kept"
    coordinator.dispatcher = Dispatcher(coordinator.target.info, ENDS, coordinator.limits, keeps_records=True)
    coordinator.hello("a")
    [refused] = coordinator.say("a", msgspec.structs.replace(BATCH, schema_version=SCHEMA_VERSION + 1))
    assert isinstance(refused, Refused)
    assert refused.code == "records_schema"
    assert coordinator.dispatcher.take_batches() == []


def test_a_request_of_the_coordinators_own_users_goes_on_by_itself_and_no_agent_can_take_it() -> None:
    coordinator = Coordinator("a", max_sessions_per_agent=1)
    coordinator.dispatcher.open_alone(OPEN, 0)
    [refused] = coordinator.say("a", msgspec.structs.replace(OPEN, round=1))
    assert isinstance(refused, Refused)
    assert refused.code == "request_owned"
    coordinator.say("a", Close(OPEN.request_id))
    tokens, rounds = [], []
    while begun := coordinator.begin_pass():
        coordinator.now_ns += 60 * SECOND
        for send in coordinator.end_pass(begun):
            assert send.agent == OWN_USERS
            assert isinstance(send.message, Verdict)
            tokens.append(send.message.next_token_id)
            rounds.append(send.message.round)
        coordinator.dispatcher.on_tick(coordinator.now_ns)
    assert (tokens, rounds) == (ALONE, list(range(20)))
    assert coordinator.target.num_open == 0


def test_the_coordinators_own_users_are_refused_what_agents_are_and_when_too_many_wait() -> None:
    coordinator = Coordinator(max_sessions_per_agent=1)
    for request_id in range(3):
        coordinator.dispatcher.open_alone(msgspec.structs.replace(OPEN, request_id=request_id), 0)
    with pytest.raises(Reject, match="3 requests are open or wait"):
        coordinator.dispatcher.open_alone(OPEN, 0)
    coordinator.dispatcher.close_alone(2, 0)
    with pytest.raises(Reject, match="prompt has 65 tokens"):
        coordinator.dispatcher.open_alone(msgspec.structs.replace(OPEN, token_ids=(1,) * 65, num_prompt_tokens=65), 0)


def drive(coordinator: Coordinator, opened: Open) -> list[int]:
    """Return the tokens of a text for the coordinator's own users, alone in its passes."""
    coordinator.dispatcher.open_alone(opened, 0)
    tokens = []
    while begun := coordinator.begin_pass():
        verdicts = [send.message for send in coordinator.end_pass(begun)]
        tokens += [verdict.next_token_id for verdict in verdicts if isinstance(verdict, Verdict)]
    return tokens


def test_a_next_turn_is_fed_what_is_new_and_its_text_is_the_same() -> None:
    coordinator = Coordinator("a", keep_sequences=True)
    first = drive(coordinator, OPEN)
    prompt = (1, 2, 3, *first, 9, 8, 7)
    coordinator.target.passes.clear()
    again = msgspec.structs.replace(OPEN, request_id=8, token_ids=prompt, num_prompt_tokens=len(prompt))
    tokens = drive(coordinator, again)
    assert coordinator.target.passes[0] == [4], "the last token of the turn before, which was chosen and never fed"
    assert tokens == generate_alone(ToyModel(), prompt, Sampling(), 20, frozenset())
    assert coordinator.target.num_open == coordinator.dispatcher.num_kept_sequences == 1


def test_an_agents_next_turn_goes_on_from_its_last_one_though_a_draft_was_rejected_at_its_end() -> None:
    coordinator = Coordinator("a", keep_sequences=True)
    coordinator.say("a", OPEN)
    for message in (Draft(7, 1, 4, (WRONG, WRONG)), Close(7)):
        begun = coordinator.begin_pass()
        assert begun is not None
        coordinator.end_pass(begun)
        coordinator.say("a", message)
    coordinator.target.passes.clear()
    prompt = (1, 2, 3, ALONE[0], 5)
    tokens = drive(coordinator, msgspec.structs.replace(OPEN, request_id=8, token_ids=prompt, num_prompt_tokens=5))
    assert coordinator.target.passes[0] == [1]
    assert tokens == generate_alone(ToyModel(), prompt, Sampling(), 20, frozenset())


def test_the_same_prompt_again_is_fed_its_last_token_only() -> None:
    coordinator = Coordinator(keep_sequences=True)
    assert drive(coordinator, OPEN) == ALONE
    coordinator.target.passes.clear()
    prompt = (1, 2, 3, *ALONE)
    again = msgspec.structs.replace(OPEN, request_id=8, token_ids=prompt[:12], num_prompt_tokens=12, max_tokens=5)
    assert drive(coordinator, again) == ALONE[9:14]
    assert coordinator.target.passes[0] == [1]


def test_kept_sequences_make_room_for_requests_and_none_is_ever_missing() -> None:
    coordinator = Coordinator(keep_sequences=True)
    for number in range(6):
        opened = msgspec.structs.replace(OPEN, request_id=number, token_ids=(number + 1, 14, 13), max_tokens=3)
        drive(coordinator, opened)
        assert coordinator.target.num_open == coordinator.dispatcher.num_kept_sequences == min(number + 1, 2)


def test_an_engine_that_is_not_exact_keeps_nothing() -> None:
    coordinator = Coordinator()
    info = msgspec.structs.replace(coordinator.target.info, exact=False)
    limits = msgspec.structs.replace(LIMITS, keep_sequences=True)
    coordinator.dispatcher = Dispatcher(info, ENDS, limits)
    drive(coordinator, OPEN)
    assert coordinator.begin_pass() is None
    assert coordinator.target.num_open == coordinator.dispatcher.num_kept_sequences == 0


SYSTEM = tuple(1 + place % 15 for place in range(20))


def opening(request_id: int, prompt: tuple[int, ...], **changes: Any) -> Open:
    return msgspec.structs.replace(
        OPEN, request_id=request_id, token_ids=prompt, num_prompt_tokens=len(prompt), **changes
    )


def test_prompts_that_share_a_system_prompt_compute_it_once_and_agents_are_told() -> None:
    coordinator = Coordinator("a", keep_sequences=True)
    one, other = (*SYSTEM, *[5] * 30), (*SYSTEM, *[6] * 30)
    assert drive(coordinator, opening(1, one)) == generate_alone(ToyModel(), one, Sampling(), 20, frozenset())
    coordinator.target.passes.clear()
    coordinator.say("a", opening(2, other))
    verdicts = []
    while not verdicts:
        begun = coordinator.begin_pass()
        assert begun is not None
        verdicts = [send.message for send in coordinator.end_pass(begun)]
    assert sum(sum(rows) for rows in coordinator.target.passes) == 30
    assert isinstance(verdicts[0], Verdict)
    assert (verdicts[0].num_reused, verdicts[0].next_token_id) == (
        20,
        generate_alone(ToyModel(), other, Sampling(), 1, frozenset())[0],
    )
    assert coordinator.dispatcher.num_kept_sequences == 1, "the first conversation keeps its own"


def test_a_copy_that_finds_no_place_in_the_pass_is_looked_for_anew_for_the_next() -> None:
    coordinator = Coordinator(keep_sequences=True, max_sessions=3, max_waiting=3, max_rows=16, prefill_rows=8)
    prompts = [(*SYSTEM, *[token] * 25) for token in (5, 6, 7, 8)]
    drive(coordinator, opening(1, prompts[0]))
    for number, prompt in enumerate(prompts[1:], 2):
        coordinator.dispatcher.open_alone(opening(number, prompt), 0)
    texts: dict[int, list[int]] = {}
    while begun := coordinator.begin_pass():
        for send in coordinator.end_pass(begun):
            assert isinstance(send.message, Verdict)
            texts.setdefault(send.message.request_id, []).append(send.message.next_token_id)
    for number, prompt in enumerate(prompts[1:], 2):
        assert texts[number] == generate_alone(ToyModel(), prompt, Sampling(), 20, frozenset())
    assert coordinator.target.num_open == coordinator.dispatcher.num_kept_sequences == 3


def test_an_engine_that_cannot_copy_computes_that_text_anew_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    coordinator = Coordinator(keep_sequences=True)
    drive(coordinator, opening(1, (*SYSTEM, *[5] * 30)))

    def refuse(sequence: int) -> bytes:
        raise LimitError("longer than the window")

    monkeypatch.setattr(coordinator.target, "save", refuse)
    other = (*SYSTEM, *[6] * 30)
    assert drive(coordinator, opening(2, other)) == generate_alone(ToyModel(), other, Sampling(), 20, frozenset())
    assert coordinator.target.num_open == coordinator.dispatcher.num_kept_sequences == 2
