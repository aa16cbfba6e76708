"""What the control aims at, and what it must know for that. No I/O.

    goodput            tokens a second of all requests together (default)
    fair_goodput       likewise, each request's weighed by one over what it has had lately: proportional fairness, since
                       the sum of the logarithms of their rates grows fastest so (Kelly, Charging and rate control for
                       elastic traffic, European Transactions on Telecommunications 8, 1997)
    tokens_per_joule   tokens a second over the watts of the coordinator and of all boxes

Joules are those of meters: the coordinator's idle baseline and its passes; and each box's mean power, as its Condition
tells it, at work and not. `measured`, `calibrated` and `modelled` never mix: all ends must have meters of one kind. As
long as something is missing the goodput is what counts, and `Aim.why` says what. A box that was never seen at work is
taken to draw no more then: it is tried and found out.
"""

from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple

import numpy as np

from multispin_coordinator.control.allocation import Floats
from multispin_models.energy.meter import Label
from multispin_models.estimators import RecentMedian
from multispin_models.messages import Condition

__all__ = ["AIMING", "Aim", "Objective", "Power", "Rates", "Watts", "weights_of"]

Objective = Literal["goodput", "fair_goodput", "tokens_per_joule"]

AIMING: Final = frozenset({"price", "exact"})  # policies that can aim at something else than goodput
AT_WORK_NS: Final = 1_000_000_000  # longest time without a draft of a box that drafts
FAIR_S: Final = 10.0  # over which a request's rate is averaged
MOST_UNEQUAL: Final = 8.0  # a weight is at most so many times the mean, and at least the inverse


class Aim(NamedTuple):
    """What counts now.

    Attributes:
        objective: in force.
        why: another one was asked for; null if it is in force.
    """

    objective: Objective
    why: str | None = None


class Watts(NamedTuple):
    """Power of all ends.

    Attributes:
        base_w: of the coordinator between passes, and of all boxes when they do not draft.
        verify_w: more, while a pass is computed.
        draft_w: [users], more, while the request's box drafts for it.
    """

    base_w: float
    verify_w: float
    draft_w: Floats

    def of(self, busy: Floats, drafts: Floats) -> Floats:
        """Return the power [plans] of plans.

        Args:
            busy: [plans], share of the time in which passes are computed.
            drafts: [plans, users], whether the request's box drafts.
        """
        return np.asarray(self.base_w + self.verify_w * busy + drafts @ self.draft_w)


class _Box:
    def __init__(self) -> None:
        self.label: Label | None = None
        self.why = "has not told it yet"
        self.at_rest_w, self.at_work_w = RecentMedian(), RecentMedian()
        self.told_ns: int | None = None
        self._drafted_ns: int | None = None
        self._rested_ns = 0  # the longest time without a draft since it told of its power

    def on_draft(self, now_ns: int) -> None:
        self._rested_ns = max(self._rested_ns, now_ns - self._since_ns(now_ns))
        self._drafted_ns = now_ns

    def _since_ns(self, now_ns: int) -> int:
        return max(self._drafted_ns or 0, now_ns if self.told_ns is None else self.told_ns)

    def on_told(self, now_ns: int) -> bool | None:
        """Return whether it has drafted all the time since it told of its power before, or never; null if both."""
        rested_ns, has_drafted = max(self._rested_ns, now_ns - self._since_ns(now_ns)), self._drafted_ns is not None
        is_first, self.told_ns, self._drafted_ns, self._rested_ns = self.told_ns is None, now_ns, None, 0
        if is_first or (has_drafted and rested_ns > AT_WORK_NS):
            return None
        return has_drafted

    @property
    def base_w(self) -> float | None:
        found = self.at_rest_w.estimate() or self.at_work_w.estimate()
        return None if found is None else found.value

    @property
    def more_w(self) -> float:
        rest, work = self.at_rest_w.estimate(), self.at_work_w.estimate()
        return 0.0 if rest is None or work is None else max(0.0, work.value - rest.value)


