"""One request on the agent: what is sent, how far is drafted, what a verdict commits."""

import pytest

from multispin_agent.generation import Generation
from multispin_models.messages import Draft, Open, Verdict
from multispin_models.sampling import Sampling

ENDS = frozenset({0})


def generation(
    num_draft_tokens: int = 2, max_tokens: int = 20, *, draft_ahead: bool = True, ignore_end: bool = False
) -> Generation:
    return Generation(
        7,
        [1, 2, 3],
        Sampling(),
        max_tokens=max_tokens,
        num_draft_tokens=num_draft_tokens,
        draft_ahead=draft_ahead,
        end_token_ids=ENDS,
        ignore_end=ignore_end,
    )


def verdict(round_number: int, num_accepted: int, next_token: int, finish: int = 0) -> Verdict:
    return Verdict(7, round_number, num_accepted, next_token, finish, 0, 0, 0, 0)


def opened(num_draft_tokens: int = 2, max_tokens: int = 20, **flags: bool) -> Generation:
    """Return a request with the prompt 1 2 3 and the first token 4."""
    made = generation(num_draft_tokens, max_tokens, **flags)
    made.open()
    made.on_verdict(verdict(0, 0, 4))
    return made


def test_it_begins_with_an_open_at_round_0() -> None:
    assert generation().open() == Open(7, 0, (1, 2, 3), 3, 20, Sampling())


def test_nothing_is_sent_before_the_open_is_answered() -> None:
    started = generation(draft_ahead=False)
    started.open()
    assert (started.is_opening, started.can_send(), started.num_to_draft()) == (True, False, 0)


def test_while_the_open_is_answered_it_drafts_the_first_token_and_the_first_draft_ahead() -> None:
    started = generation(2)
    started.open()
    assert started.num_to_draft() == 3


def test_a_full_draft_is_sent_and_not_a_shorter_one() -> None:
    request = opened(2)
    assert request.num_to_draft() == 2
    request.drafted([5])
    assert not request.can_send()
    request.drafted([6])
    assert request.can_send()
    assert request.next_draft() == Draft(7, 1, 4, (5, 6))


def test_while_a_verdict_is_awaited_it_drafts_ahead_past_the_bonus_token() -> None:
    request = opened(2)
    request.drafted([5, 6])
    request.next_draft()
    assert request.num_to_draft() == 3  # the bonus token, and the next draft
    request.drafted([7, 8, 9])
    assert request.num_to_draft() == 0


def test_a_guess_that_was_right_is_the_next_draft_at_once() -> None:
    request = opened(2)
    request.drafted([5, 6])
    request.next_draft()
    request.drafted([7, 8, 9])
    done = request.on_verdict(verdict(1, 2, 7))
    assert done is not None
    assert (done.token_ids, done.ahead_hit) == ([5, 6, 7], True)
    assert request.can_send()
    assert request.next_draft() == Draft(7, 2, 7, (8, 9))


@pytest.mark.parametrize(("num_accepted", "next_token"), [(2, 15), (1, 15), (0, 15)])
def test_a_guess_that_was_wrong_is_thrown_away(num_accepted: int, next_token: int) -> None:
    request = opened(2)
    request.drafted([5, 6])
    request.next_draft()
    request.drafted([7, 8, 9])
    done = request.on_verdict(verdict(1, num_accepted, next_token))
    assert done is not None
    assert done.ahead_hit is False
    assert request.generated == [*[4, 5, 6][: 1 + num_accepted], 15]
    assert (request.guess, request.num_to_draft()) == ([], 2)


def test_a_rejection_whose_recovered_token_was_guessed_is_no_hit_of_a_longer_draft() -> None:
    request = opened(2)
    request.drafted([5, 6])
    request.next_draft()
    done = request.on_verdict(verdict(1, 1, 15))
    assert done is not None
    assert (done.token_ids, done.ahead_hit) == ([5, 15], None)


def test_what_was_guessed_of_the_next_draft_is_kept_though_not_all_of_it() -> None:
    request = opened(2)
    request.drafted([5, 6])
    request.next_draft()
    request.drafted([7, 8])
    request.on_verdict(verdict(1, 2, 7))
    assert (request.guess, request.num_to_draft(), request.can_send()) == ([8], 1, False)


def test_without_draft_ahead_it_rests_while_a_verdict_is_awaited() -> None:
    request = opened(2, draft_ahead=False)
    request.drafted([5, 6])
    request.next_draft()
    assert request.num_to_draft() == 0


def test_with_no_tokens_to_draft_it_asks_for_one_token_at_a_time() -> None:
    request = opened(0)
    assert (request.num_to_draft(), request.can_send()) == (0, True)
    assert request.next_draft() == Draft(7, 1, 4, ())
    assert request.num_to_draft() == 0
    request.on_verdict(verdict(1, 0, 5))
    assert request.generated == [4, 5]


def test_a_draft_ends_with_an_end_token_and_is_sent_though_short() -> None:
    request = opened(4)
    request.drafted([5, 0, 9, 9])
    assert request.guess == [5, 0]
    assert request.next_draft() == Draft(7, 1, 4, (5, 0))
    assert request.num_to_draft() == 0, "nothing is drafted after the end of the text"
    request.on_verdict(verdict(1, 1, 0, finish=1))
    assert (request.finish, request.generated, request.can_send()) == (1, [4, 5, 0], False)


