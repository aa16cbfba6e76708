"""Joules of a run: every meter over the whole run, counted once.

The rule. An end's *domain* is what its meter sees: the machine for a sensor, the recording for a replay. Ends of one
domain share their joules, so the domain counts once, with the widest window that any of its ends recorded. Domains are
added only if each has a figure and all have the same label. Two different meters in one domain could see the same
joules, and are refused. So agent and coordinator on one machine, read by one RAPL meter, are never added twice.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

from multispin_models.energy.meter import Label, MeterInfo
from multispin_models.energy.window import Window
from multispin_models.records.schema import EnergyRecord, IdleBaseline, MeteredEnd, RunHeader

__all__ = ["RunEnergy", "energy_domain", "energy_record", "run_energy"]


class RunEnergy(NamedTuple):
    """The energy of a run.

    Attributes:
        joules: of all domains, idle power included; null if it is not known of one.
        label: of all of it; null without joules.
        reason: why it is null, or else what the figure covers.
    """

    joules: float | None
    label: Label | None
    reason: str


def energy_domain(meter: MeterInfo | None, boot_id: str | None, end: str = "") -> str:
    """Return what a meter sees: a replayed recording stands for a machine of its own, at every end that plays it."""
    if meter is not None and meter.name.startswith("replay:"):
        return f"{meter.name}@{end}" if end else meter.name
    return f"machine:{boot_id or 'unknown'}"


def energy_record(
    run_id: str,
    end: str,
    started_ns: int,
    ended_ns: int,
    window: Window,
    *,
    attributed_j: float | None = None,
    prefill_j: float | None = None,
    unattributed_j: float | None = None,
    idle: IdleBaseline | None = None,
    sampler_cpu_s: float | None = None,
) -> EnergyRecord:
    """Return the record of one end's window over the run; fields as there."""
    return EnergyRecord(
        run_id=run_id,
        end=end,
        started_ns=started_ns,
        ended_ns=ended_ns,
        energy_j=window.joules,
        reason=window.reason,
        achieved_hz=window.achieved_hz,
        largest_gap_s=window.largest_gap_s,
        coverage=window.coverage,
        num_samples=window.num_samples,
        attributed_j=attributed_j,
        prefill_j=prefill_j,
        unattributed_j=unattributed_j,
        idle=idle,
        sampler_cpu_s=sampler_cpu_s,
    )


class _Domain(NamedTuple):
    """A domain's figure, or why it has none, and what it covers."""

    joules: float | None
    label: Label | None
    said: str


def run_energy(header: RunHeader, records: Iterable[EnergyRecord]) -> RunEnergy:
    """Return the energy of a run by the rule above.

    Args:
        header: of the run, with all its ends.
        records: of ends, at most one an end.
    """
    by_end = {record.end: record for record in records}
    ends_by_domain: dict[str, list[MeteredEnd]] = {}
    for end in header.energy_meters:
        ends_by_domain.setdefault(end.domain, []).append(end)
    if not ends_by_domain:
        return RunEnergy(None, None, "the run names no energy meter")
    domains = [_domain(ends, by_end) for ends in ends_by_domain.values()]
    missing = [domain.said for domain in domains if domain.joules is None]
    if missing:
        return RunEnergy(None, None, "; ".join(missing))
    labels = {domain.label for domain in domains}
    if len(labels) > 1:
        return RunEnergy(None, None, "of different labels, not added: " + "; ".join(domain.said for domain in domains))
    joules = math.fsum(domain.joules for domain in domains if domain.joules is not None)
    return RunEnergy(joules, domains[0].label, "; ".join(domain.said for domain in domains))


def _domain(ends: list[MeteredEnd], by_end: dict[str, EnergyRecord]) -> _Domain:
    names = ", ".join(end.end for end in ends)
    meters = {end.meter.name: end.meter for end in ends if end.meter is not None}
    if not meters:
        return _Domain(None, None, f"{names}: {ends[0].reason or 'no meter'}")
    if len(meters) > 1:
        both = " and ".join(meters)
        return _Domain(None, None, f"{names}: meters {both} on one machine may see the same joules; choose one")
    [meter] = meters.values()
    records = [by_end[end.end] for end in ends if end.meter is not None and end.end in by_end]
    known = [record for record in records if record.energy_j is not None]
    if not known:
        why = next((record.reason for record in records if record.reason), "its joules were not recorded")
        return _Domain(None, None, f"{names}: meter {meter.name}: {why}")
    widest = max(known, key=lambda record: record.ended_ns - record.started_ns)
    who = f"one meter covers both ends, counted once: {names}" if len(ends) > 1 else names
    said = f"{who}: {meter.name}, {meter.label}, covers {meter.covers}"
    return _Domain(widest.energy_j, meter.label, f"{said} ({meter.note})" if meter.note else said)
