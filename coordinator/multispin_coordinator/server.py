"""The coordinator's shell: a ROUTER, an engine thread, a clock. All decisions are the Dispatcher's.

ROUTER --> on_frame --+                        +--> verdicts --> ROUTER
                      +--> engine thread idle? |
                           next_pass --> run_pass --> on_pass_done
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import zmq

from multispin_coordinator.attribution import PassMeter
from multispin_coordinator.config import Config
from multispin_coordinator.control.objective import Aim, Power
from multispin_coordinator.control.online import Control
from multispin_coordinator.control.uplink import Uplink
from multispin_coordinator.dispatcher import ALONE, Dispatcher, Send
from multispin_coordinator.enrolment import EnrolmentChannel, open_enrolment
from multispin_coordinator.fleet_file import kept_fleet_file
from multispin_coordinator.keeper import Keeper
from multispin_coordinator.offers import OfferedFile, OfferReader
from multispin_coordinator.page.journal import PageJournal
from multispin_coordinator.passes import Outcome, Pass, PassTiming
from multispin_coordinator.schedule import Schedule
from multispin_coordinator.session import Session
from multispin_coordinator.store import RecordStore
from multispin_coordinator.timing import PassTime
from multispin_coordinator.verifier import run_pass
from multispin_models.channel import FrameChannel
from multispin_models.clock import monotonic_ns
from multispin_models.connections import open_coordinator_channel
from multispin_models.engine_thread import Engine, EngineThread
from multispin_models.engines import Loaded
from multispin_models.keys.gate import GuardedChannel
from multispin_models.language_model import ModelInfo
from multispin_models.messages import CoordinatorMessage, Open, Refused, Verdict, encode
from multispin_models.records import AnyRecord, read_boot_id
from multispin_models.records.journal import Journal

__all__ = ["Server"]

log = logging.getLogger(__name__)

TICK_S = 0.5

Computed = tuple[list[Outcome], int, list[int | None]]  # of every part; microseconds; nanojoules of every part


class Server:
    """Serves one target until cancelled.

    Args:
        config: of the coordinator.
        target: loaded; its model is used by the engine thread alone from here on.
        info: of the target, with the probe's answer.
        meter: gives the joules of a pass.
        context: of ZeroMQ.
        store: keeps the records that agents send; null keeps none.
        open_channel: as `open_coordinator_channel`, which it is but in the simulator.
        engine: computes the passes; null makes a thread.
        now_ns: the clock, of all that is timed here.
        pass_times: of passes that were timed before.
        journal: is told what happens, for a live page; null where nobody can look.
        offered: the draft that agents should run; null offers none.
    """

    def __init__(
        self,
        config: Config,
        target: Loaded,
        info: ModelInfo,
        meter: PassMeter,
        context: zmq.Context[Any],
        *,
        store: RecordStore | None = None,
        open_channel: Callable[..., FrameChannel] = open_coordinator_channel,
        engine: Engine | None = None,
        now_ns: Callable[[], int] = monotonic_ns,
        pass_times: Sequence[PassTime] = (),
        journal: PageJournal | None = None,
        offered: OfferedFile | None = None,
    ) -> None:
        idle = meter.idle
        power = Power(meter.label, *((None, None) if idle is None else (idle.power_w, idle.reason)))
        control = Control(config.policy, config.limits.max_draft_tokens, config.objective, power)
        control.on_timed(pass_times)
        self.dispatcher = Dispatcher(
            info,
            target.tokenizer.end_token_ids,
            config.limits,
            control,
            schedule=Schedule(config.schedule, config.patience_s, config.num_groups),
            journal=journal,
            keeps_records=store is not None,
            energy_label=meter.label,
            boot_id=read_boot_id(),
            rule=config.verification,
            uplink=_uplink(config),
            offer=None if offered is None else offered.offer,
        )
        self._reader = None if offered is None else OfferReader(offered, self._send)
        self._fleet_file = config.fleet_file
        self._model = target.model
        self._meter = meter
        self._engine = EngineThread() if engine is None else engine
        self._now_ns = now_ns
        self._loop = asyncio.get_running_loop()
        self._own_users: dict[int, Callable[[Verdict | Refused], None]] = {}
        self._aim_told = Aim("goodput")
        self._pass_due = self._computing = self._closed = False
        self._failed: asyncio.Future[None] = self._loop.create_future()
        self._keeper = None if store is None else Keeper(store, self._send, self.dispatcher.on_batch_done)
        self._channel = open_channel(config.bind, config.security, self._on_frames, context, self.dispatcher.counters)
        self._enrolment = self._open_enrolment(config.security.enrol_bind)

    def _open_enrolment(self, endpoint: str | None) -> EnrolmentChannel | None:
        if endpoint is None or not isinstance(self._channel, GuardedChannel):
            return None
        try:
            return open_enrolment(endpoint, self.endpoint, self._channel.gate)
        except BaseException:
            self._channel.close()
            raise

    @property
    def enrol_endpoint(self) -> str | None:
        """Where boxes enrol; null where they cannot."""
        return None if self._enrolment is None else self._enrolment.endpoint

    @property
    def endpoint(self) -> str:
        """Where it listens, with the port that was found for tcp://127.0.0.1:*."""
        return self._channel.endpoint

    async def serve(self, journal: Journal | None = None) -> None:
        """Serve until cancelled; then the pass under way ends, and socket, thread and store are closed.

        A fault of this program in a pass is raised here: it ends the daemon, and its agents resume at the next one.

        Args:
            journal: kept meanwhile; its last records are taken when the last pass has ended.
        """
        async with AsyncExitStack() as stack:
            stack.callback(self._close_keeper)
            try:
                if journal is not None:
                    await stack.enter_async_context(journal.kept())
                if self._fleet_file is not None:
                    await stack.enter_async_context(
                        kept_fleet_file(Path(self._fleet_file), self.dispatcher.fleet, self._now_ns)
                    )
                while True:
                    await asyncio.wait({self._failed}, timeout=TICK_S)
                    if self._failed.done():
                        self._failed.result()
                    self._send(self.dispatcher.on_tick(self._now_ns()))
                    self._tell_aim()
                    self._start_pass()
            finally:
                self._closed = True
                self._channel.close()
                if self._enrolment is not None:
                    self._enrolment.close()
                if self._reader is not None:
                    self._reader.close()
                self._engine.shutdown()

    def _tell_aim(self) -> None:
        """Say in the log what is aimed at, when that has changed, and why it is not what was asked for."""
        aim = self.dispatcher.control.aim
        if aim == self._aim_told:
            return
        self._aim_told = aim
        if aim.why is not None:
            log.warning("objective: %s, since %s", aim.objective, aim.why)
        else:
            log.info("objective: %s", aim.objective)

    def keep_own(self, records: list[AnyRecord]) -> None:
        """Store records of the coordinator itself, if there is a store."""
        if self._keeper is not None:
            self._keeper.keep_own(records)

    def _close_keeper(self) -> None:
        if self._keeper is not None:
            self._keeper.close()
        log.info("closed; counters: %s", dict(sorted(self.dispatcher.counters.items())))

    def reconfigure(self, config: Config) -> None:
        """Go by the settings of `RELOADABLE` from now on."""
        self.dispatcher.reconfigure(config.limits, Schedule(config.schedule, config.patience_s, config.num_groups))

    @property
    def engine(self) -> Engine:
        """The thread that computes the passes."""
        return self._engine

    def open_alone(self, opened: Open, on_answer: Callable[[Verdict | Refused], None]) -> Session:
        """Return the session of a text that the target writes without drafts, in the passes that verify the agents'.

        Args:
            opened: the request.
            on_answer: called with a verdict for every token; after one that finishes, or a refusal, nothing comes.

        Raises:
            Reject: it cannot be served.
        """
        session = self.dispatcher.open_alone(opened, self._now_ns())
        self._own_users[opened.request_id] = on_answer
        self._start_pass()
        return session

    def close_alone(self, request_id: int) -> None:
        """End such a text, wherever it is."""
        self._own_users.pop(request_id, None)
        self.dispatcher.close_alone(request_id, self._now_ns())
        self._start_pass()  # its sequence is freed

    def _on_frames(self, frames: list[bytes]) -> None:
        self.dispatcher.tally.received_bytes += sum(map(len, frames[1:]))
        self._send(self.dispatcher.on_frame(frames[0], frames[1:], self._now_ns()))
        if self._keeper is not None:
            for batch in self.dispatcher.take_batches():
                self._keeper.keep(batch)
        if self._reader is not None:
            self._reader.read(self.dispatcher.take_wanted())
        self._start_pass()

    def _send(self, sends: list[Send]) -> None:
        for agent, message in sends:
            if agent == ALONE:
                self._tell_user(message)
            else:
                self._send_to_agent(agent, encode(message, self.dispatcher.fleet.version_of(agent)))

    def _send_to_agent(self, agent: bytes, payload: bytes) -> None:
        if self._channel.send([agent, payload]):
            self.dispatcher.tally.sent_bytes += len(payload)
        else:
            # The agent asks again when it is back: every answer can be given twice.
            self.dispatcher.counters["unsent_messages"] += 1

    def _tell_user(self, message: CoordinatorMessage) -> None:
        assert isinstance(message, Verdict | Refused)
        if message.request_id in self._own_users:
            self._own_users[message.request_id](message)

    def _start_pass(self) -> None:
        """Wake the engine unless it computes; what is ready is looked at only when the socket has been drained."""
        if not self._pass_due:
            self._pass_due = True
            self._loop.call_soon(self._begin_pass)

    def _begin_pass(self) -> None:
        self._pass_due = False
        if self._computing or self._closed or self._failed.done():
            return
        next_pass = self.dispatcher.next_pass(self._now_ns())
        if next_pass is not None:
            self._computing = True
            # A plain callback: a task would cost one more wake-up in every round.
            self._engine.run(self._compute, next_pass).add_done_callback(self._end_pass)

    def _end_pass(self, computed: asyncio.Future[Computed]) -> None:
        self._computing = False
        if self._closed:
            return
        try:
            outcomes, verify_us, energy_nj = computed.result()
            self._send(self.dispatcher.on_pass_done(outcomes, PassTiming(self._now_ns(), verify_us, energy_nj)))
        except Exception as error:
            self._failed.set_exception(error)
            return
        self._begin_pass()

    def _compute(self, work_pass: Pass) -> Computed:
        started_ns = self._now_ns()
        begun_ns = self._meter.begin()
        outcomes = run_pass(self._model, work_pass)
        shares = self._meter.shares_nj(
            begun_ns,
            [len(work.token_ids) for work in work_pass.work],
            is_prefill=[work.is_prefill for work in work_pass.work],
        )
        return outcomes, (self._now_ns() - started_ns) // 1000, shares


def _uplink(config: Config) -> Uplink | None:
    if config.uplink_bytes_per_s is None:
        return None
    plans_rounds = config.policy in {"homogeneous", "heterogeneous", "exact"}
    return Uplink(config.uplink_bytes_per_s, is_equal=not plans_rounds)
