"""Serves one request: drafts in the engine's thread while the verdict is on its way, until the text ends.

open -> [draft -> send -> (draft ahead) -> verdict -> commit] ... -> record

While the coordinator goes on alone its tokens are handed on as they come.
"""

import asyncio
import logging
import random
from collections.abc import Callable

from multispin_agent.client import Client
from multispin_agent.config import Config
from multispin_agent.draft_source import DraftSource
from multispin_agent.events import Answer, Event, Guessed, HeardAgain, Reconnected, RefusedByCoordinator, Silence
from multispin_agent.generation import Generation
from multispin_agent.guessing import Guessing
from multispin_agent.request import Finished, NoRoom, Request, RequestFailed, RoundTiming
from multispin_agent.round_clock import RoundClock
from multispin_agent.unverified import write_unverified
from multispin_models.engine_thread import Engine
from multispin_models.errors import WireError
from multispin_models.messages import Draft, Open, Refused, Verdict, Welcome
from multispin_models.provenance import Piece, Provenance, sources_of_round
from multispin_models.records import Finish
from multispin_models.text import TextAssembler

__all__ = ["generate"]

log = logging.getLogger(__name__)

REOPEN_CODES = frozenset({"unknown_request", "out_of_step", "hello_required"})
NO_ROOM_CODES = frozenset({"busy", "too_many_sessions"})
RETRY_CODES = NO_ROOM_CODES | {"request_owned", "engine_fault"}
FINISH_NAMES: dict[int, Finish] = {1: "end", 2: "length"}


