"""Send records through spool and upload while the link is cut, the agent killed and its disk filled, at random.

    multispin bench records --records 1000000

Every record that the agent's disk took must be on the coordinator's exactly once: the exit status is 1 if not. The
spool lies on a memory disk of its own (tmpfs in a mount namespace that this command makes with unshare(1)), so that
filling it hurts nobody else; a kill is survived there as on a real disk, a power cut is not tried.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import msgspec

from multispin.bench.records_run import Chances, RecordsRun, run_records
from multispin.flags import machine_facts, positive
from multispin.own_disk import in_own_namespace, mounted_disk, run_in_own_namespace
from multispin.progress import counter_line
from multispin_models.errors import ConfigError

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `multispin bench records`."""
    default = Chances()
    parser.add_argument("--records", type=positive, default=20_000, metavar="N", help="default %(default)s")
    for what, mean_s in (("kill", default.kill_s), ("cut", default.cut_s), ("fill", default.fill_s)):
        parser.add_argument(
            f"--{what}-s", type=float, default=mean_s, metavar="S", help="mean time between two (default %(default)s)"
        )
    parser.add_argument("--disk-mb", type=positive, default=64, metavar="N", help="of the spool (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the random moments (default 1)")


def run(args: argparse.Namespace) -> int:
    """Run `multispin bench records` and return the exit status: 0 if every record is where it must be, else 1."""
    if not in_own_namespace():
        run_in_own_namespace([sys.executable, "-m", "multispin", *sys.argv[1:]])
    if min(args.kill_s, args.cut_s, args.fill_s) <= 0.0:
        raise ConfigError("--kill-s, --cut-s and --fill-s must be above 0")
    facts = machine_facts()
    with tempfile.TemporaryDirectory(prefix="multispin-bench-") as temporary:
        folder = Path(temporary)
        with mounted_disk(folder / "disk", args.disk_mb) as disk:
            result = run_records(
                args.records,
                Chances(args.kill_s, args.cut_s, args.fill_s),
                folder,
                disk,
                args.seed,
                counter_line("records acknowledged"),
            )
    print(msgspec.json.encode({"facts": facts, "result": result}).decode() if args.json else _told(result))
    return int(not result.is_right)


def _told(result: RecordsRun) -> str:
    return (
        f"{result.num_acknowledged} records acknowledged by the agent's disk in {result.elapsed_s:.0f} s, through "
        f"{result.num_kills} kills, {result.num_cuts} cuts of the link and {result.num_fills} times a full disk.\n"
        f"On the coordinator: {result.num_stored}; missing {result.num_missing}, twice {result.num_twice}, "
        f"left in the spool {result.num_left}; written just before a kill and not acknowledged {result.num_untold}."
    )
