"""Whole messages lost, doubled, reordered or cut in the middle, on a connection of ZeroMQ's. No I/O.

TCP itself loses and reorders nothing within a connection; what a layer above it can lose, it loses by whole messages.
A stream of ZMTP 3 (RFC 23, https://rfc.zeromq.org/spec/23/) is a greeting of 64 bytes, then units: one byte of flags
(1 more, 2 long, 4 command), the size in one byte or eight, the body. Commands (handshake, heartbeats) and messages of
several frames go on untouched.
"""

from collections import Counter
from collections.abc import Iterator

from multispin.bench.relay import CutHere

__all__ = ["Meddling", "MessageMeddler"]

_GREETING_BYTES = 64
_MORE, _LONG, _COMMAND = 1, 2, 4


class Meddling:
    """What is to be done to the messages of one link, and what was.

    Attributes:
        due: by (what, is it up): messages that it is still to be done to.
        done: by the same: messages that it was done to.
    """

    def __init__(self) -> None:
        self.due: Counter[tuple[str, bool]] = Counter()
        self.done: Counter[tuple[str, bool]] = Counter()

    def take(self, what: str, is_up: bool) -> bool:
        """Return whether it is due, and count it as done."""
        if not self.due[what, is_up]:
            return False
        self.due[what, is_up] -= 1
        self.done[what, is_up] += 1
        return True


class MessageMeddler:
    """One direction of one connection; a `Meddler` of the relay.

    Args:
        meddling: of the link.
        is_up: this is what the agent sends.
    """

    def __init__(self, meddling: Meddling, is_up: bool) -> None:
        self._meddling = meddling
        self._is_up = is_up
        self._buffer = b""
        self._greeting_left = _GREETING_BYTES  # either side waits for parts of it: none is held back
        self._held = b""  # a message that waits for the next one to overtake it

    def feed(self, piece: bytes) -> bytes:
        """Return what is handed on.

        Raises:
            CutHere: in the middle of a message.
        """
        out, self._buffer = piece[: self._greeting_left], self._buffer + piece[self._greeting_left :]
        self._greeting_left -= len(out)
        for unit, is_message in self._units():
            if not is_message:
                out += unit
                continue
            if self._meddling.take("mid-frame", self._is_up):
                raise CutHere(out + unit[: max(1, len(unit) // 2)])
            if self._meddling.take("lose", self._is_up):
                continue
            if not self._held and self._meddling.take("reorder", self._is_up):
                self._held = unit
                continue
            out += unit * (2 if self._meddling.take("duplicate", self._is_up) else 1) + self._held
            self._held = b""
        return out

    def _units(self) -> Iterator[tuple[bytes, bool]]:
        """Yield what is complete, and whether it is a message of one frame."""
        while (size := _unit_bytes(self._buffer)) is not None and len(self._buffer) >= size:
            flags = self._buffer[0]
            yield self._take(size), not flags & (_COMMAND | _MORE)

    def _take(self, count: int) -> bytes:
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken


def _unit_bytes(buffer: bytes) -> int | None:
    """Return the length of the unit that a buffer begins with; null while it cannot be known.

    >>> _unit_bytes(bytes([0, 3]) + b"abc"), _unit_bytes(bytes([_LONG]) + (300).to_bytes(8, "big")), _unit_bytes(b"")
    (5, 309, None)
    """
    if not buffer:
        return None
    size_bytes = 8 if buffer[0] & _LONG else 1
    if len(buffer) < 1 + size_bytes:
        return None
    return 1 + size_bytes + int.from_bytes(buffer[1 : 1 + size_bytes], "big")
