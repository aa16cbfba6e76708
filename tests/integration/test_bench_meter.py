"""`multispin bench meter`: figures of hand-worked blocks, and measuring on a toy model and a recorded board."""

from pathlib import Path

import pytest
from tests.models.energy.recorded_board import unpack
from tests.toy_model import ToyModel

from multispin.bench.meter import _Block, beside_a_model, sample_alone, summarize_pairs
from multispin.cli import main
from multispin_models.energy import jetson


def test_pairs_give_the_mean_ratio_and_its_interval() -> None:
    blocks = [(_Block(rate, 0.004, 39.9), _Block(100.0, 0.0, None)) for rate in (98.0, 99.0, 100.0) * 3]
    figures = summarize_pairs(blocks, 4.0)
    assert (figures.with_tokens_per_s, figures.without_tokens_per_s) == (99.0, 100.0)
    assert figures.ratio_mean == pytest.approx(0.99)
    # nine values 0.98, 0.99, 1.00: deviation 0.01 * sqrt(6 / 8), over 3; t of 8 degrees is 2.306
    half = 2.306 * 0.01 * (6 / 8) ** 0.5 / 3
    assert figures.ratio_ci95 == pytest.approx((0.99 - half, 0.99 + half), abs=1e-5)
    assert figures.thread_cpu_share == pytest.approx(0.004)
    assert figures.achieved_hz == 39.9


def test_a_block_without_samples_has_no_rate() -> None:
    blocks = [(_Block(99.0, 0.0, None if i == 4 else 40.0), _Block(99.0, 0.0, None)) for i in range(9)]
    assert summarize_pairs(blocks, 4.0).achieved_hz is None


def test_sampling_alone_gives_its_rate_its_share_and_the_watts(tmp_path: Path) -> None:
    alone = sample_alone(jetson.open_first(unpack("orin-nx", tmp_path)), 40.0, 0.5)
    assert alone.mean_w == pytest.approx(5.072 * 1.184)
    assert alone.achieved_hz is not None
    assert 0.0 < alone.achieved_hz < 60.0  # a busy machine may hold it up
    assert 0.0 < alone.thread_cpu_share < 1.0
    assert alone.num_failures == 0


def test_a_model_computes_in_both_kinds_of_blocks_and_leaves_no_sequence(tmp_path: Path) -> None:
    root = unpack("orin-nx", tmp_path)
    model = ToyModel()
    done: list[int] = []
    figures = beside_a_model(
        model,
        lambda: jetson.open_first(root),
        200.0,
        pairs=9,
        block_s=0.03,
        on_pair=lambda i, _total: done.append(i),
    )
    assert done == list(range(1, 10))
    assert figures.with_tokens_per_s > 0.0
    assert figures.without_tokens_per_s > 0.0
    assert figures.ratio_ci95[0] < figures.ratio_mean < figures.ratio_ci95[1]
    assert model.num_open == 0


def test_too_few_pairs_and_no_meter_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "meter", "--pairs", "8"]) == 1
    assert "--pairs is 8" in capsys.readouterr().err
    assert main(["bench", "meter", "--root", str(tmp_path)]) == 1
    assert "no energy sensor can be read" in capsys.readouterr().err
