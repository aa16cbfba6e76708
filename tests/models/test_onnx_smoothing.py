"""What smoothing changes in a layer, and what it must not change."""

import numpy as np
import numpy.typing as npt
import pytest

from multispin_models.onnx.architecture import Architecture
from multispin_models.onnx.quantize import quantize_rows_8
from multispin_models.onnx.recipes import find_recipe
from multispin_models.onnx.smoothing import Observed, smooth_layer
from multispin_models.onnx.weights import Layer

HIDDEN, FEED_FORWARD, HEADS, KEY_HEADS, HEAD = 48, 64, 4, 2, 12
Array = npt.NDArray[np.float32]


def architecture() -> Architecture:
    return Architecture(
        family="llama",
        n_vocab=259,
        hidden_size=HIDDEN,
        feed_forward_size=FEED_FORWARD,
        num_layers=1,
        num_heads=HEADS,
        num_kv_heads=KEY_HEADS,
        head_size=HEAD,
        rms_epsilon=1e-5,
        rope_base=1e4,
        rope_linear_factor=1.0,
        context_length=256,
    )


def layer(random: np.random.Generator) -> Layer:
    def normal(*shape: int) -> Array:
        return random.normal(0.0, 0.2, shape).astype(np.float32)

    return Layer(
        attention_norm=normal(HIDDEN) + 1,
        qkv=normal((HEADS + 2 * KEY_HEADS) * HEAD, HIDDEN),
        qkv_bias=None,
        query_norm=None,
        key_norm=None,
        attention_output=normal(HIDDEN, HEADS * HEAD),
        attention_output_bias=None,
        feed_forward_norm=normal(HIDDEN) + 1,
        gate_up=normal(2 * FEED_FORWARD, HIDDEN),
        down=normal(HIDDEN, FEED_FORWARD),
    )


def observed(random: np.random.Generator, inputs: int, spread: float) -> Observed:
    """Rows of which a few inputs are `spread` times as large as the others."""
    rows = random.normal(0.0, 1.0, (64, inputs)).astype(np.float32)
    rows[:, :3] *= np.float32(spread)
    return Observed(np.abs(rows).max(axis=0), rows)


def error(rows: Array, matrix: Array, wanted: Array) -> float:
    """Squared error of a product with 8 bits and a scale a row at both sides."""
    left, right = (q.values * q.scales[:, None] for q in map(quantize_rows_8, (rows, matrix)))
    return float(np.square(left @ right.T - wanted).sum())


@pytest.fixture
def smoothed() -> tuple[Layer, Layer, dict[str, Observed]]:
    """A layer, the same smoothed, and what its products were seen to multiply."""
    random = np.random.default_rng(5)
    before = layer(random)
    seen = {
        "qkv": observed(random, HIDDEN, 30.0),
        "attention_output": observed(random, HEADS * HEAD, 8.0),
        "gate_up": observed(random, HIDDEN, 3.0),
        "down": observed(random, FEED_FORWARD, 300.0),
    }
    after = layer(np.random.default_rng(5))
    smooth_layer(after, architecture(), seen, find_recipe("w8a8-smooth-all"))
    return before, after, seen


def test_a_smoothed_layer_computes_the_same(smoothed: tuple[Layer, Layer, dict[str, Observed]]) -> None:
    before, after, _ = smoothed
    rows = np.random.default_rng(6).normal(0.0, 1.0, (5, HIDDEN)).astype(np.float32)
    for matrix, norm in (("gate_up", "feed_forward_norm"), ("qkv", "attention_norm")):
        wanted, got = ((rows * getattr(of, norm)) @ getattr(of, matrix).T for of in (before, after))
        same = slice(0, FEED_FORWARD if matrix == "gate_up" else (HEADS + KEY_HEADS) * HEAD)
        np.testing.assert_allclose(got[:, same], wanted[:, same], rtol=1e-4, atol=1e-4)
    gate, up = np.split((rows * before.feed_forward_norm) @ before.gate_up.T, 2, axis=1)
    smooth_gate, smooth_up = np.split((rows * after.feed_forward_norm) @ after.gate_up.T, 2, axis=1)
    np.testing.assert_allclose((smooth_gate * smooth_up) @ after.down.T, (gate * up) @ before.down.T, atol=1e-3)
    values = slice((HEADS + KEY_HEADS) * HEAD, None)
    value, smooth_value = (
        np.repeat(((rows * of.attention_norm) @ of.qkv[values].T).reshape(5, KEY_HEADS, HEAD), HEADS // KEY_HEADS, 1)
        for of in (before, after)
    )
    wanted, got = (part.reshape(5, -1) @ of.attention_output.T for part, of in ((value, before), (smooth_value, after)))
    np.testing.assert_allclose(got, wanted, atol=1e-3)


@pytest.mark.parametrize("product", ["qkv", "gate_up"])
def test_each_product_gets_the_exponent_with_the_least_error(
    smoothed: tuple[Layer, Layer, dict[str, Observed]], product: str
) -> None:
    before, after, seen = smoothed
    norm = "attention_norm" if product == "qkv" else "feed_forward_norm"
    chosen = getattr(before, norm) / getattr(after, norm)
    matrix = (
        getattr(after, product) / chosen
    )  # its outputs may have been divided before, for the sake of a later product
    rows = seen[product].samples
    wanted = rows @ matrix.T
    errors = []
    for alpha in (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8):
        scales = seen[product].largest ** alpha / np.abs(matrix).max(axis=0) ** (1 - alpha)
        errors.append(error(rows / scales, matrix * scales, wanted))
    assert error(rows / chosen, matrix * chosen, wanted) == pytest.approx(min(errors), rel=1e-3)
    assert max(errors) > 1.2 * min(errors)  # the choice matters
    assert min(errors) < error(rows, matrix, wanted)
