"""Measure a verification, or the overhead of a round.

    multispin bench verify --rows 1,2,5,9 --context 256 --cpu 0      T_v = c0 + c1 * rows on this machine
    multispin bench verify --engine llamacpp,onnx --draft            engines side by side, and what drafting costs
    multispin bench overhead                                         how much of a round is not model time

Figures are of this machine as it is now: what else runs on it is in them.
"""

import argparse
import os
import secrets
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from multispin.bench.overhead_run import NULL, OverheadRun, run_overhead
from multispin.bench.tables import overhead_lines, verify_lines
from multispin.bench.verify import RULE, Point, Shape, Subject, best_of, fit_points, measure, shapes_of
from multispin.local_run import RunSettings
from multispin.progress import counter_line, terminal_progress
from multispin_models.clock import wall_time
from multispin_models.engines import ENGINES, load_side
from multispin_models.errors import ConfigError
from multispin_models.manifest import load_pair, resolve
from multispin_models.probes import probe_exactness
from multispin_models.records import describe_machine, read_governor

__all__ = ["EngineChoice", "add_arguments", "parse_engines", "run"]

OVERHEAD_LIMIT_MS = 1.5  # of a median round with one agent, both ends together


class EngineChoice(NamedTuple):
    """An engine, and the recipe that it is to serve; null for the pair's own."""

    engine: str
    recipe: str | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands of `multispin bench` and their flags."""
    commands = parser.add_subparsers(dest="bench_command", required=True, metavar="WHAT")
    verify = commands.add_parser("verify", help="the time of one verification against rows, sequences and context")
    default = RunSettings()
    verify.add_argument("--pair", action="append", metavar="PAIR", help=f"may be given twice (default {default.pair})")
    verify.add_argument("--rows", type=_numbers, default=[1, 2, 3, 5, 9, 20, 40], metavar="LIST", help="as 1,2,5")
    verify.add_argument(
        "--sequences", type=_numbers, default=[1], metavar="LIST", help="rows are spread over so many (default 1)"
    )
    verify.add_argument("--context", type=_numbers, default=[256], metavar="LIST", help="tokens before (default 256)")
    verify.add_argument("--threads", type=_numbers, default=[1], metavar="LIST", help="of a pass (default 1)")
    verify.add_argument("--repeat", type=_positive, default=15, metavar="N", help="timed, a point (default 15)")
    verify.add_argument("--cpu", type=_cpus, metavar="LIST", help="pin this process to cores, as 0 or 0,1")
    verify.add_argument("--draft", action="store_true", help="measure the draft model too, a row at a time")
    verify.add_argument("--no-probe", action="store_true", help="do not probe whether the engines are exact")
    verify.add_argument("--seed", type=int, default=0, metavar="S", help="of the order of points (default 0)")
    overhead = commands.add_parser("overhead", help="how much of a round is not model time")
    overhead.add_argument("--pair", default=default.pair, metavar="PAIR", help="default %(default)s")
    overhead.add_argument("--agents", type=_numbers, default=[1, 8], metavar="LIST", help="default 1,8")
    overhead.add_argument("--rounds", type=_positive, default=200, metavar="N", help="of every agent (default 200)")
    overhead.add_argument("--num-draft-tokens", type=int, default=4, metavar="L", help="default 4")
    overhead.add_argument("--out", metavar="DIR", help="keep records and logs in this new folder")
    for command, engines in ((verify, default.engine), (overhead, f"{default.engine},{NULL}")):
        command.add_argument(
            "--engine", default=engines, metavar="E[,E...]", help="engines, or engine:recipe (default %(default)s)"
        )
        command.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Run one sub-command and return the exit status."""
    return {"verify": _verify, "overhead": _overhead}[args.bench_command](args)


# -- flags -------------------------------------------------------------------------------------------------------------


