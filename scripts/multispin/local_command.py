"""Run coordinator and agents on this machine over a file of prompts, and print what it cost.

Each is a process of its own and they speak over TCP on loopback, as they would over a network. With --check-text every
text is compared, token by token, with what the target writes alone.

    multispin local --agents 3 --prompts prompts.jsonl --out runs/a --max-tokens 64 --check-text
"""

import argparse
import secrets
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from multispin.flags import add_draft_flags, add_policy_flags, cores, policy_of
from multispin.local_run import LocalRun, RunSettings, prepare_draft
from multispin.progress import counter_line, terminal_progress
from multispin.report import print_table
from multispin_coordinator.config import Limits
from multispin_models.clock import wall_time
from multispin_models.clock_watch import read_clock_sync
from multispin_models.energy import Sampler, open_meter
from multispin_models.energy.conditions import Conditions, ConditionsLog
from multispin_models.energy.sensors import METER_FORMS
from multispin_models.engines import load_side, prepare_side
from multispin_models.errors import ConfigError
from multispin_models.prompts import Job, add_job_flags, encode_prompt, job_defaults, read_jobs
from multispin_models.records import (
    ConditionsRecord,
    EnergyRecord,
    FieldNotes,
    MeteredEnd,
    RequestRecord,
    RoundRecord,
    RunHeader,
    describe_machine,
    energy_domain,
    energy_record,
    notes_from_flags,
    read_boot_id,
    read_governor,
    read_jsonl,
    summarize,
    write_jsonl,
)
from multispin_models.target_alone import count_differences, generate_alone

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `multispin local`."""
    parser.add_argument("--agents", type=int, default=1, metavar="N", help="agents, a process each (default 1)")
    parser.add_argument(
        "--prompts", required=True, metavar="FILE", help='JSON lines: {"prompt": ...} or {"turns": [...]}'
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for records and logs, new or empty")
    parser.add_argument("--overwrite", action="store_true", help="empty the folder first if it holds an earlier run")
    add_draft_flags(parser)
    add_policy_flags(parser)
    parser.add_argument("--no-draft-ahead", action="store_true", help="rest while a verdict is in flight")
    parser.add_argument("--concurrent-per-agent", type=int, default=1, metavar="N", help="requests at once (default 1)")
    parser.add_argument(
        "--pair", default=RunSettings().pair, metavar="PAIR", help="packaged pair, or a manifest (.toml)"
    )
    parser.add_argument("--engine", metavar="ENGINE[:RECIPE]", default=RunSettings().engine, help="default %(default)s")
    parser.add_argument("--draft-engine", metavar="ENGINE[:RECIPE]", help="of the agents (default: as --engine)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of a forward pass, both ends (default 1)")
    parser.add_argument(
        "--max-context-tokens", type=int, default=2048, metavar="N", help="of one request (default 2048)"
    )
    parser.add_argument("--coordinator-cpus", type=cores, metavar="LIST", help="pin the coordinator to cores, as 0,1")
    parser.add_argument("--agent-cpus", type=cores, metavar="LIST", help="pin the agents to cores")
    parser.add_argument(
        "--meter", default="auto", metavar="METER", help=f"energy meter of the whole machine: {', '.join(METER_FORMS)}"
    )
    parser.add_argument("--coordinator-meter", metavar="METER", help="of the coordinator alone, as replay:FILE")
    parser.add_argument("--agent-meter", metavar="METER", help="of every agent alone, as replay:FILE")
    parser.add_argument(
        "--idle-s",
        type=float,
        default=RunSettings().idle_s,
        metavar="S",
        help="of their idle baseline",
    )
    parser.add_argument(
        "--note",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help=f"what no sensor tells, for the header: {', '.join(FieldNotes.__struct_fields__)}",
    )
    parser.add_argument("--check-text", action="store_true", help="compare every text with the target's own")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    add_job_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Run `multispin local`; return 0, or 1 if a request failed or a text differs."""
    if args.prompts == "-":
        raise ConfigError("--prompts is -, standard input: give a file, which every agent reads")
    jobs = read_jobs(args.prompts, job_defaults(args), args.limit)
    settings = _settings(args)
    _check_rule(args, jobs)
    notes = notes_from_flags(args.note)
    for meter in (args.meter, args.coordinator_meter, args.agent_meter):
        _check_meter(meter or "none")
    out = _new_folder(Path(args.out), overwrite=args.overwrite)
    prepare_side(settings.pair, "target", settings.engine, terminal_progress())
    prepare_draft(settings, terminal_progress())
    run_id = secrets.token_hex(8)
    started_at = wall_time()
    local = LocalRun(settings, Path(args.prompts).absolute(), _job_flags(args), out, run_id)
    found: list[Conditions] = []
    with ConditionsLog(found.append):
        ends, energy = _execute(local, jobs, args.meter, run_id)
    header = msgspec.structs.replace(_header(local, settings, args, run_id, started_at, ends), notes=notes)
    write_jsonl(out / "run.jsonl", [header])
    write_jsonl(out / "energy.jsonl", energy)
    conditions = [ConditionsRecord(run_id=run_id, end="machine", conditions=each) for each in found]
    write_jsonl(out / "conditions.jsonl", conditions)
    requests = read_jsonl(out / "requests.jsonl", RequestRecord).records
    rounds = read_jsonl(out / "rounds.jsonl", RoundRecord).records
    differences = _check_text(settings, jobs, requests) if args.check_text else None
    summary = msgspec.structs.replace(summarize(header, requests, rounds, differences, energy), requests=len(jobs))
    _tell_unserved(jobs, requests, out)
    if args.json:
        print(msgspec.json.encode(summary).decode())
    else:
        print_table(summary, sys.stdout, rounds, energy)
    return int(summary.completed < len(jobs) or bool(differences))


