"""The users of a site: each asks one of the agents, takes the text as a stream, and compares every character.

A stream breaks when its own agent is killed; then the user goes on at the next agent, by the id of the reply and with
what has come of the text. Whatever else ends a stream early is a failure, as is a text that has not come in
`PATIENCE_S`.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import suppress

import msgspec

from multispin.faults.kinds import COORDINATOR, Fault

__all__ = ["Expected", "Served", "Users"]

PATIENCE_S = 180.0
AGAIN_S = 0.3


class Expected(msgspec.Struct, frozen=True):
    """A request and what the target alone writes to it.

    Attributes:
        name: of the job.
        body: of the HTTP request.
        text: its text.
        token_ids: the same in tokens.
    """

    name: str
    body: bytes
    text: str
    token_ids: tuple[int, ...]


class Served(msgspec.Struct, frozen=True):
    """What a user got.

    Attributes:
        job: name of what was asked.
        request_id: of the answer that came whole, in hex; "" if none did.
        agent: that gave it.
        seconds: from the first asking to the last character.
        kinds: of the faults that were on at its agent or at the coordinator meanwhile.
        num_broken: streams that ended early since their agent was killed.
        num_resumed: of them, those of which text had come: they went on at another agent by their id.
        num_refused: askings that were refused with 429 or 503, or found nobody there.
        num_different: characters of all its streams, broken ones too, that are not the target's.
        error: why there is no text; "" if there is.
    """

    job: str
    request_id: str
    agent: str
    seconds: float
    kinds: tuple[str, ...]
    num_broken: int
    num_refused: int
    num_different: int
    error: str
    num_resumed: int = 0


class _Asking:
    def __init__(self, expected: Expected) -> None:
        self.expected = expected
        self.agent = ""
        self.kinds: set[str] = set()
        self.num_broken = self.num_refused = self.num_different = self.num_resumed = 0
        self.request_id = ""
        self.text = ""  # that has come, of all its streams

    @property
    def body(self) -> bytes:
        """Of the next asking: from the begin, or from where it broke off."""
        if not self.text:
            return self.expected.body
        fields = msgspec.json.decode(self.expected.body)
        return msgspec.json.encode({**fields, "resume": {"id": f"cmpl-{self.request_id}", "text": self.text}})


class _Refused(Exception):
    """Not now: 429, 503, or nobody there."""


class _Broken(Exception):
    """The stream ended early, without a word."""


class _Failed(Exception):
    """The agent said that it cannot go on."""


class Users:
    """Asks without pause, until told to stop.

    Args:
        ports: of the agents.
        texts: what is asked, at random.
        seed: of which and where.
    """

    def __init__(self, ports: Sequence[int], texts: Sequence[Expected], seed: int) -> None:
        self.served: list[Served] = []
        self.num_characters = 0  # of all streams, as they come
        self._ports = ports
        self._texts = texts
        self._random = random.Random(seed)  # noqa: S311 - what is asked where, no secret
        self._asking: set[_Asking] = set()
        self._on: dict[str, Fault] = {}
        self._stop = False
        self._kills: dict[str, list[float]] = {}

    @property
    def num_under_way(self) -> int:
        """Requests that are asked now."""
        return len(self._asking)

    def begin(self, fault: Fault) -> None:
        """Note that a fault is on from now: it meets what is under way, and what comes."""
        self._on[fault.name] = fault
        for asking in self._asking:
            self._meet(asking)

    def end(self, fault: Fault) -> None:
        """Note that it is over."""
        self._on.pop(fault.name, None)

    def killed(self, name: str) -> None:
        """Note that an agent was killed: its streams may break."""
        self._kills.setdefault(name, []).append(time.monotonic())

    def stop(self) -> None:
        """Let the requests under way end, and ask nothing more."""
        self._stop = True

    async def run(self, number: int) -> None:
        """Be one user."""
        while not self._stop:
            asking = _Asking(self._random.choice(self._texts))
            self._asking.add(asking)
            started_s = time.monotonic()
            error = ""
            try:
                await asyncio.wait_for(self._ask_until_served(asking, number), PATIENCE_S)
            except TimeoutError:
                error = f"stuck: no whole text for {PATIENCE_S:.0f} s"
            except _Failed as failed:
                error = str(failed)
            finally:
                self._asking.discard(asking)
            wanted = asking.expected.text
            asking.num_different = _num_different(asking.text, wanted[: len(asking.text)] if error else wanted)
            self.served.append(
                Served(
                    job=asking.expected.name,
                    request_id=asking.request_id,
                    agent=asking.agent,
                    seconds=time.monotonic() - started_s,
                    kinds=tuple(sorted(asking.kinds)),
                    num_broken=asking.num_broken,
                    num_refused=asking.num_refused,
                    num_different=asking.num_different,
                    error=error,
                    num_resumed=asking.num_resumed,
                )
            )

    async def _ask_until_served(self, asking: _Asking, number: int) -> None:
        index = number % len(self._ports)
        while True:
            asking.agent = f"agent-{index}"
            self._meet(asking)
            started_s = time.monotonic()
            try:
                await self._ask(asking, self._ports[index])
            except _Refused:
                asking.num_refused += 1
                await asyncio.sleep(AGAIN_S)
            except _Broken as broken:
                if not any(at_s >= started_s - 1.0 for at_s in self._kills.get(asking.agent, ())):
                    raise _Failed(f"{asking.agent} was not killed, and its stream broke: {broken}") from broken
                asking.num_broken += 1
                asking.num_resumed += bool(asking.text)
            else:
                return
            index = (index + 1) % len(self._ports)

    def _meet(self, asking: _Asking) -> None:
        for fault in self._on.values():
            if fault.target in {COORDINATOR, asking.agent}:
                asking.kinds.add(fault.kind)

    async def _ask(self, asking: _Asking, port: int) -> None:
        """Take one stream to its end."""
        body = asking.body
        head = (
            "POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError as error:
            raise _Refused from error
        status, done = 0, False
        try:
            writer.write(head.encode() + body)
            status = int((await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1])
            while line := await reader.readline():
                if line.startswith(b"data: [DONE]"):
                    done = True
                    break
                if line.startswith(b"data: "):
                    asking.text += self._take(asking, line[6:])
                    self._meet(asking)
                elif status >= 400 and line.startswith(b"{"):
                    _refuse(status, line)
        except (OSError, EOFError) as error:  # an IncompleteReadError is an EOFError
            raise _Broken(f"{type(error).__name__} after {len(asking.text)} characters") from error
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
        if not done:
            raise _Broken(f"the end of the connection after {len(asking.text)} characters, status {status}")

    def _take(self, asking: _Asking, event: bytes) -> str:
        told = msgspec.json.decode(event)
        if "error" in told:
            raise _Failed(str(told["error"]["message"]))
        asking.request_id = str(told["id"]).removeprefix("cmpl-")
        text = "".join(choice["text"] for choice in told["choices"])
        self.num_characters += len(text)
        return text


def _refuse(status: int, line: bytes) -> None:
    if status in {429, 503}:
        raise _Refused
    raise _Failed(f"{status}: {line.decode(errors='replace')[:300]}")


def _num_different(got: str, wanted: str) -> int:
    """Return the characters that differ; what is missing or too much counts.

    >>> _num_different("abd", "abcd")
    2
    """
    return sum(a != b for a, b in zip(got, wanted, strict=False)) + abs(len(got) - len(wanted))
