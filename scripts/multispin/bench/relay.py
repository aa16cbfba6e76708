"""A TCP relay on loopback whose link can be cut, hang or be slow, each direction in its own way.

    async with Relay("127.0.0.1", 5599, up_s=0.020, down_s=0.005) as relay:
        ...                              connect to 127.0.0.1:relay.port
        relay.cut()                      every connection ends, new ones are refused
        relay.restore()
        relay.hold()                     connections stay, nothing comes through: half-open
        relay.release()

A direction hands on every piece `delay` after it came, in order. What comes through may be changed on the way: see
`Meddler`.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Protocol, Self

__all__ = ["CutHere", "Meddler", "Relay"]

_PIECE_BYTES = 1 << 16


class CutHere(Exception):
    """The connection is to end after these bytes.

    Args:
        last: bytes that are still handed on.
    """

    def __init__(self, last: bytes) -> None:
        super().__init__()
        self.last = last


class Meddler(Protocol):
    """What one direction of one connection does to its bytes."""

    def feed(self, piece: bytes) -> bytes:
        """Return what is handed on now that a piece has come.

        Raises:
            CutHere: the connection ends here.
        """
        ...


class Relay:
    """Between agents, who connect to it, and a coordinator.

    Args:
        host, port: of the coordinator.
        up_s, down_s: delay of what agents and the coordinator send; may be changed at any time.
        meddler: called for each direction of a new connection with whether it is up; null hands on as it comes.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        up_s: float = 0.0,
        down_s: float = 0.0,
        meddler: Callable[[bool], Meddler] | None = None,
    ) -> None:
        self._target = (host, port)
        self.up_s = up_s
        self.down_s = down_s
        self._meddler = meddler
        self._is_cut = False
        self._passable = asyncio.Event()
        self._passable.set()
        self._connections: set[asyncio.Task[None]] = set()
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._on_connection, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        connections = list(self._connections)
        self.cut()
        await asyncio.gather(*connections, return_exceptions=True)

    @property
    def num_connections(self) -> int:
        """Connections that are open now."""
        return len(self._connections)

    def cut(self) -> None:
        """End every connection; what was on its way is lost."""
        self._is_cut = True
        for connection in self._connections:
            connection.cancel()

    def restore(self) -> None:
        """Let connections through again."""
        self._is_cut = False

    def hold(self) -> None:
        """Let nothing through; connections stay as they are, and new ones are taken."""
        self._passable.clear()

    def release(self) -> None:
        """Let through again, also what has come meanwhile."""
        self._passable.set()

    async def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if self._is_cut:
            writer.transport.abort()
            return
        self._connections.add(task)
        far_writer = None
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass_on(reader, far_writer, is_up=True))
                group.create_task(self._pass_on(far_reader, writer, is_up=False))
            for end in (writer, far_writer):  # both sides have said all
                end.close()
        except (OSError, ExceptionGroup, asyncio.CancelledError):
            for gone in (writer, far_writer):  # cut, or one side has gone: the other is to notice
                if gone is not None:
                    gone.transport.abort()
        finally:
            self._connections.discard(task)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_up: bool) -> None:
        """Hand on what comes, each piece after the delay, then that no more will come; the other direction goes on."""
        loop = asyncio.get_running_loop()
        meddler = None if self._meddler is None else self._meddler(is_up)
        waiting: deque[bytes] = deque()

        def write(piece: bytes) -> None:
            with suppress(OSError):
                if not writer.transport.is_closing():
                    writer.write(piece)

        while piece := await reader.read(_PIECE_BYTES):
            await self._passable.wait()
            try:
                piece = piece if meddler is None else meddler.feed(piece)
            except CutHere as here:
                write(here.last)
                await writer.drain()
                writer.write_eof()
                raise ConnectionResetError from here
            delay_s = self.up_s if is_up else self.down_s
            if delay_s > 0.0 or waiting:  # none overtakes: each timer takes the one that has waited longest
                waiting.append(piece)
                loop.call_later(delay_s, lambda: write(waiting.popleft()))
            else:
                write(piece)
            await writer.drain()
        await asyncio.sleep(self.up_s if is_up else self.down_s)
        if not writer.transport.is_closing():
            writer.write_eof()
