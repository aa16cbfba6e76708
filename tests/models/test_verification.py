"""The coupled rule, by hand and against its definition."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multispin_models.verification import Verification, verify_coupled

TOKENS = st.integers(0, 2)  # so few that drafts are often right


@pytest.mark.parametrize(
    ("draft", "target", "accepted", "next_token"),
    [
        ([], [4], 0, 4),
        ([4], [4, 7], 1, 7),
        ([4], [5, 7], 0, 5),
        ([5, 6, 7], [5, 6, 9, 1], 2, 9),
        ([5, 6, 7], [5, 6, 7, 1], 3, 1),
        ([5, 6, 7], [1, 6, 7, 1], 0, 1),  # what is right after the first error counts for nothing
    ],
)
def test_the_common_beginning_is_accepted_and_the_targets_next_token_follows(
    draft: Sequence[int], target: Sequence[int], accepted: int, next_token: int
) -> None:
    assert verify_coupled(draft, target) == Verification(accepted, next_token)


@given(data=st.data(), num_drafted=st.integers(0, 6))
def test_what_is_committed_is_always_the_beginning_of_what_the_target_chose(
    data: st.DataObject, num_drafted: int
) -> None:
    draft = data.draw(st.lists(TOKENS, min_size=num_drafted, max_size=num_drafted))
    target = data.draw(st.lists(TOKENS, min_size=num_drafted + 1, max_size=num_drafted + 1))
    verification = verify_coupled(draft, target)
    committed = [*draft[: verification.num_accepted], verification.next_token_id]
    assert committed == target[: len(committed)]
    if verification.num_accepted < num_drafted:
        assert draft[verification.num_accepted] != verification.next_token_id
