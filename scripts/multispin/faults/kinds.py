"""What fails, how often and for how long. No I/O: faults are drawn by a seed."""

import random
from collections.abc import Sequence

import msgspec

__all__ = ["COORDINATOR", "KINDS", "Fault", "FaultDraw", "Kind", "agent_name"]

COORDINATOR = "coordinator"


class Kind(msgspec.Struct, frozen=True):
    """One way to fail.

    Attributes:
        name: of it.
        at: what it is done to: "link" (of one agent), "agent", or "coordinator".
        weight: how often it is drawn, beside the others.
        shortest_s, longest_s: how long it lasts; a kill lasts until the daemon is started again.
        what: for people.
    """

    name: str
    at: str
    weight: float
    shortest_s: float
    longest_s: float
    what: str


KINDS = (
    Kind("cut", "link", 10, 0.0, 1.5, "the agent's connections are reset and refused for a while"),
    Kind("half-open", "link", 8, 0.3, 6.0, "the connections stay, nothing comes through; then it all does"),
    Kind("half-open-cut", "link", 5, 0.3, 6.0, "the same, then they are reset"),
    Kind("mid-frame", "link", 9, 4.0, 4.0, "a connection ends in the middle of a frame, either way"),
    Kind("delay", "link", 8, 0.5, 3.0, "each way takes 20 to 400 ms more"),
    Kind("lose", "link", 12, 4.0, 4.0, "one to three messages vanish, either way"),
    Kind("duplicate", "link", 12, 4.0, 4.0, "one to three messages come twice, either way"),
    Kind("reorder", "link", 10, 4.0, 4.0, "a message comes after the one that follows it, either way"),
    Kind("agent-kill", "agent", 3, 0.0, 0.0, "SIGKILL; another is started at once"),
    Kind("agent-stop", "agent", 7, 0.1, 6.0, "SIGSTOP, then SIGCONT; beyond 4 s the coordinator has given it up"),
    Kind("agent-disk", "agent", 4, 0.5, 4.0, "the disk of the spool is full to the last byte"),
    Kind("agent-clock", "agent", 6, 0.0, 0.0, "the wall clock steps by up to 2 h, to either side, and stays there"),
    Kind("coordinator-kill", COORDINATOR, 1.2, 0.0, 0.0, "SIGKILL; another is started at once"),
    Kind("coordinator-stop", COORDINATOR, 2.5, 0.1, 3.0, "SIGSTOP, then SIGCONT"),
    Kind("coordinator-disk", COORDINATOR, 3, 0.5, 4.0, "the disk of the store is full to the last byte"),
    Kind("coordinator-clock", COORDINATOR, 2, 0.0, 0.0, "as agent-clock"),
)


class Fault(msgspec.Struct, frozen=True):
    """One fault.

    Attributes:
        kind: name.
        target: "agent-0", ...: the agent or its link; or "coordinator".
        lasts_s: how long.
        is_up: of faults of a direction: what the agent sends.
        count: of faults of messages: how many.
        clock_s: of clock steps: where the clock then stands, against the true one.
    """

    kind: str
    target: str
    lasts_s: float
    is_up: bool
    count: int
    clock_s: float

    @property
    def name(self) -> str:
        """Kind and target: two of one name are never on at the same time."""
        return f"{self.kind} {self.target}"


def agent_name(index: int) -> str:
    """Return the name of an agent."""
    return f"agent-{index}"


class FaultDraw:
    """Draws faults.

    Args:
        seed: of all that is drawn.
        num_agents: agents of the site; the first one is never killed where there are others, so that its memory and
            its files can be told over a whole run.
        without: names of kinds that cannot be tried here.
        kinds: to draw from.
    """

    def __init__(self, seed: int, num_agents: int, without: Sequence[str] = (), kinds: Sequence[Kind] = KINDS) -> None:
        self.random = random.Random(seed)  # noqa: S311 - moments of trouble, not secrets
        self._num_agents = num_agents
        self._kinds = [kind for kind in kinds if kind.name not in without]

    def fault(self, *, spare: Sequence[str] = ()) -> Fault:
        """Return the next fault; of kinds in `spare` none."""
        kinds = [kind for kind in self._kinds if kind.name not in spare]
        [kind] = self.random.choices(kinds, [kind.weight for kind in kinds])
        first = 1 if kind.name == "agent-kill" and self._num_agents > 1 else 0
        index = self.random.randrange(first, self._num_agents)
        return Fault(
            kind=kind.name,
            target=COORDINATOR if kind.at == COORDINATOR else agent_name(index),
            lasts_s=self.random.uniform(kind.shortest_s, kind.longest_s),
            is_up=self.random.random() < 0.5,
            count=self.random.randint(1, 3),
            clock_s=self.random.uniform(-7200.0, 7200.0),
        )

    def pause_s(self, mean_s: float) -> float:
        """Return the time to the next fault, exponentially distributed."""
        return self.random.expovariate(1.0 / mean_s)
