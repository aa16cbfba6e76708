"""A TCP relay on loopback whose link can be cut and whose two directions can be slow in their own way.

    async with Relay("127.0.0.1", 5599, up_s=0.020, down_s=0.005) as relay:
        ...                              connect to 127.0.0.1:relay.port
        relay.cut()                      every connection ends, new ones are refused
        relay.restore()

A direction hands on every piece `delay` after it came, in order.
"""

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self

__all__ = ["Relay"]

_PIECE_BYTES = 1 << 16


class Relay:
    """Between agents, who connect to it, and a coordinator.

    Args:
        host, port: of the coordinator.
        up_s, down_s: delay of what agents and the coordinator send.
    """

    def __init__(self, host: str, port: int, *, up_s: float = 0.0, down_s: float = 0.0) -> None:
        self._target = (host, port)
        self._up_s = up_s
        self._down_s = down_s
        self._is_cut = False
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

    def cut(self) -> None:
        """End every connection; what was on its way is lost."""
        self._is_cut = True
        for connection in self._connections:
            connection.cancel()

    def restore(self) -> None:
        """Let connections through again."""
        self._is_cut = False

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
                group.create_task(_pass_on(reader, far_writer, self._up_s))
                group.create_task(_pass_on(far_reader, writer, self._down_s))
            for end in (writer, far_writer):  # both sides have said all
                end.close()
        except (OSError, ExceptionGroup, asyncio.CancelledError):
            for gone in (writer, far_writer):  # cut, or one side has gone: the other is to notice
                if gone is not None:
                    gone.transport.abort()
        finally:
            self._connections.discard(task)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
    """Hand on what comes, each piece after the delay, and then that no more will come; the other direction goes on."""
    loop = asyncio.get_running_loop()

    def write(piece: bytes) -> None:
        with suppress(OSError):
            if not writer.transport.is_closing():
                writer.write(piece)

    while piece := await reader.read(_PIECE_BYTES):
        if delay_s > 0.0:
            loop.call_later(delay_s, write, piece)
        else:
            write(piece)
        await writer.drain()
    await asyncio.sleep(delay_s)
    if not writer.transport.is_closing():
        writer.write_eof()
