"""Coordinator, agent and its HTTP interface in one event loop, on models that are hashes."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
import zmq

from multispin_agent.api.service import AgentService
from multispin_agent.client import Client
from multispin_agent.config import Config
from multispin_agent.draft_source import model_source
from multispin_coordinator.api.collector import CoordinatorCollector
from multispin_coordinator.api.service import AloneService
from multispin_coordinator.attribution import PassMeter
from multispin_coordinator.config import Config as CoordinatorConfig
from multispin_coordinator.config import Limits, PageName
from multispin_coordinator.page.access import Access
from multispin_coordinator.page.endpoint import Page
from multispin_coordinator.page.feed import Begin, Feed
from multispin_coordinator.page.journal import PageJournal
from multispin_coordinator.server import Server
from multispin_models.api.app import Api
from multispin_models.api.keys import Keys
from multispin_models.api.server import HttpServer
from multispin_models.api.settings import HttpSettings
from multispin_models.engine_thread import EngineThread
from multispin_models.engines import Loaded
from multispin_models.errors import ModelError
from multispin_models.language_model import ChatMessage, Logits, Rows
from tests.toy_model import END_TOKEN, ToyModel

N_CTX = 512
PATIENCE_S = 20.0


class ToyTokenizer:
    """A letter a token, "a" is 1; the end has no bytes."""

    vocabulary_hash = "toy"
    n_vocab = 16
    end_token_ids = frozenset({END_TOKEN})

    def encode(self, text: str, *, parse_special: bool = False, add_special: bool = False) -> list[int]:
        return [(ord(letter) - 97) % 15 + 1 for letter in text]

    def token_bytes(self, token_id: int) -> bytes:
        return b"" if token_id == END_TOKEN else bytes([96 + token_id])

    def apply_chat_template(self, messages: Sequence[ChatMessage], **variables: Any) -> str:
        if messages[-1].role != "user":
            raise ModelError("the conversation must end with the user")
        return "".join(f"{message.role[0]}{message.content}" for message in messages)


class GatedModel(ToyModel):
    """A model whose passes wait, once it is held, until it is let go on."""

    def __init__(self, **sizes: Any) -> None:
        super().__init__(**sizes)
        self.gate = threading.Event()
        self.gate.set()
        self.num_passes_left: int | None = None  # before it holds itself

    def forward(self, batch: Sequence[Rows]) -> list[Logits]:
        if self.num_passes_left is not None:
            self.num_passes_left -= 1
            if self.num_passes_left < 0:
                self.num_passes_left = None
                self.gate.clear()
        assert self.gate.wait(PATIENCE_S), "the test never lets the model go on"
        return super().forward(batch)


class Loopback:
    """All of it, on free ports of loopback.

    Args:
        context: of ZeroMQ.
        settings: of the HTTP interface.
        keys: bearer keys, or null.
        max_concurrent: slots.
        page: what the live page shows.
        page_keys: for the page, or null.
    """

    def __init__(
        self,
        context: zmq.Context[Any],
        settings: HttpSettings,
        keys: list[bytes] | None,
        max_concurrent: int,
        page: PageName,
        page_keys: list[bytes] | None,
    ) -> None:
        self.target = GatedModel(n_ctx=N_CTX, max_sequences=max_concurrent, max_rows=256)
        self.draft = ToyModel(n_ctx=N_CTX, max_sequences=max_concurrent + 1, noise=0.5)
        limits = Limits(
            max_context_tokens=N_CTX, max_prompt_tokens=300, max_sessions=max_concurrent, max_sessions_per_agent=64
        )
        coordinator = CoordinatorConfig(
            bind="tcp://127.0.0.1:*", policy="fixed", limits=limits, max_concurrent=max_concurrent, http=settings
        )
        target = Loaded(self.target, ToyTokenizer())
        journal = None if page == "off" else PageJournal(time.monotonic_ns(), keeps_tokens=page == "texts")
        self.coordinator = Server(coordinator, target, self.target.info, PassMeter(None), context, journal=journal)
        self._coordinating = asyncio.create_task(self.coordinator.serve())
        config = Config(
            agent_id="a",
            coordinator=self.coordinator.endpoint,
            max_concurrent=max_concurrent,
            max_context_tokens=N_CTX,
            http=settings,
            retry_s=0.2,
        )
        self.client = Client(config, self.draft.info, context)
        self._engine = EngineThread()
        self.drafts = drafts = model_source(Loaded(self.draft, ToyTokenizer()), keeps=True)
        self.service = AgentService(config, self.client, drafts, self._engine, "no meter")
        self.api = Api(settings, "toy", None if keys is None else Keys(keys))
        self.http = HttpServer(self.api.app, "127.0.0.1", 0, settings)
        self.http.start()
        self.alone = AloneService(coordinator, self.coordinator, ToyTokenizer(), self.target.info, None)
        users = None if keys is None else Keys(keys)
        readers = None if page_keys is None else Keys(page_keys)
        self.page = Page(Access(users, readers, shows_texts=page == "texts"), interval_s=0.02)
        self.alone_api = Api(settings, "toy", users, [] if page == "off" else self.page.routes)
        self.alone_http = HttpServer(self.alone_api.app, "127.0.0.1", 0, settings)
        self.alone_http.start()
        self.at_coordinator = False  # whom requests go to
        self._writers: list[asyncio.StreamWriter] = []

    def open(self) -> None:
        self.api.open(self.service, self.service.collector)
        self.alone_api.open(self.alone, CoordinatorCollector(self.coordinator.dispatcher, None))
        if self.coordinator.dispatcher.journal is not None:
            begin = Begin("0", "toy", "BF16", "toy", True, "fixed", "continuous", None, "no meter")
            self.page.open(Feed(self.coordinator.dispatcher.journal, begin, ToyTokenizer().token_bytes))

    @property
    def port(self) -> int:
        return int((self.alone_http if self.at_coordinator else self.http).url.rpartition(":")[2])

    async def slots(self) -> list[dict[str, Any]]:
        return msgspec.json.decode((await self.ask("GET", "/slots"))[1])

    async def ask(self, method: str, path: str, body: object = None, headers: str = "") -> tuple[int, bytes]:
        """Return status and body of one request on a connection of its own."""
        reader, writer = await self.send(method, path, body, headers)
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
            return int(head.split(b" ", 2)[1]), await asyncio.wait_for(reader.read(), PATIENCE_S)
        finally:
            writer.close()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return a connection; it is cut off at the end of the test at the latest."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._writers.append(writer)
        return reader, writer

    async def send(
        self, method: str, path: str, body: object = None, headers: str = ""
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Send a request, and return the connection on which its answer comes."""
        reader, writer = await self.connect()
        text = b"" if body is None else body if isinstance(body, bytes) else msgspec.json.encode(body)
        host = "" if headers.startswith("host:") else "host: t\r\n"
        head = f"{method} {path} HTTP/1.1\r\n{host}connection: close\r\n{headers}"
        if body is not None:
            head += f"content-type: application/json\r\ncontent-length: {len(text)}\r\n"
        writer.write(head.encode() + b"\r\n" + text)
        return reader, writer

    def is_idle(self) -> bool:
        """Nothing of any request is left, at either end."""
        return (
            self.draft.num_open == self.drafts.num_kept()
            and self.target.num_open == self.coordinator.dispatcher.num_kept_sequences
            and not self.coordinator.dispatcher.sessions
            and self.http.num_connections == self.alone_http.num_connections == 0
            and self.api.num_present == self.alone_api.num_present == 0
        )

    async def close(self) -> None:
        self.target.gate.set()
        self.page.stop()
        for writer in self._writers:
            writer.transport.abort()
        for api, http in ((self.api, self.http), (self.alone_api, self.alone_http)):
            await api.stop()
            await http.stop()
        await self.client.close()
        self._engine.shutdown()
        self._coordinating.cancel()
        await asyncio.gather(self._coordinating, return_exceptions=True)