def test_with_ignore_end_it_drafts_on_after_an_end_token() -> None:
    request = opened(4, ignore_end=True)
    request.drafted([5, 0, 9, 9])
    assert request.next_draft().draft_token_ids == (5, 0, 9, 9)


def test_an_end_token_guessed_after_the_flight_is_not_sent_before_it_is_reached() -> None:
    request = opened(2)
    request.drafted([5, 6])
    request.next_draft()
    request.drafted([7, 0])
    assert request.num_to_draft() == 0
    request.on_verdict(verdict(1, 2, 7))
    assert request.next_draft() == Draft(7, 2, 7, (0,))


@pytest.mark.parametrize(("max_tokens", "drafted"), [(2, 0), (3, 1), (4, 2), (5, 3), (9, 4)])
def test_a_draft_leaves_room_for_the_targets_last_token(max_tokens: int, drafted: int) -> None:
    request = opened(4, max_tokens)
    assert request.room == max_tokens - 1
    assert request.num_to_draft() == drafted
    request.drafted([5] * drafted)
    assert len(request.next_draft().draft_token_ids) == drafted


def test_drafting_ahead_stops_at_the_room_too() -> None:
    request = opened(2, max_tokens=5)
    request.drafted([5, 6])
    request.next_draft()
    assert request.num_to_draft() == 1  # 4 5 6 7, and the fifth is the target's


def test_the_same_verdict_again_does_nothing() -> None:
    request = opened(2)
    request.drafted([5, 6])
    request.next_draft()
    assert request.on_verdict(verdict(1, 2, 7)) is not None
    assert request.on_verdict(verdict(1, 2, 7)) is None
    request.drafted([8, 9])
    request.next_draft()
    assert request.on_verdict(verdict(1, 2, 7)) is None, "a verdict of an older round that comes late"
    assert request.on_verdict(verdict(0, 0, 4)) is None
    assert request.generated == [4, 5, 6, 7]


def test_a_verdict_that_accepts_more_than_was_drafted_does_nothing() -> None:
    request = opened(2)
    request.drafted([5, 6])
    request.next_draft()
    assert request.on_verdict(verdict(1, 3, 7)) is None
    assert request.generated == [4]


def test_repeating_sends_to_the_letter_what_awaits_its_verdict() -> None:
    request = generation(2)
    first = request.open()
    assert request.repeat() == first
    request.on_verdict(verdict(0, 0, 4))
    request.drafted([5, 6])
    draft = request.next_draft()
    request.drafted([7])
    assert request.repeat() == draft


def test_opened_again_it_resumes_from_what_is_committed_in_a_round_of_its_own() -> None:
    request = opened(2)
    request.drafted([5, 6])
    request.next_draft()
    # 19 tokens are left: the coordinator can have gone to round 19 alone.
    assert request.open() == Open(7, 20, (1, 2, 3, 4), 3, 20, Sampling())
    assert request.on_verdict(verdict(1, 2, 7)) is None, "the verdict of before comes late"
    assert not any(request.on_verdict(verdict(late, 0, 9)) for late in range(20)), "and so do those given alone"
    done = request.on_verdict(verdict(20, 0, 5))
    assert done is not None
    assert request.generated == [4, 5]
    assert request.guess == [6], "what was guessed is kept, for it was right"


def test_opened_a_second_time_before_any_answer_the_round_goes_up() -> None:
    request = generation(2)
    assert [request.open().round for _ in range(3)] == [0, 20, 40]
    assert request.on_verdict(verdict(0, 0, 4)) is None
    assert request.on_verdict(verdict(40, 0, 4)) is not None


def test_a_lower_limit_shortens_the_drafts_from_then_on() -> None:
    request = opened(4)
    request.limit_draft(1)
    request.drafted([5])
    assert request.next_draft().draft_token_ids == (5,)


def test_a_drafter_without_a_guess_rests_and_the_target_goes_on_by_itself() -> None:
    request = opened(2)
    request.rest()
    assert (request.num_to_draft(), request.can_send()) == (0, True)
    assert request.next_draft() == Draft(7, 1, 4, ())
    assert request.num_to_draft() == 0, "there was no guess to follow these tokens"
    request.on_verdict(verdict(1, 0, 5))
    assert request.num_to_draft() == 2, "of other tokens there may be one"


def test_a_guess_that_ended_early_is_sent_though_short() -> None:
    request = opened(4)
    request.drafted([5, 6])
    request.rest()
    assert request.next_draft() == Draft(7, 1, 4, (5, 6))


def test_a_drafter_that_rests_ahead_is_asked_again_after_the_verdict() -> None:
    request = opened(2)
    request.drafted([5, 6])
    request.next_draft()
    request.drafted([7])
    request.rest()
    assert request.num_to_draft() == 0
    request.on_verdict(verdict(1, 2, 7))
    assert (request.guess, request.num_to_draft(), request.can_send()) == ([], 2, False)
