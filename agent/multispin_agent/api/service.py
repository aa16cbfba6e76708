"""The agent as a `TextService`: requests of its users, drafted here and verified by the coordinator."""

import logging
from collections.abc import Callable

from multispin_agent.api.collector import AgentCollector
from multispin_agent.api.figures import course_of, energy_of
from multispin_agent.attribution import BoxEnergy
from multispin_agent.client import Client, RefusedByCoordinator
from multispin_agent.config import Config
from multispin_agent.draft_source import DraftSource
from multispin_agent.generate import generate
from multispin_agent.request import Request, RequestFailed
from multispin_models.api.errors import ApiError, unavailable
from multispin_models.api.figures import metrics_of, timings_of
from multispin_models.api.service import Bounds, Generated, TextRequest
from multispin_models.clock import monotonic_ns
from multispin_models.engine_thread import EngineThread
from multispin_models.language_model import Tokenizer
from multispin_models.provenance import Piece

__all__ = ["AgentService"]

log = logging.getLogger(__name__)


class AgentService:
    """Serves texts over one connection.

    Args:
        config: of the agent.
        client: the connection.
        drafts: where they come from; their vocabulary is the target's.
        engine: its thread.
        meter: the account of this box; or the reason why there is none.
    """

    def __init__(
        self, config: Config, client: Client, drafts: DraftSource, engine: EngineThread, meter: BoxEnergy | str
    ) -> None:
        self._config = config
        self._client = client
        self._source = drafts
        self._engine = engine
        self._meter = meter
        self.collector = AgentCollector(meter if isinstance(meter, str) else meter.sampler, drafts.num_kept)

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
        """Return the coordinator's bounds; a shorter context of the draft only ends its drafting."""
        welcome = self._client.welcome
        return None if welcome is None else Bounds(welcome.max_prompt_tokens, welcome.max_context_tokens)

    def why_absent(self) -> str:
        """Return what is the matter with the coordinator, "" if nothing."""
        return self._client.why_absent(monotonic_ns())

    async def generate(self, request: TextRequest, on_text: Callable[[Piece], None], queued_s: float) -> Generated:
        """Return the text of a request.

        Raises:
            ApiError: the coordinator refused it or this agent for good, or was silent past the deadline.
        """
        meter = self._meter
        started_ns = self._client.now_ns() if isinstance(meter, str) else meter.opened()
        ended_ns = started_ns
        try:
            finished = await generate(
                Request(
                    request.request_id,
                    request.prompt_ids,
                    request.sampling,
                    request.max_tokens,
                    stop=request.stop,
                    ignore_end=request.ignore_end,
                    provenance=request.provenance,
                ),
                config=self._config,
                client=self._client,
                drafts=self._source,
                engine=self._engine,
                on_text=on_text,
                started_ns=started_ns,
            )
        except RefusedByCoordinator as refusal:
            raise unavailable(str(refusal), "agent_refused") from refusal
        except RequestFailed as failure:
            if failure.finished is not None:
                self.collector.add(failure.finished)
            log.warning("request %016x failed: %s", request.request_id, failure)
            raise ApiError(502, "server_error", str(failure), code="coordinator_failed") from failure
        finally:
            if not isinstance(meter, str):
                ended_ns = meter.ended()
        self.collector.add(finished)
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
            energy=energy_of(
                finished,
                meter if isinstance(meter, str) else meter.joules(started_ns, ended_ns),
                None if isinstance(meter, str) else meter.info.label,
                None if self._client.welcome is None else self._client.welcome.energy_label,
            ),
        )
