"""The journal and the feed: what happened, in rings with ends; what a viewer is told of it, and what it is not."""

import msgspec
import pytest

from multispin_coordinator.page.feed import Begin, Feed, PageEvent
from multispin_coordinator.page.journal import (
    ENDED_KEPT,
    LOST_KEPT,
    PASSES_KEPT,
    ROUNDS_KEPT,
    SECONDS_KEPT,
    PageJournal,
)
from multispin_coordinator.passes import PassTiming
from multispin_models.messages import PROTOCOL_VERSION, Condition, Hello, UndecidedVerdict, Verdict

MS = 1_000_000
BEGIN = Begin("0.1.0", "toy", "BF16", "toy", True, "fixed", "continuous", None, "no meter")


def hello(name: str) -> Hello:
    return Hello(PROTOCOL_VERSION, name, "0.1.0", "toy", "f" * 64, "i")


def verdict(
    request_id: int, round_number: int, accepted: int, *, at_ms: int = 0, finish: int = 0, alone: bool = False
) -> Verdict:
    return Verdict(request_id, round_number, accepted, 9, finish, at_ms * MS, 7000, 4000, 5, 2_000_000, alone=alone)


def look(journal: PageJournal, now_ms: int = 0, *, texts_reason: str | None = None) -> PageEvent:
    feed = Feed(journal, BEGIN, lambda token: bytes([0xC3, 0xA9]) if token == 9 else bytes([96 + token]))
    return feed.since(None, now_ms * MS, texts_reason=texts_reason)[0]


def started(*, keeps_tokens: bool = True) -> PageJournal:
    """An agent with one request, whose first token was sent at 17 ms and whose draft came at 30."""
    journal = PageJournal(0, keeps_tokens=keeps_tokens)
    journal.joined(b"a", hello("a"))
    journal.opened(b"a", 7, 3, 5 * MS)
    journal.judged((), verdict(7, 0, 0, at_ms=10), 17 * MS)
    journal.timed(b"a", 1000, 5000)
    journal.judged((1, 2, 3), verdict(7, 1, 2, at_ms=30), 37 * MS)
    return journal


def test_a_round_says_what_became_of_its_draft_and_where_its_time_went() -> None:
    opening, draft = look(started()).rounds
    assert opening == (2, 0, "open", 0, 0, [], "\xc3\xa9", 0, 17_000, None, None, None, 3000, 4000, 5, 2_000_000)
    # away: from 17 ms, when the verdict before was sent, to 30; queue: 7 ms at the coordinator less 4 of its passes
    assert draft == (
        2,
        1,
        "draft",
        3,
        2,
        ["a", "b", "c"],
        "\xc3\xa9",
        0,
        37_000,
        13_000,
        3000,
        5000,
        3000,
        4000,
        5,
        2_000_000,
    )


def test_an_agents_row_has_its_figures_and_a_reason_for_each_that_is_missing() -> None:
    journal = started()
    [row] = look(journal).agents
    assert (row.state, row.num_open, row.acceptance, row.length) == ("drafting", 1, pytest.approx(2 / 3), 3.0)
    assert (row.link_s, row.draft_s, row.power_w, row.temperature_c, row.draft) == (0.005, 0.001, None, None, None)
    assert row.reasons == dict.fromkeys(("draft", "power_w", "temperature_c"), "the agent has not told yet")
    journal.told(b"a", Condition("toy Q8", 2500, "modelled", None, None, "no zone"))
    [row] = look(journal).agents
    assert (row.draft, row.power_w, row.power_label, row.reasons) == (
        "toy Q8",
        2.5,
        "modelled",
        {"temperature_c": "no zone"},
    )


def test_an_agent_that_has_done_nothing_has_reasons_in_place_of_figures() -> None:
    journal = PageJournal(0, keeps_tokens=True)
    journal.joined(b"a", hello("a"))
    [row] = look(journal).agents
    assert (row.state, row.link_s, row.acceptance, row.length) == ("idle", None, None, None)
    assert {"link_s", "acceptance", "length"} <= row.reasons.keys()


def test_states_follow_what_happens() -> None:
    journal = started()
    journal.judged((4,), verdict(7, 2, 1, at_ms=50, alone=True), 57 * MS)
    assert look(journal).agents[0].state == "alone"
    journal.judged((), verdict(7, 3, 0, at_ms=57, finish=1), 64 * MS)
    event = look(journal)
    assert [entry[2] for entry in event.rounds] == ["open", "draft", "draft", "alone"]
    assert event.rounds[-1][9] is None, "nobody was waited for"
    assert (event.requests[0].end, event.requests[0].ended_us, event.requests[0].num_tokens) == (
        "end of text",
        64_000,
        7,
    )
    assert event.agents[0].state == "idle"
    journal.left(b"a")
    assert look(journal).agents[0].state == "lost"


