"""Moves the spread of activations into the weights, so that 8 bits a row suffice: SmoothQuant.

    s[j] = max|x[j]|^alpha / max|w[:, j]|^(1 - alpha)        x[j] / s[j] and w[:, j] * s[j]: the same product

Each product gets the alpha with which its 8-bit form came closest to its float32 form, on rows that it was seen to
multiply. The division is folded into what makes x: the norm before it, the value projection, the up projection;
nothing is added to the graph.
Source: Xiao et al., SmoothQuant, arXiv 2211.10438, equation 4; choosing by the error of the product: Lin et al., AWQ,
arXiv 2306.00978, equation 5.
"""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import numpy as np

from multispin_models.onnx.architecture import Architecture
from multispin_models.onnx.quantize import quantize_rows_8
from multispin_models.onnx.recipes import Recipe
from multispin_models.onnx.weights import Array, Layer, Network

__all__ = ["Observations", "Observed", "smooth_layer", "smooth_network"]

_ALPHAS: Final = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
_SMALLEST: Final = np.float32(1e-5)


class Observed(NamedTuple):
    """What the inputs of a product were like.

    Attributes:
        largest: [inputs] without sign, over all rows that were seen.
        samples: [rows, inputs] some of the rows.
    """

    largest: Array
    samples: Array


Observations = Mapping[tuple[int, str], Observed]  # (layer, product)


def smooth_network(network: Network, seen: Observations, recipe: Recipe) -> None:
    """Change the weights of a network in place; it computes the same.

    Args:
        network: float32.
        seen: what `calibration.observe` saw.
        recipe: only products in w8a8 form are smoothed.
    """
    if recipe.head == "w8a8":
        scales = _best_scales(seen[len(network.layers), "head"], network.head)
        network.head = network.head * scales  # an embedding that shared it stays as it was
        network.output_norm = network.output_norm / scales
    for number, layer in enumerate(network.layers):
        products = {product: seen[number, product] for product in ("qkv", "attention_output", "gate_up", "down")}
        smooth_layer(layer, network.architecture, products, recipe)


def smooth_layer(layer: Layer, architecture: Architecture, seen: Mapping[str, Observed], recipe: Recipe) -> None:
    """Change one layer; its matrices may be views of a file, so they are replaced rather than written to."""
    if recipe.attention_output == "w8a8":
        _smooth_values(layer, architecture, seen["attention_output"])
    if recipe.down == "w8a8":
        scales = _best_scales(seen["down"], layer.down)
        layer.down = layer.down * scales
        layer.gate_up[architecture.feed_forward_size :] /= scales[:, None]
    if recipe.qkv == "w8a8":
        scales = _best_scales(seen["qkv"], layer.qkv)
        layer.qkv = layer.qkv * scales
        layer.attention_norm = layer.attention_norm / scales
    if recipe.gate_up == "w8a8":
        scales = _best_scales(seen["gate_up"], layer.gate_up)
        layer.gate_up = layer.gate_up * scales
        layer.feed_forward_norm = layer.feed_forward_norm / scales


def _smooth_values(layer: Layer, a: Architecture, seen: Observed) -> None:
    """Smooth the attention's output through its values: the heads that share a value head share its scales."""
    by_head = (a.num_kv_heads, a.num_heads // a.num_kv_heads, a.head_size)

    def shared(values: Array) -> Array:  # [heads * head], the largest of the heads that share a value head
        return np.broadcast_to(values.reshape(by_head).max(axis=1, keepdims=True), by_head).reshape(-1)

    scales = _best_scales(seen, layer.attention_output, shared)
    layer.attention_output = layer.attention_output * scales
    by_value = scales.reshape(by_head)[:, 0].reshape(-1)
    values = slice((a.num_heads + a.num_kv_heads) * a.head_size, None)
    layer.qkv[values] /= by_value[:, None]
    if layer.qkv_bias is not None:
        layer.qkv_bias[values] /= by_value


def _best_scales(seen: Observed, matrix: Array, shared: Callable[[Array], Array] = lambda values: values) -> Array:
    """Return s [inputs] of the alpha with the least squared error of a product in 8 bits.

    Args:
        seen: inputs of the product.
        matrix: [outputs, inputs]
        shared: makes one value of those of inputs that must have the same scale.
    """
    wanted = seen.samples @ matrix.T
    activations, weights = shared(seen.largest), shared(np.abs(matrix).max(axis=0))
    candidates = [_scales(activations, weights, alpha) for alpha in _ALPHAS]
    errors = [np.square(_rounded(seen.samples / s) @ _rounded(matrix * s).T - wanted).sum() for s in candidates]
    return candidates[int(np.argmin(errors))]


def _rounded(rows: Array) -> Array:
    """Return rows as 8 bits with a scale a row would hold them."""
    quantized = quantize_rows_8(rows)
    return quantized.values * quantized.scales[:, None]


def _scales(activations: Array, weights: Array, alpha: float) -> Array:
    """Return s for each input; 1 where nothing was ever seen or the weights are all zero."""
    scales = np.maximum(activations, _SMALLEST) ** alpha / np.maximum(weights, _SMALLEST) ** (1 - alpha)
    return np.where((activations > 0) & (weights > 0), np.maximum(scales, _SMALLEST), 1).astype(np.float32)