class Power:
    """The watts of all ends, as far as meters tell.

    Args:
        label: of the coordinator's meter; null without one.
        idle_w: its idle baseline; null if it was not measured.
        why: there is none, in words.
    """

    def __init__(self, label: Label | None = None, idle_w: float | None = None, why: str | None = None) -> None:
        self._label = label
        self._idle_w = idle_w
        self._why = why or "it has no meter"
        self._pass_w = RecentMedian()
        self._boxes: dict[bytes, _Box] = {}

    def joined(self, agent: bytes) -> None:
        """Take in an agent."""
        self._boxes[agent] = _Box()

    def forget(self, agent: bytes) -> None:
        """An agent is gone."""
        self._boxes.pop(agent, None)

    def on_pass(self, joules: float, seconds: float) -> None:
        """Take what a pass cost."""
        if seconds > 0:
            self._pass_w.add(joules / seconds)

    def on_draft(self, agent: bytes, now_ns: int) -> None:
        """Note that an agent has drafted, for a request or to be compared."""
        if agent in self._boxes:
            self._boxes[agent].on_draft(now_ns)

    def on_condition(self, agent: bytes, condition: Condition, now_ns: int) -> None:
        """Take what an agent tells of its box: the mean power since it told before."""
        box = self._boxes.get(agent)
        if box is None:
            return
        box.label = condition.power_label
        box.why = condition.power_reason or "tells none"
        at_work = box.on_told(now_ns)
        if condition.power_mw is not None and at_work is not None:
            (box.at_work_w if at_work else box.at_rest_w).add(condition.power_mw / 1e3)

    def watts(self, agents: Sequence[bytes]) -> Watts | str:
        """Return the power of all ends; or what is missing.

        Args:
            agents: of the requests, in their order; one that is not known has no box.
        """
        passes = self._pass_w.estimate()
        if self._label is None or self._idle_w is None:
            return f"the coordinator's idle power is not known: {self._why}"
        if passes is None:
            return "no pass has been metered yet"
        base_w = self._idle_w
        for agent, box in self._boxes.items():
            name = agent.decode(errors="replace")
            if box.base_w is None:
                return f"the power of {name} is not known: it {box.why}"
            if box.label != self._label:
                return f"the joules of {name} are {box.label}, the coordinator's {self._label}: they do not add up"
            base_w += box.base_w
        if base_w <= 0:
            return "the meters say that nothing draws any power"
        shared = {agent: agents.count(agent) for agent in agents}
        draft_w = [self._boxes[agent].more_w / shared[agent] if agent in self._boxes else 0.0 for agent in agents]
        return Watts(base_w, max(0.0, passes.value - self._idle_w), np.array(draft_w))


class Rates:
    """What each request has had lately, tokens a second."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[int, int, float | None]] = {}  # when, tokens then, rate

    def update(self, tokens: Mapping[int, int], now_ns: int) -> dict[int, float]:
        """Return the rates of those that have one, given how many tokens each open request has; forget the others."""
        known = {}
        for request_id, count in tokens.items():
            since_ns, before, rate = self._known.get(request_id, (now_ns, count, None))
            elapsed_s = (now_ns - since_ns) / 1e9
            if elapsed_s > 0:
                latest = (count - before) / elapsed_s
                rate = latest if rate is None else rate + (latest - rate) * min(1.0, elapsed_s / FAIR_S)
            known[request_id] = (now_ns, count, rate)
        self._known = known
        return {request_id: rate for request_id, (_, _, rate) in known.items() if rate is not None}


def weights_of(rates: Sequence[float | None]) -> list[float]:
    """Return weights of mean about 1, one over each rate; one that has no rate yet weighs 1.

    >>> weights_of([10.0, 10.0, None])
    [1.0, 1.0, 1.0]
    >>> weights_of([30.0, 10.0])
    [0.5, 1.5]
    """
    inverse = [1 / max(rate, 1e-9) for rate in rates if rate is not None]
    if not inverse:
        return [1.0] * len(rates)
    mean = sum(inverse) / len(inverse)
    low, high = 1 / MOST_UNEQUAL, MOST_UNEQUAL
    return [1.0 if rate is None else min(max(1 / max(rate, 1e-9) / mean, low), high) for rate in rates]
