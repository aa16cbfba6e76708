"""The processes of a leg with their links, disks and clocks.

    user -> agent-0 -> relay -\\
    user -> agent-1 -> relay --> coordinator -> store, on a disk of its own
            spool, on a disk of its own; clock by libfaketime, where it is found

A daemon that dies is started again at once.
"""

import asyncio
import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import msgspec

from multispin.bench.relay import Relay
from multispin.faults.kinds import COORDINATOR, agent_name
from multispin.faults.meddling import Meddling, MessageMeddler
from multispin.own_disk import mounted_disk
from multispin.supervised import Supervised, free_port

__all__ = ["Daemon", "Site", "SiteSettings", "find_faketime"]

log = logging.getLogger(__name__)

STORE_DISK_MB, SPOOL_DISK_MB = 256, 64
MANY = 1_000_000
_FAKETIME = "libfaketimeMT.so.1"


class SiteSettings(msgspec.Struct, frozen=True):
    """What a site is made with.

    Attributes:
        num_agents: each a process.
        pair, engine, draft_engine: the models.
        threads: of a forward pass.
        max_context_tokens: prompt and text of a request.
        num_draft_tokens: L.
        has_disks: every database lies on a disk of its own, which can be filled.
        faketime: library that steps the daemons' clocks; null leaves them alone.
    """

    num_agents: int
    pair: str
    engine: str
    draft_engine: str
    threads: int
    max_context_tokens: int
    num_draft_tokens: int = 4
    has_disks: bool = True
    faketime: Path | None = None


class Daemon:
    """A process of the site.

    Attributes:
        name: "coordinator" or "agent-0", ...
        supervised: the process.
        disk: of its database.
        database: spool or store.
        clock: file that libfaketime reads.
        is_disk_full: by a fault.
        is_being_killed: it is not to be started again by anybody else.
        is_starting: it was started and does not serve yet.
    """

    def __init__(self, name: str, command: Callable[[], list[str]], folder: Path, database: str) -> None:
        self.name = name
        self.disk = folder / "disk"
        self.database = self.disk / database
        self.clock = folder / "clock"
        self.supervised = Supervised(name, command, folder / "log", max_restarts=MANY, own_group=True)
        self.is_disk_full = False
        self.is_being_killed = False
        self.is_starting = False
        self._waiting: asyncio.Task[None] | None = None

    def start(self, *, again: bool = False) -> None:
        """Start the process, the first time or after a death."""
        if again:
            self.supervised.restart(pause_s=0.0)
        else:
            self.supervised.start()
        self.is_starting = True
        self._waiting = asyncio.create_task(self._wait_ready())

    async def _wait_ready(self) -> None:
        with suppress(Exception):  # it died before: whoever looks after it sees that
            await asyncio.to_thread(self.supervised.wait_ready)
            self.is_starting = False

    async def ready(self) -> None:
        """Wait until it serves or has died."""
        assert self._waiting is not None
        await self._waiting

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        with suppress(ProcessLookupError):
            os.kill(self.supervised.pid, number)

    def set_clock(self, offset_s: float) -> None:
        """Have its wall clock stand so far from the true one, from now on."""
        new = self.clock.with_suffix(".new")  # a file that is being written would be read half
        new.write_text(f"{offset_s:+.0f}")
        new.replace(self.clock)

    @property
    def is_up(self) -> bool:
        """Whether it serves."""
        return not self.is_starting and self.supervised.has_ended() is None


