"""The control of the running system, without I/O: what rounds, passes and reports tell, what each request may draft.

    on_pass, on_draft, on_report, on_round  -->  estimates  -->  policy, now and then  -->  grant

A request whose choice is to be the coordinator's alone gets its tokens without asking. Now and then its agent is asked
to draft one token at a time beside that stream and to report how it fared: this costs the user nothing, keeps the
estimates fresh, and has the draft's cache ready. Only an agent that has just reported is given the drafting back, so
the change is seamless; one whose cooperation proved too slow, or is far from paying by what it reports, is asked more
and more seldom under such a load.

Going on alone is not without drafts either: what the text's own past says is verified where it is worth its rows. What
these cost is what passes with such rows take beyond passes without, in tokens of all requests (`pass_cost.py`).
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

import numpy as np

from multispin_coordinator.control.lookup import LOOKED_UP, LookedUp, LookupCost, LookupRecord
from multispin_coordinator.control.objective import Aim, Objective, Power, Rates, weights_of
from multispin_coordinator.control.pass_cost import PassCost, PassTime
from multispin_coordinator.control.policies import LOOKING_UP, POLICIES, alone
from multispin_coordinator.control.price import goodput, promise
from multispin_coordinator.control.view import ALONE, Choice, User, View
from multispin_models.estimators import RecentMedian, Survival
from multispin_models.messages import MOST_DRAFTED, PRICE_UNIT, Condition, Draft, Hello, Report

__all__ = ["BY_ITSELF", "LAST", "Control", "Grant"]

SECOND: Final = 1_000_000_000
PLAN_NS: Final = SECOND  # between two plans, if the open requests are the same
RUSH_NS: Final = SECOND // 400  # a request, between two plans if they are not, lest thousands plan all the time
ASK_NS: Final = 3 * SECOND  # between two reports of an agent whose requests are the coordinator's alone
LONGEST_ASK_NS: Final = 48 * SECOND
FORGIVEN: Final = 0.1  # of a pass; later rounds are no reason to ask more seldom: what delayed them may be over
HOPELESS: Final = 0.95  # of what is had without, below which cooperation is far from paying
FRESH_NS: Final = 2 * SECOND  # a report is good for so long
TRIAL_NS: Final = 5 * SECOND  # cooperation given up sooner was a mistake
LATE_ROUNDS: Final = 32
LATE_BOUNDS: Final = (-0.5, 2.0)  # of what was expected
COLD_ROUNDS: Final = 3  # of a request that begins to cooperate, which are not like those to come
PRIOR_ACCEPTANCE: Final = 0.7  # as the agents believe before their first round
MOST_REPORTED: Final = 64  # tokens of one report that count


class Grant(NamedTuple):
    """What a verdict says of the rounds to come; as in Verdict."""

    num_draft_tokens: int
    price: int
    alone: bool


BY_ITSELF: Final = Grant(0, PRICE_UNIT, alone=True)  # to the end, and nobody is asked
LAST: Final = Grant(MOST_DRAFTED, 0, alone=False)  # of a text that is done: nothing


class OpenRequest(Protocol):
    """A session, as far as the control needs it."""

    request_id: int
    agent: bytes
    tokens: list[int]


@dataclass
class _Agent:
    """What is known of an agent, over all its requests."""

    drafts_ahead: bool
    survival: Survival
    draft_s: RecentMedian = field(default_factory=RecentMedian)
    network_s: RecentMedian = field(default_factory=RecentMedian)
    late_s: float = 0.0
    is_warm: bool = True  # its last request was at work, so the next one has its prompt computed in time
    reported_ns: int = -LONGEST_ASK_NS
    is_reported: bool = False  # and no plan was made since
    ask_ns: int = ASK_NS
    hopeless_ns: dict[int, int] = field(default_factory=dict)  # by the load, where that is longer
    since_ns: int | None = None  # it has been at work, over its requests; null while the coordinator goes on alone
    choice: Choice = ALONE  # of its last request


@dataclass
class _Request:
    """What a request does now; `choice` is the plan's, `is_alone` what it was told: null before its first verdict."""

    choice: Choice | None = None
    is_alone: bool | None = None
    granted_ns: int = 0
    is_asked: bool = False  # to draft beside the stream, and to report
    num_rounds: int = 0  # since it cooperates
    text: LookedUp | None = None


