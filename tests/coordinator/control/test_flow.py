"""What lengths yield in the mean: hand-worked rounds, and the lengths and prices that follow."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multispin_coordinator.control.flow import flow_of
from multispin_coordinator.control.policies import POLICIES
from multispin_coordinator.control.price import price, promise
from multispin_coordinator.control.view import ALONE, User, View

L_MAX = 8


def user(alpha: float = 0.8, draft_s: float | None = 0.002, **changes: Any) -> User:
    values = {"network_s": 0.001, "drafts_ahead": False, "is_alone": False, "late_s": 0.0} | changes
    return User(draft_s, survival=np.asarray(alpha ** np.arange(L_MAX + 1.0)), **values)


def view(*users: User, c0_s: float = 0.015, per_row_s: float = 0.001) -> View:
    return View(users, c0_s, per_row_s)


def yields(seen: View, *lengths: int) -> list[float]:
    return list(flow_of(seen).rates(np.array([lengths])).rates[0])


def test_one_user_without_draft_ahead_waits_for_every_part_of_its_round() -> None:
    # 3 drafted in 6 ms, 1 ms of network, a pass of 4 rows in 19 ms; 1 + 0.8 + 0.64 + 0.512 tokens.
    assert yields(view(user()), 3) == pytest.approx([2.952 / 0.026])


def test_alone_a_user_has_a_token_a_pass() -> None:
    assert yields(view(user()), 0) == pytest.approx([1 / 0.016])
    assert yields(view(user(), user(), user()), 0, 0, 0) == pytest.approx([1 / 0.018] * 3)


def test_where_a_lone_row_is_cheap_the_coordinator_alone_gets_more_and_a_draft_does_not() -> None:
    bent = view(user())._replace(bend=(np.array([1.0, 2.0]), np.array([-0.004, 0.0])))
    assert yields(bent, 0) == pytest.approx([1 / 0.012])
    assert yields(bent, 3) == pytest.approx(yields(view(user()), 3))


def test_what_passes_with_drafts_take_more_is_theirs_alone() -> None:
    burdened = view(user())._replace(burden_s=0.010)
    assert yields(burdened, 0) == yields(view(user()), 0)
    assert yields(burdened, 3) == pytest.approx([2.952 / 0.036])


def test_with_draft_ahead_a_right_guess_hides_the_drafting() -> None:
    # The next 3 and the bonus token are drafted in 8 ms of the 20 of a round trip; 0.8^4 hit.
    hit = 0.8**4
    expected_s = hit * 0.020 + (1 - hit) * 0.026
    assert yields(view(user(drafts_ahead=True)), 3) == pytest.approx([2.952 / expected_s])


def test_drafting_that_is_slower_than_the_round_is_hidden_in_part() -> None:
    # 4 tokens in 40 ms, 20 of them hidden; a wrong guess is found out 5 ms later in the mean.
    slow = user(1.0, 0.010, drafts_ahead=True)
    assert yields(view(slow), 3) == pytest.approx([4 / 0.040])


def test_beside_a_user_that_goes_on_alone_a_round_is_a_whole_number_of_passes() -> None:
    cooperating, alone = yields(view(user(), user()), 3, 0)
    # Gap of 7 ms, so every second pass: half of them have 5 rows, half 1; in the mean 3.
    assert cooperating == pytest.approx(2.952 / 0.040)
    assert alone == pytest.approx(1 / 0.018)


def test_rounds_that_come_late_count_as_long_as_they_are() -> None:
    assert yields(view(user(late_s=0.010)), 3) == pytest.approx([2.952 / 0.036])
    assert yields(view(user(late_s=-1.0)), 3) == pytest.approx([2.952 / 0.013])


# -- price --


def best_length(seen: View) -> int:
    """Return the length with the largest goodput of one user, by trying all."""
    return max(range(L_MAX + 1), key=lambda length: yields(seen, length)[0])


@settings(deadline=None, max_examples=150)
@given(
    alpha=st.floats(0.05, 0.98),
    draft_s=st.floats(0.0005, 0.02),
    per_row_s=st.floats(0.0, 0.01),
    drafts_ahead=st.booleans(),
)
def test_one_users_length_is_the_best_and_an_agent_finds_it_by_the_price(
    alpha: float, draft_s: float, per_row_s: float, drafts_ahead: bool
) -> None:
    seen = view(user(alpha, draft_s, drafts_ahead=drafts_ahead), per_row_s=per_row_s)
    [choice] = price(seen)
    length = best_length(seen)
    if length == 0:
        assert choice == ALONE
        return
    survival = seen.users[0].survival
    drafted = sum(survival[1 : choice.num_draft_tokens + 1] >= choice.price)
    assert yields(seen, drafted)[0] == pytest.approx(yields(seen, length)[0])
    assert choice.round_s is not None


@settings(deadline=None, max_examples=60)
@given(
    users=st.lists(
        st.builds(user, st.floats(0.1, 0.95), st.none() | st.floats(0.0005, 0.02), drafts_ahead=st.booleans()),
        min_size=1,
        max_size=6,
    ),
    per_row_s=st.floats(0.0, 0.01),
)
def test_what_is_chosen_is_never_below_the_coordinator_alone(users: list[User], per_row_s: float) -> None:
    seen = view(*users, per_row_s=per_row_s)
    survival = [each.survival for each in users]
    choices = price(seen)
    lengths = [
        0 if choice == ALONE else int(sum(mine[1 : choice.num_draft_tokens + 1] >= choice.price))
        for choice, mine in zip(choices, survival, strict=True)
    ]
    assert sum(yields(seen, *lengths)) >= sum(yields(seen, *[0] * len(users))) * (1 - 1e-9)
    assert all(choice == ALONE for choice, each in zip(choices, users, strict=True) if each.draft_s is None)


def test_the_price_rises_with_load_until_the_coordinator_is_alone() -> None:
    # Of 4 ms a row, a draft of a lone user is worth its rows; those of twelve are not.
    few, many = (price(view(*[user(0.6)] * count, per_row_s=0.004)) for count in (1, 12))
    assert few[0].num_draft_tokens > 0
    assert few[0].price < 0.6
    assert many == [ALONE] * 12


def test_an_agent_that_is_at_work_goes_on_for_less_than_one_that_is_not() -> None:
    # 1.7 tokens in 27.1 ms, against one in 16: 0.4 % to be won.
    nearly = {"alpha": 0.7, "draft_s": 0.0091}
    assert yields(view(user(**nearly)), 1)[0] == pytest.approx(1.004 / 0.016, rel=1e-3)
    assert price(view(user(**nearly)))[0].num_draft_tokens > 0
    assert price(view(user(**nearly, is_alone=True))) == [ALONE]


def test_what_cooperation_promises_is_known_without_trying_it() -> None:
    slow, quick = user(0.9, 0.05, is_alone=True), user(0.9, 0.001, is_alone=True)
    assert promise(view(slow, slow), [ALONE, ALONE], 1) < 0.95
    assert promise(view(quick), [ALONE], 0) > 1.3
    assert promise(view(user(draft_s=None)), [ALONE], 0) < 1.0, "of whom nothing is known, as slow as a pass"


@pytest.mark.parametrize("name", ["homogeneous", "heterogeneous", "exact"])
def test_the_solvers_of_known_scenarios_take_what_was_measured(name: str) -> None:
    quick, slow = POLICIES[name](view(user(0.9, 0.001), user(0.9, 0.006)))
    assert quick.num_draft_tokens >= slow.num_draft_tokens
    assert quick.num_draft_tokens > 0
    if name != "homogeneous":
        assert quick.num_draft_tokens > slow.num_draft_tokens


def test_fixed_leaves_the_length_to_the_agents() -> None:
    [choice] = POLICIES["fixed"](view(user()))
    assert (choice.num_draft_tokens, choice.price) == (64, 0.0)
