"""A process that is told by lines on its input what to do, and answers on its output, and goes with its parent."""

import asyncio
import logging
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
from msgspec import Struct

from multispin.bench.cooperate_protocol import input_lines
from multispin_models.errors import MultispinError
from multispin_models.process import exit_with_parent

__all__ = ["Lines", "serve_lines"]

_Start = TypeVar("_Start", bound=Struct)


class Lines:
    """The lines of a process; made in its event loop."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[bytes] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._read, name="input", daemon=True).start()

    async def next(self) -> bytes:
        """Return the next line; b"" when nobody will say more."""
        return await self._queue.get()

    def say(self, word: str, what: Struct) -> None:
        """Write a line: a word, and an object."""
        sys.stdout.buffer.write(f"{word} ".encode() + msgspec.json.encode(what) + b"\n")
        sys.stdout.buffer.flush()

    def _read(self) -> None:
        for line in input_lines():
            self._loop.call_soon_threadsafe(self._queue.put_nowait, line)
        self._loop.call_soon_threadsafe(self._queue.put_nowait, b"")


def serve_lines(arguments: list[str], kind: type[_Start], serve: Callable[[_Start, Lines], Awaitable[None]]) -> int:
    """Run such a process and return its exit status.

    Args:
        arguments: of its command line: the parent's process id.
        kind: of its first line.
        serve: is given that and the lines that follow.
    """
    exit_with_parent(int(arguments[0]))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s", stream=sys.stderr)
    try:
        asyncio.run(_run(kind, serve))
    except MultispinError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


async def _run(kind: type[_Start], serve: Callable[[_Start, Lines], Awaitable[None]]) -> None:
    lines = Lines()
    if line := await lines.next():
        await serve(msgspec.json.decode(line, type=kind), lines)
