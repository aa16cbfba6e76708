"""How much of a round is not model time, from the records of runs without draft-ahead.

A round is draft, send, verify, verdict, one after the other. Its period is from the verdict before to its own verdict:

    period   = draft + agent + network + waiting + coordinator + verify
    draft    the draft model, as the agent measures it              verify   forward pass and choices, likewise
    agent    from the verdict's arrival to sending the next draft, without the draft model
    network  round trip - residence: both ways, sockets and wake-ups of both ends
    waiting  for passes of others that the engine was busy with: the price of sharing a target, no overhead
    coordinator  the rest of the residence: frames, decisions, and the hand-over to the engine's thread and back

    overhead = agent + network + coordinator

All instants are of one machine. When a draft came to the coordinator is not in the records: half the network time is
taken for the way there, which bounds the error of `waiting` by the other half.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import pairwise
from statistics import median
from typing import NamedTuple

from msgspec import Struct

from multispin.bench.percentile import percentile_90
from multispin_models.errors import ConfigError
from multispin_models.records import RoundRecord

__all__ = ["Overhead", "RoundTimes", "Spread", "round_times", "summarize_overhead", "together"]


class RoundTimes(NamedTuple):
    """Where the time of one round went, in seconds; `arrived_s` is when its verdict came, agent's clock."""

    agent_id: str
    arrived_s: float
    period_s: float
    draft_s: float
    agent_s: float
    network_s: float
    waiting_s: float
    coordinator_s: float
    verify_s: float
    batch_rows: int

    @property
    def overhead_s(self) -> float:
        """What is neither model time nor waiting for others' passes."""
        return self.agent_s + self.network_s + self.coordinator_s


class Spread(Struct, frozen=True, forbid_unknown_fields=True):
    """Median and 90th percentile, in milliseconds."""

    median: float
    p90: float


class Overhead(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The rounds of one run.

    Attributes:
        rounds: looked at.
        overhead_ms: agent, network and coordinator together.
        share: of all the rounds' time that is overhead.
        waiting_share: of all the rounds' time that is waiting for passes of others.
        agent_ms, network_ms, coordinator_ms: the parts; medians of parts do not add up to the median of the sum.
        waiting_ms, draft_ms, verify_ms, period_ms: what overhead is told apart from, and the whole.
        batch_rows: median rows of a pass.
    """

    rounds: int
    overhead_ms: Spread
    share: float
    waiting_share: float
    agent_ms: Spread
    network_ms: Spread
    coordinator_ms: Spread
    waiting_ms: Spread
    draft_ms: Spread
    verify_ms: Spread
    period_ms: Spread
    batch_rows: float


class _Span(NamedTuple):
    """What the coordinator did with one round, on the common clock."""

    record: RoundRecord
    came_s: float
    begun_s: float
    done_s: float


def round_times(records: Iterable[RoundRecord]) -> list[RoundTimes]:
    """Return the times of every drafted round that follows a round of the same request.

    Args:
        records: of all agents of a run, on one machine, made without draft-ahead.
    """
    spans = sorted(map(_span, records), key=_done_s)
    by_request: dict[tuple[str, int], list[_Span]] = {}
    for span in spans:
        by_request.setdefault((span.record.agent_id, span.record.wire_request_id), []).append(span)
    times = []
    for rounds in by_request.values():
        for before, span in pairwise(sorted(rounds, key=lambda span: span.record.round)):
            if not span.record.is_open and span.record.round == before.record.round + 1:
                times.append(_times(before.record, span, _waiting_s(span, spans)))
    return times


def _span(record: RoundRecord) -> _Span:
    came_s = record.sent_ns / 1e9 + record.network_s / 2
    done_s = came_s + record.residence_s
    return _Span(record, came_s, done_s - record.verify_s, done_s)


def _done_s(span: _Span) -> float:
    return span.done_s


def _waiting_s(span: _Span, spans: Sequence[_Span]) -> float:
    """Return how long a draft lay while passes before its own were computed.

    Args:
        span: of the draft.
        spans: of all rounds, by the time when they were done; rounds of one pass overlap, and count once.
    """
    # Done before the middle of the draft's own pass: not of that pass, which others are in too.
    first = bisect_right(spans, span.came_s, key=_done_s)
    last = bisect_left(spans, (span.begun_s + span.done_s) / 2, key=_done_s)
    waited_s, counted_to_s = 0.0, span.came_s
    for other in sorted(spans[first:last], key=lambda other: other.begun_s):
        begin, end = max(other.begun_s, counted_to_s), min(other.done_s, span.begun_s)
        if end > begin:
            waited_s += end - begin
            counted_to_s = end
    return waited_s


def _times(before: RoundRecord, span: _Span, waiting_s: float) -> RoundTimes:
    record = span.record
    idle_s = (record.sent_ns - before.sent_ns) / 1e9 - before.round_trip_s
    return RoundTimes(
        agent_id=record.agent_id,
        arrived_s=record.sent_ns / 1e9 + record.round_trip_s,
        period_s=idle_s + record.round_trip_s,
        draft_s=record.draft_s,
        agent_s=idle_s - record.draft_s,
        network_s=record.network_s,
        waiting_s=waiting_s,
        coordinator_s=record.residence_s - record.verify_s - waiting_s,
        verify_s=record.verify_s,
        batch_rows=record.batch_rows,
    )


def together(times: Sequence[RoundTimes], num_agents: int) -> list[RoundTimes]:
    """Return the rounds that ended while all agents were at work: some start later, some are done sooner.

    Raises:
        ConfigError: an agent has no round, or there was no such time.
    """
    by_agent: dict[str, list[float]] = {}
    for each in times:
        by_agent.setdefault(each.agent_id, []).append(each.arrived_s)
    if len(by_agent) == num_agents:
        begin = max(min(arrivals) for arrivals in by_agent.values())
        end = min(max(arrivals) for arrivals in by_agent.values())
        if kept := [each for each in times if begin <= each.arrived_s <= end]:
            return kept
    raise ConfigError(f"{len(by_agent)} of {num_agents} agents drafted, never all at one time: give more --rounds")


def summarize_overhead(times: Sequence[RoundTimes]) -> Overhead:
    """Return the figures of rounds, at least one."""
    whole_s = sum(each.period_s for each in times)
    return Overhead(
        rounds=len(times),
        overhead_ms=_spread([each.overhead_s for each in times]),
        share=sum(each.overhead_s for each in times) / whole_s,
        waiting_share=sum(each.waiting_s for each in times) / whole_s,
        agent_ms=_spread([each.agent_s for each in times]),
        network_ms=_spread([each.network_s for each in times]),
        coordinator_ms=_spread([each.coordinator_s for each in times]),
        waiting_ms=_spread([each.waiting_s for each in times]),
        draft_ms=_spread([each.draft_s for each in times]),
        verify_ms=_spread([each.verify_s for each in times]),
        period_ms=_spread([each.period_s for each in times]),
        batch_rows=median(each.batch_rows for each in times),
    )


def _spread(seconds: Sequence[float]) -> Spread:
    return Spread(median(seconds) * 1e3, percentile_90(seconds) * 1e3)
