"""Shares of an uplink: hand-worked, and the promise that all uploads end together."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multispin_coordinator.control.uplink import LEAST_PART, Uplink, equal_end_shares
from multispin_models.messages import Draft


@given(st.lists(st.tuples(st.floats(1.0, 1e5), st.floats(0.0, 2.0)), min_size=1, max_size=8), st.floats(100.0, 1e6))
def test_with_these_shares_all_drafting_and_uploads_end_at_one_time(
    users: list[tuple[float, float]], total: float
) -> None:
    sizes, drafting = (np.array(each) for each in zip(*users, strict=True))
    shares = equal_end_shares(total, sizes.tolist(), drafting.tolist())
    assert shares.sum() == pytest.approx(total)
    ends = drafting + sizes / shares
    assert ends.max() - ends.min() <= 1e-3 * ends.max() + 1e-9


def drafted(uplink: Uplink, agent: bytes, draft_us: int, num_bytes: int) -> None:
    for _ in range(3):
        uplink.on_draft(agent, Draft(1, 1, 1, (1, 2), draft_us), num_bytes)


def test_agents_have_equal_parts_until_something_is_known_of_two_of_them() -> None:
    uplink = Uplink(900.0, is_equal=False)
    assert uplink.welcome(b"a") == 900.0
    assert uplink.welcome(b"b") == 450.0
    assert uplink.changes() == {b"a": 450.0}
    assert uplink.changes() == {}
    drafted(uplink, b"a", 1, 100)
    assert uplink.changes() == {}
    drafted(uplink, b"b", 1, 200)
    assert uplink.changes() == {b"a": pytest.approx(300.0, rel=1e-3), b"b": pytest.approx(600.0, rel=1e-3)}
    uplink.forget(b"b")
    assert uplink.changes() == {b"a": 900.0}


def test_a_newcomer_has_an_equal_part_and_nobody_less_than_a_quarter_of_one() -> None:
    uplink = Uplink(900.0, is_equal=False)
    assert [uplink.welcome(agent) for agent in (b"a", b"b", b"c")] == [900.0, 450.0, 300.0]
    drafted(uplink, b"a", 1, 10)
    drafted(uplink, b"b", 1, 1000)
    news = uplink.changes()
    assert set(news) == {b"a", b"b"}
    assert news[b"a"] >= LEAST_PART * 300.0 * 0.8
    assert sum(news.values()) == pytest.approx(600.0)


def test_equal_shares_stay_equal() -> None:
    uplink = Uplink(900.0, is_equal=True)
    assert [uplink.welcome(agent) for agent in (b"a", b"b")] == [900.0, 450.0]
    drafted(uplink, b"a", 1, 10)
    drafted(uplink, b"b", 1, 1000)
    assert uplink.changes() == {b"a": 450.0}
