"""What goes into a pass: drafts first and oldest first, and prompts that neither stall nor starve."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multispin_coordinator.batcher import plan_pass
from multispin_coordinator.config import RESERVED_ROWS, Limits
from multispin_coordinator.session import Session
from multispin_models.messages import Open
from multispin_models.sampling import Sampling


def prompt(request_id: int, num_tokens: int) -> Session:
    """Return a session whose prompt is to be fed."""
    opened = Open(request_id, 0, (1,) * num_tokens, num_tokens, 100, Sampling())
    return Session(opened, b"a", 10_000)


def draft(request_id: int, num_drafted: int) -> Session:
    """Return a session whose draft is to be verified: num_drafted + 1 rows."""
    session = prompt(request_id, 3)
    session.tokens.append(1)
    session.num_cached, session.job = 3, None
    session.submit(1, [1] * num_drafted, 0)
    return session


def planned(sessions: list[Session], max_rows: int = 16, prefill_rows: int = 8) -> list[tuple[int, int, bool]]:
    shares = plan_pass(sessions, max_rows=max_rows, prefill_rows=prefill_rows, short_rows=5)
    return [(share.session.request_id, share.num_rows, share.is_last) for share in shares]


def test_nothing_to_do_is_an_empty_pass() -> None:
    assert planned([]) == []


def test_all_ready_drafts_go_into_one_pass_in_the_order_they_came() -> None:
    assert planned([draft(1, 4), draft(2, 0), draft(3, 2)]) == [(1, 5, True), (2, 1, True), (3, 3, True)]


def test_drafts_that_do_not_fit_wait_and_a_smaller_one_may_take_the_room() -> None:
    assert planned([draft(1, 4), draft(2, 4), draft(3, 4), draft(4, 4), draft(5, 0)]) == [
        (1, 5, True),
        (2, 5, True),
        (3, 5, True),
        (5, 1, True),
    ]


def test_the_oldest_draft_always_goes() -> None:
    drafts = [draft(number, 4) for number in range(1, 8)]
    for _ in range(7):
        going = planned(drafts)
        assert going[0][0] == drafts[0].request_id
        drafts = drafts[1:] + drafts[:1]


def test_a_long_prompt_goes_in_chunks_and_its_last_row_is_in_the_last() -> None:
    session = prompt(1, 20)
    chunks = []
    while session.job is not None:
        [(_, count, is_last)] = planned([session])
        chunks.append((count, is_last))
        if is_last:
            break
        session.fed(count)
    assert chunks == [(8, False), (8, False), (4, True)]


def test_a_short_prompt_goes_whole_like_a_draft() -> None:
    assert planned([prompt(1, 5), prompt(2, 40)]) == [(1, 5, True), (2, 8, False)]


def test_drafts_go_before_a_prompt_that_came_first() -> None:
    assert planned([prompt(1, 40), draft(2, 4)]) == [(2, 5, True), (1, 8, False)]


def test_drafts_that_could_fill_the_pass_leave_rows_for_a_prompt() -> None:
    drafts = [draft(number, 0) for number in range(2, 30)]
    going = planned([prompt(1, 40), *drafts])
    assert going[-1] == (1, RESERVED_ROWS, False)
    assert len(going) == 16 - RESERVED_ROWS + 1
    assert len(planned(drafts)) == 16, "with no prompt there all rows are the drafts'"


def test_the_oldest_prompt_takes_the_rows_and_the_next_gets_what_is_left() -> None:
    assert planned([prompt(1, 6), prompt(2, 40)]) == [(1, 6, True), (2, 2, False)]


def test_rows_that_are_scored_are_never_cut() -> None:
    session = draft(1, 4)
    session.lost_cache()  # 4 committed and 4 drafted tokens are to be fed; the last 5 rows are scored
    assert planned([session], prefill_rows=6) == [(1, 3, False)]
    session.fed(3)
    assert planned([session], prefill_rows=6) == [(1, 5, True)]


@given(
    jobs=st.lists(st.tuples(st.booleans(), st.integers(0, 60)), min_size=1, max_size=20),
    max_rows=st.integers(13, 40),
    prefill_rows=st.integers(8, 40),
)
def test_no_pass_is_too_large_and_all_jobs_end(jobs: list[tuple[bool, int]], max_rows: int, prefill_rows: int) -> None:
    waiting = [draft(i, n % 5) if is_draft else prompt(i, n + 1) for i, (is_draft, n) in enumerate(jobs)]
    total = sum(session.num_rows for session in waiting)
    for _ in range(total):
        if not waiting:
            break
        shares = plan_pass(waiting, max_rows=max_rows, prefill_rows=prefill_rows, short_rows=5)
        assert 0 < sum(share.num_rows for share in shares) <= max_rows
        assert len({id(share.session) for share in shares}) == len(shares)
        for share in shares:
            if share.is_last:
                assert share.num_rows == share.session.num_rows
                waiting.remove(share.session)
            else:
                share.session.fed(share.num_rows)
    assert not waiting


@given(
    older=st.lists(st.integers(1, 60), max_size=5),
    tracked=st.integers(1, 80),
    newcomers=st.lists(st.integers(0, 4), min_size=1, max_size=30),
    max_rows=st.integers(13, 40),
)
def test_a_prompt_is_done_within_its_bound_however_many_drafts_come(
    older: list[int], tracked: int, newcomers: list[int], max_rows: int
) -> None:
    waiting = [prompt(number, rows + 5) for number, rows in enumerate([*older, tracked])]
    last, rows = waiting[-1], sum(session.num_rows for session in waiting)
    bound = len(older) + 1 + -(-rows // RESERVED_ROWS)
    for number in range(bound + 1):
        assert number < bound, "it starves"
        waiting += [draft(1000 + number * 100 + index, length) for index, length in enumerate(newcomers)]
        shares = plan_pass(waiting, max_rows=max_rows, prefill_rows=8, short_rows=5)
        for share in shares:
            if not share.is_last:
                share.session.fed(share.num_rows)
        ended = {id(share.session) for share in shares if share.is_last}
        waiting = [session for session in waiting if id(session) not in ended]
        if id(last) in ended:
            return


@given(
    lengths=st.lists(st.integers(0, 4), min_size=1, max_size=30),
    newcomers=st.lists(st.integers(0, 4), max_size=10),
    max_rows=st.integers(13, 40),
)
def test_a_draft_goes_within_as_many_passes_as_there_are_older_ones(
    lengths: list[int], newcomers: list[int], max_rows: int
) -> None:
    waiting = [prompt(0, 500), *[draft(1 + number, length) for number, length in enumerate(lengths)]]
    last = waiting[-1]
    for number in range(len(lengths)):
        waiting += [draft(1000 + number * 100 + index, length) for index, length in enumerate(newcomers)]
        shares = plan_pass(waiting, max_rows=max_rows, prefill_rows=8, short_rows=5)
        gone = {id(share.session) for share in shares if share.is_last}
        waiting = [session for session in waiting if id(session) not in gone]
        if last not in waiting:
            return
    raise AssertionError("it starves")


@pytest.mark.parametrize(
    "limits", [{"max_rows": 24, "max_draft_tokens": 16}, {"max_rows": 8}, {"max_rows": 64, "max_draft_tokens": 64}]
)
def test_limits_under_which_a_draft_would_never_fit_are_refused(limits: dict[str, int]) -> None:
    with pytest.raises(msgspec.ValidationError, match=r"max_rows is \d+, allowed are at least \d+"):
        msgspec.convert(limits, Limits)
    assert msgspec.convert({"max_rows": 25, "max_draft_tokens": 16}, Limits).max_rows == 25


def test_an_agent_timeout_that_makes_pings_too_rare_for_the_wire_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"agent_timeout_s": 14_401.0}, Limits)
