"""The verdict on a draft: how many of its tokens are the target's, and which token comes next.

The coupled rule: the target chooses a token for every row of [last committed, d1 .. dL] with the noise that the
draft used. The accepted tokens are the common prefix; the first row that disagrees gives the recovered token, and
when all agree the last row gives the bonus token. So the text is the target's own, whatever was drafted.

    >>> verify_coupled([5, 6, 7], [5, 6, 9, 1])
    Verification(num_accepted=2, next_token_id=9)
"""

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Verification", "verify_coupled"]


class Verification(NamedTuple):
    """What a rule says of one draft.

    Attributes:
        num_accepted: drafted tokens that are committed, 0 to L.
        next_token_id: the recovered token, or the bonus token if all were accepted.
    """

    num_accepted: int
    next_token_id: int


def verify_coupled(draft_token_ids: Sequence[int], target_token_ids: Sequence[int]) -> Verification:
    """Return the verdict of the coupled rule.

    Args:
        draft_token_ids: [L] what the agent proposed, L >= 0.
        target_token_ids: [L + 1] what the target chose after each row, the first after the last committed token.

    Source: Daliri et al., arXiv 2408.07978; at temperature 0 it is greedy speculative decoding (arXiv 2211.17192).
    """
    assert len(target_token_ids) == len(draft_token_ids) + 1
    accepted = 0
    for drafted, chosen in zip(draft_token_ids, target_token_ids, strict=False):
        if drafted != chosen:
            break
        accepted += 1
    return Verification(accepted, target_token_ids[accepted])
