"""How far an agent's confidences can be believed: what was predicted of drafted tokens against what became of them.

Every confidence was stated before its verdict came, so no token was learnt from before it was predicted. Only tokens
that were judged count: those behind a rejected one say nothing.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from msgspec import Struct

from multispin_models.records.schema import RoundRecord

__all__ = ["Reliability", "ReliabilityBin", "reliability"]

NUM_BINS: Final = 10


class ReliabilityBin(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One point of the curve.

    Attributes:
        tokens: judged tokens whose confidence lay in this tenth.
        predicted: their mean confidence.
        accepted: share of them that was accepted.
    """

    tokens: int
    predicted: float
    accepted: float


class Reliability(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The curve and its distance from the diagonal.

    Attributes:
        tokens: judged.
        calibration_error: expected calibration error: |predicted - accepted|, weighted by tokens. Source: Guo et al.,
            arXiv 1706.04599, equation 3, with ten bins of equal width.
        bins: those that hold a token, by rising confidence.
    """

    tokens: int
    calibration_error: float
    bins: tuple[ReliabilityBin, ...]


def reliability(rounds: Iterable[RoundRecord]) -> Reliability | None:
    """Return how the confidences of these rounds came out; null without a judged token that has one."""
    bins: dict[int, list[tuple[float, bool]]] = {}
    for confidence, accepted in _judged(rounds):
        bins.setdefault(min(int(confidence * NUM_BINS), NUM_BINS - 1), []).append((confidence, accepted))
    tokens = sum(map(len, bins.values()))
    if not tokens:
        return None
    points = [
        ReliabilityBin(
            tokens=len(found),
            predicted=sum(confidence for confidence, _ in found) / len(found),
            accepted=sum(accepted for _, accepted in found) / len(found),
        )
        for _, found in sorted(bins.items())
    ]
    error = sum(abs(point.predicted - point.accepted) * point.tokens for point in points) / tokens
    return Reliability(tokens=tokens, calibration_error=error, bins=tuple(points))


def _judged(rounds: Iterable[RoundRecord]) -> Iterator[tuple[float, bool]]:
    for record in rounds:
        for place, confidence in enumerate(record.confidences[: record.num_accepted + 1]):
            if confidence is not None:
                yield confidence, place < record.num_accepted
