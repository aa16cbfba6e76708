"""What a daemon tells the service manager, by hand: ready, reloading, stopping, a status, and that it makes progress.

Source: sd_notify(3), the protocol of $NOTIFY_SOCKET: one datagram of NAME=VALUE lines. Without the variable nothing is
said, so daemons that were started by hand or by `multispin up` are the same.
"""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable
from typing import Generic, TypeVar

import msgspec

from multispin_models.clock import monotonic_ns
from multispin_models.engine_thread import Engine
from multispin_models.errors import ConfigError
from multispin_models.settings import changed_settings

__all__ = ["Reloader", "notify", "watchdog", "watchdog_interval_s"]

log = logging.getLogger(__name__)

Settings = TypeVar("Settings", bound=msgspec.Struct)


def notify(*lines: str) -> bool:
    """Tell the service manager; return whether there is one. What it does not take is logged, never raised."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.connect("\0" + address[1:] if address.startswith("@") else address)
            channel.sendall("\n".join(lines).encode())
    except OSError as error:
        log.warning("the service manager cannot be told %s: %s", lines[0], error)
        return False
    return True


def watchdog_interval_s() -> float | None:
    """Return how often the service manager wants to hear of progress, three times in its limit; None if it does not."""
    limit_us = os.environ.get("WATCHDOG_USEC", "")
    for_another = os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid())
    if not limit_us.isdecimal() or int(limit_us) == 0 or for_another:
        return None
    return int(limit_us) / 3e6


@contextlib.asynccontextmanager
async def watchdog(engine: Engine, interval_s: float | None) -> AsyncIterator[None]:
    """Tell of progress while the body runs: each time a call has gone through the event loop and the engine's thread.

    So a loop that hangs, and a forward pass that does not end, are both found out.
    """
    if interval_s is None:
        yield
        return
    task = asyncio.create_task(_tell_of_progress(engine, interval_s))
    try:
        yield
    finally:
        task.cancel()


async def _tell_of_progress(engine: Engine, interval_s: float) -> None:
    while True:
        await engine.run(_nothing)
        notify("WATCHDOG=1")
        await asyncio.sleep(interval_s)


def _nothing() -> None:
    pass


class Reloader(Generic[Settings]):
    """Reads the settings again when it is called, and has what can be changed while running applied.

    Args:
        config: in force.
        reread: returns what the files say now.
        reloadable: names of the settings that can be changed, as "limits.max_waiting".
        apply: takes the settings that are in force from now on.
    """

    def __init__(
        self,
        config: Settings,
        reread: Callable[[], Settings],
        reloadable: frozenset[str],
        apply: Callable[[Settings], None],
    ) -> None:
        self._config = config
        self._reread = reread
        self._reloadable = reloadable
        self._apply = apply

    def __call__(self) -> None:
        """Read again; settings that are not valid leave all as it is."""
        notify("RELOADING=1", f"MONOTONIC_USEC={monotonic_ns() // 1000}")
        try:
            self._config, taken, left = changed_settings(self._config, self._reread(), self._reloadable)
        except (ConfigError, ValueError) as error:  # the second: settings that contradict those that stay
            log.error("reload: %s; nothing is changed", error)  # noqa: TRY400 - the message says all
            status = "reload failed, nothing was changed: see the log"
        else:
            self._apply(self._config)
            log.info("reload: changed %s", ", ".join(taken) or "nothing")
            if left:
                log.warning("reload: %s changed in the files and need a restart", ", ".join(left))
            status = "serving" if not left else f"serving; a restart is needed for {', '.join(left)}"
        notify("READY=1", f"STATUS={status}")
