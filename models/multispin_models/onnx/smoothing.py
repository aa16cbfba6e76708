"""Moves the spread of activations into the weights, so that 8 bits a row suffice: SmoothQuant.

    s[j] = max|x[j]|^alpha / max|w[:, j]|^(1 - alpha)        x[j] / s[j] and w[:, j] * s[j]: the same product

The division is folded into what makes x: the norm before it, the value projection, the up projection; nothing is added
to the graph.
Source: Xiao et al., SmoothQuant, arXiv 2211.10438, equation 4, alpha 0.5.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np

from multispin_models.onnx.architecture import Architecture
from multispin_models.onnx.recipes import Recipe
from multispin_models.onnx.weights import Array, Layer, Network

__all__ = ["Largest", "smooth_layer", "smooth_network"]

_ALPHA: Final = 0.5
Largest = Mapping[tuple[int, str], Array]  # (layer, product) -> [inputs]
_SMALLEST: Final = np.float32(1e-5)


def smooth_network(network: Network, largest: Largest, recipe: Recipe) -> None:
    """Change the weights of a network in place; it computes the same.

    Args:
        network: float32.
        largest: what `calibration.observe_largest` saw.
        recipe: only products in w8a8 form are smoothed.
    """
    if recipe.head == "w8a8":
        scales = _scales(largest[len(network.layers), "head"], np.abs(network.head).max(axis=0))
        network.head = network.head * scales  # an embedding that shared it stays as it was
        network.output_norm = network.output_norm / scales
    for number, layer in enumerate(network.layers):
        seen = {product: largest[number, product] for product in ("qkv", "attention_output", "gate_up", "down")}
        smooth_layer(layer, network.architecture, seen, recipe)


def smooth_layer(layer: Layer, architecture: Architecture, largest: dict[str, Array], recipe: Recipe) -> None:
    """Change one layer; its matrices may be views of a file, so they are replaced rather than written to."""
    if recipe.attention_output == "w8a8":
        _smooth_values(layer, architecture, largest["attention_output"])
    if recipe.down == "w8a8":
        scales = _scales(largest["down"], np.abs(layer.down).max(axis=0))
        layer.down = layer.down * scales
        layer.gate_up[architecture.feed_forward_size :] /= scales[:, None]
    if recipe.qkv == "w8a8":
        scales = _scales(largest["qkv"], np.abs(layer.qkv).max(axis=0))
        layer.qkv = layer.qkv * scales
        layer.attention_norm = layer.attention_norm / scales
    if recipe.gate_up == "w8a8":
        scales = _scales(largest["gate_up"], np.abs(layer.gate_up).max(axis=0))
        layer.gate_up = layer.gate_up * scales
        layer.feed_forward_norm = layer.feed_forward_norm / scales


def _smooth_values(layer: Layer, a: Architecture, seen: Array) -> None:
    """Smooth the attention's output through its values: the heads that share a value head share its scales."""
    by_head = (a.num_kv_heads, a.num_heads // a.num_kv_heads, a.head_size)
    weights = np.abs(layer.attention_output).max(axis=0)
    scales = _scales(seen.reshape(by_head).max(axis=1), weights.reshape(by_head).max(axis=1))  # [kv heads, head]
    layer.attention_output = layer.attention_output * np.broadcast_to(scales[:, None], by_head).reshape(-1)
    values = slice((a.num_heads + a.num_kv_heads) * a.head_size, None)
    layer.qkv[values] /= scales.reshape(-1, 1)
    if layer.qkv_bias is not None:
        layer.qkv_bias[values] /= scales.reshape(-1)


def _scales(activations: Array, weights: Array) -> Array:
    """Return s for each input; 1 where nothing was ever seen or the weights are all zero."""
    scales = np.maximum(activations, _SMALLEST) ** _ALPHA / np.maximum(weights, _SMALLEST) ** (1 - _ALPHA)
    return np.where((activations > 0) & (weights > 0), np.maximum(scales, _SMALLEST), 1).astype(np.float32)
