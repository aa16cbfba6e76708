"""Print a plan's schedule, how long it takes, and the power of its tests.

multispin campaign plan plan.toml                  or a shipped one: loopback-smoke, bench-cores, field-wifi
multispin campaign plan plan.toml --pilot RUN      times and spreads from an earlier run, not assumed
multispin campaign plan plan.toml --cells          every cell in its order
multispin campaign plan --print bench-cores        a shipped plan's text, to begin one's own with
"""

import argparse
import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from statistics import mean, stdev

import msgspec
from msgspec import Struct

from multispin.campaign.figures import figures_of
from multispin.campaign.folder import CELLS, Schedule, excluded_cells, read_events, read_schedule
from multispin.campaign.plan import Hypothesis, Plan
from multispin.campaign.plan_document import plan_document
from multispin.campaign.plan_file import PlanFile, read_plan
from multispin.campaign.power import DRAWS, blocks_needed, power
from multispin.campaign.prompts import Prompts, read_prompts
from multispin.campaign.schedule import make_schedule
from multispin.campaign.stopping import differences
from multispin.progress import terminal_progress
from multispin_models.errors import ConfigError

__all__ = ["Duration", "TestPower", "add_arguments", "duration_of", "power_of", "run", "schedule_of"]

ASSUMED_TOKEN_S = 0.05
ASSUMED_START_S = 15.0
ASSUMED_CELL_S = 1.0  # besides its tokens and windows


class Duration(Struct, frozen=True, kw_only=True):
    """How long a run takes, and what that rests on."""

    seconds: float
    cells: int
    groups: int
    basis: str


class TestPower(Struct, frozen=True, kw_only=True):
    """What a hypothesis' test can show.

    Attributes:
        name: of the hypothesis.
        effect, sd, alpha: relative, of ln(arm / rival), two-sided.
        sd_from: "the plan", or the pilot with its number of blocks.
        differences: independent ones: blocks times devices.
        power: probability of finding the effect if it is there.
        blocks_for_80: fewest blocks (a device) with a power of 0.8; null beyond 1000.
    """

    name: str
    effect: float
    sd: float
    alpha: float
    sd_from: str
    differences: int
    power: float
    blocks_for_80: int | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `multispin campaign plan`."""
    parser.add_argument("plan", type=Path, nargs="?", metavar="PLAN", help="TOML file, or the name of a shipped one")
    parser.add_argument("--pilot", type=Path, metavar="RUN", help="times and spreads from this run")
    parser.add_argument("--cells", action="store_true", help="print every cell in its order")
    parser.add_argument("--print", type=Path, metavar="NAME", help="print a shipped plan, to begin one's own with")
    parser.add_argument("--keys", action="store_true", help="print every key that a plan may have, in Markdown")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print it; return 0."""
    if args.print:
        print(read_plan(args.print).text.decode(), end="")
        return 0
    if args.keys:
        print(plan_document(), end="")
        return 0
    if args.plan is None:
        raise ConfigError("a plan is missing: give its file, or the name of a shipped one")
    file = read_plan(args.plan)
    schedule, _ = schedule_of(file)
    duration = duration_of(file.plan, schedule, args.pilot)
    tests = [power_of(file.plan, hypothesis, args.pilot) for hypothesis in file.plan.hypotheses]
    if args.json:
        cells = schedule.cells if args.cells else ()
        found = {"campaign_id": file.campaign_id, "duration": duration, "tests": tests, "cells": cells}
        print(msgspec.json.encode(found).decode())
        return 0
    _show(file, schedule, duration, tests)
    if args.cells:
        for cell in schedule.cells:
            levels = " ".join(f"{name}={level}" for name, level in cell.factors.items())
            print(f"{cell.order:5} group {cell.group:4} {cell.cell_id:40} {levels}")
    return 0


def schedule_of(file: PlanFile) -> tuple[Schedule, Prompts]:
    """Return the schedule of a plan, and its prompts.

    Raises:
        ConfigError: the prompts cannot be read, or are too few.
    """
    prompts = read_prompts(file.plan, file.prompts, terminal_progress())
    return make_schedule(file.plan, file.sha256, prompts.by_task), prompts


