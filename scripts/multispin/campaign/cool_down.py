"""What is waited for before a cell, and whether heat spoilt it. The clock and the sensor are arguments."""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from multispin.campaign.cell_files import ConditionsRow
from multispin.campaign.plan import Limits
from multispin_models.energy.conditions import read_temperatures

__all__ = ["CooledDown", "cool_down", "faults_of"]

LOOK_S = 2.0
_SPOILING = ("under-voltage", "frequency capped", "throttled", "soft temperature limit")


class CooledDown(NamedTuple):
    """What a wait came to.

    Attributes:
        seconds: waited.
        reason: for what, in words.
        is_cool: the limit was met, or there is none.
    """

    seconds: float
    reason: str
    is_cool: bool


def cool_down(
    limits: Limits,
    temperatures: Callable[[], dict[str, float | None]] = read_temperatures,
    sleep: Callable[[float], object] = time.sleep,
) -> CooledDown:
    """Wait as the limits say, and return what came of it."""
    if limits.cool_down_s:
        sleep(limits.cool_down_s)
    waited_s = limits.cool_down_s
    if limits.start_below_c is None:
        return CooledDown(waited_s, f"{waited_s:g} s asked for", is_cool=True)
    while True:
        known = {name: each for name, each in temperatures().items() if each is not None}
        if not known:
            return CooledDown(waited_s, "no zone tells its temperature: start_below_c cannot be kept", is_cool=False)
        name, hottest = max(known.items(), key=lambda item: item[1])
        said = f"{name} at {hottest:.1f} C, limit {limits.start_below_c:g}"
        if hottest < limits.start_below_c:
            return CooledDown(waited_s, said, is_cool=True)
        if waited_s >= limits.cool_down_most_s:
            return CooledDown(waited_s, f"{said}, still after {waited_s:.0f} s", is_cool=False)
        sleep(LOOK_S)
        waited_s += LOOK_S


def faults_of(limits: Limits, conditions: Sequence[ConditionsRow]) -> tuple[list[str], list[str]]:
    """Return why a cell is to be excluded, and what passed a limit but is kept."""
    excluded: list[str] = []
    kept: list[str] = []
    for end in sorted({row.end for row in conditions}):
        own = [row for row in conditions if row.end == end]
        hottest = max((row.temperature_c for row in own if row.temperature_c is not None), default=None)
        if limits.max_temperature_c is not None and hottest is not None and hottest > limits.max_temperature_c:
            excluded.append(f"{end} reached {hottest:.1f} C, limit {limits.max_temperature_c:g}")
        if said := _throttling(own):
            (excluded if limits.on_throttling == "exclude" else kept).append(f"{end}: {said}")
    return excluded, kept


def _throttling(rows: Sequence[ConditionsRow]) -> str:
    """Return how a machine throttled; "" if it did not. Flags since boot and counters say it only by a change."""
    flags = {
        flag
        for row in rows
        if row.throttled is not None
        for flag in msgspec.json.decode(row.throttled, type=list[str])
        if flag in _SPOILING
    }
    counts = [msgspec.json.decode(row.throttle_events, type=dict[str, int]) for row in rows]
    risen = {name for name in (counts[0] if counts else {}) if counts[-1].get(name, 0) > counts[0][name]}
    return ", ".join(sorted(flags | risen))
