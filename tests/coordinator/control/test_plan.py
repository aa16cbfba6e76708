"""The policies against all integer plans, and the paper's theorem against numeric maximisation."""

import itertools
import math

import numpy as np
import pytest

from multispin_coordinator.control.paper import best_common_length
from multispin_coordinator.control.plan import make_plan
from multispin_coordinator.control.scenario import Scenario, User, Verify

INSTANCES = 240
L_MAX = 5


def rate_of(scenario: Scenario, user: User, share: float) -> float:
    if scenario.noise == "total":
        return share * math.log2(1 + user.snr) if user.snr is not None else 0.0
    return share * math.log2(1 + user.s_hz / share) if share > 0 and user.s_hz is not None else 0.0


def share_of(scenario: Scenario, user: User, rate: float) -> float:
    """Return the share that carries a rate, by bisection on the rate's own formula."""
    if scenario.noise == "total":
        return rate / rate_of(scenario, user, 1.0)
    low, high = 0.0, scenario.bandwidth_hz
    if rate_of(scenario, user, high) < rate:
        return math.inf
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rate_of(scenario, user, middle) < rate else (low, middle)
    return high


def goodput_of(scenario: Scenario, lengths: tuple[int, ...]) -> float:
    """Return the goodput of a plan from the scenario's definition, sharing no code with what is tested."""
    drafting = [(user, length) for user, length in zip(scenario.user, lengths, strict=True) if length]

    def fits(phase_s: float) -> bool:
        total = 0.0
        for user, length in drafting:
            left_s = phase_s - length * user.draft_s
            if left_s <= 0:
                return False
            total += share_of(scenario, user, length * user.bits_per_token / left_s)
        return total <= scenario.bandwidth_hz

    low, high = 0.0, 0.0
    if drafting:
        high = 1e-3
        while not fits(high):
            low, high = high, 2 * high
            if high > 1e9:
                return 0.0
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (low, middle) if fits(middle) else (middle, high)
    tokens = 0.0
    for user, length in zip(scenario.user, lengths, strict=True):
        survival = user.survival or tuple((user.alpha or 0.0) ** n for n in range(1, L_MAX + 1))
        tokens += user.weight * (1 + sum(survival[:length]))
    verify = scenario.verify
    rows = sum(lengths) + len(lengths)
    return tokens / (high + verify.c0_s + verify.per_user_s * len(lengths) + verify.per_row_s * rows)


def best_of_all(scenario: Scenario) -> float:
    limits = [min(L_MAX, len(user.survival)) if user.survival else L_MAX for user in scenario.user]
    return max(goodput_of(scenario, plan) for plan in itertools.product(*(range(n + 1) for n in limits)))


def random_scenario(seed: int) -> Scenario:
    """Return users, channel and cost that differ widely; every fourth without upload, every other by density."""
    random = np.random.default_rng(seed)
    noise = "total" if seed % 2 else "density"
    num_users = int(random.choice([1, 2, 2, 3, 3, 3, 4])) if noise == "total" else int(random.choice([1, 2, 2, 2, 3]))
    per_user = seed % 3 == 0
    users = []
    for _ in range(num_users):
        listed = random.random() < 0.5
        survival = tuple(np.cumprod(random.uniform(0.3, 1.0, int(random.integers(1, L_MAX + 1)))).tolist())
        signal = float(random.uniform(0.5, 30))
        users.append(
            User(
                draft_s=float(random.uniform(0.002, 0.03)),
                alpha=None if listed else float(random.uniform(0.05, 0.98)),
                survival=survival if listed else None,
                snr=signal if noise == "total" else None,
                s_hz=signal * 2.5e6 if noise == "density" else None,
                bits_per_token=0.0 if seed % 4 == 0 else float(random.choice([50.0, 3e4])),
                weight=float(random.choice([1.0, 1.0, 0.3, 3.0])),
            )
        )
    verify = Verify(
        c0_s=float(random.uniform(0.005, 0.1)),
        per_row_s=0.0 if per_user else float(random.uniform(0.0, 0.01)),
        per_user_s=float(random.uniform(0.0, 0.02)) if per_user else 0.0,
    )
    return Scenario(
        bandwidth_hz=float(random.choice([1e6, 5e6])), verify=verify, user=tuple(users), l_max=L_MAX, noise=noise
    )


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, INSTANCES, 40))
def test_exact_is_the_best_of_all_integer_plans(first: int) -> None:
    for seed in range(first, first + 40):
        scenario = random_scenario(seed)
        plan = make_plan(scenario, "exact")
        best = best_of_all(scenario)
        assert plan.goodput_tokens_per_s == pytest.approx(best, rel=1e-6), seed
        assert goodput_of(scenario, tuple(plan.num_draft_tokens)) == pytest.approx(best, rel=1e-6), seed
        assert sum(plan.bandwidth_hz) <= scenario.bandwidth_hz * (1 + 1e-9)
        assert plan.is_proven


