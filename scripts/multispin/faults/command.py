"""`scripts/soak --faults N --minutes M`: leg after leg until there were N faults in M minutes, and the table.

A leg ends when enough was done, or in order on SIGINT and SIGTERM; the same command with the same --out goes on with
another leg until the sums are reached. A leg that was not carried to its end (this process was killed) counts for
nothing: its records could not be checked.
"""

import argparse
import asyncio
import secrets
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from multispin.faults.figures import LegFigures, table, wrongs
from multispin.faults.kinds import KINDS
from multispin.faults.leg import LegSettings, run_leg
from multispin.faults.site import SiteSettings, find_faketime
from multispin.faults.users import Expected
from multispin.own_disk import in_own_namespace
from multispin.progress import counter_line
from multispin_models.cache import silent
from multispin_models.engines import load_tokenizer
from multispin_models.errors import ConfigError
from multispin_models.language_model import Tokenizer
from multispin_models.prompts import Job, encode_prompt

__all__ = ["add_fault_flags", "needs_namespace", "run_faults"]

CLOCKS = ("agent-clock", "coordinator-clock")
DISKS = ("agent-disk", "coordinator-disk")


def add_fault_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the fault harness."""
    group = parser.add_argument_group("faults", "in place of the matrix, faults at random while users ask")
    group.add_argument(
        "--faults",
        type=int,
        metavar="N",
        help="faults with an effect, in all legs together (0: none, but --strangers or --outage-s)",
    )
    group.add_argument("--minutes", type=float, default=0.0, metavar="M", help="with faults, at least (default 0)")
    group.add_argument("--agents", type=int, default=4, metavar="N", help="default %(default)s")
    group.add_argument("--users", type=int, default=6, metavar="N", help="who ask without pause (default %(default)s)")
    group.add_argument("--pause-s", type=float, metavar="S", help="from fault to fault, mean (default: M / N, or 1.0)")
    group.add_argument(
        "--strangers", type=int, default=0, metavar="N", help="half-open connections to the coordinator meanwhile"
    )
    group.add_argument(
        "--outage-s",
        type=float,
        metavar="S",
        help="with --faults 0: a sixth of the time all links are up, then they go down and up by turns of so long",
    )
    names = ", ".join(kind.name for kind in KINDS)
    group.add_argument("--without", default="", metavar="KINDS", help=f"leave these out, of {names}")
    group.add_argument("--fault-seed", type=int, metavar="S", help="of the first leg's faults (default: random)")


def _without(args: argparse.Namespace) -> tuple[str, ...]:
    names = tuple(name for name in args.without.split(",") if name)
    known = [kind.name for kind in KINDS]
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(f"--without names {', '.join(unknown)}, allowed are {', '.join(known)}")
    return names


def needs_namespace(args: argparse.Namespace) -> bool:
    """Return whether disks are to be filled and this process cannot mount any of its own yet.

    Raises:
        ConfigError: a flag is out of range.
    """
    for name, least in (("faults", 0), ("agents", 1), ("users", 1), ("strangers", 0)):
        if getattr(args, name) < least:
            raise ConfigError(f"--{name} is {getattr(args, name)}, allowed is {least} or more")
    if args.outage_s is not None and (args.outage_s <= 0 or args.faults):
        raise ConfigError(f"--outage-s is {args.outage_s}, allowed is above 0, with --faults 0 alone")
    return not set(DISKS) <= set(_without(args)) and not in_own_namespace()


def run_faults(args: argparse.Namespace, jobs: Sequence[Job], texts: Mapping[str, tuple[int, ...]]) -> int:
    """Run legs until there were enough faults; return 0 if all is as promised, 1 if not, 130 if it was interrupted.

    Args:
        args: of the command line.
        jobs: what users ask.
        texts: of the target alone, by job.
    """
    out = Path(args.out)
    without = _without(args)
    left_out = [f"{name}: left out by --without" for name in without]
    # Without a fault to come no clock is stepped, and the library is not put before the daemons: each call for the time
    # takes its lock and reads its file, which on one core can stall a process of two threads for seconds.
    steps_clocks = args.faults > 0 and not set(CLOCKS) <= set(without)
    faketime = find_faketime() if steps_clocks else None
    if faketime is None and steps_clocks:
        left_out.append("clock steps: libfaketime is not here (scripts/test-tools, or apt install faketime)")
        without += CLOCKS
    expected = _expected(args.pair, args.engine, jobs, texts)
    site = SiteSettings(
        num_agents=args.agents,
        pair=args.pair,
        engine=args.engine,
        draft_engine=args.draft_engine or args.engine,
        threads=args.threads,
        max_context_tokens=args.max_context_tokens,
        has_disks=not set(DISKS) <= set(without),
        faketime=faketime,
    )
    legs = _legs_before(out)
    done_faults, done_s = sum(leg.num_faults for leg in legs), sum(leg.seconds for leg in legs)
    if done_faults < args.faults or done_s < 60.0 * args.minutes:
        pause_s = args.pause_s or (60.0 * args.minutes / args.faults if args.minutes and args.faults else 1.0)
        settings = LegSettings(
            num_faults=max(0, args.faults - done_faults),
            seconds=max(0.0, 60.0 * args.minutes - done_s),
            mean_pause_s=pause_s,
            num_users=args.users,
            num_strangers=args.strangers,
            outage_s=args.outage_s,
            seed=args.fault_seed if args.fault_seed is not None and not legs else secrets.randbits(32),
            without=without,
            left_out=tuple(left_out),
        )
        number = 1 + max((int(path.name.removeprefix("leg-")) for path in out.glob("leg-*")), default=0)
        folder = out / f"leg-{number}"
        folder.mkdir(parents=True)
        legs.append(asyncio.run(_leg(settings, site, expected, folder)))
    print(table(legs))
    found = wrongs(legs)
    print("NOT AS PROMISED: " + "; ".join(found) if found else "all as promised")
    missing = args.faults - sum(leg.num_faults for leg in legs)
    if found:
        return 1
    if missing > 0 or sum(leg.seconds for leg in legs) < 60.0 * args.minutes:
        print("interrupted: the same command goes on")
        return 130
    return 0


async def _leg(settings: LegSettings, site: SiteSettings, expected: Sequence[Expected], folder: Path) -> LegFigures:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    show: Callable[[int, int], None] = counter_line(f"{folder.name}: faults")
    return await run_leg(settings, site, expected, folder, show, stop)


def _legs_before(out: Path) -> list[LegFigures]:
    paths = sorted(out.glob("leg-*/leg.json"), key=lambda path: int(path.parent.name.removeprefix("leg-")))
    return [msgspec.json.decode(path.read_bytes(), type=LegFigures) for path in paths]


def _expected(pair: str, engine: str, jobs: Sequence[Job], texts: Mapping[str, tuple[int, ...]]) -> list[Expected]:
    tokenizer = load_tokenizer(pair, "target", engine, silent)
    return [Expected(job.job_id, _body(tokenizer, job), *_text(tokenizer, texts[job.job_id])) for job in jobs]


def _text(tokenizer: Tokenizer, token_ids: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    return b"".join(map(tokenizer.token_bytes, token_ids)).decode("utf-8", "replace"), token_ids


def _body(tokenizer: Tokenizer, job: Job) -> bytes:
    sampling = job.sampling
    fields = {
        "prompt": encode_prompt(tokenizer, job.prompt),
        "max_tokens": job.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "seed": sampling.seed,
        "stream": True,
        "ignore_eos": job.ignore_end,
    }
    return msgspec.json.encode(fields)