class _Serving:
    """The I/O around one Generation; `generate` is its only caller."""

    def __init__(
        self,
        request: Request,
        config: Config,
        client: Client,
        drafts: DraftSource,
        engine: Engine,
        on_text: Callable[[Piece], None],
        started_ns: int | None,
        busy_s: float | None,
    ) -> None:
        self._busy_s = busy_s
        self._config = config
        self._client = client
        self._on_text = on_text
        self._generation = Generation(
            request.request_id,
            list(request.prompt_ids),
            request.sampling,
            max_tokens=request.max_tokens,
            num_draft_tokens=config.num_draft_tokens,
            draft_ahead=client.draft_ahead,
            end_token_ids=drafts.tokenizer.end_token_ids,
            ignore_end=request.ignore_end,
            history=client.history,
        )
        self._assembler = TextAssembler(drafts.tokenizer.token_bytes, request.stop)
        self._provenance = Provenance(drafts.tokenizer.token_bytes) if request.provenance else None
        self._drafts = drafts
        self._inbox = client.subscribe(request.request_id)
        self._now_ns = client.now_ns
        self._finished = Finished(started_ns=self._now_ns() if started_ns is None else started_ns)
        self._clock = RoundClock(self._finished.started_ns, client.clock_offset, client.clock_watch)
        self._guessing = Guessing(
            self._generation,
            drafts,
            engine,
            client,
            self._clock,
            self._inbox,
            config.draft_entries,
            frozenset() if request.ignore_end else drafts.tokenizer.end_token_ids,
        )
        self._missed_round = 0
        self._sends_ns: list[int] = []  # of what awaits its answer, the first and all repeats
        self._up_bytes = 0
        self._is_put_off = False
        self._heard_ns = self._now_ns()
        self._retry_s = config.retry_s

    async def run(self) -> Finished:
        generation = self._generation
        try:
            self._limit_draft(await self._client.ready())
            await self._guessing.open()
            self._send(generation.open())
            while not generation.finish and not self._assembler.stopped:
                await self._turn()
                if self._finished.degraded:
                    await self._go_on_unverified()
        finally:
            self._client.unsubscribe(generation.request_id)
            self._inbox.put_nowait(Silence(0))  # a draft under way for a request that was cancelled ends early
            await self._guessing.close()
            self._finished.num_draft_reused = self._guessing.num_reused
        return self._result()

    def _limit_draft(self, welcome: Welcome) -> None:
        if not self._generation.verify_by(welcome.verification):
            raise RequestFailed(
                f"the coordinator has come back with verification {welcome.verification}: begin the request anew",
                self._result(),
            )
        if self._drafts.missing:
            self._generation.limit_draft(0)
            return
        if welcome.policy == "fixed":
            self._generation.limit_draft(min(self._config.num_draft_tokens, welcome.max_draft_tokens))
            return
        self._generation.limit_draft(welcome.max_draft_tokens)
        last = self._client.history.verdict
        if last is None:
            self._generation.begin_with(1, 0)  # little, but the prompt is computed
        else:
            self._generation.begin_with(last.num_draft_tokens, last.price)

    async def _turn(self) -> None:
        """Take one step: an answer that is here, a draft that is ready, a token to guess, or else wait."""
        generation = self._generation
        if not self._inbox.empty():
            self._on_answer(self._inbox.get_nowait())
        elif generation.can_send():
            self._send(generation.next_draft())
        elif generation.alone:
            self._guessing.guess_beside()
            await self._wait()
        elif count := generation.num_to_draft():
            await self._guessing.guess(count)
        else:
            await self._wait()

    async def _go_on_unverified(self) -> None:
        """Write the rest by the draft alone: the coordinator has been silent past the deadline."""
        finished = self._finished
        log.warning("request %016x goes on unverified: %s", self._generation.request_id, finished.degraded)

        def take(token_ids: list[int]) -> bool:
            finished.first_token_ns = finished.first_token_ns or self._now_ns()
            finished.ended_ns = self._now_ns()
            finished.num_unverified += len(token_ids)
            if self._provenance is not None:
                self._provenance.add(token_ids, ["unverified"] * len(token_ids))
            self._give(self._assembler.feed(token_ids))
            return self._assembler.stopped

        await write_unverified(self._generation, self._guessing.write, take)
        if not self._generation.finish and not self._assembler.stopped:
            raise RequestFailed(f"{finished.degraded}; and the draft has no guess to go on with", self._result())

    def _send(self, message: Open | Draft, *, is_repeat: bool = False) -> None:
        if not is_repeat:
            self._sends_ns.clear()
        self._sends_ns.append(self._now_ns())
        self._clock.sent(self._sends_ns[-1], is_repeat=is_repeat)
        self._up_bytes += self._client.send(message)

    async def _wait(self) -> None:
        """Wait for an answer; ask again when it does not come."""
        # An event of the inbox, not a cancelled wait: asyncio.timeout costs every round, this only those that are lost.
        silence = Silence(self._heard_ns)
        alarm = asyncio.get_running_loop().call_later(self._retry_s, self._inbox.put_nowait, silence)
        try:
            self._on_answer(await self._inbox.get())
        finally:
            alarm.cancel()

    def _on_silence(self) -> None:
        silent_s = (self._now_ns() - self._heard_ns) / 1e9
        if silent_s > self._config.deadline_s:
            why = f"no answer from {self._config.coordinator} for {silent_s:.0f} s (deadline_s)"
            if self._config.on_deadline == "fail":
                raise RequestFailed(why, self._result())
            self._finished.degraded = why
            return
        self._retry_s = min(self._retry_s * (1.5 + random.random() / 2), self._config.retry_max_s)  # noqa: S311
        self._send(self._generation.repeat(), is_repeat=True)

    def _on_heard_again(self, heard: HeardAgain) -> None:
        """Ask at once for what was lost meanwhile; what comes twice does no harm."""
        if not self._inbox.empty() and not self._is_put_off:  # once: what is there may be another of these
            self._is_put_off = True
            self._inbox.put_nowait(heard)  # the answer may have come with it
            return
        self._is_put_off = False
        self._retry_s = self._config.retry_s
        if self._heard_ns < heard.heard_ns and self._generation.flight is not None:
            self._send(self._generation.repeat(), is_repeat=True)

    def _on_answer(self, answer: Event) -> None:
        if isinstance(answer, Silence):
            if answer.heard_ns == self._heard_ns:
                self._on_silence()
            return
        if isinstance(answer, Guessed):
            self._guessing.on_guessed(answer)
            return
        if isinstance(answer, HeardAgain):
            self._on_heard_again(answer)
            return
        self._heard_ns = self._now_ns()
        if isinstance(answer, RefusedByCoordinator):
            raise RequestFailed(str(answer), self._result())
        if isinstance(answer, Reconnected):
            self._reopen()
        elif isinstance(answer.message, Refused):
            self._on_refused(answer.message)
        else:
            self._retry_s = self._config.retry_s
            self._on_verdict(answer, answer.message)

    def _reopen(self) -> None:
        self._finished.num_reopens += 1
        if self._client.welcome is not None:
            self._limit_draft(self._client.welcome)  # a new coordinator may have another limit
        self._send(self._generation.open())

    def _on_refused(self, refused: Refused) -> None:
        if refused.round != self._generation.round:
            return  # about a round that is over
        if refused.code in REOPEN_CODES:
            self._reopen()
        elif refused.code not in RETRY_CODES:
            raise RequestFailed(f"coordinator refused the request ({refused.code}): {refused.message}", self._result())
        waited_s = (self._now_ns() - self._finished.started_ns) / 1e9
        begun = self._busy_s is None or self._generation.generated
        if refused.code in NO_ROOM_CODES and not begun and waited_s > (self._busy_s or 0.0):
            raise NoRoom(f"no room at the coordinator for {waited_s:.0f} s (busy_s): {refused.message}", self._result())
        # Else a refusal for now: the retry timer asks again.

    def _on_verdict(self, answer: Answer, verdict: Verdict) -> None:
        flight, is_open, position = (
            self._generation.flight or (),
            self._generation.is_opening,
            len(self._generation.tokens),
        )
        was_alone = self._generation.alone
        self._generation.draft_ahead = self._client.draft_ahead
        try:
            done = self._generation.on_verdict(verdict)
        except WireError as error:
            raise RequestFailed(f"a verdict that is none: {error}", self._result()) from error
        if done is None:
            self._finished.payload_down_bytes += answer.num_bytes
            self._ask_for_missed(verdict)
            return
        # What was sent again after the answer had come, though nobody had looked yet, is not what it answers.
        sent_ns = max((t_ns for t_ns in self._sends_ns if t_ns <= answer.received_ns), default=answer.received_ns)
        round_trip_s = (answer.received_ns - sent_ns) / 1e9
        if not was_alone:
            self._client.history.network_s.add(max(0.0, round_trip_s - verdict.residence_us / 1e6))
        elif done.ahead_hit is not None:
            self._guessing.compare(done.ahead_hit)
        self._count_reports()
        finished = self._finished
        if not finished.first_token_ns:
            finished.first_token_ns = answer.received_ns
            finished.num_reused = verdict.num_reused
        finished.rounds.append(
            RoundTiming(
                is_open,
                verdict,
                len(flight),
                sent_ns,
                self._guessing.seconds,
                round_trip_s,
                None if was_alone else done.ahead_hit,
                self._up_bytes,
                answer.num_bytes,
                self._guessing.confidence.judged(position, flight, verdict.num_accepted),
                self._clock.finish(answer.received_ns, verdict),
                answer.received_ns,
                done.next_token_id,
            )
        )
        finished.payload_up_bytes += self._up_bytes
        finished.payload_down_bytes += answer.num_bytes
        finished.ended_ns = answer.received_ns
        self._up_bytes, self._guessing.seconds = 0, 0.0
        if self._generation.alone:
            self._sends_ns = [answer.received_ns]  # an empty draft, taken for granted
        if self._provenance is not None:
            sources = sources_of_round(len(flight), verdict.num_accepted)
            self._provenance.add(done.token_ids, sources[: len(done.token_ids)])
        self._give(self._assembler.feed(done.token_ids))

    def _give(self, text: str) -> None:
        if text:
            self._on_text(Piece(text) if self._provenance is None else self._provenance.take(text))

    def _ask_for_missed(self, verdict: Verdict) -> None:
        """Ask again, once, for a verdict that was lost on the way while the coordinator goes on alone."""
        generation = self._generation
        if generation.has_missed(verdict) and self._missed_round != generation.round:
            self._missed_round = generation.round
            self._send(generation.repeat(), is_repeat=True)

    def _count_reports(self) -> None:
        self._up_bytes += self._guessing.report_bytes
        self._guessing.report_bytes = 0

    def _result(self) -> Finished:
        self._count_reports()
        finished = self._finished
        self._give(self._assembler.finish())
        finished.verification = self._generation.rule
        finished.token_ids = self._generation.generated[: self._assembler.num_tokens]
        finished.text = self._assembler.text
        finished.finish = "stop" if self._assembler.stopped else FINISH_NAMES.get(self._generation.finish, "error")
        finished.payload_up_bytes += self._up_bytes
        finished.ended_ns = finished.ended_ns or self._now_ns()
        return finished


async def generate(
    request: Request,
    *,
    config: Config,
    client: Client,
    drafts: DraftSource,
    engine: Engine,
    on_text: Callable[[Piece], None] = lambda _piece: None,
    started_ns: int | None = None,
    busy_s: float | None = None,
) -> Finished:
    """Return the text of a request and how it came about.

    Args:
        request: what is asked.
        config: of the agent.
        client: the connection.
        drafts: where they come from; its drafters are used in `engine` only.
        engine: its thread.
        on_text: called with every piece of text as it becomes certain; with its spans, if the request asks for them.
        started_ns: when it began, by the client's clock; null for now.
        busy_s: how long it may wait for room at the coordinator before it begins; null: as long as it takes.

    Raises:
        NoRoom: there was none for so long.
        RequestFailed: refused for good, or the coordinator was silent past the deadline.
    """
    return await _Serving(request, config, client, drafts, engine, on_text, started_ns, busy_s).run()
