"""Rules 400: joules have windows, samples and labels. A figure without a sensor is null with a reason, never 0."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from multispin.campaign.cell_files import EnergyWindow
from multispin.campaign.rules.evidence import CellEvidence, CellNote, RunEvidence
from multispin.campaign.rules.rule import CellRule, NotesRule

__all__ = ["RULES"]

_MACHINE = "machine"
_EDGE_NS = 1_000_000_000


def check_windows(run: RunEvidence, found: CellEvidence) -> Iterator[str]:
    """Every end that was metered has one window of the run, and one of idling before it where the plan asks for one.

    The run's window of the driver's machine holds every request that was timed by its clock; the idle window lies
    before it. (MLPerf Power: the workload's begin and end lie within the metered phase.)
    """
    by_end: dict[str, list[EnergyWindow]] = defaultdict(list)
    for window in found.energy.windows:
        by_end[window.end].append(window)
        if window.ended_ns <= window.started_ns:
            yield f"{window.end}: the {window.kind} window is empty"
    if not by_end:
        yield "no energy window is there, not even one that says why there is no meter"
    for end, windows in by_end.items():
        kinds = [window.kind for window in windows]
        if kinds.count("run") != 1:
            yield f"{end}: {kinds.count('run')} windows of the run"
        if run.plan.plan.energy.idle_s and kinds.count("idle") != 1:
            yield f"{end}: {kinds.count('idle')} idle windows, the plan asks for one"
        runs = [window for window in windows if window.kind == "run"]
        for idle in (window for window in windows if window.kind == "idle"):
            if any(idle.ended_ns > each.started_ns + _EDGE_NS for each in runs):
                yield f"{end}: the idle window ends after the run has begun"
    if not any(agent.is_same_machine is False for agent in found.clock.agents):
        yield from _held(by_end.get(_MACHINE, []), found)


def _held(windows: Sequence[EnergyWindow], found: CellEvidence) -> Iterator[str]:
    for window in windows:
        if window.kind == "run":
            first = min((each.started_ns for each in found.requests), default=window.started_ns)
            last = max((each.ended_ns for each in found.requests), default=window.ended_ns)
            if first < window.started_ns - _EDGE_NS or last > window.ended_ns + _EDGE_NS:
                yield f"{_MACHINE}: requests lie outside of the run's window"


def check_joules(run: RunEvidence, found: CellEvidence) -> Iterator[str]:
    """Joules have a meter and a label, or are null with a reason; they are above 0 where they are known."""
    for window in found.energy.windows:
        name = f"{window.end} ({window.kind})"
        if window.energy_j is None:
            if not window.reason:
                yield f"{name}: no joules and no reason"
            elif window.meter is not None:
                yield f"{name}: the meter {window.meter} gave no joules: {window.reason}"
        elif window.meter is None or window.label is None:
            yield f"{name}: {window.energy_j} J without a meter or a label"
        elif window.energy_j <= 0.0:
            yield f"{name}: {window.energy_j} J"
        if window.meter is not None and window.meter.startswith("replay:") and window.label != "replayed":
            yield f"{name}: the meter {window.meter} plays a recording and is labelled {window.label}"


def check_rate(run: RunEvidence, found: CellEvidence) -> Iterator[str]:
    """Samples came at {min_rate:.0%} or more of the rate that was asked for, or that the sensor can, whichever is less.

    (MLPerf: at least one sample a second; a submission at one in two seconds was challenged.)
    """
    limits = run.thresholds
    for window in found.energy.windows:
        if window.energy_j is None:
            continue
        asked = run.plan.plan.energy.hz if window.end == _MACHINE else 1.0
        wanted = limits.min_rate * min(asked, window.native_hz or asked)
        if window.achieved_hz is None or window.achieved_hz < wanted:
            yield f"{window.end} ({window.kind}): {window.achieved_hz} samples a second, {wanted:.3g} are needed"


def check_gaps(run: RunEvidence, found: CellEvidence) -> Iterator[str]:
    """No {max_gap_s:g} s went by without a sample, and samples carry {min_coverage:.0%} of every window."""
    limits = run.thresholds
    for window in found.energy.windows:
        if window.energy_j is None:
            continue
        slowest = 2.0 / window.native_hz if window.native_hz else 0.0
        longest = max(limits.max_gap_s, slowest)
        name = f"{window.end} ({window.kind})"
        if window.largest_gap_s is None or window.largest_gap_s > longest:
            yield f"{name}: {window.largest_gap_s} s without a sample, allowed are {longest:g}"
        if window.coverage is None or window.coverage < limits.min_coverage:
            yield f"{name}: samples carry {window.coverage} of the window, needed are {limits.min_coverage}"


def check_power(run: RunEvidence, found: CellEvidence) -> Iterator[str]:
    """Nothing draws over {max_power_drop:.0%} less power at work than in its own idle window just before.

    Of measured and calibrated joules. (MLPerf Power: the test run may not draw 5 % less than the ranging run.)
    """
    power: dict[tuple[str, str], float] = {}
    for window in found.energy.windows:
        if window.energy_j is not None and window.label in {"measured", "calibrated"}:
            power[window.end, window.kind] = window.energy_j / ((window.ended_ns - window.started_ns) / 1e9)
    for (end, kind), watts in power.items():
        idle = power.get((end, "idle"))
        if kind == "run" and idle is not None and watts < (1.0 - run.thresholds.max_power_drop) * idle:
            yield f"{end}: {watts:.3g} W at work, {idle:.3g} W when idle"


def check_meters(run: RunEvidence, notes: Sequence[CellNote]) -> Iterator[str]:
    """Every end had the same meter, coverage and label in all cells: joules of different meters are not compared."""
    seen: dict[tuple[str, str], dict[tuple[object, ...], str]] = defaultdict(dict)
    for note in notes:
        for window in note.energy.windows:
            kind = (window.meter, window.label, window.covers)
            seen[note.cell.device, window.end].setdefault(kind, note.cell.cell_id)
    for (device, end), kinds in seen.items():
        if len(kinds) > 1:
            told = "; ".join(f"{meter} ({label}) from {cell} on" for (meter, label, _), cell in kinds.items())
            yield f"{end} of {device}: {told}"


RULES = (
    CellRule(401, check_windows),
    CellRule(402, check_joules),
    CellRule(403, check_rate),
    CellRule(404, check_gaps),
    CellRule(405, check_power),
    NotesRule(406, check_meters),
)
