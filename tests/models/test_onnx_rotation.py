"""A rotated network computes the same, and 8 bits a row do it less harm."""

from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from tests.onnx_tiny import write_tiny

from multispin_models.language_model import Rows
from multispin_models.onnx.engine import load_onnx
from multispin_models.onnx.export import export_onnx
from multispin_models.onnx.quantize import quantize_rows_8
from multispin_models.onnx.recipes import RECIPES, find_recipe
from multispin_models.onnx.rotation import mixed, mixing_matrix, turned

Array = npt.NDArray[np.float32]
TOKENS = [7, 30, 90, 4, 200, 31, 8, 9]


def logits(directory: Path) -> Array:
    model = load_onnx(directory, n_ctx=64, max_sequences=1, max_rows=16, num_threads=1, cache="float32")
    try:
        return model.forward([Rows(model.open_sequence(), TOKENS, len(TOKENS))])[0].copy()
    finally:
        model.close()


@pytest.mark.parametrize("size", [1, 9, 48, 64, 576, 1536])
def test_turning_keeps_lengths_and_angles(size: int) -> None:
    turn = turned(np.eye(size, dtype=np.float32)).astype(np.float64)
    np.testing.assert_allclose(turn @ turn.T, np.eye(size), atol=1e-6)


@pytest.mark.parametrize("size", [48, 576])
def test_turning_spreads_one_input_over_all(size: int) -> None:
    alone = np.zeros((1, size), np.float32)
    alone[0, 5] = 1
    assert np.abs(turned(alone)).max() < 2 / np.sqrt(size)


def test_rows_are_mixed_without_rounding() -> None:
    for inputs, size in ((1536, 64), (48, 16), (12, 4), (9, 1)):
        matrix = mixing_matrix(inputs)
        assert set(np.abs(matrix).ravel().tolist()) == {size**-0.5}
        assert np.array_equal(matrix, matrix.T)
        assert np.array_equal(matrix @ matrix, np.eye(size))


def test_a_mixed_matrix_undoes_the_mixing_of_its_rows() -> None:
    random = np.random.default_rng(2)
    rows, matrix = (random.normal(0, 1, (n, 128)).astype(np.float32) for n in (3, 5))
    mixed_rows = (rows.reshape(-1, 64) @ mixing_matrix(128)).reshape(rows.shape)
    np.testing.assert_allclose(mixed_rows @ mixed(matrix).T, rows @ matrix.T, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])  # plain, with biases, with norms of heads
def test_a_rotated_network_computes_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str) -> None:
    plain = find_recipe("float32")
    rotated = msgspec.structs.replace(plain, name="rotated", rotated=True)
    monkeypatch.setitem(RECIPES, "rotated", rotated)
    source = write_tiny(tmp_path / "tiny.gguf", family)
    results = []
    for recipe in ("float32", "rotated"):
        export_onnx(source, tmp_path / recipe, recipe)
        results.append(logits(tmp_path / recipe))
    np.testing.assert_allclose(results[1], results[0], atol=2e-5 * float(np.abs(results[0]).max()))
    assert not np.array_equal(results[1], results[0])  # it is another arithmetic


def test_eight_bits_a_row_lose_less_where_one_input_stands_out() -> None:
    random = np.random.default_rng(4)
    rows = random.normal(0, 1, (32, 576)).astype(np.float32)
    rows[:, 7] *= 60  # as in the stream of a trained network
    matrix = random.normal(0, 0.1, (64, 576)).astype(np.float32)
    wanted = rows @ matrix.T

    def error(left: Array, right: Array) -> float:
        a, b = (q.values * q.scales[:, None] for q in map(quantize_rows_8, (left, right)))
        return float(np.square(a @ b.T - wanted).mean())

    assert error(turned(rows), turned(matrix)) < error(rows, matrix) / 10
