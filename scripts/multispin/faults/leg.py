"""One leg: the site starts, faults come at random while users ask, then quiet, and the checks."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median

import msgspec

from multispin.faults.books import Books
from multispin.faults.figures import LegFigures, by_kind
from multispin.faults.injection import inject
from multispin.faults.kinds import Fault, FaultDraw
from multispin.faults.lives import Lives
from multispin.faults.outages import OutageFigures, alternate
from multispin.faults.site import Site, SiteSettings
from multispin.faults.strangers import StrangersFigures, strangers_at
from multispin.faults.users import Expected, Served, Users
from multispin_models.records import JsonlWriter

__all__ = ["Injected", "LegSettings", "run_leg"]

LOOK_EVERY_S = 3.0
WATCH_S = 0.2
DRAIN_S = 120.0
REDRAWS = 20


class LegSettings(msgspec.Struct, frozen=True):
    """How a leg goes.

    Attributes:
        num_faults: most faults with an effect; it ends when there were as many and `seconds` are over.
        seconds: least time with faults.
        mean_pause_s: from fault to fault.
        num_users: who ask without pause.
        num_strangers: connections to the coordinator that are held open and never speak.
        seed: of the faults, and of what is asked.
        outage_s: without faults: links go down for so long by turns; null lets them be.
        without: kinds that are not tried.
        left_out: why, for the table.
    """

    num_faults: int
    seconds: float
    mean_pause_s: float
    num_users: int
    seed: int
    num_strangers: int = 0
    outage_s: float | None = None
    without: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


class Injected(msgspec.Struct, frozen=True):
    """A fault that had an effect, in faults.jsonl.

    Attributes:
        at_s: since the leg began.
        fault: what it was.
    """

    at_s: float
    fault: Fault


class _Leg:
    def __init__(self, settings: LegSettings, site: Site, users: Users, writer: JsonlWriter) -> None:
        self.injected: Counter[str] = Counter()
        self.lives = Lives(site)
        self.books = Books({agent.name: agent.database for agent in site.agents}, site.coordinator.database)
        self._settings = settings
        self._site = site
        self._users = users
        self._writer = writer
        self._draw = FaultDraw(settings.seed, len(site.agents), settings.without)
        self.outages: OutageFigures | None = None
        self.died: list[str] = []  # by themselves
        self.not_started: list[str] = []  # their disk was full
        self._on: dict[str, asyncio.Task[None]] = {}
        self.begun_s = time.monotonic()

    @property
    def num_faults(self) -> int:
        return self.injected.total()

    @property
    def is_over(self) -> bool:
        enough = self.num_faults >= self._settings.num_faults
        return enough and time.monotonic() - self.begun_s >= self._settings.seconds

    async def inject(self) -> None:
        """Let faults come until the leg is over; several may be on at once, but two of a kind at one end never."""
        if not self._settings.num_faults:
            if self._settings.outage_s is None:
                await asyncio.sleep(self._settings.seconds)
            else:
                self.outages = await alternate(
                    self._site, self._settings.outage_s, self._settings.seconds, lambda: self._users.num_characters
                )
            return
        while not self.is_over:
            await asyncio.sleep(self._draw.pause_s(self._settings.mean_pause_s))
            for _ in range(REDRAWS):
                fault = self._draw.fault(spare=self._spared())
                if fault.name not in self._on and self._has_effect(fault):
                    self._on[fault.name] = asyncio.create_task(self._one(fault))
                    break
        await asyncio.gather(*self._on.values())

    async def end_faults(self) -> None:
        """End those that are on, each in order."""
        for task in self._on.values():
            task.cancel()
        await asyncio.gather(*self._on.values(), return_exceptions=True)

    def _spared(self) -> Sequence[str]:
        """The coordinator is killed in the first half only: then its memory can be told over the other one."""
        done = max(
            self.num_faults / self._settings.num_faults if self._settings.num_faults else 1.0,
            (time.monotonic() - self.begun_s) / self._settings.seconds if self._settings.seconds else 1.0,
        )
        return ("coordinator-kill",) if done > 0.5 else ()

    def _has_effect(self, fault: Fault) -> bool:
        daemon = self._site.daemons[fault.target]
        return daemon.is_up or not fault.kind.endswith(("kill", "stop"))

    async def _one(self, fault: Fault) -> None:
        at_s = time.monotonic() - self.begun_s
        self._users.begin(fault)
        try:
            if fault.kind.endswith("kill"):
                self._users.killed(fault.target)
            had_effect = await inject(self._site, fault, self.books.look)
        finally:
            self._users.end(fault)
            self._on.pop(fault.name, None)
        if had_effect:
            self.injected[fault.kind] += 1
            self._writer.append(Injected(at_s, fault))

    async def watch(self) -> None:
        """Start again what dies by itself (a watchdog of ours would, too), and read memory, files and disks."""
        looked_s = 0.0
        while True:
            await asyncio.sleep(WATCH_S)
            for name in self._site.restart_dead():
                # A daemon that is started while its disk is full says so and ends: systemd would start it again, too.
                (self.not_started if self._site.daemons[name].is_disk_full else self.died).append(name)
                self._users.killed(name)
            if time.monotonic() - looked_s >= LOOK_EVERY_S:
                looked_s = time.monotonic()
                self.books.look()
                self.lives.sample()

    async def drain(self) -> None:
        """Wait until all daemons serve and no spool holds a record."""
        deadline_s = time.monotonic() + DRAIN_S
        while time.monotonic() < deadline_s:
            served = all(daemon.is_up for daemon in self._site.daemons.values())
            if served and self.books.num_left() == 0:
                break
            await asyncio.sleep(0.5)
        self.lives.sample()


async def run_leg(
    settings: LegSettings,
    site_settings: SiteSettings,
    texts: Sequence[Expected],
    folder: Path,
    on_progress: Callable[[int, int], None],
    stop: asyncio.Event,
) -> LegFigures:
    """Run one leg and return what came of it; it is also in the folder: faults.jsonl, served.jsonl, leg.json.

    Args:
        settings: of the leg.
        site_settings: of its processes.
        texts: what is asked, with what must come.
        folder: new, made by the caller.
        on_progress: called with faults so far, and wanted.
        stop: ends the leg early, in order.

    Raises:
        DaemonFailed: the site would not start.
    """
    site = Site(site_settings, folder)
    users = Users(site.ports, texts, settings.seed)
    asking: list[asyncio.Task[None]] = []
    strangers = AsyncExitStack()
    with JsonlWriter(folder / "faults.jsonl") as faults, JsonlWriter(folder / "served.jsonl") as written:
        try:
            await site.start()
            leg = _Leg(settings, site, users, faults)
            flood = None
            if settings.num_strangers:
                flood = await strangers.enter_async_context(
                    strangers_at("127.0.0.1", site.coordinator_port, settings.num_strangers)
                )
            watching = asyncio.create_task(leg.watch())
            asking = [asyncio.create_task(users.run(number)) for number in range(settings.num_users)]
            injecting = asyncio.create_task(leg.inject())
            stopped = asyncio.create_task(stop.wait())
            num_written = 0
            while not injecting.done() and not stopped.done():
                await asyncio.wait({injecting, stopped, watching, *asking}, timeout=1.0, return_when="FIRST_COMPLETED")
                on_progress(leg.num_faults, settings.num_faults)
                num_written = _write(written, users.served, num_written)
                if watching.done() or any(task.done() for task in asking):
                    break  # a fault of this program: raised below
            seconds = time.monotonic() - leg.begun_s
            injecting.cancel()
            stopped.cancel()
            await asyncio.gather(injecting, stopped, return_exceptions=True)
            await leg.end_faults()
            users.stop()
            await asyncio.gather(*asking)
            await strangers.aclose()
            await leg.drain()
            _write(written, users.served, num_written)
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            leg.books.look()
            await asyncio.to_thread(site.stop)
            figures = _figures(settings, leg, users.served, texts, seconds, flood)
        finally:
            for task in asking:
                task.cancel()
            await strangers.aclose()
            await asyncio.to_thread(site.stop)
            await site.close()
    (folder / "leg.json").write_bytes(msgspec.json.encode(figures))
    return figures


def _write(writer: JsonlWriter, served: Sequence[Served], done: int) -> int:
    for each in served[done:]:
        writer.append(each)
    return len(served)


def _figures(
    settings: LegSettings,
    leg: _Leg,
    served: Sequence[Served],
    texts: Sequence[Expected],
    seconds: float,
    flood: StrangersFigures | None,
) -> LegFigures:
    by_name = {text.name: text for text in texts}
    whole = [each for each in served if not each.error]
    unkilled = leg.lives.unkilled()
    return LegFigures(
        seconds=seconds,
        kinds=by_kind(leg.injected, served),
        num_requests=len(whole),
        num_failed=len(served) - len(whole),
        num_broken=sum(each.num_broken for each in served),
        num_characters=sum(len(by_name[each.job].text) for each in whole),
        num_different=sum(each.num_different for each in served),
        longest_s=max((each.seconds for each in served), default=0.0),
        errors=tuple(f"{each.job} at {each.agent}: {each.error}" for each in served if each.error)[:10],
        died=tuple(leg.died),
        num_not_started=len(leg.not_started),
        records=leg.books.close(
            {each.request_id: by_name[each.job].token_ids for each in whole},
            {each.request_id for each in whole if each.agent in unkilled},
        ),
        daemons=leg.lives.figures(),
        left_out=settings.left_out,
        seed=settings.seed,
        num_resumed=sum(each.num_resumed for each in served),
        median_s=median([each.seconds for each in whole]) if whole else None,
        strangers=flood,
        outages=leg.outages,
    )
