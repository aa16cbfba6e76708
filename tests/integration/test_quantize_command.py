"""`multispin models quantize`: types and layers are those that were asked for, and llama.cpp serves the result."""

import json
from pathlib import Path

import gguf
import numpy as np
import pytest

pytest.importorskip("llama_cpp")

from tests.onnx_tiny import LAYERS, write_tiny

from multispin.cli import main
from multispin.quantize_command import tensor_types
from multispin_models.language_model import Rows
from multispin_models.llamacpp import load_llamacpp


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("source") / "tiny.gguf", "llama")


def test_embedding_head_and_named_tensors_get_their_own_types(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draft = tmp_path / "draft.gguf"
    flags = ["--recipe", "Q4_0", "--embedding", "Q8_0", "--head", "Q5_1", "--tensor", "ffn_down=Q8_0"]
    assert main(["models", "quantize", str(source), str(draft), *flags, "--list", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["types"] == tensor_types(draft)
    assert report["types"]["token_embd Q8_0"] == 1
    assert report["types"]["output Q5_1"] == 1
    assert report["types"]["ffn_down Q8_0"] == LAYERS
    assert report["types"]["ffn_up Q4_0"] == LAYERS
    assert report["size_bytes"] == draft.stat().st_size < source.stat().st_size


def test_dropped_layers_are_gone_and_the_others_move_up(source: Path, tmp_path: Path) -> None:
    draft = tmp_path / "draft.gguf"
    assert main(["models", "quantize", str(source), str(draft), "--recipe", "F32", "--drop-layers", "0"]) == 0
    before = {t.name: np.array(t.data) for t in gguf.GGUFReader(source).tensors}
    after = {t.name: np.array(t.data) for t in gguf.GGUFReader(draft).tensors}
    assert not any(name.startswith(f"blk.{LAYERS - 1}.") for name in after)
    np.testing.assert_array_equal(after["blk.0.ffn_up.weight"], before["blk.1.ffn_up.weight"])
    model = load_llamacpp(draft, n_ctx=32, max_sequences=1, max_rows=8, num_threads=1)
    [logits] = model.forward([Rows(model.open_sequence(), [1, 50, 60], 1)])
    assert np.isfinite(logits).all()
    model.close()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--recipe", "Q3"], "recipe is 'Q3', allowed are"),
        (["--embedding", "Q3"], "type of a tensor is 'Q3', allowed are"),
        (["--tensor", "ffn_down=7"], "type of a tensor is '7', allowed are"),
        (["--drop-layers", "5"], "has layers 0 to 1"),
        (["--drop-layers", "0,1"], "one must stay"),
    ],
)
def test_what_cannot_be_made_is_refused_and_leaves_no_file(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], said: str
) -> None:
    assert main(["models", "quantize", str(source), str(tmp_path / "no.gguf"), *flags]) == 1
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_is_not_replaced(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "quantize", str(source), str(source)]) == 1
    assert "is there already" in capsys.readouterr().err