def play(
    part: Callable[[Loopback], Awaitable[None]],
    settings: HttpSettings | None = None,
    *,
    keys: list[bytes] | None = None,
    max_concurrent: int = 2,
    opened: bool = True,
    page: PageName = "texts",
    page_keys: list[bytes] | None = None,
) -> None:
    """Run a test's part; afterwards no task of it may be left."""

    async def run() -> None:
        with zmq.Context() as context:
            given = settings or HttpSettings(stop_grace_s=0.0)
            loopback = Loopback(context, given, keys, max_concurrent, page, page_keys)
            try:
                await asyncio.wait_for(loopback.client.ready(), PATIENCE_S)
                if opened:
                    loopback.open()
                await part(loopback)
            finally:
                await loopback.close()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, left

    asyncio.run(run())


async def until(condition: Callable[[], object], what: str) -> None:
    """Let the loop run until a condition holds."""
    ends = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < ends, f"not within {PATIENCE_S} s: {what}"
        await asyncio.sleep(0.002)


async def serve() -> None:
    """Serve until interrupted, for tools that test from outside: `python -m tests.toy_api` prints both addresses."""
    with zmq.Context() as context:
        loopback = Loopback(context, HttpSettings(max_connections=2000, max_waiting=1500), None, 4, "texts", None)
        try:
            await asyncio.wait_for(loopback.client.ready(), PATIENCE_S)
            loopback.open()
            print(loopback.http.url, loopback.alone_http.url, flush=True)
            await asyncio.Event().wait()
        finally:
            await loopback.close()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve())
