"""Serves a file of requests, a few at a time, and keeps a record of each.

What is recorded in the output folder is done: an agent that was killed goes on with the rest.
"""

import asyncio
import hashlib
import logging
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

from multispin_agent.client import Client
from multispin_agent.config import Config
from multispin_agent.draft_source import DraftSource
from multispin_agent.generate import generate
from multispin_agent.request import Finished, Request, RequestFailed, RoundTiming, coordinator_energy_j
from multispin_agent.upload import Recorder
from multispin_models.energy import Sampler, Window
from multispin_models.engine_thread import EngineThread
from multispin_models.prompts import Job, encode_prompt
from multispin_models.records import JsonlWriter, RequestRecord, RoundRecord, read_jsonl, write_jsonl

__all__ = ["ServeFile"]

log = logging.getLogger(__name__)


class ServeFile:
    """Serves jobs over one connection.

    Args:
        config: of the agent.
        client: the connection.
        drafts: where they come from.
        engine: its thread.
        meter: of this box, running; or the reason why there is none.
        out: folder for requests.jsonl, rounds.jsonl and draft.jsonl (the model); null prints texts to standard output.
        run_id: in every record.
        recorder: takes all records to the coordinator; null keeps them here alone.
    """

    def __init__(
        self,
        config: Config,
        client: Client,
        drafts: DraftSource,
        engine: EngineThread,
        meter: Sampler | str,
        out: Path | None,
        run_id: str,
        recorder: Recorder | None = None,
    ) -> None:
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

    async def run(self, jobs: Sequence[Job]) -> int:
        """Serve all jobs that have no record yet; return 0, or 1 if any of them failed."""
        done = self._open_records()
        waiting = [job for job in jobs if job.job_id not in done]
        log.info("%d requests, %d of them done before", len(jobs), len(jobs) - len(waiting))
        waiting.reverse()
        try:
            await self._client.ready()  # a refusal ends the agent here, with one message for all requests
            async with asyncio.TaskGroup() as group:
                workers = [group.create_task(self._work_off(waiting)) for _ in range(self._config.max_concurrent)]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from failures  # a refusal says what to do; a group of one does not
        finally:
            self._close_records()
        return int(any(worker.result() for worker in workers))

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
            failures += await self._serve(waiting.pop())
        return failures

    async def _serve(self, job: Job) -> int:
        prompt_ids = encode_prompt(self._drafts.tokenizer, job.prompt)
        request = Request(
            secrets.randbits(64), prompt_ids, job.sampling, job.max_tokens, stop=job.stop, ignore_end=job.ignore_end
        )
        error = None
        try:
            finished = await generate(
                request,
                config=self._config,
                client=self._client,
                drafts=self._drafts,
                engine=self._engine,
            )
        except RequestFailed as failure:
            error = str(failure)
            finished = failure.finished or Finished()
            log.error("request %s failed: %s", job.job_id, failure)  # noqa: TRY400 - the message says it all
        self._record(job, request, finished, error)
        return int(error is not None)

    def _record(self, job: Job, request: Request, finished: Finished, error: str | None) -> None:
        rounds = [self._round_record(request, timing) for timing in finished.rounds]
        record = self._request_record(job, request, finished, error)
        if self._recorder is not None:
            self._recorder.take([*rounds, record])
        if self._requests is None or self._rounds is None:
            sys.stdout.write(f"{finished.text}\n")
            sys.stdout.flush()
            return
        # Rounds first: a request that has its record has all its rounds.
        for round_record in rounds:
            self._rounds.append(round_record)
        self._requests.append(record)

    def _request_record(self, job: Job, request: Request, finished: Finished, error: str | None) -> RequestRecord:
        count = sum(timing.verdict.num_accepted + 1 for timing in finished.rounds)
        first_s = (finished.first_token_ns - finished.started_ns) / 1e9 if finished.first_token_ns else None
        total_s = (finished.ended_ns - finished.started_ns) / 1e9
        drafts = [timing for timing in finished.rounds if not timing.is_open]
        energy = self._agent_energy(finished)
        return RequestRecord(
            run_id=self._run_id,
            id=job.job_id,
            wire_request_id=request.request_id,
            agent_id=self._config.agent_id,
            prompt_sha256=hashlib.sha256(job.prompt.encode()).hexdigest(),
            num_prompt_tokens=len(request.prompt_ids),
            token_ids=tuple(finished.token_ids),
            text=finished.text,
            finish="error" if error else finished.finish,
            error=error,
            num_rounds=len(drafts),
            num_drafted=sum(timing.num_draft_tokens for timing in drafts),
            num_accepted=sum(timing.verdict.num_accepted for timing in drafts),
            num_generated=count,
            started_ns=finished.started_ns,
            ended_ns=finished.ended_ns,
            ttft_s=first_s,
            tpot_s=(total_s - first_s) / (count - 1) if first_s is not None and count > 1 else None,
            e2e_s=total_s,
            payload_up_bytes=finished.payload_up_bytes,
            payload_down_bytes=finished.payload_down_bytes,
            energy_agent_j=energy.joules if isinstance(energy, Window) else None,
            energy_coordinator_j=coordinator_energy_j(finished.rounds),
            energy_label=self._meter.info.label if isinstance(self._meter, Sampler) else None,
            energy_reason=energy if isinstance(energy, str) else energy.reason,
            num_reopens=finished.num_reopens,
        )

    def _agent_energy(self, finished: Finished) -> Window | str:
        if isinstance(self._meter, str):
            return self._meter
        self._meter.read_now()
        return self._meter.joules(finished.started_ns, finished.ended_ns)

    def _round_record(self, request: Request, timing: RoundTiming) -> RoundRecord:
        verdict = timing.verdict
        residence_s = verdict.residence_us / 1e6
        parts = timing.parts
        return RoundRecord(
            run_id=self._run_id,
            wire_request_id=request.request_id,
            agent_id=self._config.agent_id,
            round=verdict.round,
            is_open=timing.is_open,
            num_draft_tokens=timing.num_draft_tokens,
            num_accepted=verdict.num_accepted,
            next_token_id=verdict.next_token_id,
            sent_ns=timing.sent_ns,
            draft_s=timing.draft_s,
            round_trip_s=timing.round_trip_s,
            residence_s=residence_s,
            verify_s=verdict.verify_us / 1e6,
            network_s=timing.round_trip_s - residence_s,
            batch_rows=verdict.batch_rows,
            ahead_hit=timing.ahead_hit,
            payload_up_bytes=timing.payload_up_bytes,
            payload_down_bytes=timing.payload_down_bytes,
            confidences=tuple(None if each is None else round(each, 4) for each in timing.confidences),
            energy_coordinator_j=None if verdict.energy_nj is None else verdict.energy_nj / 1e9,
            round_s=None if parts is None else parts.round_s,
            draft_wait_s=None if parts is None else parts.draft_wait_s,
            rewind_s=None if parts is None else parts.rewind_s,
            agent_queue_s=None if parts is None else parts.agent_queue_s,
            uplink_s=None if parts is None else parts.uplink_s,
            coordinator_queue_s=None if parts is None else parts.coordinator_queue_s,
            downlink_s=None if parts is None else parts.downlink_s,
            clock_offset_ns=None if parts is None else parts.clock_offset_ns,
            clock_bound_s=None if parts is None else parts.clock_bound_s,
            clock_event=None if parts is None else parts.clock_event,
            num_sends=None if parts is None else parts.num_sends,
        )
