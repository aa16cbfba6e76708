"""Which of the kept sequences a text goes on from."""

from multispin_models.kept_sequences import Kept, KeptSequences


def test_the_one_that_shares_most_is_taken_and_is_kept_no_longer() -> None:
    kept = KeptSequences()
    for sequence, tokens in enumerate([[1, 2], [1, 2, 3, 4], [1, 2, 3, 9]]):
        kept.keep(sequence, tokens)
    assert kept.take([1, 2, 3, 4, 5]) == Kept(1, (1, 2, 3, 4))
    assert kept.take([1, 2, 3, 4, 5]) == Kept(2, (1, 2, 3, 9))
    assert kept.take([1, 2, 3, 4, 5]) == Kept(0, (1, 2))
    assert kept.take([1, 2, 3, 4, 5]) is None


def test_a_long_conversation_is_not_cut_back_for_a_system_prompt_that_others_share() -> None:
    kept = KeptSequences()
    kept.keep(0, [1, 2, *range(10, 20)])
    assert kept.take([1, 2, 5, 6]) is None
    assert kept.take([7]) is None
    assert kept.take([1, 2, *range(10, 14), 7]) is not None


def test_what_others_share_is_copied_from_where_most_of_it_stands_if_it_is_worth_it() -> None:
    kept = KeptSequences()
    kept.keep(0, [*[1] * 15, *[2] * 40])
    kept.keep(1, [*[1] * 20, *[3] * 40])
    assert kept.nearest([*[1] * 20, 5]) == (Kept(1, (*[1] * 20, *[3] * 40)), 20)
    assert kept.nearest([*[1] * 15, 5]) is None
    assert KeptSequences().nearest([1] * 20) is None
    assert len(kept) == 2


def test_the_least_recently_used_goes_first() -> None:
    kept = KeptSequences()
    kept.keep(0, [1])
    kept.keep(1, [2])
    taken = kept.take([1, 5])
    assert taken is not None
    kept.keep(taken.sequence, [1, 5])
    assert [kept.take_oldest().sequence for _ in range(len(kept))] == [1, 0]
