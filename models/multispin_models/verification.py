"""The verdict on a draft: how many of its tokens are the target's, and which token comes next.

The coupled rule: the target chooses a token for every row of [last committed, d1 .. dL] with the noise that the
draft used. The accepted tokens are the common prefix; the first row that disagrees gives the recovered token, and
when all agree the last row gives the bonus token. So the text is the target's own, whatever was drafted.

    >>> verify_coupled([5, 6, 7], [5, 6, 9, 1])
    Verification(num_accepted=2, next_token_id=9)

The rejection rule: a token that the draft drew with probability q is accepted with min(1, p / q); the first that is not
is replaced by a draw from the residual, norm(max(0, p - q)). The text then has the target's distribution; it is another
text with every draft. With the whole q on the wire the coordinator draws from the residual. In the lean form it knows
only each drafted token's q, so it sends fresh draws from p, and the agent, which knows q, takes the first that passes:
y is kept with max(0, 1 - q(y) / p(y)). Both draw by counter (`sampling.uniform`): a round asked twice has one answer.
"""

from collections.abc import Callable, Sequence
from typing import Final, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from multispin_models.draft_distribution import TOTAL, DraftDistribution
from multispin_models.sampling import uniform

__all__ = [
    "DRAFT",
    "RULES",
    "Candidate",
    "LeanVerification",
    "Rule",
    "Undecided",
    "Verification",
    "acceptance",
    "choose_candidate",
    "residual",
    "residual_candidates",
    "verify_coupled",
    "verify_lean",
    "verify_rejection",
]

Rule = Literal["coupled", "rejection", "rejection-lean"]  # at temperature 0 all of them are the first
RULES: Final[tuple[Rule, ...]] = get_args(Rule)

# Purposes of `sampling.uniform`: what is drawn for one is independent of the others.
DRAFT: Final = 1
ACCEPT: Final = 2
NEXT: Final = 3
CANDIDATE: Final = 4
KEEP: Final = 5

Probabilities = npt.NDArray[np.float64]  # [n_vocab]


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


class LeanVerification(NamedTuple):
    """What the lean rule says of one draft.

    Attributes:
        num_accepted: drafted tokens that are committed, 0 to L.
        next_token_id: the bonus token; null after a rejection, when the agent chooses among candidates.
    """

    num_accepted: int
    next_token_id: int | None


class Candidate(NamedTuple):
    """A draw from the target's distribution at a rejected position, and its probability there."""

    token_id: int
    probability: float


class Undecided(NamedTuple):
    """A verdict of the lean rule that leaves the next token to the agent.

    Attributes:
        num_accepted: as of `Verification`.
        first: number of the first candidate, above 0 if those before it did not do.
        candidates: draws from the target at the rejected position.
    """

    num_accepted: int
    first: int
    candidates: tuple[Candidate, ...]


def acceptance(target: float, draft: float) -> float:
    """Return the probability with which a token is accepted that the target has with `target`, the draft with `draft`.

    Source: Leviathan et al., arXiv 2211.17192, section 2.3.
    """
    return min(1.0, target / draft)


def residual(target: Probabilities, draft: Probabilities) -> Probabilities:
    """Return the distribution [n_vocab] of the token that replaces a rejected one.

    Where the two agree, nothing is ever rejected but by rounding: the target's own is returned.
    """
    rest = np.maximum(0.0, target - draft)
    total = float(rest.sum())
    return np.asarray(rest / total) if total > 0 else target


def verify_rejection(
    draft_token_ids: Sequence[int],
    distributions: Sequence[DraftDistribution],
    target: Sequence[Probabilities],
    seed: int,
    position: int,
) -> Verification:
    """Return the verdict of the rejection rule, the draft's distributions being known.

    Args:
        draft_token_ids: [L], each drawn from its distribution.
        distributions: [L] what they were drawn from.
        target: [L + 1] of [n_vocab], the target's probabilities after each row.
        seed: of the request.
        position: of the first drafted token in its sequence.

    Raises:
        ValueError: a token is not in the distribution that it is said to be drawn from.
    """
    weights = [each.weight(token) for each, token in zip(distributions, draft_token_ids, strict=True)]
    lean = verify_lean(draft_token_ids, weights, target, seed, position)
    if lean.next_token_id is not None:
        return Verification(lean.num_accepted, lean.next_token_id)
    row = lean.num_accepted
    rest = residual(target[row], distributions[row].probabilities(len(target[row])))
    return Verification(row, _drawn(rest, uniform(seed, position + row, NEXT)))


def verify_lean(
    draft_token_ids: Sequence[int],
    draft_weights: Sequence[int],
    target: Sequence[Probabilities],
    seed: int,
    position: int,
) -> LeanVerification:
    """Return the verdict of the rejection rule, only each drafted token's own weight being known.

    Args:
        draft_token_ids: [L].
        draft_weights: [L] in 1/65,536, of each drafted token in what it was drawn from.
        target, seed, position: as of `verify_rejection`.

    Raises:
        ValueError: a weight is not in 1 to 65,536: the token cannot have been drawn.
    """
    assert len(target) == len(draft_token_ids) + 1
    for row, (token, weight) in enumerate(zip(draft_token_ids, draft_weights, strict=True)):
        if not 1 <= weight <= TOTAL:
            raise ValueError(f"token {token} of the draft has weight {weight}, allowed are 1 to {TOTAL}")
        if uniform(seed, position + row, ACCEPT) >= acceptance(float(target[row][token]), weight / TOTAL):
            return LeanVerification(row, None)
    last = len(draft_token_ids)
    return LeanVerification(last, _drawn(target[last], uniform(seed, position + last, NEXT)))


def residual_candidates(target: Probabilities, seed: int, position: int, first: int, count: int) -> list[Candidate]:
    """Return the draws `first`, `first + 1`, ... from the target at a rejected position, for the agent to choose from.

    The mean number that it needs is 1 / (1 - acceptance). If none of `count` passes it asks for the next ones.
    """
    draw = _drawing(target)
    drawn = [draw(uniform(seed, position, CANDIDATE, index)) for index in range(first, first + count)]
    return [Candidate(token, float(target[token])) for token in drawn]


def choose_candidate(
    candidates: Sequence[Candidate], draft: DraftDistribution, seed: int, position: int, first: int
) -> int | None:
    """Return the number of the first candidate that passes, 0 for the first of these; null if none does.

    A probability sent as float32 changes the result's distribution by less than 6e-8 in all.

    Args:
        candidates: from `residual_candidates`, numbered from `first`.
        draft: what the rejected token was drawn from.
        seed, position: of the rejected token.
        first: as there.
    """
    for number, (token, probability) in enumerate(candidates):
        if uniform(seed, position, KEEP, first + number) < 1.0 - draft.weight(token) / TOTAL / probability:
            return number
    return None


def _drawing(probabilities: Probabilities) -> Callable[[float], int]:
    """Return what gives the token that a number in (0, 1) draws."""
    able = np.flatnonzero(probabilities)
    upto = np.cumsum(probabilities[able])
    return lambda number: int(able[min(int(np.searchsorted(upto, number * upto[-1], side="right")), len(able) - 1)])


def _drawn(probabilities: Probabilities, number: float) -> int:
    return _drawing(probabilities)(number)
