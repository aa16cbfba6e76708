"""The agent's side of the wire: one connection, the handshake, pings, and answers sorted to their requests."""

import asyncio
import logging
import secrets
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import zmq

import multispin_models
from multispin_agent.confidence import Confidence
from multispin_agent.config import Config
from multispin_agent.draft_length import DraftHistory
from multispin_agent.events import Answer, Event, HeardAgain, Reconnected, RefusedByCoordinator
from multispin_agent.pacing import Pacer
from multispin_models.channel import FrameChannel
from multispin_models.clock import monotonic_ns
from multispin_models.clock_offset import ClockOffset
from multispin_models.clock_watch import ClockWatch
from multispin_models.connections import open_agent_channel
from multispin_models.errors import WireError, WireVersionError
from multispin_models.language_model import ModelInfo
from multispin_models.messages import (
    PROTOCOL_VERSION,
    AgentMessage,
    Close,
    CoordinatorMessage,
    DraftOffer,
    FileChunk,
    Hello,
    Pace,
    Ping,
    Pong,
    RecordsAck,
    Refused,
    Verdict,
    Welcome,
    decode_coordinator_message,
    encode,
)

__all__ = ["Client"]

log = logging.getLogger(__name__)

HELLO_RETRY_S = 1.0
PINGS_LATE = 1.5  # intervals of silence, after which the way was interrupted
PINGS_MISSED = 3  # without an answer, before the coordinator counts as gone
RECORD_CODES = frozenset({"records_not_kept", "records_schema", "bad_record"})
FATAL_CODES = frozenset({"protocol_version", "vocabulary_mismatch", "bad_agent_id"})


