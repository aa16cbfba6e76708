"""The setting of the Multi-SPIN paper (arXiv 2606.04581, section V), simulated: its four policies, and ours beside.

Stated by the paper: K = 20 users, one server, 5 to 20 MHz, mean channel gain H ~ U(0.2, 0.5) with Rayleigh fading,
longest draft 25, draft time per token x U(0.85, 1.15), mean acceptance by task and that it differs by prompt with a
standard deviation of 0.15 to 0.34, verification T_fix + K T_lin that does not depend on lengths, 1,024 entries of 16
bit and an id each per drafted token, downlink free, a synchronous round.

Not stated, and assumed here: 12 ms mean draft time per token; SNR = 30 h for a channel gain h (its transmit power is
not given); a realisation keeps its channel and its prompts; five users on each of the four tasks, each user's
acceptance from a beta distribution around its task's with standard deviation 0.15, each token accepted by itself; texts
without end. So the figures are not the paper's; what can be compared is their order.

Ours: token ids alone (`coupled`), every user 1/20 of the band, no barrier (`continuous`), drafting ahead, one length
for all. At temperature 0 the acceptance is the paper's; when sampling, shared noise accepts at least alpha / (2 -
alpha) where rejection sampling accepts alpha (arXiv 2408.07978), and that bound is shown, too.
"""

import math
import random
from collections.abc import Iterator, Sequence
from statistics import mean, stdev
from typing import Final

import msgspec
from msgspec import Struct

from multispin.simulate.scenario import AgentGroup, Coordinator, Link, SimulatedScenario
from multispin.simulate.world import run_scenario
from multispin_coordinator.config import Limits
from multispin_coordinator.control.plan import Plan, make_plan
from multispin_coordinator.control.scenario import Scenario, User, Verify

__all__ = [
    "ALPHA_STD",
    "PAIRS",
    "PAPER_POLICIES",
    "PaperPair",
    "Point",
    "draw_users",
    "plan_of",
    "simulate_paper",
    "simulate_policy",
]

NUM_USERS: Final = 20
L_MAX: Final = 25
DRAFT_S: Final = 0.012
SNR_AT_GAIN_1: Final = 30.0
ALPHA_STD: Final = 0.15
BANDS_MHZ: Final = (5.0, 10.0, 20.0)
PAPER_POLICIES: Final = ("fixed", "homogeneous", "uniform_bandwidth", "heterogeneous")
LENGTHS: Final = (8, 16)  # of ours
SETTLED_S: Final = 5.0  # from when on tokens are counted
RUN_S: Final = 25.0
MAX_TOKENS: Final = 4000


class PaperPair(Struct, frozen=True):
    """A pair of models as the paper measured it.

    Attributes:
        fixed_s, per_user_s: of a verification.
        alphas: of MBPP+, GSM8K, MT-Bench, SQuAD.
        bits_per_token: 1,024 entries of 16 bit and an id.
    """

    name: str
    fixed_s: float
    per_user_s: float
    alphas: tuple[float, ...]
    bits_per_token: int


PAIRS: Final = (
    PaperPair("TinyLlama-1.1B / Llama-2-7B", 0.02268, 0.01272, (0.858, 0.739, 0.739, 0.713), 31_744),
    PaperPair("Qwen3.5-0.8B / Qwen3.5-27B", 0.07507, 0.01978, (0.810, 0.934, 0.932, 0.965), 34_816),
)


