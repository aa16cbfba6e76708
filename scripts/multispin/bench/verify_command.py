"""Measure the time of one verification: a forward pass with all rows scored, and the rewind that takes them back.

    multispin bench verify --rows 1,2,3,5,9,20,40 --context 256,1024 --cpu 0 --draft
    multispin bench verify --engine llamacpp,onnx,onnx:w8a8 --sequences 1,8 --json

Engines, recipes, pairs and numbers of threads are measured side by side, in turn, in one run.
"""

import argparse
import os
from collections.abc import Sequence
from contextlib import ExitStack

import msgspec

from multispin.bench.ranking import RULE, best_of, fit_points
from multispin.bench.tables import verify_lines
from multispin.bench.verify import Point, Shape, Subject, measure, shapes_of
from multispin.flags import cores, machine_facts, numbers, parse_engines, positive
from multispin.local_run import RunSettings
from multispin.progress import counter_line, terminal_progress
from multispin_models.engines import ENGINES, Side, load_side
from multispin_models.errors import ConfigError
from multispin_models.language_model import ModelInfo
from multispin_models.manifest import load_pair
from multispin_models.probes import probe_exactness

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `multispin bench verify`."""
    default = RunSettings()
    parser.add_argument(
        "--engine", default=default.engine, metavar="LIST", help="ENGINE or ENGINE:RECIPE, ... (default %(default)s)"
    )
    parser.add_argument("--pair", action="append", metavar="PAIR", help=f"may be repeated (default {default.pair})")
    parser.add_argument("--rows", type=numbers, default=[1, 2, 3, 5, 9, 20, 40], metavar="LIST", help="as 1,2,5")
    parser.add_argument(
        "--sequences",
        type=numbers,
        default=[1],
        metavar="LIST",
        help="over which the rows are spread; points with fewer rows are left out (default 1)",
    )
    parser.add_argument("--context", type=numbers, default=[256], metavar="LIST", help="tokens before (default 256)")
    parser.add_argument("--threads", type=numbers, default=[1], metavar="LIST", help="of a pass (default 1)")
    parser.add_argument("--repeat", type=positive, default=15, metavar="N", help="timed, a point (default 15)")
    parser.add_argument("--cpu", type=cores, metavar="LIST", help="pin this process to cores, as 0 or 0,1")
    parser.add_argument("--draft", action="store_true", help="measure the draft model too, a row at a time")
    parser.add_argument("--no-probe", action="store_true", help="do not probe whether the engines are exact")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the order of points (default 0)")


def run(args: argparse.Namespace) -> int:
    """Run `multispin bench verify` and return the exit status."""
    shapes = shapes_of(args.rows, args.sequences)
    if not shapes:
        raise ConfigError("no point: every sequence needs a row, so --rows must reach --sequences")
    if args.cpu is not None:
        if len(args.cpu) < max(args.threads):
            raise ConfigError(f"--cpu names {len(args.cpu)} cores for --threads {max(args.threads)}: name as many")
        os.sched_setaffinity(0, args.cpu)  # before the engines start their threads
    facts = machine_facts()
    points: list[Point] = []
    drafts: list[Point] = []
    with ExitStack() as loaded:
        targets = _load(args, "target", loaded)
        draft_subjects = _load(args, "draft", loaded) if args.draft else []
        models = [_probed(subject, probe=not args.no_probe) for subject in (*targets, *draft_subjects)]
        for context in args.context:
            points += _measure(args, targets, shapes, context, "verification")
            # After the verifications, not among them: an agent drafts on a machine of its own.
            if draft_subjects:
                drafts += _measure(args, draft_subjects, [Shape(1, 1)], context, "draft")
    _show(args, points, drafts, models, facts)
    return 0


def _load(args: argparse.Namespace, side: Side, loaded: ExitStack) -> list[Subject]:
    """Return one end of all pairs in all engines with all numbers of threads; `loaded` closes them."""
    subjects = []
    engines = parse_engines(args.engine, ENGINES)
    for pair in args.pair or [RunSettings().pair]:
        for engine in engines:
            for threads in args.threads:
                model = load_side(
                    pair,
                    side,
                    engine,
                    n_ctx=max(args.context) + max(args.rows),
                    max_sequences=max(args.sequences),
                    max_rows=max(64, *args.rows),
                    num_threads=threads,
                    progress=terminal_progress(),
                ).model
                loaded.callback(model.close)
                subjects.append(Subject(load_pair(pair).name, model))
    return subjects


def _probed(subject: Subject, *, probe: bool) -> ModelInfo:
    """Return what is loaded, with the probe's answer if it is asked."""
    info = subject.model.info
    return msgspec.structs.replace(info, exact=probe_exactness(subject.model).exact) if probe else info


def _measure(
    args: argparse.Namespace, subjects: Sequence[Subject], shapes: Sequence[Shape], context: int, what: str
) -> list[Point]:
    show = counter_line(f"{what} at {context} tokens, rounds")
    return measure(subjects, shapes, context, repeat=args.repeat, seed=args.seed, on_round=show)


def _show(
    args: argparse.Namespace,
    points: Sequence[Point],
    drafts: Sequence[Point],
    models: Sequence[ModelInfo],
    facts: dict[str, object],
) -> None:
    fits = fit_points(points)
    best = best_of(fits)
    if args.json:
        result = {"points": points, "fits": fits, "drafts": drafts, "best": best, "rule": RULE, "models": models}
        print(msgspec.json.encode({**result, "repeat": args.repeat, "seed": args.seed, **facts}).decode())
        return
    for line in verify_lines(points, drafts, fits, best):
        print(line)
    for model in models:
        answer = {True: "exact", False: "not exact", None: "not probed"}[model.exact]
        print(f"{model.engine} {model.recipe}, {model.num_threads} thread(s): {answer}; {model.engine_version}")
    print(f"cores {facts['cpus']}, load average before {facts['load_average_1min']:.2f}, n = {args.repeat} a point")
