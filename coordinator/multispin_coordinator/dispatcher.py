"""The coordinator's decisions, without I/O: frames in, messages and passes out, the clock an argument.

    frame ----> on_frame ----> replies, and sessions with jobs
    engine idle: next_pass() ----> Pass ----> (engine) ----> on_pass_done ----> verdicts
    every second: on_tick ----> silent agents lose their sessions

Whatever a peer sends, the sessions of others are untouched: it is refused with a code and counted in `counters`.
"""

import logging
import secrets
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

import multispin_models
from multispin_coordinator.admission import Reject, check_draft, check_hello, check_open, weighed_of
from multispin_coordinator.batcher import Share, plan_pass
from multispin_coordinator.config import Limits
from multispin_coordinator.control.online import BY_ITSELF, LAST, Control, Grant
from multispin_coordinator.control.uplink import Uplink
from multispin_coordinator.ended_rounds import EndedRounds
from multispin_coordinator.fleet import AgentState, Fleet
from multispin_coordinator.page.journal import PageJournal
from multispin_coordinator.passes import Outcome, Pass, PassTiming, num_sweeps, work_of
from multispin_coordinator.roster import Roster
from multispin_coordinator.schedule import Schedule
from multispin_coordinator.session import FINISH_LENGTH, GOES_ON, Session
from multispin_coordinator.tally import Tally
from multispin_coordinator.verdicts import as_undecided, one_by_one, only
from multispin_models.energy.meter import Label
from multispin_models.errors import WireError, WireVersionError
from multispin_models.language_model import ModelInfo
from multispin_models.messages import (
    PROTOCOL_VERSION,
    AgentMessage,
    BoxStatus,
    Close,
    Condition,
    CoordinatorMessage,
    Draft,
    DraftOffer,
    FileWanted,
    Hello,
    Open,
    Pace,
    Ping,
    Pong,
    Records,
    Refused,
    Report,
    Verdict,
    WeighedDraft,
    Welcome,
    decode_agent_message,
    encode,
)
from multispin_models.records.schema import SCHEMA_VERSION
from multispin_models.verification import Rule, Undecided, Verification

__all__ = ["ALONE", "Batch", "Dispatcher", "Send", "Wanted"]

log = logging.getLogger(__name__)

ALONE = b""  # owns the requests of the coordinator's own users; no agent has an empty routing id
MAX_BATCHES = 64  # of records that wait for the disk; what comes beyond is sent again
MAX_WANTED = 256  # parts of files to be read; what comes beyond is asked again
MAX_FAULTS = 2  # passes that may fail under one request before it is refused
MOST_REPEATED = 64  # verdicts that one question brings again; the agent asks on for what is behind them


class Send(NamedTuple):
    """A message for an agent, or for a user of the coordinator's own (`ALONE`)."""

    agent: bytes
    message: CoordinatorMessage


class Batch(NamedTuple):
    """Records that an agent sent, to be stored."""

    agent: bytes
    records: Records


class Wanted(NamedTuple):
    """A part of the offered file that an agent asks for, to be read."""

    agent: bytes
    part: FileWanted


