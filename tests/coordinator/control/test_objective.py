"""What is aimed at: fair weights, the watts of all ends, what is missing of them, and what follows for the lengths."""

import itertools
from typing import Any

import msgspec
import numpy as np
import pytest

from multispin_coordinator.config import Config
from multispin_coordinator.control.objective import Power, Rates, Watts, weights_of
from multispin_coordinator.control.online import Control
from multispin_coordinator.control.policies import POLICIES
from multispin_coordinator.control.price import price
from multispin_coordinator.control.view import ALONE, User, View
from multispin_models.messages import Condition, Hello

L_MAX = 8
SECOND = 1_000_000_000


def user(alpha: float = 0.8, draft_s: float = 0.002, **changes: Any) -> User:
    values = {"network_s": 0.001, "drafts_ahead": False, "is_alone": False, "late_s": 0.0} | changes
    return User(draft_s, survival=np.asarray(alpha ** np.arange(L_MAX + 1.0)), **values)


def view(*users: User, watts: Watts | None = None, c0_s: float = 0.015, per_row_s: float = 0.001) -> View:
    return View(users, c0_s, per_row_s, watts=watts)


# -- fairness --


def test_a_request_that_has_half_the_rate_weighs_twice_as_much() -> None:
    rates = Rates()
    assert rates.update({1: 100, 2: 100}, 0) == {}
    assert rates.update({1: 140, 2: 120, 3: 7}, 2 * SECOND) == {1: 20.0, 2: 10.0}
    later = rates.update({1: 140, 3: 17}, 4 * SECOND)  # nothing in 2 of the 10 s that count
    assert later == {1: pytest.approx(16.0), 3: 5.0}
    first, second, new = weights_of([20.0, 10.0, None])
    assert (second / first, new) == (2.0, 1.0)


def test_a_request_without_any_token_does_not_weigh_more_than_eight() -> None:
    assert max(weights_of([0.0, 10.0])) <= 8.0


def test_rows_go_to_the_users_that_have_had_less() -> None:
    def lengths(policy: str, *weights: float) -> list[int]:
        users = [user(weight=weight) for weight in weights]
        return [choice.num_draft_tokens for choice in POLICIES[policy](view(*users, per_row_s=0.002))]

    assert len(set(lengths("price", *[1.0] * 6))) == 1
    drafted = lengths("price", *[0.1] * 3, *[1.9] * 3)
    assert sum(drafted[3:]) > sum(drafted[:3])
    few, many = lengths("exact", 0.1, 1.9)
    assert many > few


# -- joules --


def told(watts: float, label: str = "measured") -> Condition:
    return Condition("a draft", round(watts * 1e3), label)  # type: ignore[arg-type]


def metered() -> Power:
    power = Power("measured", idle_w=10.0)
    power.on_pass(3.0, 0.1)  # 30 W
    return power


def test_what_is_missing_is_said() -> None:
    assert Power().watts([]) == "the coordinator's idle power is not known: it has no meter"
    why = "not asked for (idle_s is 0)"
    assert Power("measured", None, why).watts([]) == f"the coordinator's idle power is not known: {why}"
    assert Power("measured", 10.0).watts([]) == "no pass has been metered yet"
    power = metered()
    power.joined(b"a")
    assert power.watts([b"a"]) == "the power of a is not known: it has not told it yet"
    reason = "this machine has no meter"
    power.on_condition(b"a", Condition("a draft", power_reason=reason), 0)
    assert power.watts([b"a"]) == f"the power of a is not known: it {reason}"
    for at_s in (1, 2):
        power.on_condition(b"a", told(4.0, "modelled"), at_s * SECOND)
    assert power.watts([b"a"]) == "the joules of a are modelled, the coordinator's measured: they do not add up"