def test_seconds_sum_what_came_in_them_and_a_pass_without_joules_is_counted_as_such() -> None:
    journal = started()
    journal.opened(b"", 8, 3, 0)
    journal.judged((), verdict(8, 0, 0), 900 * MS)
    journal.passed([(7, 4, False), (8, 1, True)], PassTiming(950 * MS, 20_000, [3, 4]))
    journal.passed([(7, 4, False)], PassTiming(1950 * MS, 10_000, [None]))
    first, second = look(journal, 2000).seconds
    assert (first.num_cooperative, first.num_alone, first.num_drafted, first.num_accepted) == (4, 1, 3, 2)
    assert (first.num_passes, first.num_rows, first.busy_us, first.energy_nj, first.num_unmetered) == (
        1,
        5,
        20_000,
        7,
        0,
    )
    assert (second.number, second.energy_nj, second.num_unmetered) == (1, 0, 1)
    one, other = look(journal).passes
    assert (one.started_us, one.num_rows, one.energy_nj, [part.kind for part in one.parts]) == (
        930_000,
        5,
        7,
        ["draft", "prompt"],
    )
    assert other.energy_nj is None


def test_a_viewer_is_given_each_thing_once() -> None:
    journal = started()
    feed = Feed(journal, BEGIN, bytes)
    event, cursor = feed.since(None, 40 * MS, texts_reason="not for you")
    assert event.begin is not None
    assert len(event.rounds) == 2
    nothing, cursor = feed.since(cursor, 50 * MS, texts_reason="not for you")
    assert nothing == PageEvent(50_000, seconds=tuple(journal.seconds)), "the second that is not over comes again"
    journal.judged((5,), verdict(7, 2, 1, at_ms=60), 67 * MS)
    event, cursor = feed.since(cursor, 70 * MS, texts_reason="not for you")
    assert ([entry[1] for entry in event.rounds], len(event.agents), len(event.requests)) == ([2], 1, 1)
    assert event.begin is None


@pytest.mark.parametrize(("keeps_tokens", "texts_reason"), [(True, "a user's key"), (False, "not kept")])
def test_without_leave_no_token_is_told_but_all_figures_are(keeps_tokens: bool, texts_reason: str) -> None:
    told = look(started(keeps_tokens=keeps_tokens), texts_reason=texts_reason)
    assert [entry[5:7] for entry in told.rounds] == [(None, None), (None, None)]
    seen = look(started())
    assert [entry[:5] + entry[7:] for entry in told.rounds] == [entry[:5] + entry[7:] for entry in seen.rounds]
    assert told.begin is not None
    assert told.begin.texts_reason == texts_reason


def test_tokens_are_not_kept_where_nobody_may_see_them() -> None:
    assert [entry.tokens for entry in started(keeps_tokens=False).rounds.since(0)] == [None, None]


def test_a_token_that_the_agent_is_to_choose_is_not_made_up() -> None:
    journal = started()
    fields = msgspec.structs.asdict(verdict(7, 2, 1, at_ms=50))
    journal.judged((4, 5), UndecidedVerdict(**fields, candidates=b"\x00", first=0), 57 * MS)
    assert look(journal).rounds[-1][5:7] == (["d", "e"], None)


def test_whatever_happens_the_journal_has_an_end() -> None:
    journal = PageJournal(0, keeps_tokens=True)
    for number in range(2000):
        name = b"%d" % number
        journal.joined(name, hello(name.decode()))
        journal.opened(name, number, 3, number * 1000 * MS)
        journal.passed([(number, 4, False)], PassTiming(number * 1000 * MS, 10, [1]))
        journal.judged((1,) * 16, verdict(number, 0, 0), number * 1000 * MS)
        journal.ended(number, "closed", number * 1000 * MS)
        journal.left(name)
    assert (len(journal.agents), len(journal.requests), len(journal.seconds)) == (LOST_KEPT, ENDED_KEPT, SECONDS_KEPT)
    event = look(journal)
    assert (len(event.passes), len(event.rounds)) == (PASSES_KEPT, ROUNDS_KEPT)
    assert len(msgspec.json.encode(event)) < 400_000


def test_a_request_that_another_agent_goes_on_with_is_that_ones() -> None:
    journal = started()
    journal.joined(b"b", hello("b"))
    journal.opened(b"b", 7, 3, 40 * MS)
    assert [(row.name, row.num_open) for row in look(journal).agents] == [("a", 0), ("b", 1)]
    assert [row.agent for row in look(journal).requests] == [look(journal).agents[1].key]
    journal.judged((), verdict(7, 5, 0, at_ms=50), 57 * MS)
    assert look(journal).rounds[-1][2] == "open"
