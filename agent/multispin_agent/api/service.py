"""The agent as a `TextService`: requests of its users, drafted here and verified by the coordinator."""

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from multispin_agent.api.collector import AgentCollector
from multispin_agent.api.figures import course_of, energy_of
from multispin_agent.attribution import BoxEnergy
from multispin_agent.client import Client
from multispin_agent.config import Config
from multispin_agent.draft_source import DraftSource
from multispin_agent.events import RefusedByCoordinator
from multispin_agent.generate import generate
from multispin_agent.recording import AgentEnergy, Sources, request_energy, request_record, round_records
from multispin_agent.request import Finished, NoRoom, Request, RequestFailed
from multispin_agent.upload import Recorder
from multispin_models.api.errors import ApiError, unavailable
from multispin_models.api.figures import metrics_of, timings_of
from multispin_models.api.replies import Degraded
from multispin_models.api.service import Bounds, Generated, TextRequest
from multispin_models.clock import monotonic_ns
from multispin_models.engine_thread import EngineThread
from multispin_models.language_model import Tokenizer
from multispin_models.provenance import Piece
from multispin_models.records import AnyRecord

__all__ = ["AgentService"]

log = logging.getLogger(__name__)

BUSY_RETRY_AFTER_S = 10


class AgentService:
    """Serves texts over one connection.

    Args:
        config: of the agent.
        client: the connection.
        drafts: where they come from; their vocabulary is the target's.
        engine: its thread.
        meter: the account of this box; or the reason why there is none.
        run_id: in every record.
        recorder: takes the records of requests to the coordinator; null takes none.
    """

    def __init__(
        self,
        config: Config,
        client: Client,
        drafts: DraftSource,
        engine: EngineThread,
        meter: BoxEnergy | str,
        run_id: str = "",
        recorder: Recorder | None = None,
    ) -> None:
        self._run_id = run_id
        self._recorder = recorder
        self._config = config
        self._client = client
        self._source = drafts
        self._engine = engine
        self._meter = meter
        self._num_open = 0
        self._may_begin, self._is_idle = asyncio.Event(), asyncio.Event()
        self._may_begin.set()
        self._is_idle.set()
        self.collector = AgentCollector(meter if isinstance(meter, str) else meter.sampler, self._num_kept)

    def reconfigure(self, config: Config) -> None:
        """Serve the requests that begin from now on by other settings, of `RELOADABLE`."""
        self._config = config

    @property
    def source(self) -> DraftSource:
        """Where drafts come from now."""
        return self._source

    def _num_kept(self) -> int:
        return self._source.num_kept()

    async def swap(self, change: Callable[[DraftSource], DraftSource], patience_s: float) -> None:
        """Draft from another source when no request is open.

        Args:
            change: returns the new source for the old one, which it closes; called in the engine's thread.
            patience_s: how long an idle moment is waited for; then requests that come wait until those under way end.
        """
        with suppress(TimeoutError):
            await asyncio.wait_for(self._is_idle.wait(), patience_s)
        self._may_begin.clear()
        try:
            await self._is_idle.wait()
            self._source = await self._engine.run(change, self._source)
        finally:
            self._may_begin.set()
        self._client.change_draft(self._source.info)

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[None]:
        """Count a request while it is open; it begins when no draft is being swapped."""
        await self._may_begin.wait()
        self._num_open += 1
        self._is_idle.clear()
        try:
            yield
        finally:
            self._num_open -= 1
            if not self._num_open:
                self._is_idle.set()

    @property
    def tokenizer(self) -> Tokenizer:
        """Of the pair."""
        return self._source.tokenizer

    @property
    def n_vocab(self) -> int:
        """Of the pair."""
        return self._source.info.n_vocab

    @property
    def num_slots(self) -> int:
        """As many as the settings say."""
        return self._config.max_concurrent

    @property
    def drafts(self) -> bool:
        """An agent does."""
        return True

    @property
    def fingerprint(self) -> str:
        """Of the coordinator's target."""
        welcome = self._client.welcome
        return f"fp_{welcome.target_fingerprint[:12]}" if welcome is not None else "fp_unknown"

    def bounds(self) -> Bounds | None:
        """Return the coordinator's bounds; a shorter context of the draft only ends its drafting.

        None also while it is silent, where the settings have new requests refused then.
        """
        welcome = self._client.welcome
        if self._config.when_absent == "refuse" and self.why_absent():
            return None
        return None if welcome is None else Bounds(welcome.max_prompt_tokens, welcome.max_context_tokens)

    def why_absent(self) -> str:
        """Return what is the matter with the coordinator, "" if nothing."""
        return self._client.why_absent(monotonic_ns())

    def why_degraded(self) -> str:
        """Return why nothing is drafted here, "" if it is."""
        return f"nothing is drafted here: {self._source.missing}" if self._source.missing else ""

    async def generate(self, request: TextRequest, on_text: Callable[[Piece], None], queued_s: float) -> Generated:
        """Return the text of a request.

        Raises:
            ApiError: the coordinator refused it or this agent for good, has no room, or was silent past the deadline;
                or a request of this id is under way.
        """
        if self._client.is_open(request.request_id):
            raise ApiError(
                409,
                "invalid_request_error",
                f"request {request.request_id:016x} is under way here: wait until it has ended, then resume it",
                param="resume.id",
                code="request_under_way",
            )
        async with self._opened():
            return await self._generate(request, on_text, queued_s)

    async def _generate(self, request: TextRequest, on_text: Callable[[Piece], None], queued_s: float) -> Generated:
        meter = self._meter
        started_ns = self._client.now_ns() if isinstance(meter, str) else meter.opened()
        asked = Request(
            request.request_id,
            request.prompt_ids,
            request.sampling,
            request.max_tokens,
            stop=request.stop,
            ignore_end=request.ignore_end,
            provenance=request.provenance,
        )
        try:
            finished = await generate(
                asked,
                config=self._config,
                client=self._client,
                drafts=self._source,
                engine=self._engine,
                on_text=on_text,
                started_ns=started_ns,
                busy_s=self._config.busy_s,
            )
        except RefusedByCoordinator as refusal:
            self._account(asked, None, started_ns, str(refusal))
            raise unavailable(str(refusal), "agent_refused") from refusal
        except NoRoom as failure:
            self._account(asked, failure.finished, started_ns, str(failure))
            raise unavailable(str(failure), "coordinator_busy", BUSY_RETRY_AFTER_S) from failure
        except RequestFailed as failure:
            self._account(asked, failure.finished, started_ns, str(failure))
            log.warning("request %016x failed: %s", request.request_id, failure)
            raise ApiError(502, "server_error", str(failure), code="coordinator_failed") from failure
        except asyncio.CancelledError:
            self._account(asked, None, started_ns, "the user went away, or this agent was stopped")
            raise
        energy = self._account(asked, finished, started_ns, None)
        welcome = self._client.welcome
        course = course_of(finished, len(request.prompt_ids))
        return Generated(
            text=finished.text,
            num_tokens=len(finished.token_ids),
            num_cached=course.num_cached,
            finish="length" if finished.finish == "length" else "stop",
            timings=timings_of(course),
            metrics=metrics_of(
                course,
                num_spec_tokens=self._config.num_draft_tokens,
                queued_s=queued_s,
                detail=self._config.http.metrics,
            ),
            energy=energy_of(finished, energy, None if welcome is None else welcome.energy_label),
            degraded=Degraded(finished.num_unverified, finished.degraded) if finished.num_unverified else None,
        )

    def _account(
        self, request: Request, finished: Finished | None, started_ns: int, error: str | None
    ) -> AgentEnergy | str:
        """Count and record a request that is not open any more; return its share of this box."""
        meter = self._meter
        ended_ns = self._client.now_ns() if isinstance(meter, str) else meter.ended()
        if finished is None:
            finished = Finished(started_ns=started_ns, ended_ns=ended_ns)
        self.collector.add(finished)
        energy = meter if isinstance(meter, str) else request_energy(meter, finished, ended_ns)
        if self._recorder is not None:
            self._recorder.take(self._records(request, finished, energy, error))
        return energy

    def _records(
        self, request: Request, finished: Finished, energy: AgentEnergy | str, error: str | None
    ) -> list[AnyRecord]:
        welcome = self._client.welcome
        sources = Sources(
            self._run_id, self._config.agent_id, energy, None if welcome is None else welcome.energy_label
        )
        with_text = self._config.record_texts
        tokens = b"".join(token.to_bytes(4, "little") for token in request.prompt_ids)
        record = request_record(
            request,
            finished,
            sources,
            name=f"{request.request_id:016x}",
            prompt_sha256=hashlib.sha256(tokens).hexdigest() if with_text else "",
            error=error,
            with_text=with_text,
        )
        return [*round_records(request, finished, sources), record]
