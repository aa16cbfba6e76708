"""What has happened at the coordinator lately: agents, requests, rounds, passes and sums by the second. No I/O.

    dispatcher --joined, opened, passed, judged ...--> rings, each with an end --> feed.py

Whatever is told costs an append; nothing is formatted before somebody looks. Every entry of a ring has a number that
goes up, and every row a version, so that a viewer can be given what it has not seen.

Times are microseconds since the journal was begun.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, Literal, NamedTuple, TypeVar

from multispin_coordinator.passes import PassTiming
from multispin_models.messages import Condition, Hello, UndecidedVerdict, Verdict

__all__ = ["AgentRow", "PageJournal", "Part", "PassEntry", "RequestRow", "Ring", "RoundEntry", "RoundKind", "Second"]

SECONDS_KEPT: Final = 300
PASSES_KEPT: Final = 512
ROUNDS_KEPT: Final = 1024
ENDED_KEPT: Final = 32  # requests that have ended
LOST_KEPT: Final = 32  # agents that are gone
RECENT_DRAFTS: Final = 64  # of an agent, for its acceptance and its length

T = TypeVar("T")
RoundKind = Literal["open", "draft", "alone"]
PartKind = Literal["prompt", "draft", "alone"]


class Ring(Generic[T]):
    """The last entries of a sequence that never ends.

    >>> ring = Ring(2)
    >>> for letter in "abc":
    ...     ring.append(letter)
    >>> ring.end, list(ring.since(0)), list(ring.since(2))
    (3, ['b', 'c'], ['c'])
    """

    def __init__(self, size: int) -> None:
        self.end = 0  # number of the next entry
        self._kept: deque[T] = deque(maxlen=size)

    def append(self, entry: T) -> None:
        """Add an entry; the oldest goes when there is no room."""
        self._kept.append(entry)
        self.end += 1

    def since(self, number: int) -> Iterator[T]:
        """Yield the entries from a number on, as far as they are kept."""
        missing = self.end - number
        yield from list(self._kept)[-missing:] if missing > 0 else ()


class Part(NamedTuple):
    """Rows of one request in a pass; `request` is the key of its row."""

    request: int
    num_rows: int
    kind: PartKind


class PassEntry(NamedTuple):
    """A forward pass of the target, with the choices; `energy_nj` is null if any part of it is not known."""

    started_us: int
    verify_us: int
    num_rows: int
    energy_nj: int | None
    parts: tuple[Part, ...]


class RoundEntry(NamedTuple):
    """An exchange: what was drafted, what became of it, and where its time went.

    Attributes:
        request: key of its row.
        round: number on the wire.
        kind: "open" answers an Open, "draft" a Draft; "alone" is a token that the coordinator wrote unasked.
        num_drafted, num_accepted: tokens.
        tokens: drafted ones; null where texts are not kept.
        next_token: committed after the accepted ones; null likewise, and where the agent is to choose it.
        finish: as in Verdict.
        sent_us: when the verdict was about to be sent.
        away_us: from the verdict before to this draft's arrival: drafting, and the network both ways; null for "open"
            and "alone".
        draft_us, network_us: what the agent has told of these, lately, drafting for all tokens; null where it has not.
        queue_us: at the coordinator, less the passes.
        verify_us: the passes that its rows were in.
        batch_rows: of the last of them.
        energy_nj: share of the passes; null if not known.
    """

    request: int
    round: int
    kind: RoundKind
    num_drafted: int
    num_accepted: int
    tokens: tuple[int, ...] | None
    next_token: int | None
    finish: int
    sent_us: int
    away_us: int | None
    draft_us: int | None
    network_us: int | None
    queue_us: int
    verify_us: int
    batch_rows: int
    energy_nj: int | None


@dataclass
class Second:
    """Sums of one second; `number` counts from the beginning of the journal."""

    number: int
    num_cooperative: int = 0  # tokens committed for agents, and for the coordinator's own users
    num_alone: int = 0
    num_drafted: int = 0
    num_accepted: int = 0
    num_passes: int = 0
    num_rows: int = 0
    busy_us: int = 0
    energy_nj: int = 0  # of metered passes
    num_unmetered: int = 0


@dataclass
class AgentRow:
    """An agent, as it was heard of last."""

    key: int
    name: str
    draft_fingerprint: str
    version: int = 0
    is_lost: bool = False
    condition: Condition | None = None
    draft_us: int | None = None  # per token
    network_us: int | None = None
    num_open: int = 0
    verdict: Verdict | None = None  # the last one
    drafts: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=RECENT_DRAFTS))  # drafted, accepted


@dataclass
class RequestRow:
    """A request; `agent` is the row of its agent, null for the coordinator's own users."""

    key: int
    request_id: int
    agent: AgentRow | None
    num_prompt_tokens: int
    opened_us: int
    version: int = 0
    ended_us: int | None = None
    end: str | None = None  # "end of text", "length", "closed", "failed"
    num_tokens: int = 0
    num_rounds: int = 0
    num_drafted: int = 0
    num_accepted: int = 0
    is_opening: bool = True
    is_alone: bool = False  # the next round is the coordinator's own
    sent_us: int = 0  # the last verdict


