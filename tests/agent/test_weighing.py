"""One request by a rejection rule, on the agent: what a draft carries, and the choice after a rejection."""

import pytest

from multispin_agent.generation import Generation
from multispin_models.draft_distribution import TOTAL, DraftDistribution
from multispin_models.draft_payload import pack_candidates, pack_distributions, pack_weights
from multispin_models.messages import UndecidedVerdict, Verdict, WeighedDraft
from multispin_models.sampling import Sampling, uniform
from multispin_models.verification import KEEP, Candidate, Rule

SEED = 11
HALF = DraftDistribution((5, 6), (TOTAL // 2, TOTAL // 2))
SURE = DraftDistribution((7,), (TOTAL,))
END = 0


def opened(rule: Rule, temperature: float = 1.0) -> Generation:
    """Return a request with the prompt 1 2 3 and the first token 4."""
    made = Generation(
        7,
        [1, 2, 3],
        Sampling(temperature, seed=SEED),
        max_tokens=20,
        num_draft_tokens=2,
        draft_ahead=False,
        end_token_ids=frozenset({END}),
    )
    assert made.verify_by(rule)
    made.open()
    made.on_verdict(Verdict(7, 0, 0, 4, 0, 0, 0, 0, 0))
    return made


def in_flight(rule: Rule = "rejection-lean") -> Generation:
    """Return it with the draft 5 7 in flight."""
    made = opened(rule)
    made.drafted([5, 7], None, [HALF, SURE])
    made.next_draft()
    return made


def undecided(round_number: int, *token_ids: int, accepted: int = 0, first: int = 0, finish: int = 0) -> Verdict:
    """Return a verdict with draws that the target gives probability 1/2."""
    candidates = pack_candidates([Candidate(token, 0.5) for token in token_ids])
    return UndecidedVerdict(
        7, round_number, accepted, token_ids[0], finish, 0, 0, 0, 0, candidates=candidates, first=first
    )


def test_a_draft_carries_what_its_rule_asks_for() -> None:
    lean, full = opened("rejection-lean"), opened("rejection")
    for each in (lean, full):
        each.drafted([5, 7], None, [HALF, SURE])
    assert lean.next_draft() == WeighedDraft(7, 1, 4, (5, 7), drawn_from=pack_weights([TOTAL // 2, TOTAL]))
    assert full.next_draft() == WeighedDraft(7, 1, 4, (5, 7), drawn_from=pack_distributions([HALF, SURE]))
    assert lean.repeat() == WeighedDraft(7, 1, 4, (5, 7), drawn_from=pack_weights([TOTAL // 2, TOTAL]))


def test_at_temperature_0_it_is_a_plain_draft() -> None:
    greedy = opened("rejection", 0.0)
    greedy.drafted([5, 7])
    assert type(greedy.next_draft()).__name__ == "Draft"


def test_how_long_a_draft_is_does_not_depend_on_which_tokens_were_drawn() -> None:
    lengths = set()
    for confidences in ([0.99, 0.99], [0.01, 0.99], [0.99, 0.01], [0.01, 0.01]):
        made = opened("rejection-lean")
        made.begin_with(2, 400)
        made.drafted([5, 7], confidences, [HALF, SURE])
        lengths.add(len(made.next_draft().draft_token_ids))
    assert lengths == {2}


def test_the_first_draw_that_passes_is_committed_and_the_next_draft_says_which() -> None:
    made = in_flight()
    # 5 has 1/2 in the draft and 1/2 in the target: it never passes. 8 the draft could not have drawn: it always does.
    done = made.on_verdict(undecided(1, 5, 5, 8, 8))
    assert done is not None
    assert (done.token_ids, done.next_token_id, made.tokens) == ([8], 8, [1, 2, 3, 4, 8])
    made.drafted([5, 7], None, [HALF, SURE])
    draft = made.next_draft()
    assert isinstance(draft, WeighedDraft)
    assert (draft.choice, draft.num_committed, draft.draft_token_ids) == (2, 5, (5, 7))


def test_a_draw_passes_with_the_share_that_the_target_has_beyond_the_draft() -> None:
    quarter = DraftDistribution((5, 6), (TOTAL // 4, TOTAL - TOTAL // 4))
    made = opened("rejection-lean")
    made.drafted([6, 7], None, [quarter, SURE])
    made.next_draft()
    made.on_verdict(undecided(1, *[5] * 16))  # 1/4 of 1/2: each passes half the time
    made.drafted([5, 7], None, [HALF, SURE])
    first = next(number for number in range(16) if uniform(SEED, 4, KEEP, number) < 0.5)
    draft = made.next_draft()
    assert isinstance(draft, WeighedDraft)
    assert draft.choice == first


def test_where_no_draw_passes_more_are_asked_for_and_nothing_is_drafted_meanwhile() -> None:
    made = in_flight()
    done = made.on_verdict(undecided(1, 7, 7, accepted=1))
    assert done is not None
    assert (done.token_ids, done.next_token_id) == ([5], None)
    assert made.num_to_draft() == 0
    draft = made.next_draft()
    assert isinstance(draft, WeighedDraft)
    assert (draft.choice, draft.num_committed, draft.draft_token_ids, draft.drawn_from) == (2, 5, (), None)
    assert made.on_verdict(Verdict(7, 2, 0, 9, 0, 0, 0, 0, 0)) is None  # a fresh token would be wrong
    assert made.on_verdict(undecided(2, 9, first=0)) is None  # those draws were seen
    reopened = made.open()
    assert (reopened.token_ids, reopened.first_candidate) == ((1, 2, 3, 4, 5), 2)
    done = made.on_verdict(undecided(made.round, 7, 9, first=2))
    assert done is not None
    assert (done.token_ids, made.tokens) == ([9], [1, 2, 3, 4, 5, 9])
    assert made.open().first_candidate == 0


@pytest.mark.parametrize(("token", "finish", "ends"), [(8, 0, 0), (END, 0, 1), (8, 2, 2), (5, 2, 0)])
def test_the_agent_knows_how_the_text_ends_with_the_draw_that_it_takes(token: int, finish: int, ends: int) -> None:
    made = in_flight()
    made.on_verdict(undecided(1, token, finish=finish))
    assert made.finish == ends


def test_draws_that_nothing_asked_for_are_no_verdict() -> None:
    assert in_flight("rejection").on_verdict(undecided(1, 8)) is None
    assert in_flight().on_verdict(undecided(1, 8, accepted=2)) is None
    coupled = opened("coupled")
    coupled.drafted([5, 7])
    coupled.next_draft()
    assert coupled.on_verdict(undecided(1, 8)) is None


def test_a_coordinator_that_comes_back_with_another_rule_is_noticed() -> None:
    made = in_flight()
    assert made.verify_by("rejection-lean")
    assert not made.verify_by("coupled")
