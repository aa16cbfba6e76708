"""The coordinator as a `TextService`: texts of the target alone, computed in the passes that verify agents' drafts."""

import asyncio
import logging
from collections.abc import Callable

from multispin_coordinator.admission import Reject
from multispin_coordinator.config import Config
from multispin_coordinator.server import Server
from multispin_coordinator.session import FINISH_LENGTH
from multispin_models.api.errors import ApiError, overloaded
from multispin_models.api.figures import Course, metrics_of, timings_of
from multispin_models.api.replies import EndEnergy, Energy
from multispin_models.api.service import Bounds, Generated, TextRequest
from multispin_models.clock import monotonic_ns
from multispin_models.energy.meter import Label
from multispin_models.language_model import ModelInfo, Tokenizer
from multispin_models.messages import Open, Refused, Verdict
from multispin_models.provenance import Piece, Provenance, sources_of_round
from multispin_models.text import TextAssembler

__all__ = ["AloneService"]

log = logging.getLogger(__name__)

RETRY_AFTER_S = 2
NO_AGENT = EndEnergy(None, None, "no agent took part: the target wrote the text alone")


class AloneService:
    """Serves texts of the target.

    Args:
        config: of the coordinator.
        server: runs the passes.
        tokenizer: of the target.
        info: of the target.
        energy_label: of the joules of passes; null without a meter.
    """

    def __init__(
        self, config: Config, server: Server, tokenizer: Tokenizer, info: ModelInfo, energy_label: Label | None
    ) -> None:
        self._config = config
        self._server = server
        self._tokenizer = tokenizer
        self._info = info
        self._energy_label = energy_label

    @property
    def tokenizer(self) -> Tokenizer:
        """Of the target."""
        return self._tokenizer

    @property
    def n_vocab(self) -> int:
        """Of the target."""
        return self._info.n_vocab

    @property
    def num_slots(self) -> int:
        """As many as the settings say, and no more than there are sequences."""
        return min(self._config.max_concurrent, self._config.limits.max_sessions)

    @property
    def drafts(self) -> bool:
        """Nobody drafts."""
        return False

    @property
    def fingerprint(self) -> str:
        """Of the target."""
        return f"fp_{self._info.fingerprint[:12]}"

    def bounds(self) -> Bounds:
        """Return the bounds of a request, the same as for agents."""
        limits = self._config.limits
        return Bounds(limits.max_prompt_tokens, min(limits.max_context_tokens, self._info.n_ctx))

    def why_absent(self) -> str:
        """Return "": whoever can ask is served."""
        return ""

    def why_degraded(self) -> str:
        """Return "": nobody drafts here."""
        return ""

    async def generate(self, request: TextRequest, on_text: Callable[[Piece], None], queued_s: float) -> Generated:
        """Return the text of a request.

        Raises:
            ApiError: too much is asked of the target at once, or it failed on this request.
        """
        writing = _Writing(request, self._tokenizer)
        answers: asyncio.Queue[Verdict | Refused] = asyncio.Queue()
        try:
            session = self._server.open_alone(writing.open(), answers.put_nowait)
        except Reject as reject:
            raise _api_error(reject.code, reject.message) from reject
        try:
            while not writing.is_done:
                piece = writing.take(await answers.get())
                if piece.text:
                    on_text(piece)
        finally:
            self._server.close_alone(request.request_id)
        rest = writing.finish()
        if rest.text:
            on_text(rest)
        return writing.generated(self._config, self._energy_label, session.num_reused, queued_s)


class _Writing:
    """One text as its tokens come. No I/O but the clock."""

    def __init__(self, request: TextRequest, tokenizer: Tokenizer) -> None:
        self._request = request
        self._assembler = TextAssembler(tokenizer.token_bytes, request.stop)
        self._provenance = Provenance(tokenizer.token_bytes) if request.provenance else None
        self._started_ns = monotonic_ns()
        self._first_token_ns = self._ended_ns = 0
        self._energy_nj: int | None = 0
        self._finish = 0

    @property
    def is_done(self) -> bool:
        return bool(self._finish) or self._assembler.stopped

    def open(self) -> Open:
        request = self._request
        return Open(
            request_id=request.request_id,
            round=0,
            token_ids=request.prompt_ids,
            num_prompt_tokens=len(request.prompt_ids),
            max_tokens=request.max_tokens,
            sampling=request.sampling,
            ignore_end=request.ignore_end,
        )

    def take(self, answer: Verdict | Refused) -> Piece:
        """Return the text that is certain now.

        Raises:
            ApiError: the target failed.
        """
        if isinstance(answer, Refused):
            log.warning("request %016x failed: %s", self._request.request_id, answer.message)
            raise _api_error(answer.code, answer.message)
        self._ended_ns = monotonic_ns()
        self._first_token_ns = self._first_token_ns or self._ended_ns
        self._finish = answer.finish
        share = answer.energy_nj
        self._energy_nj = None if share is None or self._energy_nj is None else self._energy_nj + share
        token_ids = (answer.next_token_id,)
        if self._provenance is not None:
            self._provenance.add(token_ids, sources_of_round(0, 0))
        return self._piece(self._assembler.feed(token_ids))

    def finish(self) -> Piece:
        """Return what was held back."""
        return self._piece(self._assembler.finish())

    def _piece(self, text: str) -> Piece:
        return Piece(text) if self._provenance is None else self._provenance.take(text)

    def generated(self, config: Config, energy_label: Label | None, num_reused: int, queued_s: float) -> Generated:
        course = Course(
            started_ns=self._started_ns,
            first_token_ns=self._first_token_ns,
            ended_ns=self._ended_ns,
            num_prompt_tokens=len(self._request.prompt_ids),
            num_cached=num_reused,
            num_tokens=self._assembler.num_tokens,
        )
        if self._energy_nj is None:
            own = EndEnergy(None, None, "not every pass was metered: the coordinator has no meter of its own")
        else:
            own = EndEnergy(self._energy_nj / 1e9, energy_label, None)
        return Generated(
            text=self._assembler.text,
            num_tokens=course.num_tokens,
            num_cached=course.num_cached,
            finish="length" if self._finish == FINISH_LENGTH and not self._assembler.stopped else "stop",
            timings=timings_of(course),
            metrics=metrics_of(course, num_spec_tokens=0, queued_s=queued_s, detail=config.http.metrics),
            energy=Energy(NO_AGENT, own),
        )


def _api_error(code: str, message: str) -> ApiError:
    if code == "busy":
        return overloaded(message, RETRY_AFTER_S)
    if code == "request_owned":
        return ApiError(409, "invalid_request_error", message, param="resume.id", code="request_under_way")
    return ApiError(500, "server_error", message, code=code)