def test_how_far_the_other_policies_are_below_exact() -> None:
    # The figures of coordinator/README.md: pytest -s -k how_far
    for kind in ("all", "per user", "per row"):
        seeds = [n for n in range(INSTANCES) if kind == "all" or (n % 3 == 0) == (kind == "per user")]
        most = [make_plan(random_scenario(n), "exact").goodput_tokens_per_s for n in seeds]
        for policy in ("fixed", "homogeneous", "heterogeneous"):
            yields = [make_plan(random_scenario(n), policy).goodput_tokens_per_s for n in seeds]
            gaps = 100 * (1 - np.array(yields) / np.array(most))
            print(f"{kind:8} {policy:13} median {np.median(gaps):5.2f} % max {gaps.max():5.2f} % n {len(gaps)}")
            assert gaps.min() > -1e-7


@pytest.mark.parametrize("policy", ["fixed", "homogeneous", "heterogeneous"])
def test_no_other_policy_is_better_than_exact(policy: str) -> None:
    for seed in range(40):
        scenario = random_scenario(seed)
        plan = make_plan(scenario, policy)
        assert plan.goodput_tokens_per_s <= make_plan(scenario, "exact").goodput_tokens_per_s * (1 + 1e-9), seed
        if policy != "fixed":
            assert min(plan.num_draft_tokens) >= 1
            assert goodput_of(scenario, tuple(plan.num_draft_tokens)) == pytest.approx(
                plan.goodput_tokens_per_s, rel=1e-6
            )


def test_the_theorem_is_the_best_common_length() -> None:
    random = np.random.default_rng(1)
    for _ in range(500):
        alpha, token_s, fixed_s = random.uniform(0.01, 0.995), random.uniform(1e-3, 0.1), random.uniform(1e-3, 2.0)
        yields = [(1 - alpha ** (n + 1)) / (1 - alpha) / (n * token_s + fixed_s) for n in range(1, 301)]
        found = best_common_length(alpha, token_s, fixed_s, 300)
        assert yields[found - 1] == pytest.approx(max(yields), rel=1e-12)


def test_a_user_in_a_deep_fade_drafts_nothing_and_holds_nobody_up() -> None:
    near = User(draft_s=0.01, alpha=0.9, snr=30.0, bits_per_token=3e4)
    far = User(draft_s=0.01, alpha=0.9, snr=1e-4, bits_per_token=3e4)
    plan = make_plan(Scenario(bandwidth_hz=5e6, verify=Verify(c0_s=0.05), user=(near, far)), "exact")
    assert plan.num_draft_tokens[0] > 0
    assert plan.num_draft_tokens[1] == 0
    assert plan.bandwidth_hz[1] == 0


def test_under_load_nobody_drafts() -> None:
    user = User(draft_s=0.01, alpha=0.6, snr=3.0)
    alone = make_plan(Scenario(bandwidth_hz=1e6, verify=Verify(0.05, per_row_s=0.01), user=(user,)), "exact")
    crowd = make_plan(Scenario(bandwidth_hz=1e6, verify=Verify(0.05, per_row_s=0.01), user=(user,) * 60), "exact")
    assert alone.num_draft_tokens[0] > 0
    assert set(crowd.num_draft_tokens) == {0}


def test_a_thousand_users_are_planned() -> None:
    random = np.random.default_rng(2)
    users = tuple(
        User(
            draft_s=float(random.uniform(0.005, 0.02)),
            alpha=float(random.uniform(0.4, 0.95)),
            snr=float(random.uniform(0.5, 30)),
            bits_per_token=float(random.uniform(50, 3e4)),
        )
        for _ in range(1000)
    )
    scenario = Scenario(bandwidth_hz=500e6, verify=Verify(c0_s=0.05, per_row_s=2e-5), user=users)
    plan = make_plan(scenario, "exact")
    assert sum(plan.bandwidth_hz) <= 500e6 * (1 + 1e-9)
    assert plan.is_proven is False
    assert plan.goodput_tokens_per_s > make_plan(scenario, "homogeneous").goodput_tokens_per_s
    assert plan.goodput_tokens_per_s > make_plan(scenario, "fixed").goodput_tokens_per_s
