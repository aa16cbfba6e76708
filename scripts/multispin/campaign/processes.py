"""A process of a group as the driver has it: started, told what to do, ended for sure."""

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
from msgspec import Struct

from multispin.campaign.asking import Ask, Ready, Told
from multispin.supervised import DaemonFailed

__all__ = ["GroupProcess", "StartFailed"]

END_S = 15.0
LOG_TAIL = 2000  # characters of its log in an error


class StartFailed(DaemonFailed):
    """Processes did not even become ready: no cell of their group can be run."""


class GroupProcess:
    """A site or the users of an external server; a context.

    Args:
        module: that is run.
        start: its first line.
        log_path: where its standard error goes, appended.
        prefix: words before its command, as of a network namespace.
        ready_s: longest time until it is ready.

    Raises:
        StartFailed: it did not become ready.
    """

    def __init__(
        self, module: str, start: Struct, log_path: Path, *, prefix: Sequence[str] = (), ready_s: float = 900.0
    ) -> None:
        self._name = module.rsplit(".", 1)[1]
        self._log_path = log_path
        with log_path.open("ab") as log_file:
            self._process = subprocess.Popen(  # noqa: S603 - our own command line, no shell
                [*prefix, sys.executable, "-m", module, str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log_file,
            )
        self._said: queue.Queue[bytes] = queue.Queue()
        self._reader = threading.Thread(target=self._read, name=self._name, daemon=True)
        self._reader.start()
        try:
            self._write(start)
            self.ready = msgspec.json.decode(self._hear(b"ready", ready_s), type=Ready)
        except DaemonFailed as failure:
            self.close()
            raise StartFailed(str(failure)) from failure
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def ask(self, ask: Ask, within_s: float) -> Told:
        """Have a cell served.

        Raises:
            DaemonFailed: it or one of its own died, or it took too long.
        """
        self._write(ask)
        return msgspec.json.decode(self._hear(b"done", within_s), type=Told)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it: its input ends, then it is told, then it is killed. Closing twice is no error."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError):  # it has ended
            process.stdin.close()
        for number in (0, signal.SIGTERM, signal.SIGKILL):  # 0 only asks whether it is there
            process.send_signal(number)
            try:
                process.wait(END_S)
                break
            except subprocess.TimeoutExpired:
                continue
        self._reader.join(END_S)
        process.stdout.close()

    def _write(self, what: Struct) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(msgspec.json.encode(what) + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise DaemonFailed(f"{self._name} has ended:\n{self._log_tail()}") from error

    def _read(self) -> None:
        assert self._process.stdout is not None
        while line := self._process.stdout.readline():
            self._said.put(line)
        self._said.put(b"")

    def _hear(self, word: bytes, within_s: float) -> bytes:
        try:
            said, _, rest = self._said.get(timeout=within_s).partition(b" ")
        except queue.Empty:
            raise DaemonFailed(f"{self._name} said nothing for {within_s:.0f} s:\n{self._log_tail()}") from None
        if said != word:
            raise DaemonFailed(f"{self._name} ended before it was {word.decode()}:\n{self._log_tail()}")
        return rest

    def _log_tail(self) -> str:
        try:
            return self._log_path.read_text(encoding="utf-8", errors="replace")[-LOG_TAIL:].strip()
        except OSError as error:
            return f"(no log: {error})"
