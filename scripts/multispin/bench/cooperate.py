"""What a run of cooperation yielded, from its records, and what could be had at most on the same engine.

goodput   verified tokens over the time in which all users of a block were being served, summed over blocks
bound     K E[N] / (c0 + c1 K (L + 1)) at the best L: every draft ready in time for every pass, drafting and network
          for nothing. c0 and c1 are fitted through the passes of the runs, survival is that of the runs
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from math import inf
from statistics import median
from typing import NamedTuple

from msgspec import Struct

from multispin_models.errors import ConfigError
from multispin_models.line import Line, fit_line
from multispin_models.records import RequestRecord, RoundRecord

__all__ = [
    "Bound",
    "NeverAllServed",
    "Window",
    "Yield",
    "bound_of",
    "pass_line",
    "survival_of",
    "window_of",
    "yield_of",
]

LEAST_ROUNDS = 20  # of a length, for its survival to count


class Yield(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One arm with so many users, over all its blocks.

    Attributes:
        arm: policy, and L of a fixed one; "core" L, which the target writes by itself.
        users: served at once, each by an agent of its own.
        goodput_tokens_per_s: of all users, while all were served.
        tokens: verified in that time.
        tpot_ms_median: over the requests.
        drafted_per_round: mean, of rounds that were not opened in; null without agents.
        acceptance_rate: accepted / drafted; null if nothing was drafted, or without agents.
        alone_share: of the tokens, from rounds without a draft, openings among them; null without agents.
        blocks: measured.
        text_differences: tokens that differ from those of the first arm with as many users.
    """

    arm: str
    users: int
    goodput_tokens_per_s: float
    tokens: int
    tpot_ms_median: float
    drafted_per_round: float | None
    acceptance_rate: float | None
    alone_share: float | None
    blocks: int
    text_differences: int


class Bound(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What could be had at most.

    Attributes:
        users: as in Yield.
        num_draft_tokens: the best L.
        goodput_tokens_per_s: with it.
    """

    users: int
    num_draft_tokens: int
    goodput_tokens_per_s: float


def _arrived_s(record: RoundRecord) -> float:
    return record.sent_ns / 1e9 + record.round_trip_s


def _tokens(record: RoundRecord) -> int:
    return record.num_accepted + (record.next_token_id is not None)


def _settled_s(by_agent: Iterable[Iterable[RoundRecord]], settled: int) -> float:
    """Return when the first round of each has come, and so many tokens of all; never, if they are not as many."""
    firsts_s = [min(map(_arrived_s, own)) for own in by_agent]
    tokens = 0
    for record in sorted((record for own in by_agent for record in own), key=_arrived_s):
        tokens += _tokens(record)
        if tokens >= settled:
            return max(_arrived_s(record), *firsts_s)
    return inf


class NeverAllServed(ConfigError):
    """A block that says nothing: one user was done before the others had begun."""


class Window(NamedTuple):
    """What came while all users of a block were being served."""

    tokens: int
    seconds: float
    rounds: list[RoundRecord]


def window_of(
    arm: str, users: int, requests: Iterable[RequestRecord], rounds: Iterable[RoundRecord], settled: int = 0
) -> Window:
    """Return what a block yielded while all were served.

    Args:
        arm: for the error.
        users: of the block, each with an agent of its own.
        requests, rounds: of the block.
        settled: tokens of a user, on average, before the time that counts begins.

    Raises:
        ConfigError: a request failed.
        NeverAllServed: not all users were served at one time.
    """
    if failed := [record.id for record in requests if record.finish == "error"]:
        raise ConfigError(f"{arm} with {users} users: {len(failed)} requests failed, the first is {failed[0]}")
    by_agent: dict[str, list[RoundRecord]] = defaultdict(list)
    for record in rounds:
        by_agent[record.agent_id].append(record)
    begin_s = _settled_s(by_agent.values(), settled * users)
    end_s = min((max(map(_arrived_s, own)) for own in by_agent.values()), default=0.0)
    if len(by_agent) < users or end_s <= begin_s:
        raise NeverAllServed(
            f"{arm}: {len(by_agent)} of {users} users were served, never all at one time: longer texts, "
            "or prompts of more equal length"
        )
    within = [record for own in by_agent.values() for record in own if begin_s < _arrived_s(record) <= end_s]
    return Window(sum(map(_tokens, within)), end_s - begin_s, within)


def yield_of(
    arm: str,
    users: int,
    tpot_s: Iterable[float],
    windows: Sequence[Window],
    text_differences: int,
    *,
    has_agents: bool = True,
) -> Yield:
    """Return the figures of the blocks of an arm."""
    within = [record for window in windows for record in window.rounds]
    drafts = [record for record in within if not record.is_open]
    drafted = sum(record.num_draft_tokens for record in drafts)
    tokens, seconds = sum(window.tokens for window in windows), sum(window.seconds for window in windows)
    return Yield(
        arm=arm,
        users=users,
        goodput_tokens_per_s=tokens / seconds,
        tokens=tokens,
        tpot_ms_median=1e3 * median(tpot_s),
        drafted_per_round=drafted / max(len(drafts), 1) if has_agents else None,
        acceptance_rate=sum(record.num_accepted for record in drafts) / drafted if drafted else None,
        alone_share=sum(record.num_draft_tokens == 0 for record in within) / max(tokens, 1) if has_agents else None,
        blocks=len(windows),
        text_differences=text_differences,
    )


def pass_line(rounds: Iterable[RoundRecord]) -> Line | None:
    """Return T_v = c0 + c1 * rows through the median pass of each number of rows; null if they are all of one size."""
    times: dict[int, list[float]] = defaultdict(list)
    for record in rounds:
        if not record.is_open and record.verify_s:  # one pass that gave several tokens is told of once
            times[record.batch_rows].append(record.verify_s)
    return fit_line((rows, median(seconds)) for rows, seconds in times.items() if len(seconds) >= LEAST_ROUNDS)


def survival_of(rounds: Iterable[RoundRecord]) -> list[float]:
    """Return the share of drafts of at least 1, 2, ... tokens whose first 1, 2, ... were all accepted."""
    drafts = [record for record in rounds if not record.is_open]
    found: list[float] = []
    while True:
        length = len(found) + 1
        long = [record for record in drafts if record.num_draft_tokens >= length]
        if len(long) < LEAST_ROUNDS:
            return found
        share = sum(record.num_accepted >= length for record in long) / len(long)
        found.append(min(share, found[-1]) if found else share)


def bound_of(users: int, line: Line, survival: Sequence[float]) -> Bound:
    """Return the bound for so many users.

    >>> bound_of(1, Line(0.01, 0.001, 0.0, 0.0), [0.9, 0.5]).num_draft_tokens
    2
    """
    expected, best = 1.0, Bound(users=users, num_draft_tokens=0, goodput_tokens_per_s=0.0)
    for length in range(len(survival) + 1):
        expected += survival[length - 1] if length else 0.0
        rate = users * expected / (line.intercept + line.slope * users * (length + 1))
        if rate > best.goodput_tokens_per_s:
            best = Bound(users=users, num_draft_tokens=length, goodput_tokens_per_s=rate)
    return best