class Point(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One policy at one bandwidth. All modelled.

    Attributes:
        pair, bandwidth_mhz, policy: which; ours is "coupled L", and "coupled L, bound" with the least acceptance.
        goodput_tokens_per_s: simulated with the daemons' code, mean over realisations.
        standard_error: of it; null for one realisation.
        planned_tokens_per_s: of the paper's formula, for its policies.
        num_realisations: of channel and users.
    """

    pair: str
    bandwidth_mhz: float
    policy: str
    goodput_tokens_per_s: float
    standard_error: float | None
    planned_tokens_per_s: float | None
    num_realisations: int


def draw_users(pair: PaperPair, seed: int, alpha_std: float = ALPHA_STD) -> tuple[User, ...]:
    """Return the users of one realisation."""
    rng = random.Random(f"paper/{seed}")  # noqa: S311
    users = []
    for index in range(NUM_USERS):
        gain = rng.uniform(0.2, 0.5) * rng.expovariate(1.0)
        draft_s = DRAFT_S * rng.uniform(0.85, 1.15)
        alpha = _around(pair.alphas[index % len(pair.alphas)], alpha_std, rng)
        users.append(User(draft_s, alpha=alpha, snr=SNR_AT_GAIN_1 * gain, bits_per_token=pair.bits_per_token))
    return tuple(users)


def _around(alpha: float, std: float, rng: random.Random) -> float:
    """Return an acceptance with this mean; near 1 there is room for less than this standard deviation."""
    std = min(std, 0.9 * math.sqrt(alpha * (1 - alpha)))
    if std == 0:
        return alpha
    weight = alpha * (1 - alpha) / std**2 - 1
    return min(max(rng.betavariate(alpha * weight, (1 - alpha) * weight), 0.01), 0.995)


def _goodput(pair: PaperPair, groups: tuple[AgentGroup, ...], schedule: str, seed: int) -> float:
    """Return the tokens per second of agents, from when they have settled."""
    limits = Limits(
        max_sessions=NUM_USERS,
        max_context_tokens=MAX_TOKENS + 2,
        max_draft_tokens=L_MAX,
        max_rows=NUM_USERS * (L_MAX + 1) + 8,
    )
    coordinator = Coordinator(pair.fixed_s, per_user_s=pair.per_user_s, limits=limits)
    coordinator = msgspec.structs.replace(coordinator, schedule=schedule)
    world = run_scenario(SimulatedScenario(coordinator, groups, seed=seed, duration_s=RUN_S), {})
    count = 0
    for served in world.requests:
        before = max((tokens for at_s, tokens in served.pieces if at_s < SETTLED_S), default=0)
        count += len(served.written) - before
    return count / (RUN_S - SETTLED_S)


def _group(user: User, num_draft_tokens: int, share_hz: float, *, alpha: float, ahead: bool, bits: float) -> AgentGroup:
    assert user.snr is not None
    rate = max(share_hz * math.log2(1 + user.snr), 1.0)
    return AgentGroup(
        user.draft_s,
        alpha=alpha,
        num_draft_tokens=num_draft_tokens,
        draft_ahead=ahead,
        prompt_tokens=2,
        max_tokens=MAX_TOKENS,
        link=Link(uplink_bit_per_s=rate, bits_per_drafted_token=bits),
    )


def plan_of(pair: PaperPair, users: tuple[User, ...], policy: str, band_hz: float) -> Plan:
    """Return lengths, shares and goodput of a policy of the paper, by its formulas."""
    verify = Verify(c0_s=pair.fixed_s, per_user_s=pair.per_user_s)
    return make_plan(Scenario(bandwidth_hz=band_hz, verify=verify, user=users, l_max=L_MAX), policy)


def simulate_policy(pair: PaperPair, users: tuple[User, ...], plan: Plan, seed: int) -> float:
    """Return the tokens per second of a plan, simulated: distributions uploaded, a barrier before each verification."""
    groups = tuple(
        _group(user, length, share, alpha=user.alpha or 0.0, ahead=False, bits=user.bits_per_token)
        for user, length, share in zip(users, plan.num_draft_tokens, plan.bandwidth_hz, strict=True)
    )
    return _goodput(pair, groups, "barrier", seed)


def _ours(pair: PaperPair, users: tuple[User, ...], length: int, band_hz: float, seed: int, *, bound: bool) -> float:
    groups = tuple(
        _group(user, length, band_hz / NUM_USERS, alpha=_alpha(user, bound=bound), ahead=True, bits=0.0)
        for user in users
    )
    return _goodput(pair, groups, "continuous", seed)


def _alpha(user: User, *, bound: bool) -> float:
    alpha = user.alpha or 0.0
    return alpha / (2 - alpha) if bound else alpha


def simulate_paper(
    num_realisations: int, alpha_std: float = ALPHA_STD, bands_mhz: Sequence[float] = BANDS_MHZ
) -> Iterator[Point]:
    """Yield every policy at every bandwidth for both pairs, each over the same realisations.

    Args:
        num_realisations: of channel and users.
        alpha_std: of the users' acceptance around their task's.
        bands_mhz: bandwidths.
    """
    for pair in PAIRS:
        drawn = [draw_users(pair, seed, alpha_std) for seed in range(num_realisations)]
        for band_mhz in bands_mhz:
            band_hz = band_mhz * 1e6
            for policy in PAPER_POLICIES:
                plans = [plan_of(pair, users, policy, band_hz) for users in drawn]
                found = [
                    simulate_policy(pair, users, plan, seed)
                    for seed, (users, plan) in enumerate(zip(drawn, plans, strict=True))
                ]
                yield _point(pair, band_mhz, policy, found, mean(plan.goodput_tokens_per_s for plan in plans))
            for bound in (False, True):
                for length in LENGTHS:
                    found = [_ours(pair, users, length, band_hz, seed, bound=bound) for seed, users in enumerate(drawn)]
                    yield _point(pair, band_mhz, f"coupled {length}{', bound' if bound else ''}", found, None)


def _point(pair: PaperPair, band_mhz: float, policy: str, found: list[float], planned: float | None) -> Point:
    return Point(
        pair=pair.name,
        bandwidth_mhz=band_mhz,
        policy=policy,
        goodput_tokens_per_s=mean(found),
        standard_error=stdev(found) / math.sqrt(len(found)) if len(found) > 1 else None,
        planned_tokens_per_s=planned,
        num_realisations=len(found),
    )