class Client:
    """The connection to the coordinator.

    Args:
        config: of the agent.
        draft: what this agent drafts with.
        context: of ZeroMQ.
        open_channel: as `open_agent_channel`, which it is but in the simulator.
        now_ns: the clock, of all that is timed on this agent.
    """

    def __init__(
        self,
        config: Config,
        draft: ModelInfo,
        context: zmq.Context[Any],
        *,
        open_channel: Callable[..., FrameChannel] = open_agent_channel,
        now_ns: Callable[[], int] = monotonic_ns,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self.confidence = Confidence()  # learnt over all requests of this connection
        self.welcome: Welcome | None = None
        self.history = DraftHistory()
        self.now_ns = now_ns
        self.clock_offset = ClockOffset()  # of the coordinator's clock
        self.clock_watch = ClockWatch() if now_ns is monotonic_ns else None  # of this machine, unless time is virtual
        self.on_records: Callable[[RecordsAck | Refused], None] | None = None  # what uploads records hears
        self.on_files: Callable[[DraftOffer | FileChunk | Refused], None] | None = None  # what takes offered drafts
        self._config = config
        self._draft = draft
        self.draft_ahead = config.draft_ahead  # now: it may follow the box's supply
        self._instance_id = f"{secrets.randbits(64):016x}"
        self._inboxes: dict[int, asyncio.Queue[Event]] = {}
        self._welcomed = asyncio.Event()
        self._failed: RefusedByCoordinator | None = None
        self._other_version = ""  # what a coordinator of another version has said last
        self._pings = 0
        self._heard_ns = 0
        self._pacer = Pacer(config.send_bytes_per_s)
        self._held: deque[bytes] = deque()  # frames whose time has not come
        self._channel = open_channel(config.coordinator, config.agent_id, config.security, self._on_frames, context)
        self._keeper = asyncio.create_task(self._keep())

    async def ready(self) -> Welcome:
        """Return the coordinator's Welcome, once there is one.

        Raises:
            RefusedByCoordinator: it will never serve this agent.
        """
        await self._welcomed.wait()
        if self._failed is not None:
            raise self._failed
        assert self.welcome is not None
        return self.welcome

    def why_absent(self, now_ns: int) -> str:
        """Return why the coordinator cannot be counted on now, "" when it can."""
        if self._failed is not None:
            return str(self._failed)
        if self._other_version:
            return f"coordinator {self._config.coordinator} speaks another protocol: {self._other_version}"
        if self.welcome is None or not self._welcomed.is_set():
            return f"coordinator {self._config.coordinator} has not welcomed this agent"
        silent_s = (now_ns - self._heard_ns) / 1e9
        if silent_s > PINGS_MISSED * self.welcome.ping_interval_s:
            return f"coordinator {self._config.coordinator} has been silent for {silent_s:.0f} s"
        return ""

    @property
    def is_serving(self) -> bool:
        """Whether a request is open."""
        return bool(self._inboxes)

    def change_draft(self, draft: ModelInfo) -> None:
        """Draft with another model from now on, and tell the coordinator."""
        self._draft = draft
        self.confidence, self.history = Confidence(), DraftHistory()  # what was learnt is of the model before
        if self._welcomed.is_set() and self._failed is None:
            self._say_hello()

    def set_draft_ahead(self, draft_ahead: bool) -> None:
        """Draft ahead, or not, from now on, and tell the coordinator."""
        self.draft_ahead = draft_ahead
        if self._welcomed.is_set() and self._failed is None:
            self._say_hello()

    def is_open(self, request_id: int) -> bool:
        """Whether a request is under way here."""
        return request_id in self._inboxes

    def subscribe(self, request_id: int) -> asyncio.Queue[Event]:
        """Return the queue into which the answers to a request go."""
        inbox: asyncio.Queue[Event] = asyncio.Queue()
        self._inboxes[request_id] = inbox
        return inbox

    def unsubscribe(self, request_id: int) -> None:
        """Drop a request: tell the coordinator to free it."""
        if self._inboxes.pop(request_id, None) is not None:
            self.send(Close(request_id))

    def send(self, message: AgentMessage) -> int:
        """Send a message, when its time has come; return the bytes of its frame.

        A full queue drops it: the caller asks again in time.
        """
        frame = encode(message)
        now_ns = self.now_ns()
        due_ns = self._pacer.due_ns(len(frame), now_ns)
        if due_ns > now_ns or self._held:
            self.counters["held_messages"] += 1
            self._held.append(frame)
            asyncio.get_running_loop().call_later((due_ns - now_ns) / 1e9, self._send_held)
        else:
            self._send_now(frame)
        return len(frame)

    def _send_held(self) -> None:
        if self._held:
            self._send_now(self._held.popleft())

    def _send_now(self, frame: bytes) -> None:
        if not self._channel.send([frame]):
            self.counters["unsent_messages"] += 1

    async def close(self) -> None:
        """End the keeper and close the socket."""
        self._keeper.cancel()
        await asyncio.gather(self._keeper, return_exceptions=True)
        while self._held:  # what is left closes requests: a few bytes
            self._send_held()
        self._channel.close()

    async def _keep(self) -> None:
        """Say Hello until welcomed, then ping: a coordinator that does not know this agent asks for Hello again."""
        while self._failed is None:
            if not self._welcomed.is_set() or self.welcome is None:
                self._say_hello()
                try:
                    await asyncio.wait_for(self._welcomed.wait(), HELLO_RETRY_S)
                except TimeoutError:
                    continue
            else:
                self._pings = (self._pings + 1) & 0x3FFFFFFF
                self.send(Ping(self._pings))
                await asyncio.sleep(self.welcome.ping_interval_s)

    def _say_hello(self) -> None:
        hello = Hello(
            protocol_version=PROTOCOL_VERSION,
            agent_id=self._config.agent_id,
            software_version=multispin_models.__version__,
            vocabulary_hash=self._draft.vocabulary_hash,
            draft_fingerprint=self._draft.fingerprint,
            instance_id=self._instance_id,
            draft_ahead=self.draft_ahead,
        )
        self.send(hello)

    def _on_frames(self, frames: list[bytes]) -> None:
        before_ns, received_ns = self._heard_ns, self.now_ns()
        self._heard_ns = received_ns
        frame = b"".join(frames)
        message = self._decoded(frame)
        if message is not None:
            self._take(message, received_ns, len(frame))
            self._note_gap(before_ns, received_ns)

    def _decoded(self, frame: bytes) -> CoordinatorMessage | None:
        try:
            message = decode_coordinator_message(frame)
        except WireVersionError as error:
            self._on_other_version(str(error))
            return None
        except WireError as error:
            self.counters["ignored_malformed_frame"] += 1
            log.warning("%s", error)
            return None
        self._other_version = ""
        return message

    def _take(self, message: CoordinatorMessage, received_ns: int, num_bytes: int) -> None:
        match message:
            case Welcome():
                self._on_welcome(message)
            case Pong():
                if self.welcome is not None and message.epoch != self.welcome.epoch:
                    self._say_hello()
            case Pace():
                self._take_share(message.send_bytes_per_s)
            case RecordsAck():
                self._on_records_answer(message)
            case DraftOffer() | FileChunk() | Refused(code="no_such_file"):
                if self.on_files is not None:
                    self.on_files(message)
            case Refused(code=code) if code in RECORD_CODES:
                self._on_records_answer(message)
            case Refused(request_id=0) | Refused(code="hello_required"):
                self._on_refused(message)
            case Verdict() | Refused():
                inbox = self._inboxes.get(message.request_id)
                if inbox is None:
                    self.counters["ignored_unknown_request"] += 1
                else:
                    inbox.put_nowait(Answer(message, received_ns, num_bytes))

    def _on_other_version(self, said: str) -> None:
        """Go on asking: it may be a coordinator that is about to be updated, as they are before their agents."""
        self.counters["ignored_other_version"] += 1
        if self._other_version != said:
            log.error("%s: update the coordinator first, or take this agent's version back", said)
        self._other_version = said

    def _note_gap(self, before_ns: int, now_ns: int) -> None:
        """Have requests ask at once after an interruption: their back-off may have grown long."""
        if self.welcome is None or (now_ns - before_ns) / 1e9 <= PINGS_LATE * self.welcome.ping_interval_s:
            return
        self.counters["interruptions"] += 1
        for inbox in self._inboxes.values():
            inbox.put_nowait(HeardAgain(now_ns))

    def _on_records_answer(self, answer: RecordsAck | Refused) -> None:
        if self.on_records is None:
            self.counters["ignored_records_answer"] += 1
        else:
            self.on_records(answer)

    def _on_welcome(self, welcome: Welcome) -> None:
        forgotten = self.welcome is not None and not self._welcomed.is_set()
        anew = self.welcome is not None and welcome.epoch != self.welcome.epoch
        if anew:
            self.clock_offset.reset()  # perhaps another machine
        self.welcome = welcome
        self._take_share(welcome.send_bytes_per_s)
        self._welcomed.set()
        if anew or forgotten:
            log.warning("coordinator is %s: requests are opened again", "new" if anew else "back")
            for inbox in self._inboxes.values():
                inbox.put_nowait(Reconnected())

    def _take_share(self, share: float | None) -> None:
        """Send at this rate from now on, or at this agent's own if that is smaller."""
        rates = [rate for rate in (self._config.send_bytes_per_s, share) if rate is not None]
        self._pacer.set_rate(min(rates, default=None), self.now_ns())

    def _on_refused(self, refused: Refused) -> None:
        if refused.code == "hello_required":
            self._welcomed.clear()
            self._say_hello()
        elif refused.code in FATAL_CODES:
            self._failed = RefusedByCoordinator(f"coordinator refuses this agent ({refused.code}): {refused.message}")
            for inbox in self._inboxes.values():
                inbox.put_nowait(self._failed)
            self._welcomed.set()
        else:
            log.warning("coordinator refuses this agent for now (%s): %s", refused.code, refused.message)
