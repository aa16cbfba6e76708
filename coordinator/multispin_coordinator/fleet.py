"""Who the agents are, as far as they have said: versions, models, disk, heat, clock, last heard. No I/O.

What an agent tells of its box decides nothing here; `multispin fleet status` shows it. Agents that are gone stay in the
table until `MOST_GONE` newer ones are.
"""

import time
from collections.abc import Callable
from typing import Final

import msgspec

from multispin_models.messages import PROTOCOL_VERSION, BoxStatus, Condition, Hello

__all__ = ["AgentState", "Box", "Fleet", "FleetTable"]

MOST_GONE: Final = 1024


class Box(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An agent, as it was last heard of.

    Attributes:
        agent_id: its name.
        is_here: it is connected.
        last_seen_unix_s: wall clock of the coordinator when a message of it came.
        protocol_version: that it speaks.
        software_version: of the agent.
        draft_fingerprint: of what it drafts with.
        draft: the same for people; null until it has said so.
        status: what it told of its box last; null from agents that cannot (protocol 5), and until it has.
        status_unix_s: when that was.
        clock_offset_s: its wall clock less the coordinator's then; it holds the way of the message, too.
    """

    agent_id: str
    is_here: bool
    last_seen_unix_s: float
    protocol_version: int
    software_version: str
    draft_fingerprint: str
    draft: str | None = None
    status: BoxStatus | None = None
    status_unix_s: float | None = None
    clock_offset_s: float | None = None


class FleetTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All of them, as in the coordinator's `fleet_file`.

    Attributes:
        written_unix_s: when.
        coordinator_version: software.
        protocol_version: that it speaks; agents of the one before are served, too.
        boxes: by name.
    """

    written_unix_s: float
    coordinator_version: str
    protocol_version: int
    boxes: tuple[Box, ...]


class AgentState:
    """An agent that was welcomed and is here.

    Args:
        instance_id: of its start.
        last_seen_ns: monotonic.
        protocol_version: that it speaks.
    """

    def __init__(self, instance_id: str, last_seen_ns: int, protocol_version: int = PROTOCOL_VERSION) -> None:
        self.instance_id = instance_id
        self.last_seen_ns = last_seen_ns
        self.protocol_version = protocol_version


class Fleet:
    """The agents that are here, and what is known of these and of earlier ones.

    Args:
        unix_s: the wall clock.

    Attributes:
        agents: that are here, by their routing id.
        num_changes: goes up with all that is worth writing down at once.
    """

    def __init__(self, unix_s: Callable[[], float] = time.time) -> None:
        self._unix_s = unix_s
        self.agents: dict[bytes, AgentState] = {}
        self.num_changes = 0
        self._boxes: dict[str, Box] = {}  # the one heard of last at the end
        self._stranger_version = PROTOCOL_VERSION

    def heard(self, agent: bytes, version: int) -> None:
        """Note the protocol version of a frame, before it is looked into."""
        if agent not in self.agents:
            self._stranger_version = version

    def version_of(self, agent: bytes) -> int:
        """Return the version in which an agent is to be answered; one that is not known gets that of its frame."""
        state = self.agents.get(agent)
        return self._stranger_version if state is None else state.protocol_version

    def joined(self, agent: bytes, hello: Hello, now_ns: int) -> None:
        """Note a Hello that was welcomed."""
        self.agents[agent] = AgentState(hello.instance_id, now_ns, hello.protocol_version)
        known = self._boxes.get(hello.agent_id)
        self._put(
            Box(
                agent_id=hello.agent_id,
                is_here=True,
                last_seen_unix_s=self._unix_s(),
                protocol_version=hello.protocol_version,
                software_version=hello.software_version,
                draft_fingerprint=hello.draft_fingerprint,
                draft=None if known is None else known.draft,
                status=None if known is None else known.status,
                status_unix_s=None if known is None else known.status_unix_s,
                clock_offset_s=None if known is None else known.clock_offset_s,
            )
        )

    def conditioned(self, agent: bytes, condition: Condition) -> None:
        """Note what an agent drafts with."""
        box = self._boxes.get(agent.decode(errors="replace"))
        if box is not None and box.draft != condition.draft:
            self._put(msgspec.structs.replace(box, draft=condition.draft))

    def told(self, agent: bytes, status: BoxStatus) -> None:
        """Note what an agent tells of its box."""
        box = self._boxes.get(agent.decode(errors="replace"))
        if box is not None:
            unix_s = self._unix_s()
            offset_s = status.wall_ms / 1e3 - unix_s
            self._put(
                msgspec.structs.replace(box, status=status, status_unix_s=unix_s, clock_offset_s=round(offset_s, 3))
            )

    def left(self, agent: bytes) -> None:
        """Note that an agent is given up."""
        state = self.agents.pop(agent, None)
        box = self._boxes.get(agent.decode(errors="replace"))
        if state is not None and box is not None:
            self._put(msgspec.structs.replace(box, is_here=False, last_seen_unix_s=self._unix_s()))

    def table(self, software_version: str, now_ns: int) -> FleetTable:
        """Return all of it, with when each was last heard."""
        unix_s = self._unix_s()
        seen = {agent.decode(errors="replace"): state.last_seen_ns for agent, state in self.agents.items()}
        boxes = [
            msgspec.structs.replace(box, last_seen_unix_s=round(unix_s - (now_ns - seen[name]) / 1e9, 3))
            if name in seen
            else box
            for name, box in sorted(self._boxes.items())
        ]
        return FleetTable(round(unix_s, 3), software_version, PROTOCOL_VERSION, tuple(boxes))

    def restore(self, table: FleetTable) -> None:
        """Take what an earlier start has written down; nobody of it is here yet."""
        for box in sorted(table.boxes, key=lambda box: box.last_seen_unix_s):
            self._boxes.setdefault(box.agent_id, msgspec.structs.replace(box, is_here=False))

    def _put(self, box: Box) -> None:
        self._boxes.pop(box.agent_id, None)
        self._boxes[box.agent_id] = box
        self.num_changes += 1
        gone = [name for name, each in self._boxes.items() if not each.is_here]
        for name in gone[: max(0, len(gone) - MOST_GONE)]:
            del self._boxes[name]
