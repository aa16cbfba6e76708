"""Connections that are opened and never speak, as many as wanted, for as long as wanted.

    python -m multispin.faults.strangers PARENT HOST PORT COUNT

Every tenth says the first bytes of a greeting, every tenth a line of HTTP; the others say nothing. One that the other
side gives up is opened anew. A line a second tells, as JSON: connections that are open now, opened so far, given up by
the other side, and refused. It ends with SIGTERM; a process of its own, since each connection is an open file.
"""

import asyncio
import json
import os
import selectors
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import msgspec

from multispin_models.open_files import raise_file_limit
from multispin_models.process import exit_with_parent

__all__ = ["Strangers", "StrangersFigures", "main", "strangers_at"]

AT_ONCE = 200  # opened before it looks who was given up
FIRST_WORDS = {0: b"\xff\x00\x00\x00\x00", 1: b"GET / HTTP/1.1\r\n"}


class StrangersFigures(msgspec.Struct):
    """What became of the connections.

    Attributes:
        wanted: to be open at once.
        most_open: that were.
        opened: so far.
        given_up: by the other side; each was opened anew.
        refused: could not be opened.
    """

    wanted: int
    most_open: int = 0
    opened: int = 0
    given_up: int = 0
    refused: int = 0


@asynccontextmanager
async def strangers_at(host: str, port: int, count: int) -> AsyncIterator[StrangersFigures]:
    """Hold so many half-open connections meanwhile, from a process of their own; gives what becomes of them."""
    figures = StrangersFigures(count)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "multispin.faults.strangers", str(os.getpid()), host, str(port), str(count)),
        stdout=asyncio.subprocess.PIPE,
    )

    async def listen() -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            told = msgspec.json.decode(line)
            figures.most_open = max(figures.most_open, told["open"])
            figures.opened, figures.given_up, figures.refused = told["opened"], told["given_up"], told["refused"]

    listening = asyncio.create_task(listen())
    try:
        yield figures
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
        await listening


class Strangers:
    """The connections.

    Args:
        host, port: where to.
        count: to be open at once.
    """

    def __init__(self, host: str, port: int, count: int) -> None:
        self.num_opened = self.num_given_up = self.num_refused = 0
        self._target = (host, port)
        self._count = count
        self._selector = selectors.DefaultSelector()
        self._open: set[socket.socket] = set()

    @property
    def num_open(self) -> int:
        """Connections now."""
        return len(self._open)

    def step(self, wait_s: float) -> None:
        """Open what is missing, a part at once, and drop what was given up."""
        for _ in range(min(AT_ONCE, self._count - len(self._open))):
            if not self._connect():
                break
        for key, _ in self._selector.select(wait_s):
            assert isinstance(key.fileobj, socket.socket)
            self._look(key.fileobj)

    def _connect(self) -> bool:
        end = socket.socket()
        end.settimeout(1.0)
        try:
            end.connect(self._target)
            if (words := FIRST_WORDS.get(self.num_opened % 10)) is not None:
                end.send(words)
        except OSError:
            end.close()
            self.num_refused += 1
            return False
        end.setblocking(False)
        self._selector.register(end, selectors.EVENT_READ)
        self._open.add(end)
        self.num_opened += 1
        return True

    def _look(self, end: socket.socket) -> None:
        """Take what the other side says; drop the connection if it is over."""
        with suppress(BlockingIOError):
            try:
                if end.recv(4096):
                    return
            except ConnectionError:
                pass
            self._selector.unregister(end)
            self._open.discard(end)
            end.close()
            self.num_given_up += 1

    def close(self) -> None:
        """Close all of them."""
        for end in self._open:
            end.close()
        self._open.clear()
        self._selector.close()


def main(arguments: list[str]) -> None:
    """Hold connections open until SIGTERM."""
    parent, host, port, count = arguments
    exit_with_parent(int(parent))
    raise_file_limit()
    strangers = Strangers(host, int(port), int(count))
    told_s = 0.0
    while True:
        strangers.step(0.05)
        if time.monotonic() - told_s >= 1.0:
            told_s = time.monotonic()
            told = {
                "open": strangers.num_open,
                "opened": strangers.num_opened,
                "given_up": strangers.num_given_up,
                "refused": strangers.num_refused,
            }
            print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