def duration_of(plan: Plan, schedule: Schedule, pilot: Path | None) -> Duration:
    """Return how long the whole schedule takes, cool-downs to a temperature left out.

    Args:
        plan: of it.
        schedule: all cells.
        pilot: a run whose cells' times are taken; null assumes some, and says so.
    """
    groups = len({cell.group for cell in schedule.cells})
    if pilot is not None:
        seconds, start_s = _pilot_times(pilot)
        usual = mean(seconds.values())
        total = sum(seconds.get(cell.arm, usual) for cell in schedule.cells) + groups * start_s
        basis = f"means of the cells of {pilot} by arm, {start_s:.0f} s a group's start"
    else:
        total = groups * ASSUMED_START_S
        for cell in schedule.cells:
            texts = len(cell.prompt_ids) * int(cell.factors["max_tokens"])
            # One machine's models share its cores: as if texts were written one after the other.
            total += ASSUMED_CELL_S + texts * ASSUMED_TOKEN_S
        basis = f"assumed: {1e3 * ASSUMED_TOKEN_S:.0f} ms a token of all users, {ASSUMED_START_S:.0f} s a group's start"
    waits_s = plan.energy.idle_s + plan.limits.cool_down_s
    total += len(schedule.cells) * (plan.limits.cool_down_s if pilot is not None else waits_s)
    return Duration(seconds=total, cells=len(schedule.cells), groups=groups, basis=basis)


def power_of(plan: Plan, hypothesis: Hypothesis, pilot: Path | None) -> TestPower:
    """Return the power of a hypothesis' test with all blocks of a plan."""
    sd, basis = hypothesis.sd, "the plan"
    if pilot is not None:
        found = _pilot_differences(pilot, hypothesis)
        if len(found) > 1:
            sd, basis = stdev(found), f"pilot, {len(found)} blocks"
    count = plan.blocks * len(plan.devices)
    needed = blocks_needed(hypothesis.effect, sd, hypothesis.alpha)
    return TestPower(
        name=hypothesis.name,
        effect=hypothesis.effect,
        sd=sd,
        alpha=hypothesis.alpha,
        sd_from=basis,
        differences=count,
        power=power(count, hypothesis.effect, sd, hypothesis.alpha),
        blocks_for_80=None if needed is None else math.ceil(needed / len(plan.devices)),
    )


def _pilot_times(pilot: Path) -> tuple[dict[str, float], float]:
    """Return mean seconds of a cell by arm, and of a group's start."""
    arms = {cell.cell_id: cell for cell in read_schedule(pilot).cells}
    seconds: dict[str, list[float]] = defaultdict(list)
    starts: list[float] = []
    before = None
    for event in read_events(pilot):
        if event.event == "cell-completed" and event.seconds is not None and event.cell_id in arms:
            seconds[arms[event.cell_id].arm].append(event.seconds)
        if event.event == "cell-started" and before is not None and event.cell_id in arms:
            is_new = before.cell_id not in arms or arms[before.cell_id].group != arms[event.cell_id].group
            if is_new and before.boot_id == event.boot_id:
                starts.append((event.t_ns - before.t_ns) / 1e9)
        before = event
    return {arm: mean(own) for arm, own in seconds.items()}, mean(starts) if starts else ASSUMED_START_S


def _pilot_differences(pilot: Path, hypothesis: Hypothesis) -> list[float]:
    excluded = excluded_cells(pilot)
    cells = [
        cell
        for cell in read_schedule(pilot).cells
        if (pilot / CELLS / cell.cell_id).is_dir() and cell.cell_id not in excluded
    ]
    return list(differences(hypothesis, cells, lambda cell: figures_of(pilot, cell.cell_id)).values())


def _show(file: PlanFile, schedule: Schedule, duration: Duration, tests: list[TestPower]) -> None:
    plan = file.plan
    print(f"campaign {file.campaign_id}, plan {file.sha256[:12]}, seed {plan.seed}")
    devices = ", ".join(f"{device.name} ({len(device.boxes)} agents)" for device in plan.devices)
    print(f"devices: {devices}")
    levels: Mapping[str, tuple[object, ...]] = schedule.factors
    print("factors: " + "; ".join(f"{name} {', '.join(map(str, own))}" for name, own in levels.items()))
    print(f"{'arm':24} {'cells':>6}  {'of a block':>10}")
    for arm, count in Counter(cell.arm for cell in schedule.cells).items():
        print(f"{arm:24} {count:6}  {count // plan.blocks:10}")
    print(
        f"{duration.cells} cells in {plan.blocks} blocks, {duration.groups} starts of processes: about "
        f"{_long(duration.seconds)} ({duration.basis}; waiting for a temperature comes on top)"
    )
    if plan.stop is not None:
        print(
            f"stops from block {plan.stop.min_blocks} on, when every interval of {plan.stop.confidence:.0%} is within "
            f"{plan.stop.half_width:g} of ln(arm / rival)"
        )
    for test in tests:
        needed = "more than 1000" if test.blocks_for_80 is None else str(test.blocks_for_80)
        print(
            f"hypothesis {test.name!r}: an effect of {test.effect:+.1%} is found with power {test.power:.2f} "
            f"(n = {test.differences}, sd {test.sd:.3f} from {test.sd_from}, alpha {test.alpha:g}, paired t, by "
            f"simulation with {DRAWS} draws); 0.8 takes {needed} blocks"
        )


def _long(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"
