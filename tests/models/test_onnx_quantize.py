"""Weights as integers: what a 4-bit file holds is kept to the bit, anything else as near as 4 bits allow."""

import numpy as np
import numpy.typing as npt
import pytest

from multispin_models.onnx.quantize import Blocks, fold_offsets, quantize_blocks_4

Array = npt.NDArray[np.float32]


def restored(blocks: Blocks, inputs: int) -> Array:
    """Return the matrix that a product with these blocks multiplies by."""
    assert blocks.offsets is not None
    places = np.stack([blocks.values & 15, blocks.values >> 4], axis=-1).reshape(*blocks.values.shape[:2], -1)
    matrix = (places.astype(np.float32) - 8) * blocks.scales[..., None] + blocks.offsets[..., None]
    return np.asarray(matrix.reshape(len(matrix), -1)[:, :inputs], np.float32)


@pytest.mark.parametrize("lowest_place", [0, 3])
@pytest.mark.parametrize("inputs", [96, 80])  # 80: the last block is half filler
def test_weights_that_lie_on_grids_of_16_places_are_kept(lowest_place: int, inputs: int) -> None:
    random = np.random.default_rng(5)
    places = random.integers(lowest_place, 16, (7, 3, 32)).astype(np.float32)
    scales = random.uniform(0.001, 0.1, (7, 3, 1)).astype(np.float16).astype(np.float32)
    lows = random.normal(0, 0.2, (7, 3, 1)).astype(np.float16).astype(np.float32)
    matrix = (places * scales + lows).reshape(7, 96)[:, :inputs]
    error = np.abs(restored(quantize_blocks_4(matrix, 32), inputs) - matrix)[:, :64]
    assert error.max() < 1e-6


def test_a_block_of_one_value_is_kept() -> None:
    matrix = np.full((2, 64), -0.37, np.float32)
    matrix[1] = 0
    np.testing.assert_allclose(restored(quantize_blocks_4(matrix, 32), 64), matrix, atol=1e-7)


def test_other_weights_are_nearer_than_on_the_grid_from_lowest_to_highest() -> None:
    matrix = np.random.default_rng(6).normal(0, 0.05, (64, 96)).astype(np.float32)
    blocks = matrix.reshape(64, 3, 32)
    low, step = blocks.min(axis=2, keepdims=True), np.ptp(blocks, axis=2)[..., None] / 15
    plain = (np.rint((blocks - low) / step) * step + low).reshape(64, 96)
    found = restored(quantize_blocks_4(matrix, 32), 96)
    assert np.square(found - matrix).mean() < 0.95 * np.square(plain - matrix).mean()
    assert (np.abs(found - matrix).reshape(64, 3, 32) <= 1.5 * step).all()


@pytest.mark.parametrize("blocks", [3, 32, 33])  # sums that fill a part of a block, a whole one, one and a part
def test_offsets_stand_in_the_rows_of_the_sums_as_well(blocks: int) -> None:
    random = np.random.default_rng(7)
    weights = Blocks(
        random.integers(0, 256, (5, blocks, 16)).astype(np.uint8),
        random.uniform(0.01, 0.1, (5, blocks)).astype(np.float32),
        random.normal(0, 0.05, (5, blocks)).astype(np.float32),
    )
    folded = fold_offsets(weights)
    assert folded.offsets is None
    row = random.normal(0, 1, (blocks, 32)).astype(np.float32)
    sums = np.zeros(-(-blocks // 32) * 32, np.float32)
    sums[:blocks] = row.sum(axis=1)
    whole = folded._replace(offsets=np.zeros_like(folded.scales))
    inputs = folded.values.shape[1] * 32
    found = restored(whole, inputs) @ np.concatenate([row.ravel(), sums, sums])
    exact = restored(weights, blocks * 32) @ row.ravel()
    assert weights.offsets is not None
    step = np.abs(weights.offsets).max() / 7 / 14  # of the second block: half of the first one's, over 7 places
    np.testing.assert_allclose(found, exact, atol=step / 2 * np.abs(sums).sum() + 1e-5)
    assert np.abs(found - exact).max() > 0, "four bits twice are not exact"
