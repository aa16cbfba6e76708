"""The paper's setting: its policies in its order, by its formula and by the daemons' own code."""

from statistics import mean

import pytest

from multispin.simulate.paper_setting import PAIRS, PAPER_POLICIES, PaperPair, draw_users, plan_of, simulate_policy


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name.split()[0])
@pytest.mark.parametrize("band_hz", [5e6, 20e6])
def test_the_papers_policies_come_in_its_order(pair: PaperPair, band_hz: float) -> None:
    drawn = [draw_users(pair, seed) for seed in range(4)]
    goodputs = [
        mean(plan_of(pair, users, policy, band_hz).goodput_tokens_per_s for users in drawn) for policy in PAPER_POLICIES
    ]
    assert PAPER_POLICIES == ("fixed", "homogeneous", "uniform_bandwidth", "heterogeneous")
    assert goodputs == sorted(goodputs)
    assert len(set(goodputs)) == len(goodputs)


@pytest.mark.parametrize("policy", ["fixed", "heterogeneous"])
def test_the_daemons_code_behind_a_barrier_does_what_the_formula_says(policy: str) -> None:
    pair = PAIRS[0]
    users = draw_users(pair, 0)
    plan = plan_of(pair, users, policy, 10e6)
    # 20 s of some 25 to 50 rounds of 20 users: the standard error of the tokens is below 2 %.
    assert simulate_policy(pair, users, plan, seed=0) == pytest.approx(plan.goodput_tokens_per_s, rel=0.06)
