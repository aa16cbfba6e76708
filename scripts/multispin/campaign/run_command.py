"""Run a campaign into a folder; called again, go on where it was.

    multispin campaign run plan.toml --out runs/office --dry-run     what would be done, nothing is started
    multispin campaign run plan.toml --out runs/office               Ctrl-C, or what dies, loses one cell at most
    multispin campaign run plan.toml --out runs/a --device pi5-a     this box's part, to be merged with others

The exit status is 0 when all is there, 3 when cells are missing after their attempts: calling it again tries them anew.
"""

import argparse
import signal
from pathlib import Path
from types import FrameType

import msgspec

from multispin.bench.cooperate_protocol import NULL_ENGINE
from multispin.campaign.boxes import box_faults
from multispin.campaign.folder import CAMPAIGN, CELLS, completed_cells, excluded_cells
from multispin.campaign.groups import run_settings, security_of
from multispin.campaign.headers import campaign_of
from multispin.campaign.live import Live
from multispin.campaign.meter import MachineMeter
from multispin.campaign.plan import External, Plan
from multispin.campaign.plan_command import duration_of, schedule_of
from multispin.campaign.plan_file import PlanFile, read_plan
from multispin.campaign.run import Driver
from multispin.campaign.run_folder import RunFolder
from multispin.campaign.schedule import site_key
from multispin.links import parse_link, why_no_namespaces
from multispin.local_run import prepare_draft
from multispin.progress import terminal_progress
from multispin_models.cache import Progress
from multispin_models.channel import check_endpoint
from multispin_models.energy import open_meter
from multispin_models.engines import prepare_side
from multispin_models.errors import ConfigError

__all__ = ["add_arguments", "run"]

INCOMPLETE = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `multispin campaign run`."""
    parser.add_argument("plan", type=Path, metavar="PLAN", help="TOML file, or the name of a shipped example")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="RUN", help="folder of the run, new or to go on with"
    )
    parser.add_argument("--device", action="append", metavar="NAME", help="run its cells alone; may be repeated")
    parser.add_argument("--key", type=Path, metavar="FILE", help="signing key (default: your own)")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument("--dry-run", action="store_true", help="check all that can be checked, start nothing")


def run(args: argparse.Namespace) -> int:
    """Run it and return the exit status."""
    signal.signal(signal.SIGTERM, _interrupt)
    file = read_plan(args.plan)
    devices = _devices(file.plan, args.device)
    _check_machine(file, devices)
    schedule, prompts = schedule_of(file)
    cells = [cell for cell in schedule.cells if cell.device in devices]
    if args.dry_run:
        done = set(completed_cells(args.out)) if (args.out / CAMPAIGN).exists() else set()
        left = [cell for cell in cells if cell.cell_id not in done]
        duration = duration_of(file.plan, schedule, args.out if done else None)
        print(
            f"{len(left)} of {len(cells)} cells are to be run into {args.out}, the first is "
            f"{left[0].cell_id if left else '-'}; all take about {duration.seconds / 60:.0f} min ({duration.basis})"
        )
        faults = box_faults(device for device in file.plan.devices if device.name in devices)
        for name, fault in faults.items():
            print(f"box {name}: {fault or 'ready'}")
        return int(any(faults.values()))
    _prepare(file, devices)
    folder = RunFolder(args.out, file, schedule, campaign_of(file, prompts.sha256, devices, terminal_progress()))
    try:
        with MachineMeter(file.plan.energy.meter, file.plan.energy.hz) as meter:
            live = Live([arm.name for arm in file.plan.arms], len(cells))
            driver = Driver(file, folder, prompts, devices, meter, live)
            live.know([(cell, driver.figures(cell.cell_id)) for cell in cells if cell.cell_id in folder.done])
            try:
                outcome = driver.run()
            except KeyboardInterrupt:
                folder.journal.note("ended", reason="interrupted")
                raise
            driver.seal(outcome, args.key)
    finally:
        folder.close()
    excluded = excluded_cells(args.out)
    if args.json:
        print(msgspec.json.encode({**outcome._asdict(), "excluded": excluded}).decode())
        return INCOMPLETE if outcome.missing else 0
    print(live.table())
    print(
        f"{outcome.completed} cells in {args.out / CELLS}, {len(excluded)} of them excluded; "
        f"{f'{len(outcome.missing)} missing' if outcome.missing else outcome.stopped or 'complete'}"
    )
    return INCOMPLETE if outcome.missing else 0


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """End as Ctrl-C does: processes are ended, and the journal says so."""
    raise KeyboardInterrupt


def _devices(plan: Plan, asked: list[str] | None) -> tuple[str, ...]:
    names = tuple(device.name for device in plan.devices)
    if unknown := set(asked or ()) - set(names):
        raise ConfigError(f"--device has {', '.join(sorted(unknown))}, allowed are {', '.join(names)}")
    return tuple(name for name in names if not asked or name in asked)


def _check_machine(file: PlanFile, devices: tuple[str, ...]) -> None:
    """Refuse what this machine cannot do before anything is fetched or started."""
    plan = file.plan
    opened = open_meter(plan.energy.meter).meter
    if opened is not None:
        opened.close()
    if not plan.models.bind.endswith(":*") and not all(isinstance(arm, External) for arm in plan.arms):
        check_endpoint(plan.models.bind, security_of(plan, file.folder))
    own = [device for device in plan.devices if device.name in devices]
    is_here = not any(box.launch for device in own for box in device.boxes)
    has_rate = is_here and any(parse_link(link).bit_per_s is not None for link in plan.factors.link)
    if has_rate and (why := why_no_namespaces()):
        raise ConfigError(f"plan {file.plan.name}: factors.link has a rate: {why}")


def _prepare(file: PlanFile, devices: tuple[str, ...]) -> None:
    """Bring the models to this machine, before times are taken."""
    plan = file.plan
    ours = [arm for arm in plan.arms if not isinstance(arm, External)]
    if not ours or plan.models.engine == NULL_ENGINE:
        return
    progress: Progress = terminal_progress()
    prepare_side(plan.models.pair, "target", plan.models.engine, progress)
    [device, *_] = [each for each in plan.devices if each.name in devices]
    prepare_draft(run_settings(plan, site_key(ours[0], device.name, {}), device), progress)
