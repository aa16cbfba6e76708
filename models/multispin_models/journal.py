"""Logs of a daemon: lines on standard error, or under systemd entries of the journal with fields of their own.

    MESSAGE, PRIORITY, CODE_FILE, CODE_LINE, CODE_FUNC      journald's own (systemd.journal-fields(7))
    LOGGER                                                  the module that speaks
    MULTISPIN_...                                           what was given as `extra={"fields": {...}}`, as AGENT_ID

`journalctl -u multispin-agent MULTISPIN_EVENT=refused_key_unknown` then finds them. Source of the datagram's format:
systemd's document "Native Journal Protocol".
"""

import logging
import os
import socket
import struct
import sys
from typing import Final

__all__ = ["JournalHandler", "start_logging"]

JOURNAL: Final = "/run/systemd/journal/socket"
LONGEST: Final = 48 << 10  # bytes of a message; a longer datagram than the socket's buffer would be refused
PRIORITIES: Final = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))


def start_logging() -> None:
    """Send logs of level INFO and above to the journal if standard error is connected to it, else to standard error."""
    if is_journal(os.environ.get("JOURNAL_STREAM", ""), sys.stderr.fileno()):
        # Level and module are fields of an entry, and not in its message again.
        logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[JournalHandler()])
        return
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s", stream=sys.stderr)


def is_journal(stream: str, descriptor: int) -> bool:
    """Return whether a descriptor is the journal's, as $JOURNAL_STREAM says, "device:inode" (systemd.exec(5))."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return stream == f"{status.st_dev}:{status.st_ino}"


class JournalHandler(logging.Handler):
    """Writes entries to journald; one that it does not take goes to standard error.

    Args:
        address: of its socket.
    """

    def __init__(self, address: str = JOURNAL) -> None:
        super().__init__()
        self._address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        try:
            self._socket.sendto(encode_entry(self.format(record), record), self._address)
        except OSError as error:
            print(f"{record.getMessage()} (journal: {error})", file=sys.stderr, flush=True)  # noqa: T201

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        super().close()


def encode_entry(message: str, record: logging.LogRecord) -> bytes:
    """Return the datagram of a record; `message` holds its trace too, if it has one."""
    fields = {
        "MESSAGE": message.encode()[:LONGEST].decode(errors="ignore"),
        "PRIORITY": str(next((priority for level, priority in PRIORITIES if record.levelno >= level), 7)),
        "LOGGER": record.name,
        "CODE_FILE": record.pathname,
        "CODE_LINE": str(record.lineno),
        "CODE_FUNC": record.funcName or "",
    }
    for name, value in getattr(record, "fields", {}).items():
        fields[f"MULTISPIN_{name.upper()}"] = str(value)
    return b"".join(_field(name, value) for name, value in fields.items())


def _field(name: str, value: str) -> bytes:
    data = value.encode()
    if b"\n" not in data:
        return name.encode() + b"=" + data + b"\n"
    return name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"
