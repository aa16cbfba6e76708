"""What the end that serves users must offer to the HTTP interface."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import msgspec

from multispin_models.api.replies import Degraded, Energy, FinishReason, Metrics, Timings
from multispin_models.language_model import Tokenizer
from multispin_models.provenance import Piece
from multispin_models.sampling import Sampling

__all__ = ["Bounds", "Generated", "TextRequest", "TextService"]


class TextRequest(msgspec.Struct, frozen=True):
    """A prompt, and how its text is drawn.

    Attributes:
        request_id: 64 random bits, on the wire.
        prompt_ids: at least one token.
        sampling: temperature, truncation, seed.
        max_tokens: most tokens to generate.
        stop: the text ends before the first of these.
        ignore_end: go on past end-of-text.
        provenance: pieces of the text come with their spans.
    """

    request_id: int
    prompt_ids: tuple[int, ...]
    sampling: Sampling
    max_tokens: int
    stop: tuple[str, ...] = ()
    ignore_end: bool = False
    provenance: bool = False


class Generated(NamedTuple):
    """A text that has ended, and what it took.

    Attributes:
        text: all of it, as it was handed out in pieces.
        num_tokens: generated, the end token included.
        num_cached: prompt tokens that were not computed again.
        finish: "stop" for an end token or a stop string, "length" for max_tokens or the context.
        timings, metrics, energy: of the request.
        degraded: what of it is not verified; null if all is.
    """

    text: str
    num_tokens: int
    num_cached: int
    finish: FinishReason
    timings: Timings
    metrics: Metrics
    energy: Energy
    degraded: Degraded | None = None


class Bounds(NamedTuple):
    """Of one request, in tokens."""

    max_prompt_tokens: int
    max_context_tokens: int


class TextService(Protocol):
    """An end that writes texts."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Of the target's vocabulary; also used in a thread of its own."""
        ...

    @property
    def n_vocab(self) -> int:
        """Size of that vocabulary."""
        ...

    @property
    def num_slots(self) -> int:
        """How many requests can be served at once."""
        ...

    @property
    def drafts(self) -> bool:
        """Whether tokens are drafted here."""
        ...

    @property
    def fingerprint(self) -> str:
        """What the text is a function of, beside the request: the target, in few characters."""
        ...

    def bounds(self) -> Bounds | None:
        """Return the bounds of a request; None while they are not known, when nothing can be served."""
        ...

    def why_absent(self) -> str:
        """Return why requests cannot be counted on to be served now, "" when they can."""
        ...

    def why_degraded(self) -> str:
        """Return what does not work though requests are served, "" if nothing."""
        ...

    async def generate(self, request: TextRequest, on_text: Callable[[Piece], None], queued_s: float) -> Generated:
        """Return the text of a request; cancelled, it frees all that the request holds.

        Args:
            request: within `bounds`.
            on_text: called with every piece of text as it becomes certain: whole characters, no part of a stop string.
            queued_s: how long the request has waited for its slot.

        Raises:
            ApiError: it cannot be served.
        """
        ...
