"""A request as a user asks it, and what became of it: the data that `generate` takes and gives."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from multispin_agent.round_clock import RoundParts
from multispin_models.errors import MultispinError
from multispin_models.messages import Verdict
from multispin_models.records import Finish
from multispin_models.sampling import Sampling
from multispin_models.verification import Rule

__all__ = ["Finished", "NoRoom", "Request", "RequestFailed", "RoundTiming", "coordinator_energy_j"]


class RequestFailed(MultispinError):
    """A request that cannot be served; what was generated of it is kept in `finished`."""

    def __init__(self, message: str, finished: "Finished | None" = None) -> None:
        super().__init__(message)
        self.finished = finished


class NoRoom(RequestFailed):
    """A request that has not begun, and for which the coordinator had no room in `busy_s`."""


@dataclass(frozen=True)
class Request:
    """What a user asks.

    Attributes:
        request_id: 64 random bits, on the wire.
        prompt_ids: the prompt as tokens.
        sampling: how tokens are drawn.
        max_tokens: most tokens to generate.
        stop: strings before which the text ends.
        ignore_end: go on past end-of-text.
        provenance: say whose every part of the text is.
    """

    request_id: int
    prompt_ids: Sequence[int]
    sampling: Sampling
    max_tokens: int
    stop: tuple[str, ...] = ()
    ignore_end: bool = False
    provenance: bool = False


@dataclass
class RoundTiming:
    """One verdict and the time that led to it. `draft_s` is model time, since the verdict before.

    `confidences` is what was predicted of each drafted token, `next_token_id` null if the verdict left it undecided.
    """

    is_open: bool

    verdict: Verdict
    num_draft_tokens: int
    sent_ns: int
    draft_s: float
    round_trip_s: float
    ahead_hit: bool | None
    payload_up_bytes: int
    payload_down_bytes: int
    confidences: list[float | None]
    parts: RoundParts | None = None
    received_ns: int = 0
    next_token_id: int | None = None

    @property
    def num_committed(self) -> int:
        """Tokens that the verdict brought."""
        return self.verdict.num_accepted + (self.next_token_id is not None)


@dataclass
class Finished:
    """What became of a request.

    `num_reused` and `num_draft_reused` are tokens of its prompt that the target and the draft model did not compute.
    `num_unverified` tokens at its end are the draft model's alone, and `degraded` says why; "" where all were verified.
    """

    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    finish: Finish = "error"
    started_ns: int = 0
    first_token_ns: int = 0
    ended_ns: int = 0
    num_reopens: int = 0
    num_reused: int = 0
    num_draft_reused: int = 0
    payload_up_bytes: int = 0
    payload_down_bytes: int = 0
    rounds: list[RoundTiming] = field(default_factory=list)
    verification: Rule = "coupled"
    num_unverified: int = 0
    degraded: str = ""


def coordinator_energy_j(rounds: Sequence[RoundTiming]) -> float | None:
    """Return the coordinator's joules of a request; null unless every round has its share."""
    shares = [timing.verdict.energy_nj for timing in rounds]
    known = [share for share in shares if share is not None]
    return sum(known) / 1e9 if known and len(known) == len(shares) else None
