"""Trains a student on a corpus: Adam, a checkpoint every few minutes, agreement on held-out text.

The learning rate rises for a while, stays, and falls to nothing over the last part of the steps, so that a run can be
made longer: a checkpoint of the level part goes on with more steps (Hu et al., arXiv 2404.06395, WSD).
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal
from zipfile import BadZipFile

import msgspec
import numpy as np
import numpy.typing as npt

from multispin_models.cache import staging
from multispin_models.distillation.batches import Batch, Batches, batch_of
from multispin_models.distillation.loss import GrowingHead, frequent_ids, grade
from multispin_models.distillation.network import Student
from multispin_models.errors import ConfigError, ModelError
from multispin_models.onnx.weights import Array

__all__ = ["Progress", "Trainer", "TrainingSettings", "learning_rate", "row_weights"]

_FIRST_DECAY: Final = 0.9
_SECOND_DECAY: Final = 0.98
_EPSILON: Final = 1e-8
_LARGEST_GRADIENT: Final = 1.0


class TrainingSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a student is trained; stands in its manifest.

    Attributes:
        layers: of the target that were copied, in order; empty where a draft was trained on.
        steps: in all.
        batch_tokens: of a step, at least.
        peak_rate: largest learning rate.
        warmup_steps: over which the rate rises.
        decay_share: of the steps, over which it falls to 0.
        head_size: ids that the loss looks at beside the conversation's own: those that the target finds likeliest in
            the corpus.
        seed: of the order of conversations.
        arithmetic: of the network's products, "float32" (numpy) or "bfloat16" (PyTorch).
        user_weight: of a row that chooses a token of the user's turn, where one of an answer weighs 1; above 0.
    """

    layers: tuple[int, ...]
    steps: int
    batch_tokens: int = 1024
    peak_rate: float = 6e-4
    warmup_steps: int = 40
    decay_share: float = 0.3
    head_size: int = 12288
    seed: int = 0
    arithmetic: Literal["float32", "bfloat16"] = "float32"
    user_weight: float = 1.0


class Progress(msgspec.Struct, frozen=True):
    """Where a training is.

    Attributes:
        step: done.
        tokens: rows trained on, repeats included.
        loss: mean nats a row over the steps since the last report.
        same_choice: share of these rows where the first choice was the target's.
        rate: learning rate of the last step.
        tokens_per_s: over the same steps.
        passes: over the corpus, begun.
        corpus_tokens: of the training part of the corpus.
    """

    step: int
    tokens: int
    loss: float
    same_choice: float
    rate: float
    tokens_per_s: float
    passes: int
    corpus_tokens: int


def learning_rate(step: int, settings: TrainingSettings) -> float:
    """Return the rate of a step, counted from 0.

    >>> [round(learning_rate(s, TrainingSettings((0,), 10, peak_rate=1.0, warmup_steps=2)), 2) for s in (0, 1, 6, 8, 9)]
    [0.5, 1.0, 1.0, 0.67, 0.33]
    """
    falling = _falling_steps(settings)
    rising = min(1.0, (step + 1) / max(1, settings.warmup_steps))
    return settings.peak_rate * min(rising, (settings.steps - step) / falling, 1.0)


def row_weights(in_answer: npt.NDArray[np.bool_], user_weight: float) -> Array:
    """Return [S, 1] what each row of a step weighs, 1 in all; only answers are drafted, so they may count for more.

    >>> row_weights(np.array([False, False, True]), 0.5).ravel().tolist()
    [0.25, 0.25, 0.5]
    """
    weights: Array = np.where(in_answer, np.float32(1.0), np.float32(user_weight))
    weights /= weights.sum()
    return weights[:, None]


def _falling_steps(settings: TrainingSettings) -> int:
    return max(1, round(settings.steps * settings.decay_share))


