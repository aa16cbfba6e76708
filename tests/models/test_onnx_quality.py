"""What a recipe costs, and the command that says it."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

import itertools

from tests.onnx_tiny import write_tiny

from multispin import export_command
from multispin_models.errors import ConfigError
from multispin_models.language_model import Rows
from multispin_models.onnx.engine import load_onnx
from multispin_models.onnx.export import export_onnx
from multispin_models.onnx.quality import compare, read_token_texts, score_texts
from multispin_models.onnx.quantize import quantize_blocks_8, quantize_rows_8


def test_scores_are_those_of_one_row_at_a_time_by_hand(tmp_path: Path) -> None:
    export_onnx(write_tiny(tmp_path / "tiny.gguf", "llama"), tmp_path / "out", "float32")
    model = load_onnx(tmp_path / "out", n_ctx=64, max_sequences=1, max_rows=4, num_threads=1)
    text = [1, 5, 9, 200, 7, 7, 30]
    scores = score_texts(model, [text])
    sequence = model.open_sequence()
    for i, (token, following) in enumerate(itertools.pairwise(text)):
        logits = model.forward([Rows(sequence, [token], 1)])[0][0].astype(np.float64)
        assert scores.nll[i] == pytest.approx(np.log(np.exp(logits).sum()) - logits[following])
        assert scores.choices[i] == logits.argmax()
    assert len(scores.nll) == len(text) - 1
    assert compare(scores, scores).same_choice == 1.0


def test_the_command_exports_and_states_the_quality(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_tiny(tmp_path / "tiny.gguf", "qwen3")
    texts = tmp_path / "texts.jsonl"
    texts.write_text("[1, 5, 9, 200, 7]\n[1, 44, 45, 46]\n")
    parser = argparse.ArgumentParser()
    export_command.add_arguments(parser)
    arguments = [str(source), str(tmp_path / "out"), "--check-quality", str(texts), "--json", "--recipe", "w8a8"]
    assert export_command.run(parser.parse_args(arguments)) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["quality"]["num_tokens"] == 7
    assert report["quality"]["nll"] == pytest.approx(report["quality"]["reference_nll"], rel=0.05)
    assert report["quality"]["nll"] != report["quality"]["reference_nll"]
    assert report["manifest"]["recipe"]["name"] == "w8a8"
    with pytest.raises(ConfigError, match="is there already"):
        export_command.run(parser.parse_args(arguments))


def test_a_file_that_holds_no_token_texts_is_refused(tmp_path: Path) -> None:
    for content in ("", "[1]\n", "hello\n", '["a", "b"]\n'):
        (tmp_path / "texts").write_text(content)
        with pytest.raises(ConfigError, match="token texts"):
            read_token_texts(tmp_path / "texts")


def test_quantized_weights_are_within_half_a_step_of_the_weights() -> None:
    matrix = np.random.default_rng(3).normal(0.01, 0.3, (6, 72)).astype(np.float32)
    matrix[2, 32:64] = 0.0
    rows = quantize_rows_8(matrix)
    assert np.abs(rows.values * rows.scales[:, None] - matrix).max() <= 0.5001 * rows.scales.max()
    eight = quantize_blocks_8(matrix, 32)
    assert eight.values.shape == (6, 3, 32)
    restored = ((eight.values.astype(np.float32) - 128) * eight.scales[..., None]).reshape(6, 96)
    assert np.abs(restored[:, :72] - matrix).max() <= 0.5001 * eight.scales.max()
    assert not restored[:, 72:].any()