class Site:
    """A coordinator and its agents, for a leg.

    Args:
        settings: of the site.
        folder: of the leg; logs and, at the end, databases are kept there.
    """

    def __init__(self, settings: SiteSettings, folder: Path) -> None:
        self._settings = settings
        self._folder = folder
        self._endpoint = f"tcp://127.0.0.1:{free_port()}"
        self.ports = [free_port() for _ in range(settings.num_agents)]
        self.coordinator = Daemon(COORDINATOR, self._coordinator_command, folder / COORDINATOR, "store.sqlite")
        self.agents = [
            Daemon(
                agent_name(index),
                lambda index=index: self._agent_command(index),  # type: ignore[misc]
                folder / agent_name(index),
                "spool.sqlite",
            )
            for index in range(settings.num_agents)
        ]
        self.daemons = {daemon.name: daemon for daemon in (self.coordinator, *self.agents)}
        self.meddlings = [Meddling() for _ in self.agents]
        self.relays: list[Relay] = []
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        """Start all, and wait until all serve.

        Raises:
            DaemonFailed: one would not start.
        """
        self._write_settings()
        for daemon in self.daemons.values():
            size_mb = STORE_DISK_MB if daemon is self.coordinator else SPOOL_DISK_MB
            daemon.disk.mkdir(parents=True)
            if self._settings.has_disks:
                self._stack.enter_context(mounted_disk(daemon.disk, size_mb))
            daemon.set_clock(0.0)
        for meddling in self.meddlings:
            relay = Relay("127.0.0.1", self.coordinator_port, meddler=_meddler(meddling))
            self.relays.append(await self._stack.enter_async_context(relay))
        for daemon in self.daemons.values():
            daemon.start()
        for daemon in self.daemons.values():
            await daemon.ready()
            if not daemon.is_up:
                await asyncio.to_thread(daemon.supervised.wait_ready)  # raises, with its log

    @property
    def coordinator_port(self) -> int:
        """Where it listens, past all relays."""
        return int(self._endpoint.rpartition(":")[2])

    def restart_dead(self) -> list[str]:
        """Start again what has died; return its names."""
        dead = [
            daemon
            for daemon in self.daemons.values()
            if not daemon.is_being_killed and daemon.supervised.has_ended() is not None
        ]
        for daemon in dead:
            daemon.start(again=True)
        return [daemon.name for daemon in dead]

    def stop(self) -> None:
        """End all processes, agents first."""
        for daemon in reversed(self.daemons.values()):
            daemon.send(signal.SIGCONT)
            daemon.supervised.stop()

    async def close(self) -> None:
        """Keep the databases in the folder, and give links and disks back."""
        for daemon in self.daemons.values():
            for path in daemon.disk.glob("*.sqlite*"):
                shutil.copy2(path, daemon.disk.parent)
        await self._stack.aclose()

    # -- how it is made -----------------------------------------------------------------------------------------------

    def _write_settings(self) -> None:
        settings = self._settings
        for daemon in self.daemons.values():
            daemon.disk.parent.mkdir(parents=True, exist_ok=True)
        (self._folder / COORDINATOR / "coordinator.toml").write_text(
            f'bind = "{self._endpoint}"\npair = "{settings.pair}"\nengine = "{settings.engine}"\n'
            f'threads = {settings.threads}\nmeter = "none"\nstore = "{self.coordinator.database}"\npolicy = "fixed"\n\n'
            f"[limits]\nmax_sessions = {settings.num_agents + 2}\nmax_context_tokens = {settings.max_context_tokens}\n"
            f"max_prompt_tokens = {settings.max_context_tokens - 1}\n"
            "agent_timeout_s = 4.0\nsession_timeout_s = 30.0\n"
        )
        for index, agent in enumerate(self.agents):
            (agent.disk.parent / "agent.toml").write_text(
                f'agent_id = "{agent.name}"\npair = "{settings.pair}"\nengine = "{settings.draft_engine}"\n'
                f'threads = {settings.threads}\nmeter = "none"\nspool = "{agent.database}"\n'
                f"num_draft_tokens = {settings.num_draft_tokens}\n"
                f'max_context_tokens = {settings.max_context_tokens}\nhttp_listen = "127.0.0.1:{self.ports[index]}"\n'
                "upload_bytes_per_s = 16384.0\nrecord_texts = true\nretry_s = 0.5\nretry_max_s = 2.0\n"
            )

    def _command(self, daemon: Daemon, part: str) -> list[str]:
        library = self._settings.faketime
        clock = [] if library is None else _faked(library, daemon.clock)
        config = daemon.disk.parent / f"{part}.toml"
        return [
            *clock,
            *(sys.executable, "-m", "multispin", part, "--exit-with-parent", str(os.getpid())),
            *("--config", str(config)),
        ]

    def _coordinator_command(self) -> list[str]:
        return self._command(self.coordinator, "coordinator")

    def _agent_command(self, index: int) -> list[str]:
        return [*self._command(self.agents[index], "agent"), "--coordinator", self._reached(index)]

    def _reached(self, index: int) -> str:
        return f"tcp://127.0.0.1:{self.relays[index].port}"


def _meddler(meddling: Meddling) -> Callable[[bool], MessageMeddler]:
    return lambda is_up: MessageMeddler(meddling, is_up)


def find_faketime() -> Path | None:
    """Return libfaketime, as Debian's package has it or scripts/test-tools has brought it; null if it is not here."""
    beside = Path(sys.prefix) / "faketime" / _FAKETIME
    return next((path for path in (beside, *Path("/usr/lib").glob(f"*/faketime/{_FAKETIME}")) if path.exists()), None)


def _faked(library: Path, clock: Path) -> list[str]:
    """Return what stands before a command whose wall clock a file sets; monotonic clocks stay the true ones."""
    env = shutil.which("env") or "/usr/bin/env"
    return [
        env,
        f"LD_PRELOAD={library}",
        f"FAKETIME_TIMESTAMP_FILE={clock}",
        "FAKETIME_NO_CACHE=1",
        "FAKETIME_DONT_FAKE_MONOTONIC=1",
    ]