def test_the_watts_of_all_ends_are_summed_and_drafting_is_what_a_box_draws_more() -> None:
    power = metered()
    for name in (b"a", b"b"):
        power.joined(name)
        for at_s in (0, 5, 10):
            power.on_condition(name, told(4.0), at_s * SECOND)
    for tenth in range(100, 151):
        power.on_draft(b"a", tenth * SECOND // 10)
    power.on_condition(b"a", told(7.0), 15 * SECOND)
    power.on_draft(b"b", 12 * SECOND)  # for a moment of five seconds: neither at work nor not
    power.on_condition(b"b", told(5.0), 15 * SECOND)
    watts = power.watts([b"a", b"", b"a", b"b"])
    assert isinstance(watts, Watts)
    assert (watts.base_w, watts.verify_w) == (18.0, 20.0)
    assert watts.draft_w.tolist() == [1.5, 0.0, 1.5, 0.0], "two requests share a box; the coordinator's own has none"
    both_draft = np.array([[1.0, 0.0, 1.0, 0.0]])
    assert watts.of(np.array([0.5]), both_draft).tolist() == [31.0]
    power.forget(b"a")
    assert isinstance(watts := power.watts([b"b"]), Watts)
    assert watts.base_w == 14.0


def test_a_box_that_draws_much_is_left_alone_though_it_would_be_faster() -> None:
    assert price(view(user())) != [ALONE]
    assert price(view(user(), watts=Watts(10.0, 20.0, np.array([1.0])))) != [ALONE]
    assert price(view(user(), watts=Watts(10.0, 20.0, np.array([100.0])))) == [ALONE]


def test_the_solver_finds_the_most_tokens_per_joule_of_alike_boxes() -> None:
    watts = Watts(5.0, 20.0, np.array([8.0, 8.0]))
    seen = view(user(0.9), user(0.7), watts=watts)

    def tokens_per_joule(lengths: tuple[int, ...]) -> float:
        """Of a synchronous round, by hand."""
        drafting_s = [0.002 * length for length in lengths]
        verify_s = 0.015 + 0.001 * sum(length + 1 for length in lengths)
        tokens = sum(each.survival[: length + 1].sum() for each, length in zip(seen.users, lengths, strict=True))
        joules = 5.0 * (max(drafting_s) + 0.001 + verify_s) + 20.0 * verify_s + 8.0 * sum(drafting_s)
        return float(tokens / joules)

    best = max(itertools.product(range(L_MAX + 1), repeat=2), key=tokens_per_joule)
    found = tuple(choice.num_draft_tokens for choice in POLICIES["exact"](seen))
    assert tokens_per_joule(found) == pytest.approx(tokens_per_joule(best), rel=1e-9)
    assert found != tuple(choice.num_draft_tokens for choice in POLICIES["exact"](seen._replace(watts=None)))


class Request:
    def __init__(self, request_id: int, agent: bytes) -> None:
        self.request_id, self.agent = request_id, agent
        self.tokens: list[int] = []


def test_without_meters_goodput_counts_and_the_control_says_why() -> None:
    power = Power("measured", 10.0)
    control = Control("price", L_MAX, "tokens_per_joule", power)
    control.on_hello(b"a", Hello(6, "a", "1", "toy", "toy", "1"))
    open_requests = [Request(1, b"a")]
    control.grant(1, b"a", open_requests, 2 * SECOND)
    assert control.aim == ("goodput", "no pass has been metered yet")
    control.on_joules(0.3, 0.01)
    control.on_condition(b"a", told(4.0), 2 * SECOND)
    control.on_condition(b"a", told(4.0), 7 * SECOND)
    control.grant(1, b"a", open_requests, 8 * SECOND)
    assert control.aim == ("tokens_per_joule", None)


@pytest.mark.parametrize("policy", ["fixed", "alone", "lookup", "homogeneous", "heterogeneous"])
def test_only_policies_that_can_aim_at_it_are_asked_to(policy: str) -> None:
    settings = {"policy": policy, "objective": "fair_goodput"}
    with pytest.raises(msgspec.ValidationError, match="only the policies exact and price aim at something else"):
        msgspec.convert(settings, Config)
    assert msgspec.convert({**settings, "policy": "exact"}, Config).objective == "fair_goodput"
