"""One run on this machine: a coordinator, N agents, a file of prompts, and the records of all of it in one folder.

    DIR/coordinator.toml  coordinator.log      the settings it had, what it said
    DIR/agent-0/          requests.jsonl rounds.jsonl, agent.log, energy.jsonl if it has a meter
    DIR/coordinator/      energy.jsonl if it has a meter
    DIR/requests.jsonl  rounds.jsonl           of all agents, in the order of the prompts
    DIR/run.jsonl  energy.jsonl                header (machine, models, settings), joules; by `local_command`
    DIR/conditions.jsonl                       clocks, heat, throttling, links, load before, during, after; likewise

A daemon that dies is started again: the agents go on with what has no record yet, and with the tokens committed.
"""

import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from multispin.links import Reached
from multispin.supervised import DaemonFailed, Supervised
from multispin_coordinator.config import DEFAULT_POLICY, Limits, PolicyName, ScheduleName
from multispin_models.cache import Progress
from multispin_models.clock import monotonic_ns
from multispin_models.draft_payload import MOST_ENTRIES
from multispin_models.energy import open_meter
from multispin_models.engines import DEFAULT_ENGINE, prepare_side, prepare_tokenizer
from multispin_models.errors import ConfigError
from multispin_models.language_model import ModelInfo
from multispin_models.ngram import MAX_NGRAM, MIN_NGRAM
from multispin_models.prompts import Job
from multispin_models.records import (
    EnergyRecord,
    MeteredEnd,
    RequestRecord,
    RoundRecord,
    energy_domain,
    read_boot_id,
    read_jsonl,
    write_jsonl,
)
from multispin_models.verification import Rule

__all__ = ["MULTISPIN", "LocalRun", "RunSettings", "coordinator_toml", "draft_flags", "prepare_draft"]

log = logging.getLogger(__name__)

POLL_S = 0.2

Positive = Annotated[int, Meta(ge=1)]


class RunSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a local run is made with.

    Attributes:
        num_agents: agents, each a process.
        draft, lookup_min_ngram: where drafts come from, as in the agent's settings.
        policy: how draft lengths are chosen.
        schedule: which drafts are verified together.
        verification: the rule.
        draft_entries: tokens that a draft is sampled from, by a rejection rule.
        num_draft_tokens: L of the policy "fixed".
        draft_ahead: draft while a verdict is in flight.
        concurrent_per_agent: requests that one agent serves at once.
        concurrent_alone: requests that the target serves at once without an agent.
        pair: the models.
        engine, draft_engine: of coordinator and agents.
        coordinator_threads, agent_threads: of a forward pass.
        coordinator_cpus, agent_cpus: cores that they may run on; null for all.
        keep_sequences: reuse what target and drafts have computed for a prompt that goes on from an earlier request; a
            measured run computes every prompt.
        max_context_tokens: prompt and text of one request.
        coordinator_meter, agent_meter: of each end; null where the run's own meter covers the machine.
        idle_s: how long each of these measures its idle baseline.
    """

    num_agents: Positive = 1
    draft: Literal["model", "lookup", "lookup+model"] = "model"
    lookup_min_ngram: Annotated[int, Meta(ge=1, le=MAX_NGRAM)] = MIN_NGRAM
    policy: PolicyName = DEFAULT_POLICY
    schedule: ScheduleName = "continuous"
    verification: Rule = "coupled"
    draft_entries: Annotated[int, Meta(ge=1, le=MOST_ENTRIES)] = 1024
    num_draft_tokens: Annotated[int, Meta(ge=0, le=64)] = 4
    draft_ahead: bool = True
    concurrent_per_agent: Positive = 1
    concurrent_alone: Annotated[int, Meta(ge=0)] = 0
    pair: str = "smollm2-135m"
    engine: str = DEFAULT_ENGINE
    draft_engine: str = DEFAULT_ENGINE
    coordinator_threads: Positive = 1
    agent_threads: Positive = 1
    coordinator_cpus: tuple[int, ...] | None = None
    agent_cpus: tuple[int, ...] | None = None
    keep_sequences: bool = False
    max_context_tokens: Annotated[int, Meta(ge=16)] = 2048
    coordinator_meter: str | None = None
    agent_meter: str | None = None
    idle_s: Annotated[float, Meta(ge=0.0, le=3600.0)] = 2.0


class LocalRun:
    """The processes of a run.

    Args:
        settings: of the run.
        prompts: file that the agents read, each its share.
        job_flags: command-line flags for the agents: lengths, sampling.
        out: folder, empty or new.
        run_id: in every record.
        link: between coordinator and agents.
    """

    def __init__(
        self,
        settings: RunSettings,
        prompts: Path,
        job_flags: Sequence[str],
        out: Path,
        run_id: str,
        *,
        link: Reached | None = None,
    ) -> None:
        self._link = Reached() if link is None else link
        self._settings = settings
        self._prompts = prompts
        self._job_flags = [*job_flags, "--run-id", run_id]
        self._out = out
        self._endpoint = self._link.bind
        self.started_ns = 0
        self.ended_ns = 0
        self.target: ModelInfo | None = None
        self._run_id = run_id
        (out / "coordinator").mkdir(parents=True, exist_ok=True)
        (out / "coordinator.toml").write_text(coordinator_toml(settings), encoding="utf-8")
        self.coordinator = Supervised(
            "coordinator",
            self._coordinator_command,
            out / "coordinator.log",
            cpus=settings.coordinator_cpus,
        )
        self.agents = [
            Supervised(
                f"agent {index}",
                lambda index=index: self._agent_command(index),  # type: ignore[misc]
                self._agent_dir(index) / "agent.log",
                cpus=settings.agent_cpus,
            )
            for index in range(settings.num_agents)
        ]

    def execute(self, jobs: Sequence[Job], on_progress: Callable[[int, int], None]) -> None:
        """Serve all jobs and merge the records.

        Raises:
            DaemonFailed: a daemon would not start, or died too often. What was recorded is kept.
        """
        try:
            self.coordinator.start()
            self._endpoint, info = self.coordinator.wait_ready().split(" ", 1)
            self.target = msgspec.json.decode(info, type=ModelInfo)
            for index in range(len(self.agents)):
                self._agent_dir(index).mkdir(exist_ok=True)
                self.agents[index].start()
            self.started_ns = monotonic_ns()
            self._watch(len(jobs), on_progress)
            self.ended_ns = monotonic_ns()
        finally:
            for daemon in (*self.agents, self.coordinator):
                daemon.stop()
        self._merge(jobs)

    def _watch(self, num_jobs: int, on_progress: Callable[[int, int], None]) -> None:
        """Wait until every agent has served its share, starting again what dies."""
        running = set(range(len(self.agents)))
        while running:
            time.sleep(POLL_S)
            on_progress(self._num_recorded(), num_jobs)
            if self.coordinator.has_ended() is not None:
                self.coordinator.restart()
            for index in list(running):
                status = self.agents[index].has_ended()
                if status in {0, 1}:  # 1: some requests failed, and their records say why; or it could not start
                    running.discard(index)
                    if status == 1 and not (self._agent_dir(index) / "requests.jsonl").exists():
                        raise DaemonFailed(f"agent {index} failed:\n{self.agents[index].log_tail()}")
                elif status is not None:
                    self.agents[index].restart()
        on_progress(self._num_recorded(), num_jobs)

    @property
    def has_own_meters(self) -> bool:
        """Whether an end has a meter of its own."""
        return self._settings.coordinator_meter is not None or self._settings.agent_meter is not None

    def metered_ends(self) -> tuple[MeteredEnd, ...]:
        """Return every end with its meter."""
        meters = {"coordinator": self._settings.coordinator_meter}
        meters |= {f"agent:agent-{index}": self._settings.agent_meter for index in range(len(self.agents))}
        return tuple(_metered_end(end, meter) for end, meter in meters.items())

    def energy(self) -> list[EnergyRecord]:
        """Return what the ends with a meter of their own recorded, one record an end.

        An end that was started again has several, each of a part of the run: then its joules are not known.
        """
        found: list[EnergyRecord] = []
        folders = [self._out / "coordinator", *(self._agent_dir(index) for index in range(len(self.agents)))]
        for path in (folder / "energy.jsonl" for folder in folders):
            records = read_jsonl(path, EnergyRecord).records if path.exists() else []
            if len(records) > 1:
                why = f"{records[0].end} was started {len(records)} times: what it drew between is not known"
                records = [msgspec.structs.replace(records[0], energy_j=None, reason=why)]
            found += records
        return found

    def draft(self) -> ModelInfo:
        """Return what the first agent drafted with."""
        [info] = read_jsonl(self._agent_dir(0) / "draft.jsonl", ModelInfo).records
        return info

    def _num_recorded(self) -> int:
        count = 0
        for index in range(len(self.agents)):
            path = self._agent_dir(index) / "requests.jsonl"
            if path.exists():
                count += path.read_bytes().count(b"\n")
        return count

    def _merge(self, jobs: Sequence[Job]) -> None:
        order = {job.job_id: place for place, job in enumerate(jobs)}
        requests: list[RequestRecord] = []
        rounds: list[RoundRecord] = []
        for index in range(len(self.agents)):
            folder = self._agent_dir(index)
            if (folder / "requests.jsonl").exists():
                requests += read_jsonl(folder / "requests.jsonl", RequestRecord).records
            if (folder / "rounds.jsonl").exists():
                rounds += read_jsonl(folder / "rounds.jsonl", RoundRecord).records
        requests.sort(key=lambda record: order[record.id])
        # An agent killed between its two writes leaves rounds of a request that it then served again.
        served = {record.wire_request_id for record in requests}
        write_jsonl(self._out / "requests.jsonl", requests)
        write_jsonl(self._out / "rounds.jsonl", [record for record in rounds if record.wire_request_id in served])

    def _agent_dir(self, index: int) -> Path:
        return self._out / f"agent-{index}"

    def _coordinator_command(self) -> list[str]:
        config = str(self._out / "coordinator.toml")
        command = [*self._link.prefix, *MULTISPIN, "coordinator", "--exit-with-parent", str(os.getpid())]
        own = ["--out", str(self._out / "coordinator"), "--run-id", self._run_id]
        return [*command, "--config", config, "--bind", self._endpoint, *own]

    def _agent_command(self, index: int) -> list[str]:
        settings = self._settings
        flags = {
            "--agent-id": f"agent-{index}",
            "--coordinator": self._link.reach(self._endpoint),
            "--pair": settings.pair,
            "--engine": settings.draft_engine,
            "--threads": settings.agent_threads,
            **draft_flags(settings),
            "--max-concurrent": settings.concurrent_per_agent,
            "--meter": settings.agent_meter or "shared",
            "--idle-s": settings.idle_s,
            "--prompts": self._prompts,
            "--out": self._agent_dir(index),
            "--share": f"{index}/{settings.num_agents}",
        }
        command = [*self._link.prefix, *MULTISPIN, "agent", "--exit-with-parent", str(os.getpid())]
        for flag, value in flags.items():
            command += [flag, str(value)]
        return command + ([] if settings.draft_ahead else ["--no-draft-ahead"]) + self._job_flags


def _metered_end(end: str, meter: str | None) -> MeteredEnd:
    opened = open_meter(meter or "none")
    info = None if opened.meter is None else opened.meter.info
    if opened.meter is not None:
        opened.meter.close()
    domain = energy_domain(info, read_boot_id(), end)
    return MeteredEnd(end, domain, info, opened.reason if info is None else None)


MULTISPIN = [sys.executable, "-m", "multispin"]


def coordinator_toml(settings: RunSettings) -> str:
    """Return the configuration file of the coordinator of a run."""
    sessions = settings.num_agents * settings.concurrent_per_agent + settings.concurrent_alone
    return (
        f'pair = {_quoted(settings.pair)}\nengine = "{settings.engine}"\nthreads = {settings.coordinator_threads}\n'
        # A meter of the run covers the whole machine, agents too: no pass may claim its joules for the coordinator.
        f"meter = {_quoted(settings.coordinator_meter or 'shared')}\nidle_s = {settings.idle_s}\n"
        f'policy = "{settings.policy}"\nschedule = "{settings.schedule}"\nverification = "{settings.verification}"\n'
        f"max_concurrent = {max(1, settings.concurrent_alone)}\n\n"
        f"[limits]\nmax_sessions = {sessions}\nmax_sessions_per_agent = {settings.concurrent_per_agent + 1}\n"
        f"keep_sequences = {str(settings.keep_sequences).lower()}\n"
        f"max_context_tokens = {settings.max_context_tokens}\n"
        f"max_prompt_tokens = {settings.max_context_tokens - 1}\n"
        # At the coordinator's own limit a longer draft would be cut, and the header would not say so.
        f"max_draft_tokens = {max(Limits().max_draft_tokens, settings.num_draft_tokens)}\n"
    )


def draft_flags(settings: RunSettings) -> dict[str, object]:
    """Return the flags that say to an agent how it drafts."""
    return {
        "--draft": settings.draft,
        "--lookup-min-ngram": settings.lookup_min_ngram,
        "--num-draft-tokens": settings.num_draft_tokens,
        "--kept-sequences": int(settings.keep_sequences),
        "--draft-entries": settings.draft_entries,
    }


def prepare_draft(settings: RunSettings, progress: Progress) -> None:
    """Bring to this machine what the agents will load: with lookup alone that is only the file of the tokenizer.

    Raises:
        ConfigError: the engine is not known, or what it needs is not installed.
        ModelError: the pair or one of its files is not usable.
    """
    if settings.draft == "lookup":
        prepare_tokenizer(settings.pair, "draft", progress)
    else:
        prepare_side(settings.pair, "draft", settings.draft_engine, progress)


def _quoted(text: str) -> str:
    """Return a TOML string."""
    if "\n" in text:
        raise ConfigError(f"{text!r}: a line break is not allowed")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
