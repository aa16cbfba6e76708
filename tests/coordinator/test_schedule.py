"""Which drafts are verified together, and how long one waits for others."""

import pytest

from multispin_coordinator.schedule import Schedule
from multispin_coordinator.session import Session
from multispin_models.messages import Open
from multispin_models.sampling import Sampling
from multispin_models.verification import Verification

MS = 1_000_000


def opened(request_id: int) -> Session:
    """Return a request whose prompt is to be computed."""
    return Session(Open(request_id, 0, (1, 2, 3), 3, 100, Sampling()), b"a", 200)


def drafting(request_id: int) -> Session:
    """Return a request that waits for its draft."""
    session = opened(request_id)
    session.commit(Verification(0, 4), frozenset())
    return session


def ready(request_id: int, at_ms: int = 0) -> Session:
    """Return a request whose draft came at a time."""
    session = drafting(request_id)
    session.submit(1, [5], at_ms * MS)
    return session


def chosen(schedule: Schedule, sessions: list[Session], at_ms: int = 0) -> list[int]:
    waiting = [session for session in sessions if session.job is not None]
    return [session.request_id for session in schedule.choose(sessions, waiting, at_ms * MS)]


def done(*sessions: Session) -> None:
    for session in sessions:
        session.commit(Verification(0, 4), frozenset())


def test_continuous_takes_whatever_is_ready() -> None:
    assert chosen(Schedule("continuous", 1.0), [ready(1), drafting(2), ready(3), opened(4)]) == [1, 3, 4]


def test_a_barrier_waits_for_every_draft() -> None:
    schedule, late = Schedule("barrier", 1.0), drafting(2)
    sessions = [ready(1), late, ready(3)]
    assert chosen(schedule, sessions) == []
    late.submit(1, [5], 10 * MS)
    assert chosen(schedule, sessions, 10) == [1, 2, 3]


def test_a_prompt_is_computed_meanwhile_and_takes_part_after_it() -> None:
    schedule, newcomer = Schedule("barrier", 1.0), opened(2)
    sessions = [ready(1), newcomer, drafting(3)]
    assert chosen(schedule, sessions) == [2]
    done(newcomer)
    sessions[2].submit(1, [5], 0)
    assert chosen(schedule, sessions) == [], "the newcomer has its first token, and drafts"


def test_what_did_not_fit_into_the_pass_goes_into_the_next_without_waiting_again() -> None:
    schedule, sessions = Schedule("barrier", 1.0), [ready(1), ready(2)]
    assert chosen(schedule, sessions) == [1, 2]
    done(sessions[0])
    assert chosen(schedule, sessions) == [2]
    done(sessions[1])
    sessions[0].submit(2, [5], 5 * MS)
    assert chosen(schedule, sessions, 5) == []


@pytest.mark.parametrize("name", ["barrier", "groups"])
def test_a_draft_waits_no_longer_than_the_patience(name: str) -> None:
    sessions = [ready(1, at_ms=100), drafting(2), drafting(3)]
    schedule = Schedule(name, 0.5)
    assert chosen(schedule, sessions, 599) == []
    assert chosen(schedule, sessions, 600) == [1]


def test_the_end_of_a_request_opens_its_barrier() -> None:
    schedule, sessions = Schedule("barrier", 1.0), [ready(1), drafting(2)]
    assert chosen(schedule, sessions) == []
    assert chosen(schedule, sessions[:1]) == [1]


def test_two_groups_take_turns() -> None:
    schedule = Schedule("groups", 1.0)
    sessions = [ready(number, at_ms=number) for number in (1, 2, 3, 4)]
    assert chosen(schedule, sessions, 5) == [1, 3], "the group whose first draft came first"
    done(sessions[0], sessions[2])
    assert chosen(schedule, sessions, 10) == [2, 4]
    sessions[0].submit(2, [5], 12 * MS)
    done(sessions[1], sessions[3])
    assert chosen(schedule, sessions, 12) == [], "request 3 still drafts"
    sessions[2].submit(2, [5], 13 * MS)
    assert chosen(schedule, sessions, 13) == [1, 3]


def test_a_new_request_joins_the_smaller_group() -> None:
    schedule = Schedule("groups", 1.0)
    first, second, third = ready(1), ready(2), ready(3)
    assert chosen(schedule, [first, second]) == [1]
    assert chosen(schedule, [second, third]) == [2], "3 takes the place of 1, which is done"
    done(second)
    assert chosen(schedule, [second, third]) == [3]


def test_of_three_groups_one_is_verified_while_the_others_draft() -> None:
    schedule = Schedule("groups", 10.0, num_groups=3)
    sessions = [drafting(request_id) for request_id in range(1, 7)]
    assert chosen(schedule, sessions) == []  # assigned: 1 and 4, 2 and 5, 3 and 6
    for session, at_ms in zip(sessions, (5, 1, 2, 6, 7, 3), strict=True):
        session.submit(1, [5], at_ms * MS)
        if session.request_id == 4:
            assert chosen(schedule, sessions, 6) == [1, 4], "2 waits for 5, and 3 for 6"
            done(sessions[0], sessions[3])
    assert chosen(schedule, sessions, 7) == [2, 5]
    done(sessions[1], sessions[4])
    assert chosen(schedule, sessions, 8) == [3, 6]


@pytest.mark.parametrize("num_groups", [2, 3, 5, 64])
def test_no_draft_waits_for_more_than_its_patience_and_a_pass_of_each_group(num_groups: int) -> None:
    schedule = Schedule("groups", 0.010, num_groups)
    sessions = [drafting(request_id) for request_id in range(2 * num_groups)]
    chosen(schedule, sessions)
    for session in sessions[:num_groups]:  # of each group one; the other never comes
        session.submit(1, [5], 0)
    assert chosen(schedule, sessions, 9) == []
    left = set(range(num_groups))
    for _ in range(num_groups):
        found = chosen(schedule, sessions, 10)
        assert len(found) == 1
        done(sessions[found[0]])
        left -= set(found)
    assert not left
