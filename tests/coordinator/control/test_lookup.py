"""What a text's own past is worth: replayed round by round, and verified only where it is worth its rows."""

from hypothesis import given
from hypothesis import strategies as st

from multispin_coordinator.control.lookup import LOOKED_UP, LookedUp, LookupCost, LookupRecord
from multispin_models.ngram import shared_length


class Noted(LookupRecord):
    """Keeps the rounds."""

    def __init__(self) -> None:
        super().__init__()
        self.rounds: list[tuple[int, int, int]] = []

    def add_round(self, num_matched: int, num_drafted: int, num_accepted: int) -> None:
        self.rounds.append((num_matched, num_drafted, num_accepted))
        super().add_round(num_matched, num_drafted, num_accepted)


def test_a_text_is_replayed_in_the_rounds_that_looking_up_would_have_taken() -> None:
    noted = Noted()
    text = LookedUp(noted)
    text.extend([1, 2, 3, 4, 1, 2])  # 3, 4, 1, 2, 3, 4, 1, 2 may follow
    text.extend([3, 4, 9])  # two of them do, and 9 ends the round
    assert noted.rounds == [(2, LOOKED_UP, 2)]
    text.extend([8])
    assert noted.rounds == [(2, LOOKED_UP, 2), (0, 0, 0)]


@given(st.lists(st.integers(1, 3), min_size=2, max_size=60), st.data())
def test_the_replay_does_not_depend_on_how_the_text_comes(tokens: list[int], data: st.DataObject) -> None:
    whole, pieces = Noted(), Noted()
    by_token, by_piece = LookedUp(whole), LookedUp(pieces)
    by_token.extend(tokens[:2])
    by_piece.extend(tokens[:2])
    for token in tokens[2:]:
        by_token.extend([token])
    at = 2
    while at < len(tokens):
        count = data.draw(st.integers(1, 5))
        by_piece.extend(tokens[at : at + count])
        at += count
    assert whole.rounds == pieces.rounds
    assert sum(accepted + 1 for _, _, accepted in whole.rounds) <= len(tokens) - 2


def priced(price: float, tokens_per_s: float = 1.0, bare_tokens_per_s: float = 0.0) -> LookupCost:
    """Every row costs as many tokens."""
    return LookupCost([price * more for more in range(1 + LOOKED_UP)], tokens_per_s, bare_tokens_per_s)


def test_a_draft_is_what_followed_before_as_far_as_it_is_worth_the_price() -> None:
    record = LookupRecord()
    text = LookedUp(record)
    text.extend([5, 6, 7, 8, 9, 5, 6])
    assert text.draft(priced(0.0), 3) == (7, 8, 9)
    first, second, third = record.survival(2, 3)
    assert text.draft(priced((second + third) / 2), LOOKED_UP) == (7, 8)
    assert text.draft(priced((first + second) / 2), LOOKED_UP) == (7,)
    assert text.draft(priced(1.0), LOOKED_UP) == ()
    text.extend([1])
    assert text.draft(priced(0.0), LOOKED_UP) == ()


def test_rows_that_cost_a_pass_once_are_worth_it_together_or_not_at_all() -> None:
    record = LookupRecord()
    for _ in range(1000):
        record.add_round(4, LOOKED_UP, LOOKED_UP)
    split = LookupCost([0.0] + [0.9 + 0.5 * more for more in range(1, 1 + LOOKED_UP)])
    assert record.num_worth(4, split) == LOOKED_UP, "eight tokens for what 4.9 cost"
    assert record.num_worth(4, split._replace(seconds=[0.0] + [4.5 + 0.5 * more for more in range(1, 9)])) == 0


def test_what_is_only_believed_is_not_verified_where_it_could_slow_all_down() -> None:
    # After four tokens six of ten are believed to be right, from as many as eight: 0.43 are sure.
    dear = priced(0.5, tokens_per_s=1.0, bare_tokens_per_s=1.0)
    record = LookupRecord()
    assert record.num_worth(4, dear._replace(bare_tokens_per_s=0.0)) == 1
    assert record.num_worth(4, dear) == 0
    for _ in range(100):
        record.add_round(4, 1, 1)
    assert record.num_worth(4, dear) > 0


def test_acceptance_is_learnt_by_the_length_of_the_match() -> None:
    record = LookupRecord()
    before = record.acceptance(2)
    for _ in range(200):
        record.add_round(2, 1, 0)
        record.add_round(4, 1, 1)
    assert record.acceptance(2) < 0.1 < before
    assert record.acceptance(4) > 0.9
    assert record.sure_acceptance(4) < record.acceptance(4)


def test_what_a_pass_yields_counts_the_rounds_with_a_match() -> None:
    record = LookupRecord()
    assert record.expected(priced(0.0)) == (1.0, 0.0)
    for _ in range(3000):
        record.add_round(3, 1, 1)
        record.add_round(0, 0, 0)
    tokens, seconds = record.expected(priced(0.9))
    first = record.acceptance(3)
    # Half of the rounds have a match; after its first token it has been seen no further, so the prior ends the draft.
    assert record.num_worth(3, priced(0.9)) == 1
    assert abs(tokens - (1 + first / 2)) < 0.01
    assert abs(seconds - 0.9 / 2) < 0.01
    assert record.expected(priced(1.0)) == (1.0, 0.0)


def test_shared_lengths_are_what_a_target_would_accept() -> None:
    text = LookedUp(LookupRecord())
    text.extend([1, 2, 3, 1, 2])
    assert shared_length(text.draft(priced(0.0), 4), [3, 1, 9]) == 2
