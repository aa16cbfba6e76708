"""What a request can hear from the connection: answers, and what happens to the way that they come."""

from dataclasses import dataclass

from multispin_models.errors import ConfigError
from multispin_models.messages import Refused, Verdict

__all__ = ["Answer", "Event", "Guessed", "HeardAgain", "Reconnected", "RefusedByCoordinator", "Silence"]


class RefusedByCoordinator(ConfigError):
    """The coordinator will never serve this agent as it is configured."""


@dataclass(frozen=True)
class Answer:
    """A Verdict or Refused for one request.

    Attributes:
        message: as it came.
        received_ns: monotonic, when it was read (t4 of four).
        num_bytes: of its frame.
    """

    message: Verdict | Refused
    received_ns: int
    num_bytes: int


class Reconnected:
    """The coordinator is a new one, or has forgotten this agent: every request must be opened again."""


@dataclass(frozen=True)
class Silence:
    """No answer came in the time that a request gave itself.

    Attributes:
        heard_ns: monotonic, when it had last heard something; if it has since, this is no news.
    """

    heard_ns: int


@dataclass(frozen=True)
class Guessed:
    """The draft model is done with a guess that nobody waited for.

    Attributes:
        position: of the token that was guessed.
    """

    position: int


@dataclass(frozen=True)
class HeardAgain:
    """The coordinator was silent for longer than it should, and is not any more: what awaits an answer asks at once.

    Attributes:
        heard_ns: monotonic, when it was; a request that has had an answer since need not ask.
    """

    heard_ns: int


Event = Answer | Reconnected | RefusedByCoordinator | Silence | HeardAgain | Guessed
"""What a request can hear: an answer, to be opened again, that nothing more will come, nothing, or a guess."""
