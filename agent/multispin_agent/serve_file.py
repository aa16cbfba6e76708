"""Serves a file of requests, a few at a time, and keeps a record of each.

What is recorded in the output folder is done: an agent that was killed goes on with the rest.
"""

import asyncio
import hashlib
import logging
import secrets
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import msgspec

from multispin_agent.attribution import BoxEnergy, account_of
from multispin_agent.client import Client
from multispin_agent.config import Config
from multispin_agent.draft_source import DraftSource
from multispin_agent.generate import generate
from multispin_agent.recording import AgentEnergy, Sources, request_energy, request_record, round_records
from multispin_agent.request import Finished, Request, RequestFailed
from multispin_agent.upload import Recorder
from multispin_models.engine_thread import EngineThread
from multispin_models.prompts import Job, encode_prompt
from multispin_models.records import JsonlWriter, RequestRecord, read_jsonl, write_jsonl
from multispin_models.records.journal import Journal

__all__ = ["ServeFile"]

log = logging.getLogger(__name__)


class ServeFile:
    """Serves jobs over one connection.

    Args:
        config: of the agent.
        client: the connection.
        drafts: where they come from.
        engine: its thread.
        meter: the account of this box; or the reason why there is none.
        out: folder for requests.jsonl, rounds.jsonl, draft.jsonl (the model) and those of the journal; null prints
            texts to standard output.
        run_id: in every record.
        recorder: takes all records to the coordinator; null keeps them here alone.
        as_json: without `out`, print an object a request.
        due_s: when jobs come, by id, in seconds after the first could be served; the others are there at once. One
            that comes while `max_concurrent` are being served waits until one of them is done.

    Attributes:
        begun_ns: when the first could be served.
    """

    def __init__(
        self,
        config: Config,
        client: Client,
        drafts: DraftSource,
        engine: EngineThread,
        meter: BoxEnergy | str,
        out: Path | None,
        run_id: str,
        recorder: Recorder | None = None,
        *,
        as_json: bool = False,
        due_s: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        self.begun_ns = 0
        self._due_s = due_s
        self._as_json = as_json
        self._recorder = recorder
        self._meter = meter
        self._run_id = run_id
        self._requests: JsonlWriter | None = None
        self._rounds: JsonlWriter | None = None
        self._config = config
        self._client = client
        self._drafts = drafts
        self._engine = engine
        self._out = out
        self._journal = Journal(
            run_id,
            f"agent:{config.agent_id}",
            drafts.info,
            config,
            account_of(meter, run_id, config.agent_id),
            None if recorder is None else recorder.take,
            out,
        )

    async def run(self, jobs: Sequence[Job]) -> int:
        """Serve all jobs that have no record yet; return 0, or 1 if any of them failed."""
        done = self._open_records()
        waiting = [job for job in jobs if job.job_id not in done]
        log.info("%d requests, %d of them done before", len(jobs), len(jobs) - len(waiting))
        waiting.sort(key=lambda job: self._due_s.get(job.job_id, 0.0))
        waiting.reverse()
        async with self._journal.kept():
            workers = await self._serve_all(waiting)
        return int(any(worker.result() for worker in workers))

    async def _serve_all(self, waiting: list[Job]) -> list[asyncio.Task[int]]:
        try:
            await self._client.ready()  # a refusal ends the agent here, with one message for all requests
            if not isinstance(self._meter, str):
                self._meter.start()
            self.begun_ns = self._client.now_ns()
            async with asyncio.TaskGroup() as group:
                return [group.create_task(self._work_off(waiting)) for _ in range(self._config.max_concurrent)]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from failures  # a refusal says what to do; a group of one does not
        finally:
            self._close_records()

    def _open_records(self) -> set[str]:
        """Open the files of the output folder; return the ids of the requests that they hold."""
        if self._out is None:
            return set()
        self._out.mkdir(parents=True, exist_ok=True)
        write_jsonl(self._out / "draft.jsonl", [self._drafts.info])
        path = self._out / "requests.jsonl"
        self._rounds = JsonlWriter(self._out / "rounds.jsonl")
        self._requests = JsonlWriter(path)
        return {record.id for record in read_jsonl(path, RequestRecord).records}

    def _close_records(self) -> None:
        for writer in (self._rounds, self._requests):
            if writer is not None:
                writer.close()

    async def _work_off(self, waiting: list[Job]) -> int:
        """Serve jobs from the end of a shared list until it is empty; return how many failed."""
        failures = 0
        while waiting:
            job = waiting.pop()
            if job.job_id in self._due_s:
                due_ns = self.begun_ns + int(self._due_s[job.job_id] * 1e9)
                await asyncio.sleep(max(0.0, (due_ns - self._client.now_ns()) / 1e9))
            failures += await self._serve(job)
        return failures

    async def _serve(self, job: Job) -> int:
        prompt_ids = encode_prompt(self._drafts.tokenizer, job.prompt)
        request = Request(
            secrets.randbits(64), prompt_ids, job.sampling, job.max_tokens, stop=job.stop, ignore_end=job.ignore_end
        )
        error = None
        meter = self._meter
        started_ns = self._client.now_ns() if isinstance(meter, str) else meter.opened()
        ended_ns = None
        try:
            finished = await generate(
                request,
                config=self._config,
                client=self._client,
                drafts=self._drafts,
                engine=self._engine,
                started_ns=started_ns,
            )
        except RequestFailed as failure:
            error = str(failure)
            finished = failure.finished or Finished(started_ns=started_ns, ended_ns=self._client.now_ns())
            log.error("request %s failed: %s", job.job_id, failure)  # noqa: TRY400 - the message says it all
        finally:
            if not isinstance(meter, str):
                ended_ns = meter.ended()
        energy = meter if isinstance(meter, str) else request_energy(meter, finished, ended_ns or started_ns)
        self._record(job, request, finished, energy, error)
        return int(error is not None)

    def _record(
        self, job: Job, request: Request, finished: Finished, energy: AgentEnergy | str, error: str | None
    ) -> None:
        welcome = self._client.welcome
        sources = Sources(
            run_id=self._run_id,
            agent_id=self._config.agent_id,
            agent_energy=energy,
            coordinator_label=None if welcome is None else welcome.energy_label,
        )
        rounds = round_records(request, finished, sources)
        prompt_sha256 = hashlib.sha256(job.prompt.encode()).hexdigest()
        record = request_record(request, finished, sources, name=job.job_id, prompt_sha256=prompt_sha256, error=error)
        if self._recorder is not None:
            self._recorder.take([*rounds, record])
        if self._requests is None or self._rounds is None:
            sys.stdout.write(self._printed(job, finished, error) + "\n")
            sys.stdout.flush()
            return
        # Rounds first: a request that has its record has all its rounds.
        for round_record in rounds:
            self._rounds.append(round_record)
        self._requests.append(record)

    def _printed(self, job: Job, finished: Finished, error: str | None) -> str:
        """Return what is printed of a request."""
        if not self._as_json:
            return finished.text
        drafted = [timing for timing in finished.rounds if not timing.is_open]
        told = {
            "id": job.job_id,
            "text": finished.text,
            "finish": finished.finish,
            "error": error,
            "num_tokens": len(finished.token_ids),
            "num_drafted": sum(timing.num_draft_tokens for timing in drafted),
            "num_accepted": sum(timing.verdict.num_accepted for timing in drafted),
        }
        return msgspec.json.encode(told).decode()