def parse_engines(text: str, allowed: Sequence[str]) -> list[EngineChoice]:
    """Return the choices of "E[:RECIPE],...".

    Raises:
        ConfigError: an engine is not known, or named twice with the same recipe.
    """
    choices = []
    for part in text.split(","):
        engine, _, recipe = part.partition(":")
        if engine not in allowed:
            raise ConfigError(f"--engine has {part!r}, allowed are {', '.join(allowed)}, with :RECIPE or without")
        choices.append(EngineChoice(engine, recipe or None))
    if len(set(choices)) < len(choices):
        raise ConfigError(f"--engine is {text!r}: name each only once")
    return choices


def _numbers(text: str) -> list[int]:
    numbers = [int(part) for part in text.split(",")]
    if min(numbers) < 1 or len(set(numbers)) < len(numbers):
        raise argparse.ArgumentTypeError(f"{text!r}: give different numbers from 1 up, as 1,2,5")
    return numbers


def _positive(text: str) -> int:
    [number] = _numbers(text)
    return number


def _cpus(text: str) -> list[int]:
    usable = os.sched_getaffinity(0)
    cpus = [int(part) for part in text.split(",")]
    if not usable.issuperset(cpus):
        raise argparse.ArgumentTypeError(f"{text!r}: allowed are numbers out of {','.join(map(str, sorted(usable)))}")
    return cpus


def _machine_facts() -> dict[str, Any]:
    return {
        "started_at": wall_time(),
        "machine": describe_machine(),
        "governor": read_governor(),
        "cpus": sorted(os.sched_getaffinity(0)),
        "load_average_1min": os.getloadavg()[0],
    }


def _print_json(result: dict[str, Any]) -> None:
    print(msgspec.json.encode(result).decode())


# -- verify ------------------------------------------------------------------------------------------------------------


def _verify(args: argparse.Namespace) -> int:
    shapes = shapes_of(args.rows, args.sequences)
    if not shapes:
        raise ConfigError("no point: every sequence needs a row, so --rows must reach --sequences")
    if args.cpu is not None:
        if len(args.cpu) < max(args.threads):
            raise ConfigError(f"--cpu names {len(args.cpu)} cores for --threads {max(args.threads)}: name as many")
        os.sched_setaffinity(0, args.cpu)  # before the engines start their threads
    facts = _machine_facts()
    with ExitStack() as loaded:
        targets = _load(args, "target", loaded)
        draft_subjects = _load(args, "draft", loaded) if args.draft else []
        exact = [
            None if args.no_probe else probe_exactness(subject.model).exact for subject in (*targets, *draft_subjects)
        ]
        points: list[Point] = []
        drafts: list[Point] = []
        for context in args.context:
            # Drafts in the same rounds as verifications would change what the caches hold for these.
            points += _measure(args, targets, shapes, context, f"verification at {context}, rounds")
            if draft_subjects:
                drafts += _measure(args, draft_subjects, [Shape(1, 1)], context, f"draft at {context}, rounds")
        models = [
            msgspec.structs.replace(subject.model.info, exact=answer)
            for subject, answer in zip((*targets, *draft_subjects), exact, strict=True)
        ]
    fits = fit_points(points)
    best = best_of(fits)
    if args.json:
        _print_json(
            {
                "points": points,
                "fits": fits,
                "drafts": drafts,
                "best": best,
                "rule": RULE,
                "models": models,
                "repeat": args.repeat,
                "seed": args.seed,
                **facts,
            }
        )
        return 0
    for line in verify_lines(points, drafts, fits, best):
        print(line)
    for model in models:
        answer = {True: "exact", False: "not exact", None: "not probed"}[model.exact]
        print(f"{model.engine} {model.recipe}, {model.num_threads} thread(s): {answer}; {model.engine_version}")
    print(f"cores {facts['cpus']}, load average before {facts['load_average_1min']:.2f}, n = {args.repeat} a point")
    return 0


def _measure(
    args: argparse.Namespace, subjects: Sequence[Subject], shapes: Sequence[Shape], context: int, what: str
) -> list[Point]:
    show = counter_line(what)
    return measure(subjects, shapes, context, repeat=args.repeat, seed=args.seed, on_round=show)


