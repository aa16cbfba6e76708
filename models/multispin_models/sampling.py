"""The choice of a token as a pure function: (logits, position, sampling parameters) -> token id.

Both ends draw with the same noise (Gumbel-max coupling, Daliri et al., arXiv 2408.07978): at every position

    choose(logits, position) = argmax_v  log p(v) + noise(seed, position, v)

where p is the softmax after temperature, top-k and top-p, and the noise is Gumbel(0, 1) from a counter, so any
subset of ids can be drawn on any box. Temperature 0 is the plain argmax. Ties go to the lowest id.

    >>> import numpy as np
    >>> choose(np.array([0.0, 3.0, 1.0], np.float32), 7, Sampling(temperature=0.0))
    1
"""

import math
from collections.abc import Iterable
from typing import Annotated, Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

__all__ = ["Choice", "Sampling", "choose", "choose_weighed", "gumbel_noise", "probabilities", "truncate", "uniform"]

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_U32 = np.uint32
_MOST_MARGIN: Final = 20.0
_NUCLEUS_CUTS = (1e-3, 1e-6)  # weights, relative to the largest, above which a nucleus is sought before sorting all


class Sampling(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """How a request draws its tokens. Part of what the text is a function of.

    Attributes:
        temperature: 0 takes the most likely token; otherwise logits are divided by it.
        top_k: keep only the k most likely tokens; 0 keeps all.
        top_p: then keep the smallest set of tokens whose probability reaches p; 1 keeps all.
        seed: of the noise, 0 to 2**64 - 1.
    """

    temperature: Annotated[float, Meta(ge=0.0, le=100.0)] = 0.0
    top_k: Annotated[int, Meta(ge=0, le=1 << 31)] = 0
    top_p: Annotated[float, Meta(gt=0.0, le=1.0)] = 1.0
    seed: Annotated[int, Meta(ge=0)] = 0

    def __post_init__(self) -> None:
        # msgspec's bounds are of 64-bit signed integers; a NaN passes every comparison.
        if self.seed > _MASK:
            raise ValueError(f"seed is {self.seed}, allowed are 0 to 2**64 - 1")
        if math.isnan(self.temperature) or math.isnan(self.top_p):
            raise ValueError("temperature and top_p must be numbers, not NaN")


def _mix64(x: int) -> int:
    """Return the output function of SplitMix64 (Steele et al., OOPSLA 2014)."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def _stream(seed: int, position: int) -> int:
    """Return 64 bits for one position of one seed: the keys of its counters."""
    return _mix64((_mix64((seed + _GOLDEN) & _MASK) + (position + 1) * _GOLDEN) & _MASK)


def _counter_bits(key: int, ids: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Return 32 bits an id: a 32-bit finaliser (lowbias32 constants) keyed before and between its products."""
    x = ids * _U32(0x9E3779B9)
    x += _U32(key & 0xFFFFFFFF)
    x ^= x >> _U32(16)
    x *= _U32(0x21F0AAAD)
    x ^= _U32(key >> 32)
    x ^= x >> _U32(15)
    x *= _U32(0xD35A2D97)
    x ^= x >> _U32(15)
    return x


def _gumbel(uniform: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    noise: npt.NDArray[np.float64] = -np.log(-np.log(uniform))
    return noise


def _noise(stream: int, ids: npt.NDArray[np.uint32], high: npt.NDArray[np.uint32]) -> npt.NDArray[np.float64]:
    """Return Gumbel(0, 1) between -3.61 and 36.74, from 32 high bits already drawn and 20 low ones."""
    low = _counter_bits(_mix64(stream ^ _GOLDEN), ids) >> _U32(12)
    # 52 bits and a half: exact in float64, never 0 and never 1.
    return _gumbel((high.astype(np.float64) * 2.0**20 + low.astype(np.float64) + 0.5) * 2.0**-52)


def gumbel_noise(seed: int, position: int, token_ids: Iterable[int]) -> npt.NDArray[np.float64]:
    """Return the noise of the given ids at one position.

    Args:
        seed: 0 to 2**64 - 1.
        position: of the token in its sequence, prompt included; 0 or more.
        token_ids: any subset of the vocabulary, in any order.

    Returns:
        [len(token_ids)] float64, Gumbel(0, 1). An id's noise does not depend on the others asked for.
    """
    ids = np.fromiter(token_ids, dtype=np.uint32)
    stream = _stream(seed, position)
    return _noise(stream, ids, _counter_bits(stream, ids))


def uniform(seed: int, position: int, purpose: int, index: int = 0) -> float:
    """Return a number in (0, 1), the same whenever it is asked for.

    Args:
        seed, position: as of the noise.
        purpose: 1 or more; numbers of different purposes, and the noise, are independent of each other.
        index: for more than one of a purpose.
    """
    bits = _mix64(_stream(_mix64(seed ^ _mix64(purpose)), position) + index * _GOLDEN & _MASK)
    return ((bits >> 12) + 0.5) * 2.0**-52


def probabilities(logits: npt.NDArray[np.float32], sampling: Sampling) -> npt.NDArray[np.float64]:
    """Return what `choose` draws from: [n_vocab] after temperature, top-k and top-p; one 1 at temperature 0.

    Raises:
        ValueError: the largest logit is not finite.
    """
    best = int(np.argmax(logits))
    if not math.isfinite(float(logits[best])):
        raise ValueError(f"logit of token {best} is {float(logits[best])}: the model is broken")
    drawn_from = np.zeros(logits.shape[0])
    if sampling.temperature == 0.0:
        drawn_from[best] = 1.0
        return drawn_from
    able = truncate(logits, sampling)
    weights = np.exp(_log_weights(logits[able], float(logits[best]), sampling.temperature))
    drawn_from[able] = weights / weights.sum()
    return drawn_from


def truncate(logits: npt.NDArray[np.float32], sampling: Sampling) -> npt.NDArray[np.intp]:
    """Return the ids that can be drawn after top-k, then top-p over what is left.

    Args:
        logits: [n_vocab] float32.
        sampling: temperature above 0.

    Returns:
        [m] ids, m >= 1, likeliest first if anything was cut. Equal logits go to the lower id, so the set is a function
        of the logits alone.
    """
    n_vocab = logits.shape[0]
    ids = np.arange(n_vocab)
    if 0 < sampling.top_k < n_vocab:
        threshold = np.partition(logits, n_vocab - sampling.top_k)[n_vocab - sampling.top_k]
        ids = np.flatnonzero(logits >= threshold)
        ids = ids[np.argsort(-logits[ids], kind="stable")][: sampling.top_k]
    if sampling.top_p >= 1.0:
        return ids
    kept = logits[ids]
    weights = np.exp(_log_weights(kept, float(kept.max()), sampling.temperature))
    wanted = sampling.top_p * float(weights.sum())
    # Sort only as much as the nucleus can need: all weights above a cut are a prefix of the sorted order.
    for cut in (*_NUCLEUS_CUTS, 0.0):
        heavy = np.flatnonzero(weights >= cut)
        if cut == 0.0 or float(weights[heavy].sum()) > wanted * (1.0 + 1e-9):
            break
    order = heavy[np.argsort(-kept[heavy], kind="stable")]
    return ids[order[: int(np.searchsorted(np.cumsum(weights[order]), wanted)) + 1]]


def choose(logits: npt.NDArray[np.float32], position: int, sampling: Sampling) -> int:
    """Return the token id that these logits choose at this position.

    Args:
        logits: [n_vocab] float32, no NaN.
        position: of the token to be chosen in its sequence, prompt included.
        sampling: temperature, truncation and seed.

    Raises:
        ValueError: the largest logit is not finite (a broken model): never a token.

    Source: Gumbel-max coupling, Daliri et al., arXiv 2408.07978, Algorithm 1.
    """
    best = _likeliest(logits)
    if sampling.temperature == 0.0:
        return best
    able, scores = _scores(logits, best, position, sampling)
    return int(able[scores == scores.max()].min())


class Choice(NamedTuple):
    """A token that was chosen, and how clearly.

    Attributes:
        token_id: as `choose` gives it.
        probability: of it, by softmax after temperature (1 where that is 0), before top-k and top-p.
        margin: by how much log p + noise lies above that of the next best, in nats; at most 20.
    """

    token_id: int
    probability: float
    margin: float


def choose_weighed(logits: npt.NDArray[np.float32], position: int, sampling: Sampling) -> Choice:
    """Return the token that `choose` gives, and how clearly it was chosen; a draft's own measure of its chances.

    Args, Raises: as in `choose`.
    """
    best = _likeliest(logits)
    temperature = sampling.temperature or 1.0
    top = float(logits[best])
    second = max((float(part.max()) for part in (logits[:best], logits[best + 1 :]) if part.size), default=-math.inf)
    token, margin = best, (top - second) / temperature
    if sampling.temperature:
        able, scores = _scores(logits, best, position, sampling)
        token = int(able[scores == scores.max()].min())
        if len(able) > 1:  # else nothing else could have won: the likelihoods alone say how clearly
            next_best, highest = np.partition(scores, -2)[-2:].tolist()
            margin = highest - next_best
    weights = logits - np.float32(top)
    if temperature != 1.0:
        with np.errstate(over="ignore", under="ignore"):
            weights /= np.float32(temperature)
    np.exp(weights, out=weights)  # of nothing above 0
    return Choice(token, float(weights[token] / weights.sum()), min(margin, _MOST_MARGIN))


def _likeliest(logits: npt.NDArray[np.float32]) -> int:
    best = int(np.argmax(logits))  # numpy's argmax stops at a NaN, if there is one
    if not math.isfinite(logits[best]):
        raise ValueError(f"logit of token {best} is {float(logits[best])}: the model is broken")
    return best


def _scores(
    logits: npt.NDArray[np.float32], best: int, position: int, sampling: Sampling
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """Return the ids that can be drawn, and log p + noise of each up to a constant; the temperature is above 0."""
    if sampling.top_k or sampling.top_p < 1.0:
        able = truncate(logits, sampling)
        drawn = able.astype(np.uint32)
        stream = _stream(sampling.seed, position)
        high = _counter_bits(stream, drawn)
    else:
        able, drawn, high, stream = _able_to_win(logits, best, position, sampling)
    return able, _log_weights(logits[able], float(logits[best]), sampling.temperature) + _noise(stream, drawn, high)


def _log_weights(logits: npt.NDArray[np.float32], top: float, temperature: float) -> npt.NDArray[np.float64]:
    """Return log p up to a constant: 0 for the largest logit, minus infinity where a tiny temperature overflows."""
    with np.errstate(over="ignore"):
        weights: npt.NDArray[np.float64] = (logits.astype(np.float64) - top) / temperature
    return weights


def _able_to_win(
    logits: npt.NDArray[np.float32], best: int, position: int, sampling: Sampling
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.uint32], npt.NDArray[np.uint32], int]:
    """Return the ids whose noise is worth two logarithms: those that the largest draw of all could lift to the top.

    The likeliest id has a score already; no id gains more than the largest draw. All else cannot win.
    """
    stream = _stream(sampling.seed, position)
    ids = np.arange(logits.shape[0], dtype=np.uint32)
    high = _counter_bits(stream, ids)
    ceiling = float(_gumbel((np.array([float(high.max())]) + 1.0 - 2.0**-21) * 2.0**-32)[0])
    floor = float(_noise(stream, ids[best : best + 1], high[best : best + 1])[0])
    reach = (ceiling - floor) * sampling.temperature
    # Rounding down by a millionth keeps the set a superset in float32.
    able = np.flatnonzero(logits >= np.float32(float(logits[best]) - reach * (1.0 + 1e-6) - 1e-3))
    return able, ids[able], high[able], stream
