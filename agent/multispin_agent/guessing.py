"""The drafter of one request, in the engine's thread: guesses ahead of the verdicts, and beside what comes without any.

What is drafted beside a stream, to be compared, never holds it up: its end is one more event of the request's inbox.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

from multispin_agent.client import Client
from multispin_agent.confidence import RequestConfidence
from multispin_agent.draft_source import DraftSource
from multispin_agent.drafter import Drafted, Drafter
from multispin_agent.events import Event, Guessed
from multispin_agent.generation import Generation
from multispin_agent.round_clock import RoundClock
from multispin_models.engine_thread import Engine
from multispin_models.messages import Report

__all__ = ["Guessing"]

COMPARED = 16  # tokens drafted beside a stream before they are reported


class _Timed(NamedTuple):
    """One call of the drafter: its tokens, its time, and the mean time of those behind the first; null if not known."""

    drafted: list[Drafted]
    seconds: float
    later_s: float | None


class Guessing:
    """Guesses for one request.

    Args:
        generation: takes them.
        drafts: where they come from.
        engine: its thread.
        client: the connection, for reports; and what was learnt over all requests.
        clock: of the round.
        inbox: of the request; whatever lies there ends a guess early.
        draft_entries: tokens that a draft is sampled from, by a rejection rule.
        end_token_ids: nothing is guessed after one of these.

    Attributes:
        seconds: of model time; set back by who has counted it.
        report_bytes: that reports took; likewise.
        confidence: of what is guessed.
        num_reused: tokens of the prompt that the draft model did not compute, known at the end.
    """

    def __init__(
        self,
        generation: Generation,
        drafts: DraftSource,
        engine: Engine,
        client: Client,
        clock: RoundClock,
        inbox: "asyncio.Queue[Event]",
        draft_entries: int,
        end_token_ids: frozenset[int],
    ) -> None:
        self.seconds = 0.0
        self.report_bytes = 0
        self.num_reused = 0
        self.confidence = RequestConfidence(client.confidence)
        self._generation = generation
        self._drafts = drafts
        self._engine = engine
        self._client = client
        self._clock = clock
        self._inbox = inbox
        self._draft_entries = draft_entries
        self._end_token_ids = end_token_ids
        self._drafter: Drafter | None = None
        self._beside: asyncio.Future[_Timed] | None = None
        self._compared = self._hits = 0

    async def open(self) -> None:
        """Open the drafter, once the rule of the request is known."""
        await self._engine.run(self._open_drafter)

    async def close(self) -> None:
        """Give back what the drafter holds, whatever is under way; the thread keeps the order of the calls."""
        await asyncio.shield(self._engine.run(self._close_drafter))

    async def guess(self, count: int) -> None:
        """Guess so many tokens more, or fewer if an answer comes meanwhile."""
        generation = self._generation
        known = generation.tokens + generation.guess
        timed = await self._engine.run(self._timed_draft, known, count, self._interrupted)
        self._note(timed)
        drafted = timed.drafted
        if not drafted and not self._interrupted():
            generation.rest()
        self._take(len(known), drafted)

    async def write(self, tokens: Sequence[int], count: int) -> list[int]:
        """Return up to so many tokens that the drafter writes after these, for a text without a coordinator."""
        assert self._drafter is not None
        drafted = await self._engine.run(self._drafter.draft, tokens, count, self._end_token_ids, lambda: False)
        return [each.token_id for each in drafted]

    # -- beside a stream ----------------------------------------------------------------------------------------------

    def guess_beside(self) -> None:
        """Have a token guessed beside the coordinator's own, if that is wanted and none is under way."""
        generation = self._generation
        if self._beside is None and generation.num_to_draft():
            tokens = list(generation.tokens)
            self._beside = self._engine.run(self._timed_draft, tokens, 1, lambda: not generation.alone)
            self._beside.add_done_callback(lambda _: self._inbox.put_nowait(Guessed(len(tokens))))

    def on_guessed(self, guessed: Guessed) -> None:
        """Compare a guess with what has come, or keep it for what comes next."""
        assert self._beside is not None
        timed = self._beside.result()
        self._beside = None
        self._note(timed)
        drafted = timed.drafted
        generation = self._generation
        if not drafted:
            generation.rest()
            self.compare(False)  # a draft without a token would have been in vain, too
        elif guessed.position < len(generation.tokens):
            self.compare(drafted[0].token_id == generation.tokens[guessed.position])
        elif not generation.guess:
            self._take(guessed.position, drafted)

    def compare(self, hit: bool) -> None:
        """Count a guess that was right or not; report every so many of them."""
        self._compared += 1
        self._hits += hit
        if self._compared == COMPARED:
            history = self._client.history
            report = Report(
                self._generation.request_id, self._compared, self._hits, history.draft_us, history.network_us
            )
            history.add_compared(self._compared, self._hits)
            self.report_bytes += self._client.send(report)
            self._compared = self._hits = 0

    # -- in the engine's thread, which keeps their order: a request that is cancelled meanwhile leaves nothing open ---

    def _open_drafter(self) -> None:
        entries = self._draft_entries if self._generation.weighs else None
        self._drafter = self._drafts.open_drafter(self._generation.sampling, entries)

    def _timed_draft(self, tokens: Sequence[int], count: int, interrupted: Callable[[], bool]) -> _Timed:
        assert self._drafter is not None
        now_ns = self._client.now_ns
        later_ns: list[int] = []  # when each token behind the first was begun

        def asked() -> bool:
            stops = interrupted()
            if not stops:
                later_ns.append(now_ns())
            return stops

        started_ns = now_ns()
        is_waited_for = not self._generation.alone
        self._drafter.rewind(tokens)
        rewound_ns = now_ns()
        drafted = self._drafter.draft(tokens, count, self._end_token_ids, asked)
        ended_ns = now_ns()
        if is_waited_for:
            self._clock.drafted(started_ns, rewound_ns, ended_ns)
        is_one_by_one = 0 < len(later_ns) == len(drafted) - 1
        later_s = (ended_ns - later_ns[0]) / 1e9 / len(later_ns) if is_one_by_one else None
        return _Timed(drafted, (ended_ns - started_ns) / 1e9, later_s)

    def _close_drafter(self) -> None:
        if self._drafter is not None:
            self.num_reused = self._drafter.num_reused
            self._drafter.close()

    # -- what came of it ----------------------------------------------------------------------------------------------

    def _take(self, position: int, drafted: Sequence[Drafted]) -> None:
        """Take guesses that stand at a position of the text and behind."""
        token_ids = [each.token_id for each in drafted]
        predicted = self.confidence.guessed(position, token_ids, [each.evidence for each in drafted])
        self._generation.drafted(token_ids, predicted, [each.drawn_from for each in drafted])

    def _note(self, timed: _Timed) -> None:
        """Take the time of a call; what a drafted token takes is the pace of those behind the first.

        A call begins with the cache cut back, committed tokens fed and a thread woken. That is a round's, not a
        token's: as part of a token's time it makes long drafts look dear to the control. A call that gave one token
        counts where there are no others: beside a stream, without drafting ahead, and before anything is known.
        """
        self.seconds += timed.seconds
        known, generation = self._client.history.draft_s, self._generation
        if timed.later_s is not None:
            known.add(timed.later_s)
        elif timed.drafted:
            are_single = generation.alone or not generation.draft_ahead or known.estimate() is None
            if len(timed.drafted) > 1 or are_single:
                known.add(timed.seconds / len(timed.drafted))

    def _interrupted(self) -> bool:
        return not self._inbox.empty()