def _check_rule(args: argparse.Namespace, jobs: Sequence[Job]) -> None:
    """Refuse to compare texts that are samples: by a rejection rule they follow the target's distribution, no more."""
    if args.check_text and args.verification != "coupled" and any(job.sampling.temperature for job in jobs):
        raise ConfigError(
            f"--check-text with --verification {args.verification}: at a temperature above 0 its texts are samples and "
            "differ from the target's own; allowed with coupled, or at temperature 0"
        )


def _check_meter(meter: str) -> None:
    """Refuse a meter that is not there before models are fetched."""
    opened = open_meter(meter).meter
    if opened is not None:
        opened.close()


def _tell_unserved(jobs: Sequence[Job], requests: Sequence[RequestRecord], out: Path) -> None:
    """Say which requests no agent has a record of: they are not in the table."""
    served = {record.id for record in requests}
    if missing := [job.job_id for job in jobs if job.job_id not in served]:
        named = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        print(
            f"{len(missing)} of {len(jobs)} requests were not served ({named}): see {out}/agent-*/agent.log",
            file=sys.stderr,
        )


def _execute(
    local: LocalRun, jobs: Sequence[Job], meter: str, run_id: str
) -> tuple[tuple[MeteredEnd, ...], list[EnergyRecord]]:
    """Run it under the meter of the machine, which covers both ends; return what metered it, and the joules.

    Ends with meters of their own meter themselves.
    """
    if local.has_own_meters:
        local.execute(jobs, counter_line("requests"))
        return local.metered_ends(), local.energy()
    opened = open_meter(meter)
    show = counter_line("requests")
    if opened.meter is None:
        local.execute(jobs, show)
        return (MeteredEnd("machine", energy_domain(None, read_boot_id()), None, opened.reason),), []
    info = opened.meter.info
    with Sampler(opened.meter) as sampler:
        local.execute(jobs, show)
        sampler.read_now()
        window = sampler.joules(local.started_ns, local.ended_ns)
    end = MeteredEnd("machine", energy_domain(info, read_boot_id()), info, None)
    record = energy_record(run_id, "machine", local.started_ns, local.ended_ns, window, sampler_cpu_s=sampler.cpu_s)
    return (end,), [record]


