"""Weights as integers: blocks of a row with a scale each, or whole rows with one scale.

blocks of 8 bits    w ~ (q - 128) * scale[block]                q in 0..255 (1..255 used)
blocks of 4 bits    w ~ (q - zero[block]) * scale[block]        q in 0..15, two to a byte, low half first
rows of 8 bits      w ~ q * scale[row]                          q in -127..127
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Blocks", "Rows8", "quantize_blocks_4", "quantize_blocks_8", "quantize_rows_8"]

_SMALLEST_SCALE = np.float32(1e-30)  # of a block of zeros
_FITS = 3


class Blocks(NamedTuple):
    """A matrix in blocks along its inputs.

    Attributes:
        values: uint8 [outputs, blocks, block bytes]
        scales: float32 [outputs, blocks]
        zero_points: uint8 [outputs, ceil(blocks / 2)], two to a byte; None where it is 128 everywhere.
    """

    values: npt.NDArray[np.uint8]
    scales: npt.NDArray[np.float32]
    zero_points: npt.NDArray[np.uint8] | None


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
    """Return a matrix [outputs, inputs] in 4-bit blocks, each with the scale and zero point of least squared error.

    Tried are the zero points around the one that the block's range asks for, each with scales fitted to its integers.
    """
    blocks = _in_blocks(matrix, size)
    low, high = np.minimum(blocks.min(axis=2), 0.0), np.maximum(blocks.max(axis=2), 0.0)
    widest = np.maximum((high - low) / np.float32(15), _SMALLEST_SCALE)
    best = np.full(widest.shape, np.inf, np.float32)
    values = np.zeros(blocks.shape, np.uint8)
    scales, zeros = np.zeros_like(widest), np.zeros_like(widest)
    for shift in (0, -1, 1):
        zero = np.clip(np.rint(-low / widest) + np.float32(shift), 0, 15)
        scale = widest
        for _ in range(_FITS):
            centred = np.clip(np.rint(blocks / scale[..., None]), -zero[..., None], 15 - zero[..., None])
            error = np.square(centred * scale[..., None] - blocks).sum(axis=2)
            better = error < best
            best, scales, zeros = (np.where(better, *two) for two in ((error, best), (scale, scales), (zero, zeros)))
            values[better] = (centred + zero[..., None])[better].astype(np.uint8)
            norm = np.square(centred).sum(axis=2)
            fitted = (centred * blocks).sum(axis=2) / np.maximum(norm, 1)
            scale = np.where(norm > 0, np.maximum(fitted, _SMALLEST_SCALE), scale)
    even = np.zeros((zeros.shape[0], zeros.shape[1] + zeros.shape[1] % 2), np.uint8)
    even[:, : zeros.shape[1]] = zeros
    return Blocks(_in_pairs(values), scales, _in_pairs(even))


def _in_pairs(values: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return 4-bit values two to a byte along the last axis, the first in the low half."""
    return np.bitwise_or(values[..., 0::2], np.left_shift(values[..., 1::2], np.uint8(4)))


def quantize_rows_8(matrix: npt.NDArray[np.float32]) -> Rows8:
    """Return a matrix [outputs, inputs] with one symmetric 8-bit scale a row."""
    scales = np.maximum(np.abs(matrix).max(axis=1) / np.float32(127), _SMALLEST_SCALE)
    return Rows8(np.rint(matrix / scales[:, None]).astype(np.int8), scales)
