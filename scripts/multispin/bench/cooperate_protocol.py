"""What agents that stay between blocks are told and answer (`cooperate_agent.py`), and where they run."""

import os
from collections.abc import Iterator
from typing import Final, NamedTuple

from msgspec import Struct

from multispin_models.prompts import Job
from multispin_models.records import ConditionsRecord, EnergyRecord, MeteredEnd, RequestRecord, RoundRecord

__all__ = ["LONGEST_LINE", "NULL_ENGINE", "AgentPlace", "Answer", "Block", "input_lines"]

NULL_ENGINE: Final = "null"
LONGEST_LINE: Final = 1 << 28  # bytes of an answer


class AgentPlace(NamedTuple):
    """Where an agent runs.

    Attributes:
        agent_id: its name.
        launch: words before its command, as ("ssh", "box"); then it is another machine's. Empty for this one.
        python: the interpreter there; null for this one.
        cpus: cores of this machine; null for all.
        file: an agent.toml there; null for none.
    """

    agent_id: str
    launch: tuple[str, ...] = ()
    python: str | None = None
    cpus: tuple[int, ...] | None = None
    file: str | None = None


class Block(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What to serve now.

    Attributes:
        jobs: of its users; none only has the box looked at.
        run_id: in every record.
        at_once: users served at once.
        due_s: when each job comes, by id, after the first could be served; those without are there at once.
        by_itself: the draft model writes the texts, one after the other, and nobody verifies them.
        idle_s: asked nothing for so long before, to be metered.
        conditions_s: the box is looked at so often; 0 leaves it to who runs on the same one.
    """

    jobs: list[Job]
    run_id: str = "bench"
    at_once: int = 1
    due_s: dict[str, float] = {}
    by_itself: bool = False
    idle_s: float = 0.0
    conditions_s: float = 0.0


class Answer(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What became of a block.

    Attributes:
        begun_ns: when the first job could be served; monotonic, of the agent's machine, as all that follow.
        requests, rounds: as they were recorded.
        conditions: of the box, before, meanwhile and after.
        meter: of the agent's box, with the reason where it reads none.
        idle, energy: what it counted before and meanwhile; null without a meter.
    """

    begun_ns: int
    requests: list[RequestRecord]
    rounds: list[RoundRecord]
    conditions: list[ConditionsRecord]
    meter: MeteredEnd
    idle: EnergyRecord | None
    energy: EnergyRecord | None


def input_lines() -> Iterator[bytes]:
    """Yield the lines of standard input as they come, for a thread.

    By its descriptor: a thread that waits within a buffered reader makes the interpreter abort at its end.
    """
    rest = b""
    while piece := os.read(0, 1 << 16):
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines
