"""Turns the space in which a network computes, so that no input stands out and 8 bits a row suffice.

    x -> x Q,  W -> W Q (what reads the stream),  W -> Q^T W (what adds to it)        Q^T Q = 1: the same network

The stream between the layers of a trained network has a few inputs that are far larger than all others, and with one
scale a row these decide the precision of all. Q spreads each input over all of them. It is folded into the weights;
norms commute with it once their own weights are moved into the matrices behind them. So are the values of each head.
The gated rows that `down` reads have a product of two others behind them, through which nothing can be folded: they are
mixed while the graph runs, in blocks (`products`, form w8a8-mixed).

    Q = signs * (DCT_m x H_p),   hidden = m * p, p the largest power of two in it; signs +-1, fixed

H is the Hadamard matrix, made of sums and differences, DCT the orthonormal cosine transform. All of it is computed
element by element in float64, in a fixed order, so that every machine makes the same weights.
Source: Ashkboos et al., QuaRot, arXiv 2404.00456, section 4; random signs: Tseng et al., QuIP#, arXiv 2402.04396,
section 3.
"""

import math
import random
from typing import Final

import numpy as np
import numpy.typing as npt

from multispin_models.onnx.weights import Array, Layer, Network

__all__ = ["mixed", "mixing_matrix", "rotate_network", "turned"]

_SEED: Final = 0
_ROWS_AT_ONCE: Final = 4096  # bounds the memory of the float64 copies
_MIXED_SIZES: Final = (64, 16, 4, 1)  # the scale of each is a power of two: nothing is rounded


def rotate_network(network: Network) -> None:
    """Change the weights of a network in place; it computes the same. Head and embedding become two matrices."""
    network.head = turned(network.head * network.output_norm)
    network.embedding = turned(network.embedding)
    network.output_norm = np.ones_like(network.output_norm)
    for layer in network.layers:
        _rotate_values(layer, network.architecture.num_kv_heads, network.architecture.head_size)
        layer.qkv = turned(layer.qkv * layer.attention_norm)
        layer.gate_up = turned(layer.gate_up * layer.feed_forward_norm)
        layer.attention_output = turned(layer.attention_output.T).T
        layer.down = turned(layer.down.T).T
        if layer.attention_output_bias is not None:
            layer.attention_output_bias = turned(layer.attention_output_bias[None])[0]
        layer.attention_norm = np.ones_like(layer.attention_norm)
        layer.feed_forward_norm = np.ones_like(layer.feed_forward_norm)


def turned(rows: Array) -> Array:
    """Return rows [n, size] times Q."""
    size = rows.shape[1]
    drawn = random.Random(_SEED)  # noqa: S311 - fixed: a part of the format
    signs = np.array([drawn.choice((-1.0, 1.0)) for _ in range(size)])
    result = np.empty(rows.shape, np.float32)
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        result[part] = _transformed(rows[part] * signs)
    return result


def mixing_matrix(inputs: int) -> Array:
    """Return the orthonormal Hadamard matrix [size, size]; the first size of 64, 16, 4, 1 that divides."""
    return _transformed(np.eye(_mixed_size(inputs))).astype(np.float32)


def mixed(matrix: Array) -> Array:
    """Return a matrix [outputs, inputs] for rows that were mixed: mixed likewise, as the mixing is its own inverse."""
    blocks = matrix.reshape(-1, _mixed_size(matrix.shape[1])).astype(np.float64)
    return _transformed(blocks).reshape(matrix.shape).astype(np.float32)


def _mixed_size(inputs: int) -> int:
    return next(size for size in _MIXED_SIZES if inputs % size == 0)


def _rotate_values(layer: Layer, num_kv_heads: int, head_size: int) -> None:
    """Turn the values of each head, and what reads them back."""
    count = num_kv_heads * head_size
    values = layer.qkv[-count:].reshape(num_kv_heads, head_size, -1)
    rotated = _transformed(values.transpose(0, 2, 1).astype(np.float64)).transpose(0, 2, 1)
    layer.qkv = np.concatenate([layer.qkv[:-count], rotated.reshape(count, -1).astype(np.float32)])
    if layer.qkv_bias is not None:
        bias = _transformed(layer.qkv_bias[-count:].reshape(num_kv_heads, head_size).astype(np.float64))
        layer.qkv_bias = np.concatenate([layer.qkv_bias[:-count], bias.reshape(-1).astype(np.float32)])
    by_head = layer.attention_output.reshape(len(layer.attention_output), -1, head_size).astype(np.float64)
    layer.attention_output = _transformed(by_head).reshape(layer.attention_output.shape).astype(np.float32)


def _transformed(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return rows [..., size] times (DCT_m x H_p)."""
    size = rows.shape[-1]
    power = size & -size
    count = size // power
    grid = rows.reshape(*rows.shape[:-1], count, power)
    half = 1
    while half < power:  # sums and differences of neighbours, 2, 4, 8 ... apart
        pairs = grid.reshape(*rows.shape[:-1], count, power // (2 * half), 2, half)
        grid = np.stack([pairs[..., 0, :] + pairs[..., 1, :], pairs[..., 0, :] - pairs[..., 1, :]], axis=-2)
        half *= 2
    grid = grid.reshape(*rows.shape[:-1], count, power) * (power**-0.5)
    return _cosine_transformed(grid).reshape(rows.shape)


def _cosine_transformed(grid: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return [..., m, p] times DCT_m along m, summed term by term."""
    count = grid.shape[-2]
    if count == 1:
        return grid
    result = np.zeros_like(grid)
    for column in range(count):
        for row in range(count):
            scale = math.sqrt((1 if column == 0 else 2) / count)
            weight = scale * math.cos(math.pi * (2 * row + 1) * column / (2 * count))
            result[..., column, :] += weight * grid[..., row, :]
    return result
