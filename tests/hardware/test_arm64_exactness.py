"""The comparison of `arm64_exactness` as a test, on whatever machine it runs on."""

from pathlib import Path

import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

from tests.hardware.arm64_exactness import compare, describe
from tests.hardware.narrow_model import write_narrow
from tests.hardware.shapes import BATCHES

from multispin_models.onnx.export import export_onnx
from multispin_models.onnx.recipes import WHOLE_RECIPES


@pytest.mark.arm64
@pytest.mark.parametrize("recipe", WHOLE_RECIPES)
def test_rows_are_the_same_in_every_shape_across_edges_of_16_and_256_keys(recipe: str, tmp_path: Path) -> None:
    export_onnx(write_narrow(tmp_path / "narrow.gguf"), tmp_path / recipe, recipe)
    for result in compare(tmp_path / recipe, contexts=(0, 250)):
        if recipe == "int4-block32":  # not exact on every processor (README): the start-up probe must then say so
            assert result.probe is not None
            assert result.probe.exact != any(result.different.values()), describe(result)
        else:
            assert result.passed, describe(result)
        assert len(result.compared) == 1 + len(BATCHES) + 4
        assert sum(result.compared.values()) == 608


@pytest.mark.arm64
def test_both_forms_of_attention_give_the_same_bits(tmp_path: Path) -> None:
    export_onnx(write_narrow(tmp_path / "narrow.gguf"), tmp_path / "export", "int8-block32")
    for result in compare(tmp_path / "export", attention=("folded", "plain"), threads=(1,), num_rows=40):
        assert result.passed, describe(result)