class Dispatcher:
    """All sessions of all agents.

    Args:
        target: what is served.
        end_token_ids: that end a text.
        limits: of the configuration.
        keeps_records: batches of records are taken, for the shell to store.
        energy_label: of the joules of passes; null without a meter.
        boot_id: of this machine's kernel.
        control: says how much agents draft; null leaves it to them.
        schedule: which drafts are verified together; null takes whatever is ready.
        rule: of the verification.
        uplink: shares out what agents may send; null does not bound it.
        journal: is told what happens, for a live page; null where nobody can look.
        offer: a draft that agents should run; null offers none.
    """

    def __init__(
        self,
        target: ModelInfo,
        end_token_ids: frozenset[int],
        limits: Limits,
        control: Control | None = None,
        *,
        schedule: Schedule | None = None,
        journal: PageJournal | None = None,
        keeps_records: bool = False,
        energy_label: Label | None = None,
        boot_id: str | None = None,
        rule: Rule = "coupled",
        uplink: Uplink | None = None,
        offer: DraftOffer | None = None,
    ) -> None:
        self._rule: Rule = rule
        self._uplink = uplink
        self._schedule = Schedule("continuous", 0.0) if schedule is None else schedule
        self.control = Control("fixed", limits.max_draft_tokens) if control is None else control
        self.journal = journal
        self.counters: Counter[str] = Counter()
        self.tally = Tally()
        self.epoch = secrets.randbits(64)
        self.fleet = Fleet()
        self._target = target
        self._end_token_ids = end_token_ids
        self._limits = limits
        self._keeps_records = keeps_records
        self._energy_label = energy_label
        self._boot_id = boot_id
        self._offer = offer
        self._wanted: list[Wanted] = []
        self._batches: list[Batch] = []
        self._num_batches = 0  # taken and not stored yet
        self._max_context = min(limits.max_context_tokens, target.n_ctx)
        # Only where a sequence that is cut back is, to the last bit, one that was computed anew.
        self._roster = Roster(limits.max_sessions, keeps=limits.keep_sequences and bool(target.exact))
        self._ended = EndedRounds(limits.session_timeout_s)
        self._running: list[Share] = []
        self._pending_since_ns: int | None = None  # end of the last pass, if it left work for the next
        self._deferred: dict[int, tuple[bytes, Open, int]] = {}  # Opens that came while their session was computed

    def reconfigure(self, limits: Limits, schedule: Schedule) -> None:
        """Go by other limits from now on; what is open stays open. Sizes of caches are those of the start."""
        self._limits = limits
        self._schedule = schedule

    @property
    def agents(self) -> dict[bytes, AgentState]:
        """Those that are here, by routing id."""
        return self.fleet.agents

    @property
    def num_kept_sequences(self) -> int:
        """Sequences of requests that have ended, kept for prompts that begin with the same tokens."""
        return self._roster.num_kept

    @property
    def sessions(self) -> dict[int, Session]:
        """All sessions by request id, in the order of their last job."""
        return self._roster.sessions

    # -- what agents send ---------------------------------------------------------------------------------------------

    def on_frame(self, agent: bytes, frames: Sequence[bytes], now_ns: int) -> list[Send]:
        """Take the frames of one message (one, if the peer is sound); return the replies that need no engine."""
        try:
            frame = only(frames)
            message = decode_agent_message(frame)
            self.fleet.heard(agent, frame[0])
            return self._on_message(agent, message, now_ns)
        except WireVersionError as error:
            self.fleet.heard(agent, PROTOCOL_VERSION)
            return self._refuse(
                agent, Reject("protocol_version", f"{error}; update the older side, coordinators first")
            )
        except WireError as error:
            # No answer: whatever sent it does not speak this protocol.
            self.counters["ignored_malformed_frame"] += 1
            log.debug("malformed frame from %r: %s", agent, error)
            return []
        except Reject as reject:
            return self._refuse(agent, reject)

    def _on_message(self, agent: bytes, message: AgentMessage, now_ns: int) -> list[Send]:
        if isinstance(message, Hello):
            return self._on_hello(agent, message, now_ns)
        state = self.agents.get(agent)
        if state is None:
            raise Reject("hello_required", "this coordinator does not know you: send Hello first")
        state.last_seen_ns = now_ns
        sends: list[Send] = []
        match message:
            case Ping():
                sends = [Send(agent, Pong(message.sequence_number, self.epoch))]
            case Close():
                self._on_close(agent, message, now_ns)
            case Open():
                sends = self._on_open(agent, message, now_ns)
            case Draft():
                sends = self._on_draft(agent, message, now_ns)
            case Records():
                self._on_records(agent, message)
            case Report():
                self.control.on_report(agent, message, now_ns)
                self._note_times(agent, message)
            case Condition():
                self.fleet.conditioned(agent, message)
                self.control.on_condition(agent, message, now_ns)
                if self.journal is not None:
                    self.journal.told(agent, message)
            case FileWanted():
                self._on_wanted(agent, message)
            case BoxStatus():
                self.fleet.told(agent, message)
        return sends

    def _on_hello(self, agent: bytes, hello: Hello, now_ns: int) -> list[Send]:
        known = self.agents.get(agent)
        check_hello(agent, hello, target=self._target, known=known, num_agents=len(self.agents), limits=self._limits)
        if known is None or known.instance_id != hello.instance_id:
            fields = {"event": "agent_joined", "agent_id": hello.agent_id, "version": hello.software_version}
            log.info("agent %r joined, version %r", hello.agent_id, hello.software_version, extra={"fields": fields})
        if known is not None and known.instance_id != hello.instance_id:
            self._drop_sessions_of(agent, now_ns)  # it started anew: nobody will ask for them again
        if known is None or known.instance_id != hello.instance_id:
            self.control.on_hello(agent, hello)
            if self.journal is not None:
                self.journal.joined(agent, hello)
        else:
            self.control.on_hello_again(agent, hello)
        self.fleet.joined(agent, hello, now_ns)
        welcome = Welcome(
            protocol_version=hello.protocol_version,
            software_version=multispin_models.__version__,
            epoch=self.epoch,
            vocabulary_hash=self._target.vocabulary_hash,
            target_fingerprint=self._target.fingerprint,
            exact=bool(self._target.exact),
            max_context_tokens=self._max_context,
            max_prompt_tokens=self._limits.max_prompt_tokens,
            max_draft_tokens=self._limits.max_draft_tokens,
            ping_interval_s=self._limits.agent_timeout_s / 4,
            boot_id=self._boot_id,
            energy_label=self._energy_label,
            policy=self.control.policy,
            verification=self._rule,
            send_bytes_per_s=None if self._uplink is None else self._uplink.welcome(agent),
        )
        sends = [Send(agent, welcome), *self._paces()]
        # An agent of the version before does not know what an offer is.
        offers = self._offer is not None and hello.protocol_version == PROTOCOL_VERSION
        return [*sends, Send(agent, self._offer)] if offers and self._offer is not None else sends

    def _on_open(self, agent: bytes, opened: Open, now_ns: int) -> list[Send]:
        check_open(opened, self._target, self._limits, self._max_context, self._rule)
        session = self.sessions.get(opened.request_id)
        if session is not None and session.agent != agent and (session.agent in self.agents or session.agent == ALONE):
            raise Reject("request_owned", "another one that is alive has this request", opened.request_id, opened.round)
        if session is not None and session.agent == agent and opened.round <= session.round:
            return self._answer_again(session, opened.round)
        if session is not None:
            if session.running:
                self._deferred[session.request_id] = (agent, opened, now_ns)
                return []
            session.reopen(opened, self._max_context)
            session.agent = agent
        else:
            last = self._ended.last(agent, opened.request_id)
            if opened.round <= last:
                text = f"round {opened.round}, but round {last} is over; open it again"
                raise Reject("out_of_step", text, opened.request_id, opened.round)
            self._check_room(agent, opened)
            session = Session(opened, agent, self._max_context, self._rule)
        session.received_ns = now_ns
        self._roster.queue(session)
        self._note_opened(agent, opened, now_ns)
        return []

    def _check_room(self, agent: bytes, opened: Open) -> None:
        own = len(self._roster.of_agent(agent))
        if own >= self._limits.max_sessions_per_agent and agent != ALONE:
            raise Reject(
                "too_many_sessions",
                f"{own} requests of yours are open, the most allowed",
                opened.request_id,
                opened.round,
            )
        waiting = len(self.sessions) - self._limits.max_sessions
        if waiting >= self._limits.max_waiting:
            raise Reject(
                "busy",
                f"{len(self.sessions)} requests are open or wait; try again later",
                opened.request_id,
                opened.round,
            )

    def _on_draft(self, agent: bytes, draft: Draft, now_ns: int) -> list[Send]:
        session = self.sessions.get(draft.request_id)
        if session is None or session.agent != agent:
            raise Reject("unknown_request", "no such request of yours; open it again", draft.request_id, draft.round)
        check_draft(draft, self._target, self._limits)
        if draft.round <= session.round:
            return self._answer_again(session, draft.round)
        choice = draft.choice if isinstance(draft, WeighedDraft) else None
        follows = session.expects(draft.num_committed, choice, len(draft.draft_token_ids))
        if session.job is not None or draft.round != session.round + 1 or not follows:
            expected = f"round {session.round + 1} after {len(session.tokens)} tokens"
            got = f"round {draft.round} after {draft.num_committed} tokens"
            raise Reject("out_of_step", f"{got}, expected {expected}; open it again", draft.request_id, draft.round)
        weighed = weighed_of(draft, session.rule, self._target)
        if self._uplink is not None:
            self._uplink.on_draft(agent, draft, len(encode(draft)))
        self.control.on_draft(agent, draft, now_ns)
        self._note_times(agent, draft)
        if choice is not None:
            session.choose(choice)
        session.submit(draft.round, draft.draft_token_ids, now_ns, weighed)
        self._roster.queue(session)
        return []

    def _answer_again(self, session: Session, round_number: int) -> list[Send]:
        """Return the verdicts from a round on once more; a round before the agent's last message is late."""
        verdicts = session.verdicts_from(round_number)[:MOST_REPEATED]
        if not verdicts:
            is_stale = round_number < session.round
            self.counters["ignored_stale_round" if is_stale else "ignored_repeated_round"] += 1
            return []
        self.counters["repeated_verdicts"] += len(verdicts)
        return [Send(session.agent, verdict) for verdict in verdicts]

    def _on_close(self, agent: bytes, close: Close, now_ns: int) -> None:
        session = self.sessions.get(close.request_id)
        if session is not None and session.agent == agent:
            self._drop(session, now_ns)

    # -- the coordinator's own users ----------------------------------------------------------------------------------

    def open_alone(self, opened: Open, now_ns: int) -> Session:
        """Return the session of a text that the target writes without drafts; every token is a verdict to `ALONE`.

        Raises:
            Reject: it cannot be served.
        """
        check_open(opened, self._target, self._limits, self._max_context, "coupled")
        if opened.request_id in self.sessions:
            raise Reject("request_owned", "another one that is alive has this request", opened.request_id)
        self._check_room(ALONE, opened)
        session = Session(opened, ALONE, self._max_context)
        session.received_ns = now_ns
        self._roster.queue(session)
        self._note_opened(ALONE, opened, now_ns)
        return session

    def close_alone(self, request_id: int, now_ns: int) -> None:
        """End such a text, if it has not ended."""
        self._on_close(ALONE, Close(request_id), now_ns)

    # -- records ------------------------------------------------------------------------------------------------------

    def _on_records(self, agent: bytes, records: Records) -> None:
        if not self._keeps_records:
            raise Reject("records_not_kept", "this coordinator keeps no records: set its `store`, or no `spool` here")
        if records.schema_version != SCHEMA_VERSION:
            raise Reject(
                "records_schema",
                f"agent's records have schema {records.schema_version}, this coordinator keeps {SCHEMA_VERSION}: "
                "update the older side; the agent's spool keeps them until then",
            )
        if self._num_batches >= MAX_BATCHES:
            self.counters["ignored_record_batches"] += 1
            return
        self._num_batches += 1
        self._batches.append(Batch(agent, records))

    def _on_wanted(self, agent: bytes, wanted: FileWanted) -> None:
        if self._offer is None or wanted.sha256 != self._offer.sha256:
            raise Reject("no_such_file", f"no file {wanted.sha256[:16]} is offered here: wait for the next offer")
        if len(self._wanted) >= MAX_WANTED:
            self.counters["ignored_wanted_files"] += 1
            return
        self._wanted.append(Wanted(agent, wanted))

    def take_wanted(self) -> list[Wanted]:
        """Return the parts of the offered file that were asked for since the last call."""
        wanted, self._wanted = self._wanted, []
        return wanted

    def take_batches(self) -> list[Batch]:
        """Return the batches of records that came since the last call."""
        batches, self._batches = self._batches, []
        return batches

    def on_batch_done(self) -> None:
        """Note that a batch has been stored, or will not be."""
        self._num_batches -= 1

    # -- the engine ---------------------------------------------------------------------------------------------------

    def next_pass(self, now_ns: int = 0) -> Pass | None:
        """Return what the engine should do now, or None; its sessions do not change until `on_pass_done`."""
        assert not self._running
        limits = self._limits
        self._running = plan_pass(
            self._schedule.choose(self.sessions.values(), list(self._roster.ready()), now_ns),
            max_rows=limits.max_rows,
            prefill_rows=limits.prefill_rows,
            short_rows=limits.max_draft_tokens + 1,
        )
        closing = self._roster.take_closing()
        if not self._running and not closing:
            return None
        for share in self._running:
            share.session.running = True
        return Pass(closing, tuple(work_of(share) for share in self._running))

    def on_pass_done(self, outcomes: Sequence[Outcome], timing: PassTiming) -> list[Send]:
        """Take the outcomes of the last pass, in its order; return the verdicts."""
        shares, self._running = self._running, []
        num_rows = sum(share.num_rows for share in shares)
        if shares:
            self.tally.add_pass(num_rows, timing, is_whole=all(share.is_last for share in shares))
            if self.journal is not None:
                parts = [(share.session.request_id, share.num_rows, share.session.is_opening) for share in shares]
                self.journal.passed(parts, timing)
        self._tell_control(shares, outcomes, num_rows, timing)
        sends: list[Send] = []
        for share, outcome, energy_nj in zip(shares, outcomes, timing.energy_nj, strict=True):
            session = share.session
            session.bear(timing.verify_us, energy_nj)
            session.running = False
            session.sequence = outcome.sequence
            if self.sessions.get(session.request_id) is not session:  # closed meanwhile
                self._roster.free(session)
            elif outcome.sequence is None:
                sends += self._on_fault(session, timing.finished_ns)
            elif outcome.verification is None:
                session.fed(share.num_rows)
            else:
                drafted, is_asked_again = session.job or (), session.first_candidate > 0
                verdicts = self._verdicts(session, outcome.verification, timing, num_rows)
                if not is_asked_again:
                    self._note_verdicts(drafted, verdicts, timing.finished_ns)
                sends += verdicts
        is_pending = any(session.job is not None for session in self.sessions.values())
        self._pending_since_ns = timing.finished_ns if is_pending else None
        return sends + self._open_deferred()

    def _tell_control(
        self, shares: Sequence[Share], outcomes: Sequence[Outcome], num_rows: int, timing: PassTiming
    ) -> None:
        """Tell the control what a pass of drafts cost; of a prompt not all rows are scored, so they cost less."""
        joules = [each for each in timing.energy_nj if each is not None]
        if shares and len(joules) == len(shares):
            self.control.on_joules(sum(joules) / 1e9, timing.verify_us / 1e6)
        is_whole = all(share.is_last and share.num_rows == len(share.session.job or ()) + 1 for share in shares)
        parts = [(outcome.sequence, share.num_rows) for share, outcome in zip(shares, outcomes, strict=True)]
        known = [(sequence, rows) for sequence, rows in parts if sequence is not None]
        if not shares or not is_whole or len(known) < len(parts):
            return
        pause_s = None
        if self._pending_since_ns is not None:
            pause_s = (timing.finished_ns - self._pending_since_ns) / 1e9 - timing.verify_us / 1e6
        self.control.on_pass(
            num_rows,
            timing.verify_us / 1e6,
            pause_s,
            num_sweeps=num_sweeps(known),
            num_looked_up=sum(len(share.session.job or ()) for share in shares if share.session.is_own),
            num_drafted=sum(len(share.session.job or ()) for share in shares if not share.session.is_own),
        )

    def _verdicts(
        self, session: Session, verification: Verification | Undecided, timing: PassTiming, num_rows: int
    ) -> list[Send]:
        """Commit what was verified, and say what comes next; see `Session` for who is told how."""
        num_drafted = len(session.job or ())
        is_asked_again = session.first_candidate > 0  # more draws, for a token that counts already
        undecided = None
        if isinstance(verification, Undecided):
            done = session.commit_undecided(verification, self._end_token_ids)
            if done is None:
                undecided = verification
                finish = FINISH_LENGTH if session.is_last else GOES_ON
                done = undecided.num_accepted, undecided.candidates[0].token_id, finish
        else:
            done = session.commit(verification, self._end_token_ids)
        num_accepted, next_token_id, finish = done
        self._count(session, num_drafted, num_accepted, is_asked_again=is_asked_again)
        grant = self._grant(session, None if is_asked_again else num_drafted, num_accepted, finish, timing.finished_ns)
        verdict = Verdict(
            request_id=session.request_id,
            round=session.round,
            num_accepted=num_accepted,
            next_token_id=next_token_id,
            finish=finish,
            received_ns=session.received_ns,
            residence_us=max(0, (timing.finished_ns - session.received_ns) // 1000),
            verify_us=session.verify_us,
            batch_rows=num_rows,
            energy_nj=session.energy_nj,
            num_draft_tokens=grant.num_draft_tokens,
            price=grant.price,
            alone=grant.alone,
            num_reused=session.num_reused if session.is_opening else 0,
        )
        if undecided is not None:
            verdict = as_undecided(verdict, undecided)
            session.verdicts.append(verdict)
            return [Send(session.agent, verdict)]  # it goes on, or is closed, when the agent has chosen
        verdicts = one_by_one(verdict, session.tokens[-num_accepted - 1 :]) if session.is_own else [verdict]
        session.verdicts += verdicts
        session.round = verdicts[-1].round
        looked_up: tuple[int, ...] = ()
        if finish == GOES_ON and session.rule == "coupled":  # a rejection rule asks what a draft was drawn from
            looked_up = self.control.look_up(session.request_id, session.tokens)
        if finish != GOES_ON:
            self._roster.drop(session)  # an Open that came meanwhile is served after it
            self._ended.add(session.agent, session.request_id, session.round, timing.finished_ns)
        elif grant.alone:
            session.go_on_alone(timing.finished_ns, looked_up)
            self._roster.queue(session)
        return [Send(session.agent, each) for each in verdicts]

    def _count(self, session: Session, num_drafted: int, num_accepted: int, *, is_asked_again: bool) -> None:
        (self.tally.looked_up if session.is_own else self.tally.drafts).add(num_drafted, num_accepted)
        if session.agent == ALONE:
            self.tally.num_tokens_alone += 1
        elif not is_asked_again:
            self.tally.num_tokens_cooperative += num_accepted + 1

    def _grant(self, session: Session, num_drafted: int | None, num_accepted: int, finish: int, now_ns: int) -> Grant:
        """Tell the control what became of a draft, null for none; return what its request may do next."""
        request_id, agent = session.request_id, session.agent
        if num_drafted is not None:
            self.control.on_round(request_id, agent, num_drafted, num_accepted, now_ns)
        if finish != GOES_ON:
            return LAST
        if agent == ALONE:
            return BY_ITSELF
        return self.control.grant(request_id, agent, self.sessions.values(), now_ns)

    def _on_fault(self, session: Session, now_ns: int) -> list[Send]:
        """Feed everything again in a new sequence; give up on a request under which passes keep failing."""
        session.lost_cache()
        session.num_faults += 1
        self.counters["engine_faults"] += 1
        if session.num_faults <= MAX_FAULTS:
            return []
        self._end(session, "failed", now_ns)
        return self._refuse(
            session.agent,
            Reject("engine_fault", "the target failed on this request", session.request_id, session.round),
        )

    def _open_deferred(self) -> list[Send]:
        deferred, self._deferred = self._deferred, {}
        sends: list[Send] = []
        for agent, opened, received_ns in deferred.values():
            try:
                sends += self._on_open(agent, opened, received_ns)
            except Reject as reject:
                sends += self._refuse(agent, reject)
        return sends

    # -- ends ---------------------------------------------------------------------------------------------------------

    def on_tick(self, now_ns: int) -> list[Send]:
        """Free the sessions of agents that have been silent for too long, and those that nobody goes on with.

        Returns:
            The shares of the uplink that have changed.
        """
        limit_ns = int(self._limits.agent_timeout_s * 1e9)
        for agent, state in list(self.agents.items()):
            if now_ns - state.last_seen_ns > limit_ns:
                log.warning("agent %s silent for %.0f s: its sessions are freed", agent, limit_ns / 1e9)
                self.counters["agents_lost"] += 1
                self.fleet.left(agent)
                self.control.forget(agent)
                if self._uplink is not None:
                    self._uplink.forget(agent)
                self._drop_sessions_of(agent, now_ns)
                if self.journal is not None:
                    self.journal.left(agent)
        oldest_ns = now_ns - int(self._limits.session_timeout_s * 1e9)
        for session in list(self.sessions.values()):
            if session.job is None and session.received_ns < oldest_ns:
                self.counters["sessions_abandoned"] += 1
                self._drop(session, now_ns)
        return self._paces()

    def _paces(self) -> list[Send]:
        changes = {} if self._uplink is None else self._uplink.changes()
        return [Send(agent, Pace(share)) for agent, share in changes.items()]

    def _drop_sessions_of(self, agent: bytes, now_ns: int) -> None:
        for session in self._roster.of_agent(agent):
            self._drop(session, now_ns)

    def _drop(self, session: Session, now_ns: int) -> None:
        self._deferred.pop(session.request_id, None)
        self._end(session, "closed", now_ns)

    def _end(self, session: Session, end: str, now_ns: int) -> None:
        self._roster.drop(session)
        self._ended.add(session.agent, session.request_id, session.round, now_ns)
        if self.journal is not None:
            self.journal.ended(session.request_id, end, now_ns)

    # -- for the live page --------------------------------------------------------------------------------------------

    def _note_opened(self, agent: bytes, opened: Open, now_ns: int) -> None:
        if self.journal is not None:
            self.journal.opened(agent, opened.request_id, opened.num_prompt_tokens, now_ns)

    def _note_times(self, agent: bytes, told: Draft | Report) -> None:
        if self.journal is not None:
            self.journal.timed(agent, told.draft_us, told.network_us)

    def _note_verdicts(self, drafted: Sequence[int], sends: Sequence[Send], now_ns: int) -> None:
        """Tell of a draft and its verdict; those that tell of a draft of its own, token by token, are one again."""
        if self.journal is None:
            return
        first, last = sends[0].message, sends[-1].message
        assert isinstance(first, Verdict)
        assert isinstance(last, Verdict)
        if len(sends) > 1:
            ends = {"next_token_id": last.next_token_id, "finish": last.finish, "alone": last.alone}
            first = msgspec.structs.replace(first, num_accepted=len(sends) - 1, **ends)
        self.journal.judged(drafted, first, now_ns)

    def _refuse(self, agent: bytes, reject: Reject) -> list[Send]:
        counter = f"refused_{reject.code}"
        self.counters[counter] += 1
        # A peer that is refused again and again must not fill the log: the 1st, 10th, 100th ... are told.
        level = logging.INFO if str(self.counters[counter]).strip("0") == "1" else logging.DEBUG
        fields = {
            "event": counter,
            "agent_id": agent.decode(errors="replace"),
            "request_id": f"{reject.request_id:016x}",
        }
        told = (counter, self.counters[counter], agent, reject.request_id, reject)
        log.log(level, "%s %d: %r request %x: %s", *told, extra={"fields": fields})
        return [Send(agent, Refused(reject.code, reject.message[:2048], reject.request_id, reject.round))]
