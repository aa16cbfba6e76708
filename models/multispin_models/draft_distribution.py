"""What a draft was sampled from, as it is uploaded for rejection verification: few entries, whole-number weights.

Truncate and quantize, then sample: the agent draws from the very numbers that it uploads, so the text keeps the
target's distribution however coarse they are. (Drawn from the
whole softmax, with its head uploaded, it does not.)

The paper's payload is all entries, `payload_bits` of them a drafted token. The lean one is the weight of the drafted
token alone; the residual then comes by rejection, `verification.choose_candidate`.

    >>> import numpy as np
    >>> quantize(np.array([0.5, 0.1, 0.4]), max_entries=2)
    DraftDistribution(token_ids=(0, 2), weights=(36409, 29127))

Source: Multi-SPIN (arXiv 2606.04581) for the payload; sampling after truncation: TSLT (arXiv 2512.16273), after
quantization: QS (arXiv 2507.00605).
"""

from bisect import bisect_right
from itertools import accumulate
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["TOTAL", "WEIGHT_BITS", "DraftDistribution", "certain", "payload_bits", "quantize"]

WEIGHT_BITS: Final = 16  # Q_B of the paper
TOTAL: Final = 1 << WEIGHT_BITS


class DraftDistribution(NamedTuple):
    """Probabilities in 1/65,536, of a few tokens.

    Attributes:
        token_ids: rising.
        weights: of each, at least 1; they sum to `TOTAL`.
    """

    token_ids: tuple[int, ...]
    weights: tuple[int, ...]

    def weight(self, token_id: int) -> int:
        """Return the weight of a token, 0 for one that is not there."""
        at = bisect_right(self.token_ids, token_id) - 1
        return self.weights[at] if at >= 0 and self.token_ids[at] == token_id else 0

    def draw(self, uniform: float) -> int:
        """Return the token that a number in (0, 1) draws."""
        return self.token_ids[bisect_right(list(accumulate(self.weights)), int(uniform * TOTAL))]

    def probabilities(self, n_vocab: int) -> npt.NDArray[np.float64]:
        """Return [n_vocab], exact in float64."""
        whole = np.zeros(n_vocab)
        whole[list(self.token_ids)] = np.array(self.weights) / TOTAL
        return whole


def certain(token_id: int) -> DraftDistribution:
    """Return what a token is drawn from that nobody has drawn, such as one that was looked up: itself."""
    return DraftDistribution((token_id,), (TOTAL,))


def quantize(probabilities: npt.NDArray[np.float64], max_entries: int) -> DraftDistribution:
    """Return the likeliest tokens with weights by largest remainder; those that come to nothing are left out.

    Args:
        probabilities: [n_vocab], sum 1.
        max_entries: m, 1 to `TOTAL`; |V^| of the paper.
    """
    if not 1 <= max_entries <= TOTAL:
        raise ValueError(f"max_entries is {max_entries}, allowed are 1 to {TOTAL}")
    kept = np.flatnonzero(probabilities)
    if len(kept) > max_entries:  # no sort of the whole vocabulary, which would take as long as a small model
        threshold = np.partition(probabilities[kept], -max_entries)[-max_entries]
        kept = kept[probabilities[kept] >= threshold]
        kept = np.sort(kept[np.argsort(-probabilities[kept], kind="stable")[:max_entries]])
    exact = probabilities[kept] / probabilities[kept].sum() * TOTAL
    weights = np.floor(exact).astype(np.int64)
    missing = TOTAL - int(weights.sum())
    weights[np.argsort(weights - exact, kind="stable")[:missing]] += 1
    there = weights > 0
    return DraftDistribution(tuple(kept[there].tolist()), tuple(weights[there].tolist()))


def payload_bits(num_entries: int, n_vocab: int) -> int:
    """Return the bits of a drafted token's distribution: an id and a weight an entry.

    >>> payload_bits(1024, 32_000)
    31744
    """
    return num_entries * (WEIGHT_BITS + (n_vocab - 1).bit_length())
