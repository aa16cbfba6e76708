"""Where the time of a round goes, in parts that add up to it. No I/O; instants of this agent's monotonic clock.

    verdict before ──────────────► sent ────► received ──────────────► answered ────► verdict
        draft, rewind, agent queue     uplink      coordinator queue, verify    downlink

A round lasts from the verdict before it (the first one from the request's start) to its own. What was drafted ahead,
while the verdict before was in flight, is no part of it. uplink and downlink are one-way figures: they rest on the
offset of two clocks, which is recorded beside them with its bound. Their sum does not.
"""

from typing import Final, NamedTuple

from multispin_models.clock_offset import ClockOffset, Offset
from multispin_models.clock_watch import ClockWatch
from multispin_models.messages import Verdict

__all__ = ["RoundClock", "RoundParts"]

_S: Final = 1e-9


class RoundParts(NamedTuple):
    """The parts of a round, seconds; as in `RoundRecord`."""

    round_s: float
    draft_wait_s: float
    rewind_s: float
    agent_queue_s: float
    uplink_s: float | None
    coordinator_queue_s: float
    verify_s: float
    downlink_s: float | None
    clock_offset_ns: int | None
    clock_bound_s: float | None
    clock_event: str | None
    num_sends: int


class _Span(NamedTuple):
    """One call of the drafter."""

    started_ns: int
    rewound_ns: int
    ended_ns: int


class RoundClock:
    """Takes the instants of one request.

    Args:
        started_ns: when the request began.
        offset: of the coordinator's clock; shared by the requests of an agent, each verdict is an exchange.
        watch: of this machine; null where time is virtual.
    """

    def __init__(self, started_ns: int, offset: ClockOffset, watch: ClockWatch | None) -> None:
        self._previous_ns = started_ns
        self._offset = offset
        self._watch = watch
        self._sent_ns: int | None = None
        self._num_sends = 0
        self._spans: list[_Span] = []
        self._seen = self._events()

    def drafted(self, started_ns: int, rewound_ns: int, ended_ns: int) -> None:
        """Note a call of the drafter, and when in it the cache had been cut back."""
        self._spans.append(_Span(started_ns, rewound_ns, ended_ns))

    def sent(self, t_ns: int, *, is_repeat: bool) -> None:
        """Note that a draft (or an opening) was sent, or sent again."""
        if not is_repeat:
            self._sent_ns, self._num_sends = t_ns, 0
        self._num_sends += 1

    def finish(self, received_ns: int, verdict: Verdict) -> RoundParts:
        """Return the parts of the round that a verdict ends. Without a sending of its own it has no uplink."""
        begun_ns, sent_ns = self._previous_ns, self._sent_ns
        residence_ns = verdict.residence_us * 1000
        found = None
        if sent_ns is not None:
            answered_ns = verdict.received_ns + residence_ns
            found = self._offset.add(sent_ns, verdict.received_ns, answered_ns, received_ns)
        until_ns = received_ns if sent_ns is None else sent_ns
        rewind_ns = sum(_overlap(span.started_ns, span.rewound_ns, begun_ns, until_ns) for span in self._spans)
        draft_ns = sum(_overlap(span.rewound_ns, span.ended_ns, begun_ns, until_ns) for span in self._spans)
        verify_ns = min(verdict.verify_us * 1000, residence_ns)
        parts = RoundParts(
            round_s=(received_ns - begun_ns) * _S,
            draft_wait_s=draft_ns * _S,
            rewind_s=rewind_ns * _S,
            agent_queue_s=0.0 if sent_ns is None else (sent_ns - begun_ns - draft_ns - rewind_ns) * _S,
            uplink_s=None if sent_ns is None else _uplink_s(sent_ns, verdict, found),
            coordinator_queue_s=(residence_ns - verify_ns) * _S,
            verify_s=verify_ns * _S,
            downlink_s=None if sent_ns is None else _downlink_s(received_ns, verdict, found),
            clock_offset_ns=None if found is None else found.offset_ns,
            clock_bound_s=None if found is None else found.bound_ns * _S,
            clock_event=self._event(),
            num_sends=self._num_sends,
        )
        self._previous_ns, self._sent_ns, self._num_sends = received_ns, None, 0
        self._spans = [span for span in self._spans if span.ended_ns > received_ns]
        return parts

    def _events(self) -> tuple[int, int, int]:
        watch = self._watch
        return (
            0 if watch is None else watch.num_suspends,
            0 if watch is None else watch.num_steps,
            self._offset.num_breaks,
        )

    def _event(self) -> str | None:
        """Return what happened to a clock since the round before; None if nothing was noticed."""
        if self._watch is not None:
            self._watch.check()
        before, self._seen = self._seen, self._events()
        names = ("suspend", "step", "offset")
        happened = [name for name, a, b in zip(names, before, self._seen, strict=True) if a != b]
        return "+".join(happened) or None


def _overlap(a: int, b: int, begin: int, end: int) -> int:
    return max(0, min(b, end) - max(a, begin))


def _uplink_s(sent_ns: int, verdict: Verdict, offset: Offset | None) -> float | None:
    return None if offset is None else (verdict.received_ns - offset.offset_ns - sent_ns) * _S


def _downlink_s(received_ns: int, verdict: Verdict, offset: Offset | None) -> float | None:
    answered_ns = verdict.received_ns + verdict.residence_us * 1000
    return None if offset is None else (received_ns - (answered_ns - offset.offset_ns)) * _S
