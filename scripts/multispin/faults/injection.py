"""What a fault does to a site: to processes by signals, to links at the relay, to disks and clocks by files."""

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from multispin.bench.relay import Relay
from multispin.faults.kinds import Fault
from multispin.faults.meddling import Meddling
from multispin.faults.site import Daemon, Site
from multispin.own_disk import empty_disk, fill_disk

__all__ = ["inject"]

LOOK_EVERY_S = 0.05


async def inject(site: Site, fault: Fault, on_dead: Callable[[], None]) -> bool:
    """Do what a fault says, for as long as it lasts; return whether it had any effect.

    Args:
        site: that it is done to.
        fault: drawn.
        on_dead: called when a daemon was killed, before it is started again.
    """
    daemon = site.daemons[fault.target]
    match fault.kind.rpartition("-")[2]:
        case "kill" | "stop" if not daemon.is_up:
            return False
        case "kill":
            await _kill(daemon, on_dead)
        case "clock":
            daemon.set_clock(fault.clock_s)
        case "stop":
            with _stopped(daemon):
                await asyncio.sleep(fault.lasts_s)
        case "disk":
            with _full(daemon):
                await asyncio.sleep(fault.lasts_s)
        case _:
            return await _on_link(site, fault)
    return True


async def _kill(daemon: Daemon, on_dead: Callable[[], None]) -> None:
    daemon.is_being_killed = True
    try:
        daemon.send(signal.SIGKILL)
        while daemon.supervised.has_ended() is None:  # noqa: ASYNC110 - a process tells of no event
            await asyncio.sleep(0.01)
        on_dead()
        daemon.start(again=True)
    finally:
        daemon.is_being_killed = False


async def _on_link(site: Site, fault: Fault) -> bool:
    index = int(fault.target.rpartition("-")[2])
    if fault.kind not in _LINK_FAULTS:
        return await _meddle(site.meddlings[index], fault)
    relay = site.relays[index]
    had = relay.num_connections > 0
    with _LINK_FAULTS[fault.kind](relay, fault):
        await asyncio.sleep(fault.lasts_s)
    return had or relay.num_connections > 0


@contextmanager
def _stopped(daemon: Daemon) -> Iterator[None]:
    pid = daemon.supervised.pid
    daemon.send(signal.SIGSTOP)
    try:
        yield
    finally:
        if daemon.supervised.pid == pid:
            daemon.send(signal.SIGCONT)


@contextmanager
def _full(daemon: Daemon) -> Iterator[None]:
    daemon.is_disk_full = True
    fill_disk(daemon.disk)
    try:
        yield
    finally:
        empty_disk(daemon.disk)
        daemon.is_disk_full = False


@contextmanager
def _cut(relay: Relay, _fault: Fault) -> Iterator[None]:
    relay.cut()
    try:
        yield
    finally:
        relay.restore()


@contextmanager
def _half_open(relay: Relay, fault: Fault) -> Iterator[None]:
    relay.hold()
    try:
        yield
    finally:
        if fault.kind == "half-open-cut":
            relay.cut()
            relay.restore()
        relay.release()


@contextmanager
def _slow(relay: Relay, fault: Fault) -> Iterator[None]:
    relay.up_s, relay.down_s = (0.02, 0.13 * fault.count) if fault.is_up else (0.13 * fault.count, 0.02)
    try:
        yield
    finally:
        relay.up_s = relay.down_s = 0.0


_LINK_FAULTS = {"cut": _cut, "half-open": _half_open, "half-open-cut": _half_open, "delay": _slow}


async def _meddle(meddling: Meddling, fault: Fault) -> bool:
    """Wait until it was done to all the messages it is meant for, or for as long as it lasts."""
    key = fault.kind, fault.is_up
    before = meddling.done[key]
    meddling.due[key] += 1 if fault.kind == "mid-frame" else fault.count
    deadline_s = asyncio.get_running_loop().time() + fault.lasts_s
    while meddling.due[key] and asyncio.get_running_loop().time() < deadline_s:  # noqa: ASYNC110
        await asyncio.sleep(LOOK_EVERY_S)
    meddling.due[key] = 0
    return meddling.done[key] > before