def _check_text(settings: RunSettings, jobs: Sequence[Job], requests: Sequence[RequestRecord]) -> int:
    """Return how many tokens of all texts differ from what the target writes alone; says which requests."""
    target = load_side(
        settings.pair,
        "target",
        settings.engine,
        n_ctx=settings.max_context_tokens,
        max_sequences=1,
        max_rows=64,
        num_threads=settings.coordinator_threads,
        progress=terminal_progress(),
    )
    show = counter_line("texts compared with the target alone")
    records = {record.id: record for record in requests}
    total = 0
    for number, job in enumerate(jobs, start=1):
        prompt_ids = encode_prompt(target.tokenizer, job.prompt)
        ends = frozenset[int]() if job.ignore_end else target.tokenizer.end_token_ids
        expected = generate_alone(target.model, prompt_ids, job.sampling, job.max_tokens, ends)
        record = records.get(job.job_id)
        got = () if record is None else record.token_ids
        if record is not None and record.finish == "stop":
            expected = expected[: len(got)]
        if differences := count_differences(got, expected):
            print(f"request {job.job_id}: {differences} tokens differ from the target alone", file=sys.stderr)
            total += differences
        show(number, len(jobs))
    target.model.close()
    return total


def _header(
    local: LocalRun,
    settings: RunSettings,
    args: argparse.Namespace,
    run_id: str,
    started_at: str,
    ends: tuple[MeteredEnd, ...],
) -> RunHeader:
    assert local.target is not None
    return RunHeader(
        run_id=run_id,
        started_at=started_at,
        machine=describe_machine(),
        boot_id=read_boot_id(),
        governor=read_governor(),
        command_line=("multispin", *sys.argv[1:]),
        configuration=msgspec.to_builtins(settings),
        seed=args.seed,
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        num_draft_tokens=settings.num_draft_tokens if settings.policy == "fixed" else Limits().max_draft_tokens,
        policy=settings.policy,
        schedule=settings.schedule,
        verification=settings.verification,
        target=local.target,
        draft=local.draft(),
        exact=bool(local.target.exact),
        energy_meters=ends,
        clock_sync=read_clock_sync(),
    )


def _settings(args: argparse.Namespace) -> RunSettings:
    values = {
        "num_agents": args.agents,
        "draft": args.draft,
        "lookup_min_ngram": args.lookup_min_ngram,
        **policy_of(args),
        "draft_ahead": not args.no_draft_ahead,
        "concurrent_per_agent": args.concurrent_per_agent,
        "pair": args.pair,
        "engine": args.engine,
        "draft_engine": args.draft_engine or args.engine,
        "coordinator_threads": args.threads,
        "agent_threads": args.threads,
        "coordinator_cpus": args.coordinator_cpus,
        "agent_cpus": args.agent_cpus,
        "max_context_tokens": args.max_context_tokens,
        "coordinator_meter": args.coordinator_meter,
        "agent_meter": args.agent_meter,
        "idle_s": args.idle_s,
    }
    try:
        return msgspec.convert(values, RunSettings)
    except msgspec.ValidationError as error:
        raise ConfigError(f"flags: {error}") from error


def _job_flags(args: argparse.Namespace) -> list[str]:
    """Return the flags that hand the draws on to the agents."""
    flags = ["--max-tokens", str(args.max_tokens), "--temperature", str(args.temperature)]
    flags += ["--top-k", str(args.top_k), "--top-p", str(args.top_p), "--seed", str(args.seed)]
    flags += [] if args.limit is None else ["--limit", str(args.limit)]
    return [*flags, "--ignore-end"] if args.ignore_end else flags


def _new_folder(out: Path, *, overwrite: bool) -> Path:
    try:
        out.mkdir(parents=True, exist_ok=True)
        holds_something = any(out.iterdir())
    except OSError as error:
        raise ConfigError(f"--out {out} cannot be a folder for records: {error.strerror}") from error
    if holds_something:
        if not (out / "coordinator.toml").exists():
            raise ConfigError(f"--out {out} is not empty and holds no run: choose another folder")
        if not overwrite:
            raise ConfigError(f"--out {out} holds an earlier run: choose another folder, or give --overwrite")
        shutil.rmtree(out)
        out.mkdir()
    return out
