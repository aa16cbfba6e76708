"""Models that cannot be rolled back are refused when they are loaded; sliding windows are served correctly."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from multispin_models.errors import LimitError, UnsupportedModel
from multispin_models.language_model import Logits, Rows, prefill
from multispin_models.llamacpp import LlamaCppModel, load_llamacpp, load_llamacpp_tokenizer
from multispin_models.probes import probe_exactness, probe_rollback


def load(path: Path, **changes: int) -> LlamaCppModel:
    return load_llamacpp(path, **{"n_ctx": 128, "max_sequences": 3, "max_rows": 16, "num_threads": 1, **changes})


@pytest.mark.parametrize(("architecture", "reason"), [("mamba", "recurrent"), ("jamba", "hybrid"), ("bert", "encoder")])
def test_a_model_without_rollback_is_refused_with_the_reason(
    tiny_gguf: Callable[[str], Path], architecture: str, reason: str
) -> None:
    with pytest.raises(UnsupportedModel, match=f"{reason}.*take a decoder-only"):
        load(tiny_gguf(architecture))


def test_the_tokenizer_of_a_model_that_cannot_be_served_can_be_read(tiny_gguf: Callable[[str], Path]) -> None:
    assert load_llamacpp_tokenizer(tiny_gguf("mamba")).n_vocab == 261


@pytest.mark.parametrize("architecture", ["gemma2", "gemma3"])
@pytest.mark.parametrize("kept", [5, 23, 24, 25, 60, 100])
def test_a_sliding_window_scores_after_a_rollback_as_if_fresh(
    tiny_gguf: Callable[[str], Path], architecture: str, kept: int
) -> None:
    """The window is 24 tokens: far more is rejected than a pruned cache would still hold."""
    model = load(tiny_gguf(architecture))
    tokens = np.random.default_rng(1).integers(3, 250, 126).tolist()
    long, fresh = model.open_sequence(), model.open_sequence()
    prefill(model, long, tokens, 16)
    model.rewind(long, kept)
    prefill(model, fresh, tokens[:kept], 16)
    for token in (7, 8, 9):
        one, other = model.forward([Rows(long, [token], 1), Rows(fresh, [token], 1)])
        np.testing.assert_array_equal(one, other)
    model.close()


def test_the_window_is_really_there(tiny_gguf: Callable[[str], Path]) -> None:
    """Two layers see 2 x 23 tokens back: a token changed 40 back moves the last row, one changed 90 back does not."""
    model = load(tiny_gguf("gemma3"))
    tokens = np.random.default_rng(2).integers(3, 250, 91).tolist()

    def last_row(changed: int | None) -> Logits:
        text = [255 if i == changed else token for i, token in enumerate(tokens)]
        sequence = model.open_sequence()
        row = prefill(model, sequence, text, 16).copy()
        model.close_sequence(sequence)
        return row

    unchanged = last_row(None)
    assert (last_row(0) == unchanged).all()
    assert (last_row(50) != unchanged).any()
    model.close()


def test_a_sliding_window_model_passes_both_probes(tiny_gguf: Callable[[str], Path]) -> None:
    model = load(tiny_gguf("gemma2"))
    probe_rollback(model, 40)
    assert probe_exactness(model, budget_s=0.2).exact
    model.close()


def test_a_state_that_left_the_sliding_window_cannot_be_saved(tiny_gguf: Callable[[str], Path]) -> None:
    """llama.cpp's state would lack the tokens that left it, and a rollback after a restore would be wrong."""
    model = load(tiny_gguf("gemma2"))
    sequence = model.open_sequence()
    prefill(model, sequence, range(30, 54), 16)
    assert model.save(sequence)
    model.forward([Rows(sequence, [7], 0)])
    with pytest.raises(LimitError, match=r"holds 25 tokens.*at most 24"):
        model.save(sequence)
    model.close()
