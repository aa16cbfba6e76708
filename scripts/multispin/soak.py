"""Runs the same prompts in every arrangement, killing daemons on the way, and compares every token.

    scripts/soak --prompts FILE.jsonl --limit 60 --max-tokens 64 --temperature 0.8 --out runs/soak

The target alone writes every text once, into OUT/reference.jsonl, where a later run of the same requests finds it. Each
cell of the matrix then serves all prompts; a killed daemon is started again by the run itself. What is counted as a
difference is a token that is not the reference's; tokens that are not those of the first cell are told apart, as both
must be 0. Exit status 1 if any text differs, a request fails, or a kill came too late to be one.

    scripts/soak --faults 1000 --minutes 30 --prompts FILE.jsonl --max-tokens 16 --ignore-end --out runs/faults

has users ask agents that fail at random, as do their links, disks, clocks and the coordinator, and prints a table by
kind; the same command goes on where it was interrupted (`multispin/faults/`).
"""

import argparse
import hashlib
import logging
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import msgspec

from multispin.faults.command import add_fault_flags, needs_namespace, run_faults
from multispin.local_run import LocalRun, RunSettings
from multispin.own_disk import run_in_own_namespace
from multispin.progress import counter_line, terminal_progress
from multispin.supervised import DaemonFailed, Supervised
from multispin_models.engines import load_side, prepare_side
from multispin_models.errors import ConfigError, MultispinError
from multispin_models.prompts import Job, add_job_flags, encode_prompt, job_defaults, read_jobs
from multispin_models.records import JsonlWriter, RequestRecord, read_jsonl
from multispin_models.sampling import Sampling
from multispin_models.target_alone import count_differences, generate_alone

__all__ = ["main"]

Kills = tuple[tuple[float, str], ...]
Texts = dict[str, tuple[int, ...]]


class Cell(NamedTuple):
    """An arrangement: `kills` are (share of the requests that are done, daemon) in rising order."""

    name: str
    num_agents: int
    num_draft_tokens: int
    kills: Kills = ()


CELLS = (
    Cell("1-agent", 1, 4),
    Cell("3-agents", 3, 4),
    Cell("L1", 3, 1),
    Cell("L8", 3, 8),
    Cell("kill-agent", 3, 4, ((0.3, "agent-1"),)),
    Cell("kill-coordinator", 3, 4, ((0.3, "coordinator"),)),
    Cell("kill-all", 3, 4, ((0.2, "agent-0"), (0.4, "coordinator"), (0.5, "agent-2"), (0.7, "coordinator"))),
)


