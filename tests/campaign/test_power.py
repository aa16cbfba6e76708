"""Power and stopping against values known from tables, and on differences worked by hand."""

import math

import msgspec
import pytest

from multispin.campaign.figures import CellFigures
from multispin.campaign.folder import Cell
from multispin.campaign.plan import Hypothesis, Plan, StoppingRule
from multispin.campaign.power import blocks_needed, half_width, power
from multispin.campaign.stopping import differences, stop_reason

FIGURES = CellFigures(
    requests=1,
    tokens=1,
    tpot_s=None,
    ttft_s=None,
    e2e_s=None,
    goodput_tokens_per_s=None,
    energy_j_per_token=None,
    backhaul_bytes_per_token=None,
)


def cell(block: int, arm: str, link: str | None = None, device: str = "bench") -> Cell:
    return Cell(
        cell_id=f"{block}-{arm}-{link}-{device}",
        block=block,
        device=device,
        order=0,
        group=0,
        arm=arm,
        factors={} if link is None else {"link": link},
        seed=0,
        text_key="",
        prompt_ids=(),
    )


def test_power_is_that_of_the_noncentral_t_distribution() -> None:
    # Paired t, n = 10, effect of one standard deviation, alpha 0.05: 0.803 (Cohen 1988; G*Power 3.1: 0.8031).
    one_sd = math.expm1(0.1)
    assert power(10, one_sd, 0.1, 0.05) == pytest.approx(0.803, abs=0.006)
    assert power(34, math.expm1(0.05), 0.1, 0.05) == pytest.approx(0.808, abs=0.006)
    assert power(1, one_sd, 0.1, 0.05) == 0.0


def test_without_an_effect_power_is_alpha() -> None:
    assert power(6, 1e-12, 0.1, 0.05) == pytest.approx(0.05, abs=0.003)


def test_the_blocks_that_are_needed_have_the_power_and_one_less_has_not() -> None:
    needed = blocks_needed(-0.1, 0.1, 0.05)
    assert needed is not None
    assert power(needed, -0.1, 0.1, 0.05) >= 0.8 > power(needed - 1, -0.1, 0.1, 0.05)
    assert blocks_needed(-0.001, 1.0, 0.05) is None


def test_half_a_width_is_students() -> None:
    # sd 1, n = 4, t(3, 0.975) = 3.182: 3.182 / 2 * sd.
    values = [0.0, 1.0, 2.0, 3.0]
    sd = math.sqrt(5 / 3)
    assert half_width(values, 0.95) == pytest.approx(3.182 * sd / 2, rel=0.02)
    assert half_width([1.0], 0.95) == math.inf


def test_differences_are_paired_within_blocks_and_levels_and_levels_that_do_not_concern_an_arm_match_all() -> None:
    hypothesis = Hypothesis(name="h", arm="a", rival="r")
    times = {("a", "none"): 0.01, ("a", "20ms"): 0.04, ("r", None): 0.02}
    cells = [cell(block, arm, link) for block in (0, 1) for arm, link in times]
    found = differences(
        hypothesis,
        cells,
        lambda each: msgspec.structs.replace(FIGURES, tpot_s=times[each.arm, each.factors.get("link")]),
    )
    # ln(1/2) and ln(2): nothing on the mean.
    assert found == {("bench", 0): pytest.approx(0.0), ("bench", 1): pytest.approx(0.0)}
    only = differences(
        hypothesis, cells[:3], lambda each: msgspec.structs.replace(FIGURES, tpot_s=None if each.arm == "r" else 1.0)
    )
    assert only == {}


def test_a_rule_stops_only_when_every_device_is_known_well_enough_and_not_before_its_first_look() -> None:
    plan = msgspec.toml.decode(
        'name = "p"\ndevices = [{name = "bench", copies = 1}, {name = "other", copies = 1}]\n'
        'arms = [{kind = "centralised", name = "r"}, {kind = "cooperation", name = "a"}]\n'
        'hypotheses = [{name = "h", arm = "a", rival = "r"}]\n',
        type=Plan,
    )
    plan = msgspec.structs.replace(plan, stop=StoppingRule(half_width=0.05, min_blocks=3))
    cells = [cell(block, arm, None, device) for block in range(4) for arm in "ar" for device in ("bench", "other")]

    def figures(spread: float):  # type: ignore[no-untyped-def]
        def of(each: Cell) -> CellFigures:
            noise = spread * (-1) ** each.block if each.device == "other" and each.arm == "a" else 0.0
            return msgspec.structs.replace(FIGURES, tpot_s=0.01 * math.exp(noise))

        return of

    assert stop_reason(plan, 2, cells, figures(0.0)) is None
    assert "after 4 blocks" in str(stop_reason(plan, 4, cells, figures(0.001)))
    assert stop_reason(plan, 4, cells, figures(0.1)) is None
    assert stop_reason(msgspec.structs.replace(plan, stop=None), 4, cells, figures(0.0)) is None