ENDS: Final = {1: "end of text", 2: "length"}


class PageJournal:
    """The rings.

    Args:
        begun_ns: monotonic, now.
        keeps_tokens: the tokens of texts are kept with their rounds; else their numbers only.
    """

    def __init__(self, begun_ns: int, *, keeps_tokens: bool) -> None:
        self.keeps_tokens = keeps_tokens
        self.seconds: deque[Second] = deque(maxlen=SECONDS_KEPT)
        self.passes: Ring[PassEntry] = Ring(PASSES_KEPT)
        self.rounds: Ring[RoundEntry] = Ring(ROUNDS_KEPT)
        self.agents: dict[bytes, AgentRow] = {}
        self.requests: dict[int, RequestRow] = {}
        self.version = 0  # of the row that changed last
        self._begun_ns = begun_ns
        self._keys = 0

    def us(self, now_ns: int) -> int:
        """Return an instant as this journal counts."""
        return (now_ns - self._begun_ns) // 1000

    # -- agents -------------------------------------------------------------------------------------------------------

    def joined(self, agent: bytes, hello: Hello) -> None:
        """Note an agent that was welcomed; one that started anew is a new row."""
        self.agents.pop(agent, None)
        self._keys += 1
        self.agents[agent] = row = AgentRow(self._keys, hello.agent_id, hello.draft_fingerprint)
        self._touch(row)

    def left(self, agent: bytes) -> None:
        """Note an agent that has been silent for too long."""
        row = self.agents.get(agent)
        if row is None:
            return
        row.is_lost = True
        self._touch(row)
        lost = [name for name, each in self.agents.items() if each.is_lost]
        for name in lost[:-LOST_KEPT]:
            del self.agents[name]

    def told(self, agent: bytes, condition: Condition) -> None:
        """Note what an agent says of its box."""
        if (row := self.agents.get(agent)) is not None:
            row.condition = condition
            self._touch(row)

    def timed(self, agent: bytes, draft_us: int, network_us: int) -> None:
        """Note what an agent says of its recent times, per drafted token and per exchange; 0 is not known."""
        if (row := self.agents.get(agent)) is not None:
            row.draft_us, row.network_us = draft_us or None, network_us or None
            self._touch(row)

    # -- requests -----------------------------------------------------------------------------------------------------

    def opened(self, agent: bytes, request_id: int, num_prompt_tokens: int, now_ns: int) -> None:
        """Note a request that was opened, or opened again, perhaps by another agent."""
        row = self.requests.get(request_id)
        owner = self.agents.get(agent)
        if row is not None and row.ended_us is None:
            self._count_open(row, -1)
            row.agent, row.is_opening, row.is_alone = owner, True, False
        else:
            self._keys += 1
            self.requests.pop(request_id, None)
            row = RequestRow(self._keys, request_id, owner, num_prompt_tokens, self.us(now_ns))
            self.requests[request_id] = row
        self._count_open(row, 1)
        self._touch(row)

    def ended(self, request_id: int, end: str, now_ns: int) -> None:
        """Note that a request is over; the oldest that are over are forgotten."""
        row = self.requests.get(request_id)
        if row is None or row.ended_us is not None:
            return
        row.ended_us, row.end = self.us(now_ns), end
        self._count_open(row, -1)
        self._touch(row)
        over = [number for number, each in self.requests.items() if each.ended_us is not None]
        for number in over[:-ENDED_KEPT]:
            del self.requests[number]

    # -- passes and rounds --------------------------------------------------------------------------------------------

    def passed(self, parts: Sequence[tuple[int, int, bool]], timing: PassTiming) -> None:
        """Note a pass.

        Args:
            parts: request id, rows, and whether they answer an Open, of every part; at least one.
            timing: measured around it.
        """
        known = [share for share in timing.energy_nj if share is not None]
        energy_nj = sum(known) if len(known) == len(timing.energy_nj) else None
        num_rows = sum(rows for _, rows, _ in parts)
        told = []
        for request_id, rows, is_opening in parts:
            row = self.requests.get(request_id)
            if row is not None:
                told.append(Part(row.key, rows, "prompt" if is_opening else "alone" if row.is_alone else "draft"))
        started_us = self.us(timing.finished_ns) - timing.verify_us
        self.passes.append(PassEntry(started_us, timing.verify_us, num_rows, energy_nj, tuple(told)))
        second = self._second(timing.finished_ns)
        second.num_passes += 1
        second.num_rows += num_rows
        second.busy_us += timing.verify_us
        if energy_nj is None:
            second.num_unmetered += 1
        else:
            second.energy_nj += energy_nj

    def judged(self, drafted: Sequence[int], verdict: Verdict, now_ns: int) -> None:
        """Note a verdict, and the draft that it is about."""
        row = self.requests.get(verdict.request_id)
        if row is None:
            return
        owner = row.agent
        kind: RoundKind = "open" if row.is_opening else "alone" if row.is_alone else "draft"
        is_undecided = isinstance(verdict, UndecidedVerdict)  # the agent will choose the token
        sent_us = self.us(verdict.received_ns) + verdict.residence_us
        draft_us = owner.draft_us if owner is not None and kind == "draft" else None
        entry = RoundEntry(
            request=row.key,
            round=verdict.round,
            kind=kind,
            num_drafted=len(drafted),
            num_accepted=verdict.num_accepted,
            tokens=tuple(drafted) if self.keeps_tokens else None,
            next_token=None if is_undecided or not self.keeps_tokens else verdict.next_token_id,
            finish=verdict.finish,
            sent_us=sent_us,
            away_us=max(0, self.us(verdict.received_ns) - row.sent_us) if kind == "draft" else None,
            draft_us=None if draft_us is None else draft_us * len(drafted),
            network_us=owner.network_us if owner is not None and kind == "draft" else None,
            queue_us=max(0, verdict.residence_us - verdict.verify_us),
            verify_us=verdict.verify_us,
            batch_rows=verdict.batch_rows,
            energy_nj=verdict.energy_nj,
        )
        self.rounds.append(entry)
        self._count(row, entry, self._second(now_ns))
        row.is_opening, row.is_alone, row.sent_us = False, verdict.alone, sent_us
        if owner is not None:
            owner.verdict = verdict
            self._touch(owner)
        self._touch(row)
        if verdict.finish:
            self.ended(verdict.request_id, ENDS[verdict.finish], now_ns)

    def _count(self, row: RequestRow, entry: RoundEntry, second: Second) -> None:
        num_tokens = entry.num_accepted + 1
        row.num_tokens += num_tokens
        row.num_rounds += 1
        row.num_drafted += entry.num_drafted
        row.num_accepted += entry.num_accepted
        second.num_drafted += entry.num_drafted
        second.num_accepted += entry.num_accepted
        if row.agent is None:
            second.num_alone += num_tokens
            return
        second.num_cooperative += num_tokens
        if entry.kind == "draft":
            row.agent.drafts.append((entry.num_drafted, entry.num_accepted))

    def _second(self, now_ns: int) -> Second:
        number = self.us(now_ns) // 1_000_000
        if not self.seconds or self.seconds[-1].number < number:
            self.seconds.append(Second(number))
        return self.seconds[-1]

    def _count_open(self, row: RequestRow, change: int) -> None:
        if row.agent is not None:
            row.agent.num_open += change
            self._touch(row.agent)

    def _touch(self, row: AgentRow | RequestRow) -> None:
        self.version += 1
        row.version = self.version
