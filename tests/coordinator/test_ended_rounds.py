"""How long the last round of an ended request is known, and of how many."""

from multispin_coordinator.ended_rounds import EndedRounds

SECOND = 1_000_000_000


def test_the_last_round_is_known_by_agent_and_request() -> None:
    ended = EndedRounds(keep_s=10.0)
    ended.add(b"a", 7, 5, 0)
    assert ended.last(b"a", 7) == 5
    assert ended.last(b"b", 7) == ended.last(b"a", 8) == -1


def test_a_request_that_ends_again_keeps_its_highest_round() -> None:
    ended = EndedRounds(keep_s=10.0)
    ended.add(b"a", 7, 5, 0)
    ended.add(b"a", 7, 3, SECOND)
    assert ended.last(b"a", 7) == 5


def test_what_is_old_and_what_is_too_many_is_forgotten() -> None:
    ended = EndedRounds(keep_s=10.0, most=2)
    ended.add(b"a", 1, 5, 0)
    ended.add(b"a", 2, 5, 11 * SECOND)
    assert [ended.last(b"a", request) for request in (1, 2)] == [-1, 5]
    ended.add(b"a", 3, 5, 11 * SECOND)
    ended.add(b"a", 4, 5, 11 * SECOND)
    assert [ended.last(b"a", request) for request in (2, 3, 4)] == [-1, 5, 5]
