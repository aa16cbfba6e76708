"""Weights as integers: blocks of a row with a scale each, or whole rows with one scale.

blocks of 8 bits    w ~ (q - 128) * scale[block]                q in 0..255 (1..255 used)
blocks of 4 bits    w ~ (q - 8) * scale[block] + offset[block]  q in 0..15, two to a byte, low half first
rows of 8 bits      w ~ q * scale[row]                          q in -127..127
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Blocks", "Rows8", "fold_offsets", "quantize_blocks_4", "quantize_blocks_8", "quantize_rows_8"]

_SMALLEST_SCALE = np.float32(1e-30)  # of a block of zeros
_FITS = 4
_MIDDLE_4 = 8  # the integer that products of 4 bits take for zero
_ON_GRID = 0.01  # of a step: how far a value may be from it


class Blocks(NamedTuple):
    """A matrix in blocks along its inputs.

    Attributes:
        values: uint8 [outputs, blocks, block bytes]
        scales: float32 [outputs, blocks]
        offsets: float32 [outputs, blocks], what the integer 8 stands for; None with 8 bits, where it is 0.
    """

    values: npt.NDArray[np.uint8]
    scales: npt.NDArray[np.float32]
    offsets: npt.NDArray[np.float32] | None


class Rows8(NamedTuple):
    """A matrix with one scale a row.

    Attributes:
        values: int8 [outputs, inputs]
        scales: float32 [outputs]
    """

    values: npt.NDArray[np.int8]
    scales: npt.NDArray[np.float32]


def _in_blocks(matrix: npt.NDArray[np.float32], size: int) -> npt.NDArray[np.float32]:
    """Return [outputs, blocks, size], the last block filled up with zeros."""
    outputs, inputs = matrix.shape
    blocks = -(-inputs // size)
    padded = np.zeros((outputs, blocks * size), np.float32)
    padded[:, :inputs] = matrix
    return padded.reshape(outputs, blocks, size)


def quantize_blocks_8(matrix: npt.NDArray[np.float32], size: int) -> Blocks:
    """Return a matrix [outputs, inputs] in symmetric 8-bit blocks."""
    blocks = _in_blocks(matrix, size)
    scales = np.maximum(np.abs(blocks).max(axis=2) / np.float32(127), _SMALLEST_SCALE)
    values = np.rint(blocks / scales[:, :, None]) + np.float32(128)
    return Blocks(values.astype(np.uint8), scales, None)


def quantize_blocks_4(matrix: npt.NDArray[np.float32], size: int) -> Blocks:
    """Return a matrix [outputs, inputs] in 4-bit blocks, each with its own scale and offset.

    A block whose values lie on a grid of at most 16 places already, as those of most 4-bit files do, is taken as it is.
    Any other gets the grid of least squared error that is found from the one between its lowest and highest value.
    """
    blocks = _in_blocks(matrix, size)
    low, width = blocks.min(axis=2), np.ptp(blocks, axis=2)
    values, scales = np.zeros(blocks.shape, np.float32), np.ones_like(low)
    on_grid = np.zeros(low.shape, bool)
    for steps in range(15, 0, -1):
        scale = np.maximum(width / np.float32(steps), _SMALLEST_SCALE)
        places = (blocks - low[..., None]) / scale[..., None]
        fits = ~on_grid & (np.abs(places - np.rint(places)).max(axis=2) < _ON_GRID)
        values[fits], scales[fits] = np.rint(places[fits]), scale[fits]
        on_grid |= fits
        if on_grid.all():
            break
    offsets = low
    if not on_grid.all():
        values[~on_grid], scales[~on_grid], offsets[~on_grid] = _fit_grids(blocks[~on_grid])
    return Blocks(_in_pairs(values.astype(np.uint8)), scales, offsets + np.float32(_MIDDLE_4) * scales)


def fold_offsets(weights: Blocks) -> Blocks:
    """Return the same matrix without offsets, for rows that have the sums of their blocks behind them, twice.

    An offset times the sum of its block is one product more; as further inputs they need no product of their own. They
    stand in 4-bit blocks too, what those leave over in the second ones.

    Args:
        weights: with offsets [outputs, blocks].

    Returns:
        values [outputs, blocks + 2 * further, block bytes] and scales likewise, `further` blocks for as many sums.
    """
    assert weights.offsets is not None
    left = _in_blocks(weights.offsets, 2 * weights.values.shape[2])
    values, scales = [weights.values], [weights.scales]
    for _ in range(2):
        scale = np.maximum(np.abs(left).max(axis=2) / np.float32(_MIDDLE_4 - 1), _SMALLEST_SCALE)
        places = np.rint(left / scale[..., None])
        left = left - places * scale[..., None]
        values.append(_in_pairs((places + _MIDDLE_4).astype(np.uint8)))
        scales.append(scale)
    return Blocks(np.concatenate(values, axis=1), np.concatenate(scales, axis=1), None)


def _fit_grids(blocks: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], ...]:
    """Return places 0 to 15 for the values of blocks [blocks, size], and for each the step and where place 0 lies."""
    low = blocks.min(axis=1)
    scale = np.maximum(np.ptp(blocks, axis=1) / np.float32(15), _SMALLEST_SCALE)
    best, found = np.full(low.shape, np.inf, np.float32), (blocks, scale, low)
    for _ in range(_FITS):
        places = np.clip(np.rint((blocks - low[:, None]) / scale[:, None]), 0, 15)
        error = np.square(places * scale[:, None] + low[:, None] - blocks).sum(axis=1)
        better = error < best
        best = np.where(better, error, best)
        found = (
            np.where(better[:, None], places, found[0]),
            np.where(better, scale, found[1]),
            np.where(better, low, found[2]),
        )
        # The line of least squared error through the values over their places.
        mean, middle = blocks.mean(axis=1), places.mean(axis=1)
        away = places - middle[:, None]
        spread = np.square(away).sum(axis=1)
        slope = (away * blocks).sum(axis=1) / np.maximum(spread, 1)
        scale = np.where(spread > 0, np.maximum(slope, _SMALLEST_SCALE), scale)
        low = mean - scale * middle
    return found


def _in_pairs(values: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return 4-bit values two to a byte along the last axis, the first in the low half."""
    return np.bitwise_or(values[..., 0::2], np.left_shift(values[..., 1::2], np.uint8(4)))


def quantize_rows_8(matrix: npt.NDArray[np.float32]) -> Rows8:
    """Return a matrix [outputs, inputs] with one symmetric 8-bit scale a row."""
    scales = np.maximum(np.abs(matrix).max(axis=1) / np.float32(127), _SMALLEST_SCALE)
    return Rows8(np.rint(matrix / scales[:, None]).astype(np.int8), scales)