class Control:
    """Says how much each request may draft.

    Args:
        policy: of `POLICIES`.
        l_max: longest draft.
        objective: what policies of `objective.AIMING` aim at.
        power: of all ends, where tokens per joule count.

    Attributes:
        objective: that was asked for.
        aim: what counts now.
    """

    def __init__(self, policy: str, l_max: int, objective: Objective = "goodput", power: Power | None = None) -> None:
        self.policy = policy
        self.objective: Objective = objective
        self.aim = Aim("goodput") if objective == "tokens_per_joule" else Aim(objective)
        self._power = Power() if power is None else power
        self._rates = Rates()
        self._plan = POLICIES[policy]
        self._l_max = l_max
        self._agents: dict[bytes, _Agent] = {}
        self._requests: dict[int, _Request] = {}
        self._passes = PassCost()
        self._planned_ns = -PLAN_NS
        self._num_planned = 0
        self._is_due = False  # something new is known
        self._settled: bool | None = None  # all do what was planned for them; null while not looked at
        self._lookups = LookupRecord()
        self._lookup_cost = LookupCost([float(more) for more in range(1 + LOOKED_UP)])  # too much, until it is known

    # -- what is measured ---------------------------------------------------------------------------------------------

    def on_hello(self, agent: bytes, hello: Hello) -> None:
        """Take in an agent, a new one or one that started anew."""
        self._agents[agent] = _Agent(hello.draft_ahead, Survival(MOST_DRAFTED, PRIOR_ACCEPTANCE))
        self._power.joined(agent)

    def on_hello_again(self, agent: bytes, hello: Hello) -> None:
        """Take what an agent says of itself now, in the middle of its work: whether it drafts ahead."""
        known = self._agents.get(agent)
        if known is not None and known.drafts_ahead is not hello.draft_ahead:
            known.drafts_ahead, self._is_due = hello.draft_ahead, True

    def forget(self, agent: bytes) -> None:
        """An agent is gone."""
        self._agents.pop(agent, None)
        self._power.forget(agent)

    def on_timed(self, times: Sequence[PassTime]) -> None:
        """Take passes that were timed before agents are served."""
        self._passes.start_with(times)

    def on_pass(
        self,
        num_rows: int,
        seconds: float,
        pause_s: float | None = None,
        *,
        num_sweeps: int = 1,
        num_looked_up: int = 0,
        num_drafted: int = 0,
    ) -> None:
        """Take the time of a pass whose rows were all scored.

        Args:
            num_rows: at least 1.
            seconds: of the pass.
            pause_s: since the pass before, if there was work left for this one; null if there was none.
            num_sweeps: as `passes.num_sweeps`.
            num_looked_up, num_drafted: of the rows.
        """
        self._passes.add(
            num_rows,
            seconds,
            num_sweeps=num_sweeps,
            num_looked_up=num_looked_up,
            num_drafted=num_drafted,
            is_disturbed=any(request.is_asked for request in self._requests.values()),
        )
        if pause_s is not None:
            self._passes.add_pause(pause_s)

    def on_joules(self, joules: float, seconds: float) -> None:
        """Take what a pass cost, of whatever rows."""
        self._power.on_pass(joules, seconds)

    def on_condition(self, agent: bytes, condition: Condition, now_ns: int) -> None:
        """Take what an agent tells of its box."""
        self._power.on_condition(agent, condition, now_ns)

    def on_draft(self, agent: bytes, draft: Draft, now_ns: int) -> None:
        """Take the times that a draft carries."""
        if draft.draft_token_ids:
            self._power.on_draft(agent, now_ns)
        self._on_times(agent, draft.draft_us, draft.network_us)

    def on_report(self, agent: bytes, report: Report, now_ns: int) -> None:
        """Take what drafting beside a stream would have been worth."""
        known = self._agents.get(agent)
        if known is None or report.num_hits > report.num_drafted:
            return
        self._power.on_draft(agent, now_ns)
        self._on_times(agent, report.draft_us, report.network_us)
        for index in range(min(report.num_drafted, MOST_REPORTED)):
            known.survival.add(1, int(index < report.num_hits))
        known.late_s *= 0.5  # what delayed its rounds may be over
        known.reported_ns, known.is_reported = now_ns, True
        self._is_due = True

    def _on_times(self, agent: bytes, draft_us: int, network_us: int) -> None:
        known = self._agents.get(agent)
        if known is not None and draft_us:
            known.draft_s.add(draft_us / 1e6)
        if known is not None and network_us:
            known.network_s.add(network_us / 1e6)

    def on_round(self, request_id: int, agent: bytes, num_drafted: int, num_accepted: int, now_ns: int) -> None:
        """Take what became of a draft, and how long its round took since the verdict before."""
        known, request = self._agents.get(agent), self._requests.get(request_id)
        if known is None or request is None or request.is_alone is not False:
            return
        known.survival.add(max(1, num_drafted), num_accepted)  # a draft without a token was in vain
        request.num_rounds += 1
        is_usual = num_drafted and request.num_rounds > COLD_ROUNDS
        if is_usual and request.choice is not None and request.choice.round_s is not None and self._is_settled():
            expected_s = request.choice.round_s.at(num_drafted)
            late_s = (now_ns - request.granted_ns) / 1e9 - expected_s
            low, high = LATE_BOUNDS
            known.late_s += (min(max(late_s, low * expected_s), high * expected_s) - known.late_s) / LATE_ROUNDS

    def _is_settled(self) -> bool:
        """Return whether all do what was planned: else rounds take longer than they should."""
        if self._settled is None:
            self._settled = all(
                request.choice is None or request.is_alone is (request.choice.num_draft_tokens == 0)
                for request in self._requests.values()
            )
        return self._settled

    # -- what is decided ----------------------------------------------------------------------------------------------

    def grant(self, request_id: int, agent: bytes, sessions: Collection[OpenRequest], now_ns: int) -> Grant:
        """Return what a request may do after the verdict that is about to be sent.

        Args:
            request_id: whose verdict it is.
            agent: whose request it is.
            sessions: all that are open, this one among them.
            now_ns: the clock.
        """
        if self.policy == "fixed":
            return LAST
        is_new = request_id not in self._requests
        is_same = not is_new and not self._is_due and len(sessions) == self._num_planned
        if now_ns - self._planned_ns >= (PLAN_NS if is_same else min(PLAN_NS, RUSH_NS * len(sessions))):
            self._replan(list(sessions), now_ns)
        elif is_new:
            self._requests[request_id] = _Request(self._agents[agent].choice)
        request, known = self._requests[request_id], self._agents[agent]
        choice, was_alone = request.choice, request.is_alone
        assert choice is not None
        if choice.num_draft_tokens:
            granted = self._cooperate(request, known, choice, now_ns)
        else:
            granted = self._go_alone(request, known, now_ns)
        request.granted_ns = now_ns
        request.is_asked = granted.alone and granted.num_draft_tokens > 0
        if request.is_alone is not was_alone:
            self._settled = None
        return granted

    def look_up(self, request_id: int, tokens: Sequence[int]) -> tuple[int, ...]:
        """Return what a request's text says of its own continuation, as far as it is worth verifying.

        Args:
            request_id: that goes on.
            tokens: committed, prompt and text.
        """
        request = self._requests.get(request_id)
        if request is None or self.policy not in LOOKING_UP:
            return ()
        if request.text is None:
            request.text = LookedUp(self._lookups)
        request.text.extend(tokens[len(request.text) :])
        return request.text.draft(self._lookup_cost, self._l_max) if request.is_alone else ()

    def _cooperate(self, request: _Request, agent: _Agent, choice: Choice, now_ns: int) -> Grant:
        is_fresh = agent.is_warm if request.is_alone is None else now_ns - agent.reported_ns < FRESH_NS
        if request.is_alone is not False and self.policy == "price" and not is_fresh:
            # First let it draft beside the stream: its estimates are fresh then, and its cache is warm.
            request.is_alone = True
            return Grant(1, PRICE_UNIT, alone=True)
        request.num_rounds = request.num_rounds if request.is_alone is False else 0
        request.is_alone = False
        agent.is_warm = True
        agent.since_ns = now_ns if agent.since_ns is None else agent.since_ns
        return Grant(choice.num_draft_tokens, round(choice.price * PRICE_UNIT), alone=False)

    def _go_alone(self, request: _Request, agent: _Agent, now_ns: int) -> Grant:
        if request.is_alone is False and agent.since_ns is not None:
            was_mistake = now_ns - agent.since_ns < TRIAL_NS
            agent.since_ns = None
            agent.ask_ns = min(2 * agent.ask_ns, LONGEST_ASK_NS) if was_mistake else ASK_NS
            agent.reported_ns = now_ns
        request.is_alone = True
        ask_ns = max(agent.ask_ns, agent.hopeless_ns.get(self._load, 0))
        is_asked = self._plan is not alone and now_ns - agent.reported_ns >= ask_ns
        agent.is_warm = is_asked
        return Grant(int(is_asked), PRICE_UNIT, alone=True)

    @property
    def _load(self) -> int:
        """The load that an answer is good for: open requests, by powers of two."""
        return self._num_planned.bit_length()

    def _judge(self, agent: _Agent, *, is_hopeless: bool) -> None:
        """Take whether a report that just came was far from what would pay."""
        if is_hopeless:
            agent.hopeless_ns[self._load] = min(2 * agent.hopeless_ns.get(self._load, ASK_NS), LONGEST_ASK_NS)
        else:
            agent.hopeless_ns.pop(self._load, None)

    def _replan(self, sessions: list[OpenRequest], now_ns: int) -> None:
        requests = {session.request_id: self._requests.get(session.request_id, _Request()) for session in sessions}
        if len(requests) != self._num_planned:
            for agent in self._agents.values():  # under another load another answer
                agent.ask_ns = ASK_NS
        self._requests, self._planned_ns, self._num_planned, self._is_due = requests, now_ns, len(requests), False
        self._settled = None
        view = self._aimed(self.view(sessions), sessions, now_ns)
        choices = self._plan(view)
        if self.policy in LOOKING_UP:
            self._price_lookups(view, choices)
        for user, (session, request, choice) in enumerate(zip(sessions, requests.values(), choices, strict=True)):
            request.choice = choice
            known = self._agents.get(session.agent)
            if known is None:
                continue
            known.choice = choice
            if known.is_reported and known.late_s < FORGIVEN * view.c0_s:
                self._judge(known, is_hopeless=choice == ALONE and promise(view, choices, user) < HOPELESS)
            known.is_reported = False

    def _aimed(self, view: View, sessions: Sequence[OpenRequest], now_ns: int) -> View:
        """Return the view with what the objective asks for, as far as it is known."""
        if self.objective == "fair_goodput":
            rates = self._rates.update({each.request_id: len(each.tokens) for each in sessions}, now_ns)
            weights = weights_of([rates.get(each.request_id) for each in sessions])
            users = [user._replace(weight=weight) for user, weight in zip(view.users, weights, strict=True)]
            return view._replace(users=tuple(users))
        if self.objective == "tokens_per_joule":
            watts = self._power.watts([each.agent for each in sessions])
            if isinstance(watts, str):
                self.aim = Aim("goodput", watts)
                return view
            self.aim = Aim("tokens_per_joule")
            return view._replace(watts=watts)
        return view

    def _price_lookups(self, view: View, choices: Sequence[Choice]) -> None:
        rows = sum(choice.num_draft_tokens + 1 for choice in choices)
        is_shared = len(choices) > 1
        self._lookup_cost = LookupCost(
            [self._passes.extra_s(rows, more, is_shared=is_shared) for more in range(1 + LOOKED_UP)],
            goodput(view, choices),
            goodput(view._replace(alone_tokens=1.0, alone_extra_s=0.0), choices),
        )

    def view(self, sessions: Iterable[OpenRequest]) -> View:
        """Return what the policy sees of these requests."""
        c0_s, per_row_s = self._passes.line()
        tokens, more_s = 1.0, 0.0
        if self.policy in LOOKING_UP:
            tokens, more_s = self._lookups.expected(self._lookup_cost)
        users = tuple(self._user(session) for session in sessions)
        return View(
            users,
            c0_s,
            per_row_s,
            tokens,
            more_s,
            self._passes.split_s,
            bend=self._passes.bend(),
            burden_s=self._passes.burden_s,
        )

    def _user(self, session: OpenRequest) -> User:
        request = self._requests.get(session.request_id)
        # The coordinator's own users have no agent: their rows are in the passes, and nobody drafts for them.
        agent = self._agents.get(session.agent) or _Agent(False, Survival(self._l_max, PRIOR_ACCEPTANCE))
        draft, network = agent.draft_s.estimate(), agent.network_s.estimate()
        return User(
            draft_s=None if draft is None else draft.value,
            network_s=0.0 if network is None else network.value,
            survival=np.concatenate([[1.0], agent.survival.survival()[: self._l_max]]),
            drafts_ahead=agent.drafts_ahead,
            is_alone=request is None or request.is_alone is not False,
            late_s=agent.late_s,
        )