class Reference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A text of the target alone, and all that it is a function of."""

    target_fingerprint: str
    prompt_sha256: str
    sampling: Sampling
    max_tokens: int
    ignore_end: bool
    token_ids: tuple[int, ...] = ()

    @property
    def cause(self) -> "Reference":
        """Everything but the text."""
        return msgspec.structs.replace(self, token_ids=())


class Figures(NamedTuple):
    """What a cell did."""

    cell: Cell
    num_jobs: int
    records: Sequence[RequestRecord]
    kills_done: int
    restarts: int
    seconds: float
    from_reference: int
    from_first: int

    @property
    def sound(self) -> bool:
        """Whether all went as promised, and the kills hit a run under way."""
        served = sum(record.finish != "error" for record in self.records) == self.num_jobs
        return served and not (self.from_reference or self.from_first) and self.kills_done == len(self.cell.kills)


class Killer:
    """Kills daemons of a run as its requests get done; called with their number, five times a second."""

    def __init__(self, local: LocalRun, kills: Kills, show: Callable[[int, int], None]) -> None:
        self.num_done = 0
        self._daemons: dict[str, Supervised] = {"coordinator": local.coordinator}
        self._daemons |= {f"agent-{index}": agent for index, agent in enumerate(local.agents)}
        self._left = list(kills)
        self._show = show

    def __call__(self, done: int, total: int) -> None:
        """Kill what is due."""
        self._show(done, total)
        if not self._left or done < self._left[0][0] * total or done == total:
            return
        daemon = self._daemons[self._left[0][1]]
        if daemon.has_ended() is None:
            os.kill(daemon.pid, signal.SIGKILL)
            self.num_done += 1
        self._left.pop(0)


def run_cell(
    cell: Cell, args: argparse.Namespace, jobs: Sequence[Job], expected: Texts, first: Texts | None
) -> Figures:
    """Serve all jobs in one arrangement; return what came of it.

    Args:
        cell: the arrangement.
        args: of the command line.
        jobs: the requests.
        expected: the target's own texts, by job id.
        first: those of the first cell; null if this is it.
    """
    out = Path(args.out) / f"{cell.name}-{time.strftime('%Y%m%dT%H%M%S')}"
    settings = RunSettings(
        num_agents=cell.num_agents,
        policy="fixed",
        num_draft_tokens=cell.num_draft_tokens,
        pair=args.pair,
        engine=args.engine,
        draft_engine=args.draft_engine or args.engine,
        coordinator_threads=args.threads,
        agent_threads=args.threads,
        max_context_tokens=args.max_context_tokens,
    )
    local = LocalRun(settings, Path(args.prompts).absolute(), _job_flags(args), out, secrets.token_hex(8))
    killer = Killer(local, cell.kills, counter_line(cell.name))
    try:
        local.execute(jobs, killer)
    except DaemonFailed as error:
        print(f"{cell.name}: {error}", file=sys.stderr)
    path = out / "requests.jsonl"
    records = read_jsonl(path, RequestRecord).records if path.exists() else []
    texts = {record.id: record.token_ids for record in records}
    return Figures(
        cell,
        len(jobs),
        records,
        killer.num_done,
        local.coordinator.num_restarts + sum(agent.num_restarts for agent in local.agents),
        (local.ended_ns - local.started_ns) / 1e9,
        _count(cell, records, expected, jobs),
        0 if first is None else sum(count_differences(texts.get(job.job_id, ()), first[job.job_id]) for job in jobs),
    )


def _count(cell: Cell, records: Sequence[RequestRecord], expected: Texts, jobs: Sequence[Job]) -> int:
    by_id = {record.id: record for record in records}
    total = 0
    for job in jobs:
        record = by_id.get(job.job_id)
        got, wanted = (() if record is None else record.token_ids), expected[job.job_id]
        if record is not None and record.finish == "stop":
            wanted = wanted[: len(got)]
        if differences := count_differences(got, wanted):
            print(f"{cell.name}: request {job.job_id}: {differences} tokens differ", file=sys.stderr)
            total += differences
    return total


def reference_texts(args: argparse.Namespace, jobs: Sequence[Job]) -> Texts:
    """Return what the target alone writes for every job, from OUT/reference.jsonl or generated now and kept there."""
    target = load_side(
        args.pair,
        "target",
        args.engine,
        n_ctx=args.max_context_tokens,
        max_sequences=1,
        max_rows=64,
        num_threads=args.threads,
        progress=terminal_progress(),
    )
    path = Path(args.out) / "reference.jsonl"
    show = counter_line("texts of the target alone")
    texts: Texts = {}
    with JsonlWriter(path) as writer:
        known = {reference.cause: reference.token_ids for reference in read_jsonl(path, Reference).records}
        for number, job in enumerate(jobs, start=1):
            digest = hashlib.sha256(job.prompt.encode()).hexdigest()
            cause = Reference(target.model.info.fingerprint, digest, job.sampling, job.max_tokens, job.ignore_end)
            if cause not in known:
                prompt_ids = encode_prompt(target.tokenizer, job.prompt)
                ends = frozenset[int]() if job.ignore_end else target.tokenizer.end_token_ids
                known[cause] = tuple(generate_alone(target.model, prompt_ids, job.sampling, job.max_tokens, ends))
                writer.append(msgspec.structs.replace(cause, token_ids=known[cause]))
            texts[job.job_id] = known[cause]
            show(number, len(jobs))
    target.model.close()
    return texts


HEADING = "cell              agents  L kills restarts reopens served tokens accept  tok/s TTFT ms TPOT ms differ  first"


def print_figures(figures: Figures) -> None:
    """Print the line of a cell."""
    cell, records = figures.cell, figures.records
    drafted, tokens = sum(r.num_drafted for r in records), sum(r.num_generated for r in records)
    served = f"{sum(r.finish != 'error' for r in records)}/{figures.num_jobs}"
    accepted = f"{sum(r.num_accepted for r in records) / drafted:.3f}" if drafted else "-"
    rate = f"{tokens / figures.seconds:.1f}" if figures.seconds > 0 else "-"
    print(
        f"{cell.name:<17} {cell.num_agents:>6} {cell.num_draft_tokens:>2} {figures.kills_done:>5} "
        f"{figures.restarts:>8} {sum(r.num_reopens for r in records):>7} {served:>6} {tokens:>6} {accepted:>6} "
        f"{rate:>6} {_median_ms([r.ttft_s for r in records]):>7} {_median_ms([r.tpot_s for r in records]):>7} "
        f"{figures.from_reference:>6} {figures.from_first:>6}",
        flush=True,
    )


def _median_ms(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{median(known) * 1e3:.1f}" if known else "-"


def _job_flags(args: argparse.Namespace) -> list[str]:
    flags: list[str] = []
    for name in ("max_tokens", "temperature", "top_k", "top_p", "seed", "limit"):
        if (value := getattr(args, name)) is not None:
            flags += ["--" + name.replace("_", "-"), str(value)]
    return [*flags, "--ignore-end"] if args.ignore_end else flags


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", required=True, metavar="FILE", help='JSON lines: {"prompt"} or {"turns"}')
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the reference and a folder a cell")
    parser.add_argument("--cells", metavar="NAMES", help=f"of {','.join(cell.name for cell in CELLS)} (default: all)")
    parser.add_argument("--pair", default=RunSettings().pair, metavar="PAIR", help="packaged pair, or a manifest")
    parser.add_argument("--engine", default=RunSettings().engine, metavar="ENGINE[:RECIPE]", help="default %(default)s")
    parser.add_argument("--draft-engine", metavar="ENGINE[:RECIPE]", help="of the agents (default: as --engine)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of a forward pass (default %(default)s)")
    parser.add_argument("--max-context-tokens", type=int, default=2048, metavar="N", help="default %(default)s")
    add_job_flags(parser)
    add_fault_flags(parser)
    return parser


def _chosen(names: str | None) -> list[Cell]:
    wanted = [cell.name for cell in CELLS] if names is None else names.split(",")
    known = {cell.name: cell for cell in CELLS}
    if unknown := [name for name in wanted if name not in known]:
        raise ConfigError(f"--cells names {', '.join(unknown)}, allowed are {', '.join(known)}")
    return [known[name] for name in wanted]


def _soak(args: argparse.Namespace) -> int:
    if args.faults is not None and needs_namespace(args):
        run_in_own_namespace([sys.executable, "-m", "multispin.soak", *sys.argv[1:]])
    cells = _chosen(args.cells)
    jobs = read_jobs(args.prompts, job_defaults(args), args.limit)
    Path(args.out).mkdir(parents=True, exist_ok=True)
    prepare_side(args.pair, "draft", args.draft_engine or args.engine, terminal_progress())
    expected = reference_texts(args, jobs)
    if args.faults is not None:
        return run_faults(args, jobs, expected)
    first: Texts | None = None
    figures: list[Figures] = []
    print(HEADING, flush=True)
    for cell in cells:
        figures.append(run_cell(cell, args, jobs, expected, first))
        print_figures(figures[-1])
        if first is None:
            served = {record.id: record.token_ids for record in figures[0].records}
            first = {job.job_id: served.get(job.job_id, ()) for job in jobs}
    unsound = [cell.cell.name for cell in figures if not cell.sound]
    tokens = sum(map(len, expected.values()))
    print(
        f"{len(jobs)} requests, {tokens} tokens a cell: "
        + (f"NOT AS PROMISED: {', '.join(unsound)}" if unsound else "all as promised")
    )
    return int(bool(unsound))


def main() -> int:
    """Run the matrix; return 0, or 1 if anything is not as promised."""
    args = _parser().parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    try:
        return _soak(args)
    except MultispinError as error:
        print(f"scripts/soak: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