class Trainer:
    """One training; `run` goes on until the steps are done.

    Args:
        student: is changed in place.
        head: [n_vocab, hidden] of the target.
        batches: where conversations come from.
        settings: see TrainingSettings.
        checkpoint: file to go on from, and to write.
        level: file for the state before the rate begins to fall, which a longer run can go on from.
    """

    def __init__(
        self,
        student: Student,
        head: Array,
        batches: Batches,
        settings: TrainingSettings,
        checkpoint: Path,
        level: Path | None = None,
    ) -> None:
        if not batches.training:
            raise ConfigError("the corpus has no conversation to train on yet: generate more")
        self.student, self.settings, self._batches = student, settings, batches
        self._checkpoint, self._level = checkpoint, level
        size = len(student.vector)
        self._moments = np.zeros((2, size), np.float32)
        self._gradient = np.empty(size, np.float32)
        self.step, self.tokens = 0, 0
        self.head_ids = frequent_ids(batches.training, settings.head_size, len(head))
        if checkpoint.exists():
            self._load()
        self._head = GrowingHead(head, self.head_ids)

    def run(self, show: Callable[[Progress], None], *, report_every: int, save_every_s: float) -> None:
        """Train until the steps are done, with a report every few steps and a checkpoint now and then."""
        saved_s = reported_s = time.monotonic()
        loss, same, rows, tokens = 0.0, 0, 0, 0
        falls_from = self.settings.steps - _falling_steps(self.settings)
        while self.step < self.settings.steps:
            if self.step == falls_from and self._level is not None:
                self._write(self._level)
            batch = self._batches.next_batch()
            batch_loss, batch_same = self._learn(batch)
            loss, same, rows, tokens = (
                loss + batch_loss,
                same + batch_same,
                rows + len(batch.rows),
                tokens + batch.num_tokens,
            )
            now_s = time.monotonic()
            if self.step % report_every == 0 or self.step == self.settings.steps:
                show(
                    Progress(
                        self.step,
                        self.tokens,
                        loss / rows,
                        same / rows,
                        learning_rate(self.step - 1, self.settings),
                        tokens / (now_s - reported_s),
                        self._batches.passes,
                        sum(len(c.tokens) for c in self._batches.training),
                    )
                )
                loss, same, rows, tokens, reported_s = 0.0, 0, 0, 0, now_s
            if now_s - saved_s > save_every_s:
                self.save()
                saved_s = now_s
        self.save()

    def _learn(self, batch: Batch) -> tuple[float, int]:
        """Make one step; return the loss, summed, and how many first choices were the target's."""
        states, trace = self.student.forward(batch.sequences, batch.rows)
        with self._head.with_ids_of(batch.sequences) as (head, places):
            graded = self.student.grade(states, head, places, batch.top_ids, batch.top_log_probabilities)
        by_state = graded.gradient
        by_state *= row_weights(batch.in_answer, self.settings.user_weight)
        self.student.backward(by_state, trace, self._gradient)
        self._adam(learning_rate(self.step, self.settings))
        self.step += 1
        self.tokens += batch.num_tokens
        return graded.loss, int(graded.same.sum())

    def _adam(self, rate: float) -> None:
        """Change all weights (Kingma and Ba, arXiv 1412.6980), the gradient bounded in length."""
        norm = float(np.sqrt(np.dot(self._gradient, self._gradient)))
        if not np.isfinite(norm):
            raise ModelError(f"the gradient of step {self.step} is not finite: lower the learning rate")
        bound = np.float32(min(1.0, _LARGEST_GRADIENT / (norm + 1e-12)))
        first_correction = 1.0 - _FIRST_DECAY ** (self.step + 1)
        second_correction = 1.0 - _SECOND_DECAY ** (self.step + 1)
        chunk = 1 << 16  # what fits the processor's caches
        for start in range(0, len(self._gradient), chunk):
            part = slice(start, start + chunk)
            g = self._gradient[part] * bound
            first, second = self._moments[0, part], self._moments[1, part]
            first *= np.float32(_FIRST_DECAY)
            first += np.float32(1 - _FIRST_DECAY) * g
            second *= np.float32(_SECOND_DECAY)
            g *= g
            second += np.float32(1 - _SECOND_DECAY) * g
            root = np.sqrt(second / np.float32(second_correction))
            root += np.float32(_EPSILON)
            self.student.vector[part] -= np.float32(rate / first_correction) * first / root

    def agreement(self, most_tokens: int) -> tuple[float, float]:
        """Return loss a row and share of equal first choices over held-out answers, at most so many tokens of them."""
        loss, same, rows, tokens = 0.0, 0, 0, 0
        for conversation in sorted(self._batches.held_out, key=lambda c: c.number):
            if tokens >= most_tokens:
                break
            batch = batch_of([conversation])
            answers = np.flatnonzero(batch.in_answer)
            states, _ = self.student.forward(batch.sequences, batch.rows[answers])
            top = batch.top_ids[answers], batch.top_log_probabilities[answers]
            with self._head.with_ids_of([conversation.tokens[: conversation.answer_start]]) as (head, places):
                graded = grade(states, head, places, *top, with_gradient=False)
            loss, same, rows = loss + graded.loss, same + int(graded.same.sum()), rows + len(answers)
            tokens += batch.num_tokens
        return (loss / rows, same / rows) if rows else (float("nan"), float("nan"))

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        self._write(self._checkpoint)

    def _write(self, path: Path) -> None:
        with staging(path) as partial, partial.open("wb") as file:
            np.savez(
                file,
                vector=self.student.vector,
                moments=self._moments,
                counts=np.array([self.step, self.tokens], np.int64),
                head_ids=self.head_ids,
                layers=np.array(self.settings.layers, np.int64),
            )

    def _load(self) -> None:
        found = load_checkpoint(self._checkpoint)
        if (
            found["vector"].shape != self.student.vector.shape
            or tuple(found["layers"].tolist()) != self.settings.layers
        ):
            raise ConfigError(
                f"checkpoint {self._checkpoint} is of layers {found['layers'].tolist()}, asked for are "
                f"{list(self.settings.layers)}: name another folder, or the same layers"
            )
        self.student.vector[:] = found["vector"]
        self._moments[:] = found["moments"]
        self.step, self.tokens = found["counts"].tolist()
        self.head_ids = found["head_ids"]
        self._batches.skip(self.step)


def load_checkpoint(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of a checkpoint.

    Raises:
        ModelError: it cannot be read.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in ("vector", "moments", "counts", "head_ids", "layers")}
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise ModelError(f"checkpoint {path} cannot be read ({error}): remove it to train from the start") from error
