"""A daemon that is started again when it dies before its work is done."""

import logging
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from multispin_models.errors import MultispinError

__all__ = ["DaemonFailed", "Supervised", "free_port"]

log = logging.getLogger(__name__)

STOP_S = 10.0
READY_PREFIX = "ready "


def free_port() -> int:
    """Return a port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class DaemonFailed(MultispinError):
    """A daemon died too often, or did not become ready; the message has the end of its log."""


class Supervised:
    """One daemon process.

    Args:
        name: for messages.
        command: returns the command line; asked again at every start.
        log_path: where its standard error goes, appended.
        cpus: cores it may run on; null for all.
        max_restarts: deaths that are forgiven.
        own_group: a signal from the terminal is not for it: whoever started it ends it.
    """

    def __init__(
        self,
        name: str,
        command: Callable[[], Sequence[str]],
        log_path: Path,
        *,
        cpus: Sequence[int] | None = None,
        max_restarts: int = 20,
        own_group: bool = False,
    ) -> None:
        self.name = name
        self.num_restarts = 0
        self._command = command
        self._log_path = log_path
        self._cpus = cpus
        self._max_restarts = max_restarts
        self._process_group = 0 if own_group else None
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start the process."""
        with self._log_path.open("a", encoding="utf-8") as log_file:
            self._process = subprocess.Popen(  # noqa: S603 - our own command line, no shell
                list(self._command()),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log_file,
                text=True,
                process_group=self._process_group,
            )
        if self._cpus is not None:
            psutil.Process(self._process.pid).cpu_affinity(list(self._cpus))

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None
        return self._process.pid

    def wait_ready(self) -> str:
        """Return what follows "ready " on its standard output.

        Raises:
            DaemonFailed: it ended before.
        """
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(READY_PREFIX):
                return line.removeprefix(READY_PREFIX).strip()
        raise DaemonFailed(f"{self.name} ended before it was ready:\n{self.log_tail()}")

    def has_ended(self) -> int | None:
        """Return the exit status, or None while it runs."""
        assert self._process is not None
        return self._process.poll()

    def restart(self, pause_s: float | None = None) -> None:
        """Start it again after a death.

        Args:
            pause_s: to wait before; null waits longer from death to death.

        Raises:
            DaemonFailed: it died too often.
        """
        self.num_restarts += 1
        if self.num_restarts > self._max_restarts:
            raise DaemonFailed(f"{self.name} died {self.num_restarts} times:\n{self.log_tail()}")
        log.warning("%s ended with status %s, starting it again", self.name, self.has_ended())
        if self._process is not None and self._process.stdout is not None:
            self._process.stdout.close()
        time.sleep(min(0.1 * self.num_restarts, 2.0) if pause_s is None else pause_s)
        self.start()

    def stop(self) -> None:
        """End the process: politely, then for sure."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def log_tail(self) -> str:
        """Return the last lines of its log."""
        try:
            return "\n".join(self._log_path.read_text(encoding="utf-8").splitlines()[-15:])
        except OSError as error:
            return f"(no log: {error})"
