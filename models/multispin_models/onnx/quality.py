"""What a recipe costs in quality: the negative log-likelihood of given token texts, beside that of another recipe."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from multispin_models.errors import ConfigError
from multispin_models.language_model import LanguageModel, Rows

__all__ = ["Quality", "compare", "read_token_texts", "score_texts"]


class Quality(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a model predicts texts, against a reference.

    Attributes:
        num_tokens: predicted tokens.
        nll: mean negative log-likelihood of a token, nats.
        reference_nll: the reference's.
        same_choice: share of tokens at which both find the same one likeliest.
    """

    num_tokens: int
    nll: float
    reference_nll: float
    same_choice: float


class TextScores(msgspec.Struct, frozen=True):
    """Of every predicted token: its negative log-likelihood, and which one the model found likeliest."""

    nll: npt.NDArray[np.float64]
    choices: npt.NDArray[np.int64]


def read_token_texts(path: Path) -> list[list[int]]:
    """Return the texts of a file with one JSON array of token ids a line.

    Raises:
        ConfigError: not readable, no such lines, or a text of less than two tokens.
    """
    try:
        lines = path.read_bytes().splitlines()
        texts = [msgspec.json.decode(line, type=list[int]) for line in lines if line.strip()]
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"token texts {path}: {error}; a line must be a JSON array of token ids") from error
    if not texts or min(map(len, texts)) < 2:
        raise ConfigError(f"token texts {path}: every text must have two tokens at least, and there must be one")
    return texts


def score_texts(model: LanguageModel, texts: Sequence[Sequence[int]]) -> TextScores:
    """Return how a model predicts each token of each text but the first; texts are cut at its context length."""
    scores, choices = [], []
    for text in texts:
        ids = np.array(text[: model.info.n_ctx], np.int64)
        sequence = model.open_sequence()
        for start in range(0, len(ids) - 1, model.info.max_rows):
            chunk = ids[start : min(start + model.info.max_rows, len(ids) - 1)]
            logits = model.forward([Rows(sequence, chunk.tolist(), len(chunk))])[0].astype(np.float64)
            following = ids[start + 1 : start + 1 + len(chunk)]
            top = logits.max(axis=1, keepdims=True)
            total = top[:, 0] + np.log(np.exp(logits - top).sum(axis=1))
            scores.append(total - logits[np.arange(len(chunk)), following])
            choices.append(logits.argmax(axis=1))
        model.close_sequence(sequence)
    return TextScores(np.concatenate(scores), np.concatenate(choices))


def compare(scores: TextScores, reference: TextScores) -> Quality:
    """Return the quality of one model's scores against another's, of the same texts."""
    same = float((scores.choices == reference.choices).mean())
    return Quality(len(scores.nll), float(scores.nll.mean()), float(reference.nll.mean()), same)
