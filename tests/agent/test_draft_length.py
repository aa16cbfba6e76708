"""How far is drafted: by the survival that is predicted, and by what the verdicts say."""

import pytest

from multispin_agent.draft_length import DraftHistory, num_worth_drafting
from multispin_agent.generation import Generation
from multispin_models.messages import Draft, Verdict
from multispin_models.sampling import Sampling

HALF = [0.5] * 8


@pytest.mark.parametrize(
    ("price", "most", "length"), [(0.0, 8, 8), (0.3, 8, 1), (0.25, 8, 2), (0.12, 8, 3), (0.12, 2, 2), (0.6, 8, 1)]
)
def test_a_draft_goes_on_while_its_survival_is_worth_the_price(price: float, most: int, length: int) -> None:
    assert num_worth_drafting([], HALF, price, most) == length


def test_what_is_known_of_a_token_counts_in_place_of_its_place() -> None:
    assert num_worth_drafting([1.0, 1.0], HALF, 0.25, 8) == 4
    assert num_worth_drafting([None, 0.1], HALF, 0.25, 8) == 1, "a token drafted in doubt is not sent"
    assert num_worth_drafting([0.1], HALF, 0.25, 8) == 1, "but for the first"


def test_a_token_that_is_drafted_costs_its_row_alone() -> None:
    # 0.9 * 0.2 = 0.18 would not have been worth drafting at 0.25; now it is there.
    assert num_worth_drafting([0.9, 0.2], HALF, 0.25, 8) == 2
    assert num_worth_drafting([0.9], [0.5, 0.2, 0.2], 0.25, 8) == 1


def test_asked_for_a_draft_one_token_is_tried_though_its_place_did_badly() -> None:
    assert num_worth_drafting([], [0.01] * 8, 0.9, 8) == 1
    assert num_worth_drafting([], HALF, 0.9, 0) == 0


def generation(history: DraftHistory | None = None) -> Generation:
    made = Generation(
        7,
        [1, 2, 3],
        Sampling(),
        max_tokens=20,
        num_draft_tokens=8,
        draft_ahead=True,
        end_token_ids=frozenset({0}),
        history=history,
    )
    made.open()
    return made


def verdict(round_number: int, next_token: int, **changes: object) -> Verdict:
    return Verdict(7, round_number, 0, next_token, 0, 0, 0, 0, 1, **changes)  # type: ignore[arg-type]


def test_a_verdict_says_how_many_tokens_are_drafted_next() -> None:
    request = generation()
    request.on_verdict(verdict(0, 4, num_draft_tokens=3))
    assert request.num_to_draft() == 3
    request.drafted([5, 6, 7])
    assert request.next_draft().draft_token_ids == (5, 6, 7)


def test_a_verdicts_price_shortens_the_draft() -> None:
    # 0.7 is believed at first: 0.49 of two tokens, 0.343 of three.
    request = generation()
    request.on_verdict(verdict(0, 4, price=400))
    assert request.num_to_draft() == 2


def test_a_price_that_rose_cuts_what_was_drafted_before() -> None:
    request = generation()
    request.on_verdict(verdict(0, 4, price=400))
    request.drafted([5, 6])
    request.next_draft()
    request.drafted([7, 8, 9])
    request.on_verdict(Verdict(7, 1, 2, 7, 0, 0, 0, 0, 1, price=750))  # 0.84 of one token, 0.71 of two
    assert request.next_draft() == Draft(7, 2, 7, (8,))


def test_what_rounds_taught_is_kept_for_the_next_request() -> None:
    history = DraftHistory()
    request = generation(history)
    request.on_verdict(verdict(0, 4, price=400))
    for number in range(1, 4):
        request.drafted([14] * (request.num_to_draft()))
        request.next_draft()
        request.on_verdict(verdict(number, 4, price=400))
    other = generation(history)
    other.on_verdict(verdict(0, 4, price=400))
    # Three drafts in vain, with 0.7 of four believed before: 0.4 is not reached, and one token is what is tried.
    assert other.num_to_draft() == 1


# -- the coordinator alone --


def test_while_the_coordinator_goes_on_alone_nothing_is_drafted_and_its_tokens_are_taken() -> None:
    request = generation()
    request.on_verdict(verdict(0, 4, num_draft_tokens=0, alone=True))
    assert (request.num_to_draft(), request.can_send(), request.alone) == (0, False, True)
    for number, token in enumerate([5, 6, 7], start=1):
        done = request.on_verdict(verdict(number, token, num_draft_tokens=0, alone=True))
        assert done is not None
        assert done.token_ids == [token]
    assert request.generated == [4, 5, 6, 7]


def test_after_its_last_token_alone_the_agent_drafts_on() -> None:
    request = generation()
    request.on_verdict(verdict(0, 4, num_draft_tokens=0, alone=True))
    request.on_verdict(verdict(1, 5, num_draft_tokens=2))
    assert (request.alone, request.num_to_draft()) == (False, 2)
    request.drafted([6, 7])
    assert request.next_draft() == Draft(7, 2, 5, (6, 7))


def test_beside_the_coordinator_alone_one_token_is_guessed_and_compared() -> None:
    request = generation()
    request.on_verdict(verdict(0, 4, num_draft_tokens=1, alone=True))
    for guess, token, hit in ((5, 5, True), (6, 9, False)):
        assert request.num_to_draft() == 1
        request.drafted([guess])
        assert (request.num_to_draft(), request.can_send()) == (0, False)
        done = request.on_verdict(verdict(request.round, token, num_draft_tokens=1, alone=True))
        assert done is not None
        assert done.ahead_hit is hit
    assert request.history.survival.num_rounds == 0, "these were no drafts"


def test_a_token_that_was_lost_on_the_way_is_missed_and_asked_for_as_an_empty_draft() -> None:
    request = generation()
    request.on_verdict(verdict(0, 4, num_draft_tokens=0, alone=True))
    late = verdict(2, 6, num_draft_tokens=0, alone=True)
    assert request.on_verdict(late) is None
    assert request.has_missed(late)
    assert request.repeat() == Draft(7, 1, 4, ())
    assert not request.has_missed(verdict(0, 4)), "one that came twice"
    request.on_verdict(verdict(1, 5, num_draft_tokens=0, alone=True))
    request.on_verdict(late)
    assert request.generated == [4, 5, 6]
