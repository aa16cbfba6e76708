"""Runs whose rounds are looked at: a coordinator and agents, each a process of its own, over TCP on loopback.

With an engine of the models it is a `LocalRun`, the very thing that `multispin local` starts; with the null engine the
processes are those of `null_process.py`. Draft-ahead is off: then the parts of a round follow each other.
"""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec
from msgspec import Struct

from multispin.bench.null_process import CpuTime
from multispin.bench.overhead import Overhead, round_times, summarize_overhead, together
from multispin.local_run import POLL_S, LocalRun, RunSettings
from multispin.supervised import DaemonFailed, Supervised
from multispin_models.prompts import JobDefaults, read_jobs
from multispin_models.records import RoundRecord, read_jsonl

__all__ = ["NULL", "OverheadRun", "run_overhead"]

NULL = "null"
REQUEST_TOKENS = 128

OnProgress = Callable[[int, int], None]


class OverheadRun(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One run.

    Attributes:
        engine: of both ends; "null" sleeps instead of computing.
        is_model: false for the null engine.
        pair: of models; null with the null engine.
        agents: each a process of its own.
        num_draft_tokens: L.
        cpu_ms_per_round_coordinator, cpu_ms_per_round_agent: processor time, of all rounds of the run; null with a
            model, whose own time would be in it. The null engine's choices (an argmax a row) are in it.
        core_wait_ms_per_round_coordinator, core_wait_ms_per_round_agent: in which their threads could have computed
            but others had the cores, likewise: on boxes of their own there would be none. Null where not known.
        overhead: of the rounds in which all agents were at work.
    """

    engine: str
    is_model: bool
    pair: str | None
    agents: int
    num_draft_tokens: int
    cpu_ms_per_round_coordinator: float | None
    cpu_ms_per_round_agent: float | None
    core_wait_ms_per_round_coordinator: float | None
    core_wait_ms_per_round_agent: float | None
    overhead: Overhead


def run_overhead(settings: RunSettings, num_rounds: int, out: Path, on_progress: OnProgress) -> OverheadRun:
    """Return the overhead of one run.

    Args:
        settings: of the run; engine "null" is the null engine.
        num_rounds: at least so many of every agent.
        out: empty folder for records and logs.
        on_progress: told the requests done and their total.

    Raises:
        DaemonFailed: a process would not start, or failed; with the end of its log.
        ConfigError: there were too few rounds to look at.
    """
    prompts = out / "prompts.jsonl"
    # At best a round commits L + 1 tokens; the open commits one more.
    requests = settings.num_agents * math.ceil(num_rounds * (settings.num_draft_tokens + 1) / (REQUEST_TOKENS - 1))
    _write_prompts(prompts, requests)
    is_null = settings.engine == NULL
    records = (_run_null if is_null else _run_models)(settings, prompts, out, on_progress)
    coordinator = [_cpu_time(out)] if is_null else []
    agents = [_cpu_time(out / _agent(i)) for i in range(settings.num_agents)] if is_null else []
    drafted = sum(not record.is_open for record in records)
    return OverheadRun(
        engine=settings.engine,
        is_model=not is_null,
        pair=None if is_null else settings.pair,
        agents=settings.num_agents,
        num_draft_tokens=settings.num_draft_tokens,
        cpu_ms_per_round_coordinator=_ms_per_round([each.cpu_s for each in coordinator], drafted),
        cpu_ms_per_round_agent=_ms_per_round([each.cpu_s for each in agents], drafted),
        core_wait_ms_per_round_coordinator=_ms_per_round([each.core_wait_s for each in coordinator], drafted),
        core_wait_ms_per_round_agent=_ms_per_round([each.core_wait_s for each in agents], drafted),
        overhead=summarize_overhead(together(round_times(records), settings.num_agents)),
    )


def _write_prompts(path: Path, count: int) -> None:
    lines = [
        {"id": i, "prompt": f"Write a long story about {i} sheep.", "max_tokens": REQUEST_TOKENS, "ignore_end": True}
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def _run_models(settings: RunSettings, prompts: Path, out: Path, on_progress: OnProgress) -> list[RoundRecord]:
    run = LocalRun(settings, prompts, [], out / "run", "bench")
    run.execute(read_jobs(str(prompts), JobDefaults()), on_progress)
    return read_jsonl(out / "run" / "rounds.jsonl", RoundRecord).records


def _run_null(settings: RunSettings, prompts: Path, out: Path, on_progress: OnProgress) -> list[RoundRecord]:
    """Run the null engine on both ends; every agent serves its share of the prompts."""
    num_agents = settings.num_agents
    lines = prompts.read_text(encoding="utf-8").splitlines(keepends=True)
    command = [sys.executable, "-m", "multispin.bench.null_process", str(os.getpid())]
    coordinator = Supervised(
        "coordinator",
        partial(list, [*command, "coordinator", str(num_agents), str(out)]),
        out / "coordinator.log",
        cpus=settings.coordinator_cpus,
    )
    agents: list[Supervised] = []
    try:
        coordinator.start()
        endpoint = coordinator.wait_ready()
        for i in range(num_agents):
            folder = out / _agent(i)
            folder.mkdir()
            share = folder / "prompts.jsonl"
            share.write_text("".join(lines[i::num_agents]), encoding="utf-8")
            arguments = [_agent(i), endpoint, str(settings.num_draft_tokens), str(share), str(folder)]
            agents.append(
                Supervised(
                    _agent(i),
                    partial(list, [*command, "agent", *arguments]),
                    folder / "agent.log",
                    cpus=settings.agent_cpus,
                )
            )
            agents[-1].start()
        _wait(coordinator, agents, on_progress)
    finally:
        for daemon in (*agents, coordinator):
            daemon.stop()
    return [
        record
        for i in range(num_agents)
        for record in read_jsonl(out / _agent(i) / "rounds.jsonl", RoundRecord).records
    ]


def _wait(coordinator: Supervised, agents: list[Supervised], on_progress: OnProgress) -> None:
    """Wait until all agents are done; nothing is started again: a death would spoil the figures."""
    while True:
        done = [agent.has_ended() for agent in agents]
        for daemon, status in zip((coordinator, *agents), (coordinator.has_ended(), *done), strict=True):
            if status is not None and (status or daemon is coordinator):
                raise DaemonFailed(f"{daemon.name} ended with status {status}:\n{daemon.log_tail()}")
        on_progress(sum(status is not None for status in done), len(agents))
        if None not in done:
            return
        time.sleep(POLL_S)


def _agent(index: int) -> str:
    return f"agent-{index}"


def _cpu_time(folder: Path) -> CpuTime:
    return msgspec.json.decode((folder / "cpu.json").read_bytes(), type=CpuTime)


def _ms_per_round(seconds: Sequence[float | None], rounds: int) -> float | None:
    """Return the milliseconds a round of processes together; None if one is not known, or there are none."""
    known = [each for each in seconds if each is not None]
    return sum(known) * 1e3 / rounds if known and len(known) == len(seconds) else None
