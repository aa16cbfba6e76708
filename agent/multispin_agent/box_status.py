"""What an agent tells of its box for the coordinator's table: disk, heat, throttling, clock.

Once a minute, or on change. Nothing is decided by it. What the box cannot tell is null.
"""

import asyncio
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from multispin_models.clock_watch import read_clock_sync
from multispin_models.energy.conditions import Conditions, read_conditions
from multispin_models.messages import AgentMessage, BoxStatus

__all__ = ["read_box_status", "tell_box_status"]

INTERVAL_S = 60.0
LOOK_S = 30.0
ABSENT_LOOK_S = 2.0
LONGEST = 200  # characters of each text
DISK_STEPS, HEAT_STEP_C = 20, 10  # what counts as a change: a twentieth of the disk, ten degrees


def read_box_status(disk: Path, num_spooled: int | None, degraded: str, root: Path = Path("/")) -> BoxStatus:
    """Return the state of this box now; takes up to a few seconds where a tool does not answer.

    Args:
        disk: folder whose disk is told of.
        num_spooled: records that wait in the spool; null without one.
        degraded: what does not work though the agent serves, "" if nothing.
        root: of the file system, or of a recorded board.
    """
    conditions = read_conditions("during", root)
    sync = read_clock_sync()
    temperatures = [value for value in conditions.temperatures_c.values() if value is not None]
    try:
        usage = shutil.disk_usage(disk)
    except OSError:
        usage = None
    return BoxStatus(
        wall_ms=time.time_ns() // 1_000_000,
        uptime_s=int(time.clock_gettime(time.CLOCK_BOOTTIME)),
        disk_free_mb=None if usage is None else usage.free // 1_000_000,
        disk_mb=None if usage is None else usage.total // 1_000_000,
        num_spooled=num_spooled,
        temperature_millidegrees=round(max(temperatures) * 1e3) if temperatures else None,
        throttled=_throttled(conditions),
        clock_bound_us=None if sync.bound_s is None else min(round(sync.bound_s * 1e6), (1 << 31) - 1),
        clock_reason=None if sync.reason is None else sync.reason[:LONGEST],
        degraded=degraded[:LONGEST] or None,
    )


def _throttled(conditions: Conditions) -> str | None:
    """Return what slows the box now, "" if nothing does, null where nothing of the kind is told."""
    if conditions.throttled is None and not conditions.throttle_events and not conditions.cooling:
        return None
    now = [flag for flag in conditions.throttled or () if not flag.endswith("since boot")]
    now += [f"{name} {state:g}" for name, state in conditions.cooling.items() if "fan" not in name.lower()]
    return ", ".join(now)[:LONGEST]


def _essence(status: BoxStatus) -> tuple[object, ...]:
    """Return what is told at once when it changes."""
    share = None
    if status.disk_mb and status.disk_free_mb is not None:
        share = DISK_STEPS * status.disk_free_mb // status.disk_mb
    heat = status.temperature_millidegrees
    return (
        share,
        None if heat is None else heat // (HEAT_STEP_C * 1000),
        status.throttled,
        status.clock_bound_us is None,
        status.degraded,
    )


async def tell_box_status(
    send: Callable[[AgentMessage], object],
    read: Callable[[], BoxStatus],
    is_heard: Callable[[], bool],
    interval_s: float = INTERVAL_S,
    look_s: float = LOOK_S,
) -> None:
    """Look every few seconds; say it when it has changed and once in an interval, until cancelled.

    Args:
        send: to the coordinator.
        read: as `read_box_status`; called in a thread.
        is_heard: whether the coordinator is there: what waits in a queue would tell a wrong time when it comes.
        interval_s: longest between two.
        look_s: between two looks.
    """
    told: tuple[object, ...] | None = None
    told_s = 0.0
    while True:
        if not is_heard():
            told = None
            await asyncio.sleep(min(look_s, ABSENT_LOOK_S))
            continue
        status = await asyncio.to_thread(read)
        now_s = time.monotonic()
        if _essence(status) != told or now_s - told_s >= interval_s:
            told, told_s = _essence(status), now_s
            send(status)
        await asyncio.sleep(look_s)
