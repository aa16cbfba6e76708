"""What the rejection rules put on the wire beside token ids, as bytes: the inverse functions stand together.

    weights         of each drafted token, 2 bytes: weight - 1
    distributions   of each drafted token: entries - 1 (2 bytes), bits of an id (1 byte); then per entry the id in so
                    many bits and weight - 1 in 16, filled up to a byte: the paper's |V^| (Q_B + ceil(log2 V)) bits
    candidates      of each draw: id (3 bytes), probability (float32); all big-endian

Whatever is read is checked: a payload is a distribution, or a WireError.
"""

import math
import struct
from collections.abc import Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from multispin_models.draft_distribution import TOTAL, WEIGHT_BITS, DraftDistribution
from multispin_models.errors import WireError
from multispin_models.verification import Candidate

__all__ = [
    "MOST_ENTRIES",
    "Weighed",
    "pack_candidates",
    "pack_distributions",
    "pack_weights",
    "unpack_candidates",
    "unpack_distributions",
    "unpack_weights",
]

MOST_ENTRIES: Final = 2048  # of a distribution: 64 of them fit into a frame
_ID_BITS: Final = 24
_HEAD: Final = struct.Struct(">HB")
_CANDIDATE_BYTES: Final = 7


class Weighed(NamedTuple):
    """What is known of the draws of a draft.

    Attributes:
        weights: [L] of each drafted token in what it was drawn from.
        distributions: [L] these; null in the lean form.
    """

    weights: tuple[int, ...]
    distributions: tuple[DraftDistribution, ...] | None = None


def pack_weights(weights: Sequence[int]) -> bytes:
    """Return the weights [L], each 1 to 65,536.

    >>> unpack_weights(pack_weights([1, 65_536]), 2)
    (1, 65536)
    """
    return struct.pack(f">{len(weights)}H", *(weight - 1 for weight in weights))


def unpack_weights(payload: bytes, num_drafted: int) -> tuple[int, ...]:
    """Return the weights [num_drafted].

    Raises:
        WireError: of another number.
    """
    if len(payload) != 2 * num_drafted:
        raise WireError(f"{len(payload)} bytes of weights, {num_drafted} drafted tokens have {2 * num_drafted}")
    return tuple(weight + 1 for weight in struct.unpack(f">{num_drafted}H", payload))


def pack_distributions(distributions: Sequence[DraftDistribution]) -> bytes:
    """Return the distributions, each of at most `MOST_ENTRIES` entries."""
    parts: list[bytes] = []
    for token_ids, weights in distributions:
        id_bits = max(1, token_ids[-1].bit_length())
        fields = np.hstack([_bits(token_ids, id_bits), _bits([weight - 1 for weight in weights], WEIGHT_BITS)])
        parts += [_HEAD.pack(len(token_ids) - 1, id_bits), np.packbits(fields).tobytes()]
    return b"".join(parts)


def unpack_distributions(payload: bytes, num_drafted: int, n_vocab: int) -> tuple[DraftDistribution, ...]:
    """Return the distributions [num_drafted].

    Raises:
        WireError: not so many, too long, or one that is none: says which and why.
    """
    found: list[DraftDistribution] = []
    at = 0
    for number in range(num_drafted):
        if len(payload) < at + _HEAD.size:
            raise WireError(f"payload ends after {number} of {num_drafted} distributions")
        num_entries, id_bits = _HEAD.unpack_from(payload, at)
        num_entries += 1
        at += _HEAD.size
        num_bytes = (num_entries * (id_bits + WEIGHT_BITS) + 7) // 8
        if num_entries > MOST_ENTRIES or not 1 <= id_bits <= _ID_BITS or len(payload) < at + num_bytes:
            raise WireError(
                f"distribution {number} has {num_entries} entries with ids of {id_bits} bits in {len(payload) - at} "
                f"bytes, allowed are {MOST_ENTRIES} entries and {_ID_BITS} bits"
            )
        found.append(_entries(payload[at : at + num_bytes], num_entries, id_bits, number, n_vocab))
        at += num_bytes
    if at != len(payload):
        raise WireError(f"{len(payload) - at} bytes after the last distribution")
    return tuple(found)


def pack_candidates(candidates: Sequence[Candidate]) -> bytes:
    """Return draws from the target; a probability loses what a float32 does not hold."""
    return b"".join(token.to_bytes(3, "big") + struct.pack(">f", probability) for token, probability in candidates)


def unpack_candidates(payload: bytes) -> tuple[Candidate, ...]:
    """Return draws from the target, at least one.

    Raises:
        WireError: not so long as any number of them, or a probability that is none.
    """
    if not payload or len(payload) % _CANDIDATE_BYTES:
        raise WireError(f"{len(payload)} bytes of candidates, allowed are multiples of {_CANDIDATE_BYTES}")
    found: list[Candidate] = []
    for at in range(0, len(payload), _CANDIDATE_BYTES):
        [probability] = struct.unpack_from(">f", payload, at + 3)
        if not (math.isfinite(probability) and 0.0 < probability <= 1.0):
            raise WireError(f"a candidate has probability {probability}, allowed is above 0, at most 1")
        found.append(Candidate(int.from_bytes(payload[at : at + 3], "big"), probability))
    return tuple(found)


def _bits(numbers: Sequence[int], width: int) -> npt.NDArray[np.uint8]:
    """Return [n, width], the most significant first."""
    places = np.arange(width - 1, -1, -1)
    return ((np.array(numbers, np.int64)[:, None] >> places) & 1).astype(np.uint8)


def _numbers(bits: npt.NDArray[np.uint8]) -> list[int]:
    powers = 1 << np.arange(bits.shape[1] - 1, -1, -1, dtype=np.int64)
    numbers: list[int] = (bits.astype(np.int64) @ powers).tolist()
    return numbers


def _entries(body: bytes, num_entries: int, id_bits: int, number: int, n_vocab: int) -> DraftDistribution:
    width = id_bits + WEIGHT_BITS
    bits = np.unpackbits(np.frombuffer(body, np.uint8))[: num_entries * width].reshape(num_entries, width)
    token_ids = _numbers(bits[:, :id_bits])
    weights = [weight + 1 for weight in _numbers(bits[:, id_bits:])]
    if any(a >= b for a, b in pairwise(token_ids)) or token_ids[-1] >= n_vocab:
        raise WireError(f"ids of distribution {number} do not rise, or are above {n_vocab - 1}")
    if sum(weights) != TOTAL:
        raise WireError(f"weights of distribution {number} sum to {sum(weights)}, allowed is {TOTAL}")
    return DraftDistribution(tuple(token_ids), tuple(weights))
