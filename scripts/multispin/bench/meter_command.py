"""Measure what sampling a meter costs: processor time alone, and goodput beside a model that drafts.

    multispin bench meter --meter rapl
    multispin bench meter --meter jetson --root RECORDED --seconds 30 --pairs 12 --json

The sampler runs as it does beside an agent: a thread of the process that computes. Reading a recorded board costs what
its files cost; on a real board the kernel asks the chip, which takes longer and mostly waits.
"""

import argparse
from functools import partial
from pathlib import Path

import msgspec

from multispin.bench.meter import LEAST_PAIRS, Alone, SideBySide, beside_a_model, sample_alone
from multispin.flags import machine_facts, positive
from multispin.local_run import RunSettings
from multispin.progress import counter_line, terminal_progress
from multispin_models.energy import Meter, open_meter
from multispin_models.energy.sensors import METER_FORMS
from multispin_models.engines import load_side
from multispin_models.errors import ConfigError, SensorError

__all__ = ["add_arguments", "run"]

_CONTEXT = 256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `multispin bench meter`."""
    default = RunSettings()
    parser.add_argument("--meter", default="auto", metavar="METER", help=f"{', '.join(METER_FORMS)} (default auto)")
    parser.add_argument("--root", default="/", metavar="DIR", help="of a recorded board (default: this machine)")
    parser.add_argument("--hz", type=float, default=40.0, metavar="HZ", help="samples a second (default 40)")
    parser.add_argument("--seconds", type=positive, default=20, metavar="N", help="alone, at each rate (default 20)")
    parser.add_argument("--pairs", type=positive, default=12, metavar="N", help="of blocks (default 12)")
    parser.add_argument("--block", type=float, default=4.0, metavar="S", help="length of a block (default 4)")
    parser.add_argument(
        "--pair", default=default.pair, metavar="PAIR", help="whose draft computes (default %(default)s)"
    )
    parser.add_argument(
        "--engine", default=default.engine, metavar="ENGINE", help="that computes it (default %(default)s)"
    )
    parser.add_argument("--threads", type=positive, default=1, metavar="N", help="of a pass (default 1)")


def run(args: argparse.Namespace) -> int:
    """Run `multispin bench meter` and return the exit status.

    Raises:
        ConfigError: there are too few pairs for an interval, or a rate is out of range.
        SensorError: there is no such meter.
    """
    if args.pairs < LEAST_PAIRS or not (0.0 < args.hz <= 1000.0) or args.block <= 0.0:
        raise ConfigError(
            f"--pairs is {args.pairs}, --hz {args.hz:g}, --block {args.block:g}: allowed are {LEAST_PAIRS} or more, "
            "up to 1000, above 0"
        )
    facts = machine_facts()
    open_one = partial(_open, args.meter, Path(args.root))
    slow = sample_alone(open_one(), args.hz / 10.0, args.seconds)
    alone = sample_alone(open_one(), args.hz, args.seconds)
    model = load_side(
        args.pair,
        "draft",
        args.engine,
        n_ctx=_CONTEXT,
        max_sequences=1,
        max_rows=64,
        num_threads=args.threads,
        progress=terminal_progress(),
    ).model
    try:
        beside = beside_a_model(
            model, open_one, args.hz, pairs=args.pairs, block_s=args.block, on_pair=counter_line("pairs of blocks")
        )
    finally:
        model.close()
    if args.json:
        report = {"meter": args.meter, "alone": [slow, alone], "beside": beside, "model": model.info, **facts}
        print(msgspec.json.encode(report).decode())
    else:
        _show(slow, alone, beside)
        print(f"cores {facts['cpus']}, load average before {facts['load_average_1min']:.2f}")
    return 0


def _open(spec: str, root: Path) -> Meter:
    opened = open_meter(spec, root)
    if opened.meter is None:
        raise SensorError(opened.reason)
    return opened.meter


def _show(slow: Alone, alone: Alone, beside: SideBySide) -> None:
    for row in (slow, alone):
        watts = f"{row.mean_w:.3f} W" if row.mean_w is not None else f"null: {row.reason}"
        print(
            f"alone {row.hz:6.1f} Hz: {100 * row.thread_cpu_share:.3f} % of a core in the sampler's thread, "
            f"{100 * row.process_cpu_share:.3f} % in the process, achieved {row.achieved_hz or 0.0:.2f} Hz, largest "
            f"gap {1e3 * (row.largest_gap_s or 0.0):.1f} ms, meter shows {watts}, {row.num_failures} failed reads, "
            f"{row.seconds:.1f} s"
        )
    print(
        f"beside a drafting model: {beside.with_tokens_per_s:.2f} tokens/s with the sampler, "
        f"{beside.without_tokens_per_s:.2f} without, ratio {beside.ratio_mean:.4f} "
        f"(95 % from {beside.ratio_ci95[0]:.4f} to {beside.ratio_ci95[1]:.4f}), "
        f"{100 * beside.thread_cpu_share:.3f} % of a core in its thread, at least {beside.achieved_hz or 0.0:.2f} Hz, "
        f"n = {beside.pairs} pairs of {beside.block_s:g} s"
    )
