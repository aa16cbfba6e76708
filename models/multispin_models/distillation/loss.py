"""How far a student's next-token distribution is from the target's, where only the target's likeliest tokens are known.

The head is the target's own, restricted to the ids that matter (`frequent_ids`). Of the target p the likeliest ids are
known, their rest p_rest is one bucket. The loss of a row is the Kullback-Leibler divergence between the two
distributions over these ids and the bucket, so nothing is said about the order within the rest:

    sum over known v of p_v log(p_v / q_v)  +  p_rest log(p_rest / q_rest)

Derivative by the logits:  q_v - p_v  for known ids,  q_v (1 - p_rest / q_rest)  for all others.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from multispin_models.distillation.corpus import Conversation
from multispin_models.onnx.weights import Array

__all__ = ["LARGEST_SLOPE", "LEAST", "Graded", "GrowingHead", "frequent_ids", "grade", "head_of"]

LEAST = np.float32(1e-9)  # probability that a logarithm is taken of
LARGEST_SLOPE = np.float32(1e3)
_ROWS_AT_ONCE = 1024  # bounds the memory of the logits


class Graded(NamedTuple):
    """What a batch of rows was worth.

    Attributes:
        loss: summed over the rows, nats.
        same: [S] whether the student's first choice is the target's.
        gradient: [S, hidden] of the loss by the states; empty where it was not asked for.
    """

    loss: float
    same: npt.NDArray[np.bool_]
    gradient: Array


def frequent_ids(conversations: Sequence[Conversation], size: int, n_vocab: int) -> npt.NDArray[np.int32]:
    """Return the ids that the target gives the most probability in its answers, in ascending order; at most `size`.

    What stands before an answer does not count for it: a trimmed head says the sequence's own ids anyhow.
    """
    mass = np.zeros(n_vocab)
    for conversation in conversations:
        answer = slice(conversation.answer_start - conversation.first_scored, None)
        ids = conversation.top_ids[answer]
        weights = np.exp(conversation.top_log_probabilities[answer].astype(np.float32))
        own = np.isin(ids, conversation.tokens[: conversation.answer_start])
        np.add.at(mass, ids[~own], weights[~own])
    return np.sort(np.argsort(-mass, kind="stable")[: min(size, int(np.count_nonzero(mass)))]).astype(np.int32)


def head_of(head: Array, ids: npt.NDArray[np.int32]) -> tuple[Array, npt.NDArray[np.int32]]:
    """Return the rows of a head [n_vocab, hidden] for some ids, and [n_vocab] of an id in them, -1 where it is not."""
    places = np.full(len(head), -1, np.int32)
    places[ids] = np.arange(len(ids))
    return np.ascontiguousarray(head[ids]), places


class GrowingHead:
    """The rows of a head for the frequent ids, and for a while those of some texts' own ids behind them.

    A draft whose head is trimmed may still say what stands in the prompt; so training lets it.

    Args:
        head: [n_vocab, hidden] of the target.
        ids: the frequent ones.
    """

    def __init__(self, head: Array, ids: npt.NDArray[np.int32]) -> None:
        self._whole = head
        self._rows, self._places = head_of(head, ids)
        self._size = len(ids)

    @contextmanager
    def with_ids_of(self, texts: Sequence[npt.NDArray[np.int32]]) -> Iterator[tuple[Array, npt.NDArray[np.int32]]]:
        """Give the head's rows and [n_vocab] the place of each id, -1 where it is not; both are for reading only."""
        tokens = np.unique(np.concatenate(texts))
        others = tokens[self._places[tokens] < 0]
        end = self._size + len(others)
        if end > len(self._rows):
            self._rows = np.concatenate(
                [self._rows[: self._size], np.empty((2 * len(others), self._rows.shape[1]), np.float32)]
            )
        self._rows[self._size : end] = self._whole[others]
        self._places[others] = np.arange(self._size, end)
        try:
            yield self._rows[:end], self._places
        finally:
            self._places[others] = -1


def grade(
    states: Array,
    head: Array,
    places: npt.NDArray[np.int32],
    top_ids: npt.NDArray[np.uint32],
    top_log_probabilities: npt.NDArray[np.float16],
    *,
    with_gradient: bool = True,
) -> Graded:
    """Return loss, agreement and gradient of some rows.

    Args:
        states: [S, hidden] that the head multiplies.
        head: [N, hidden] the frequent ids' rows of the target's head.
        places: [n_vocab] of an id in the head, -1 where it is not.
        top_ids, top_log_probabilities: [S, top] of the target, likeliest first.
        with_gradient: also give the gradient.
    """
    loss, same, gradient = 0.0, [], []
    for start in range(0, len(states) or 1, _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        graded = _grade(states[part], head, places, top_ids[part], top_log_probabilities[part], with_gradient)
        loss += graded.loss
        same.append(graded.same)
        gradient.append(graded.gradient)
    return Graded(loss, np.concatenate(same), np.concatenate(gradient))


def _grade(
    states: Array,
    head: Array,
    places: npt.NDArray[np.int32],
    top_ids: npt.NDArray[np.uint32],
    top_log_probabilities: npt.NDArray[np.float16],
    with_gradient: bool,
) -> Graded:
    known = places[top_ids]  # [S, top]
    inside = known >= 0
    p = np.exp(top_log_probabilities.astype(np.float32)) * inside
    # What lies outside of the head, known or not, stays in the bucket: the student cannot say it.
    rest = np.maximum(1.0 - p.sum(axis=1, keepdims=True), LEAST)
    logits: Array = states @ head.T  # [S, N]
    same = (logits.argmax(axis=1) == known[:, 0]) & inside[:, 0]
    logits -= logits.max(axis=1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=1, keepdims=True)
    q_known = np.take_along_axis(logits, np.where(inside, known, 0), axis=1) * inside
    q_rest = np.maximum(1.0 - q_known.sum(axis=1, keepdims=True), LEAST)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(p > 0, p * np.log(p / np.maximum(q_known, LEAST)), 0.0)
    loss = float(terms.sum() + (rest * np.log(rest / q_rest)).sum())
    if not with_gradient:
        return Graded(loss, same, np.empty((0, states.shape[1]), np.float32))
    logits *= np.maximum(1.0 - rest / q_rest, -LARGEST_SLOPE)
    rows = np.broadcast_to(np.arange(len(states))[:, None], known.shape)[inside]
    logits[rows, known[inside]] = (q_known - p)[inside]
    return Graded(loss, same, logits @ head)