def _load(args: argparse.Namespace, side: Literal["target", "draft"], loaded: ExitStack) -> list[Subject]:
    """Return one end of all pairs in all engines with all numbers of threads; `loaded` closes them."""
    rows = max(args.rows)
    subjects = []
    for pair in args.pair or [RunSettings().pair]:
        for choice in parse_engines(args.engine, ENGINES):
            if choice.recipe is not None:
                raise ConfigError(
                    f"--engine has {choice.engine}:{choice.recipe}: a recipe cannot be chosen here yet; write it into "
                    "a pair manifest (recipe, onnx_recipe) and name that by --pair; several --pair stand side by side"
                )
            for threads in args.threads:
                model = load_side(
                    pair,
                    side,
                    choice.engine,
                    n_ctx=max(args.context) + rows,
                    max_sequences=max(args.sequences),
                    max_rows=max(64, rows),
                    num_threads=threads,
                    progress=terminal_progress(),
                ).model
                loaded.callback(model.close)
                subjects.append(Subject(load_pair(pair).name, model))
    return subjects


# -- overhead ----------------------------------------------------------------------------------------------------------


def _overhead(args: argparse.Namespace) -> int:
    choices = parse_engines(args.engine, (*ENGINES, NULL))
    if any(choice.recipe for choice in choices):
        raise ConfigError(f"--engine is {args.engine!r}: a recipe is the pair's; name an engine alone")
    facts = _machine_facts()
    num_cores = len(os.sched_getaffinity(0))
    runs: list[OverheadRun] = []
    left_out: list[str] = []
    with tempfile.TemporaryDirectory(prefix="multispin-bench-") as temporary:
        out = Path(temporary) if args.out is None else _new_folder(Path(args.out))
        for engine in (choice.engine for choice in choices):
            if engine != NULL:
                resolve(load_pair(args.pair), terminal_progress())
            for agents in args.agents:
                # One agent and the coordinator take turns; more of them share cores, and their model times stretch.
                if engine != NULL and agents > 1 and agents + 1 > num_cores:
                    left_out.append(
                        f"{engine} with {agents} agents: {agents + 1} models on {num_cores} cores would wait for each "
                        f"other; the {NULL} engine stands in"
                    )
                    continue
                runs.append(_run_overhead(args, engine, agents, out))
    met = {run.engine: run.overhead.overhead_ms.median < OVERHEAD_LIMIT_MS for run in runs if run.agents == 1}
    growth_ms = {
        f"{run.engine}: 1 to {run.agents} agents": run.overhead.overhead_ms.median - one.overhead.overhead_ms.median
        for one in runs
        for run in runs
        if one.engine == run.engine and one.agents == 1 < run.agents
    }
    if args.json:
        result = {"runs": runs, "limit_ms": OVERHEAD_LIMIT_MS, "limit_met": met, "growth_ms": growth_ms}
        _print_json({**result, "left_out": left_out, **facts})
        return 0
    for line in overhead_lines(runs):
        print(line)
    for engine, below in met.items():
        print(f"{engine}: median overhead with one agent {'below' if below else 'NOT below'} {OVERHEAD_LIMIT_MS} ms")
    for what, growth in growth_ms.items():
        print(f"{what}: median overhead {growth:+.2f} ms")
    for line in left_out:
        print(f"left out: {line}")
    print(f"cores {facts['cpus']}, load average before {facts['load_average_1min']:.2f}")
    return 0


def _run_overhead(args: argparse.Namespace, engine: str, agents: int, out: Path) -> OverheadRun:
    folder = out / f"{engine}-{agents}-{secrets.token_hex(2)}"
    folder.mkdir()
    values = {
        "num_agents": agents,
        "num_draft_tokens": args.num_draft_tokens,
        "draft_ahead": False,
        "pair": args.pair,
        "engine": engine,
    }
    try:
        settings = msgspec.convert(values, RunSettings)
    except msgspec.ValidationError as error:
        raise ConfigError(f"flags: {error}") from error
    show: Callable[[int, int], None] = counter_line(f"{engine}, {agents} agent(s): done")
    return run_overhead(settings, args.rounds, folder, show)


def _new_folder(out: Path) -> Path:
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"--out {out} is not empty: choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    return out
