"""What is new since a viewer last looked, as page events. No I/O.

    event, cursor = feed.since(None, now_ns, with_texts=True)       # all that is kept
    event, cursor = feed.since(cursor, now_ns, with_texts=True)     # what came since

A viewer is a cursor: it costs nothing while it does not ask, and one that asks late misses what the rings have let go.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from msgspec import Struct

from multispin_coordinator.page.journal import AgentRow, PageJournal, PassEntry, RequestRow, RoundEntry, Second
from multispin_models.messages import PRICE_UNIT

__all__ = ["AgentNews", "Begin", "Cursor", "Feed", "PageEvent", "RequestNews"]


class Begin(Struct, frozen=True):
    """What does not change while the coordinator runs.

    Attributes:
        version: of multispin.
        target, recipe, engine, exact: of what is served.
        policy, schedule: of the control.
        energy_label: of the joules of passes; null without a meter, for `energy_reason`.
        energy_reason: why there are none; else null.
        texts_reason: why this viewer sees no texts; null if it does.
    """

    version: str
    target: str
    recipe: str
    engine: str
    exact: bool
    policy: str
    schedule: str
    energy_label: str | None
    energy_reason: str | None
    texts_reason: str | None = None


class AgentNews(Struct, frozen=True):
    """An agent now. What is null has its reason in `reasons`, by the name of the field.

    Attributes:
        key: of the row.
        name: the agent's id.
        state: "drafting", "alone" (the coordinator goes on without its drafts), "idle" or "lost".
        num_open: its requests.
        draft: what it says that it drafts with; `draft_fingerprint` as it said when it joined.
        link_s: network time of an exchange, both ways, as it was lately.
        draft_s: of a drafted token, likewise.
        acceptance: accepted of drafted tokens, and `length`: tokens drafted a round, both over its last 64 drafts.
        allowed_length, price: what its last verdict allows.
        power_w, power_label: of its box, with the label of its meter.
        temperature_c: of the hottest zone of its box.
    """

    key: int
    name: str
    state: str
    num_open: int
    draft: str | None
    draft_fingerprint: str
    link_s: float | None
    draft_s: float | None
    acceptance: float | None
    length: float | None
    allowed_length: int | None
    price: float | None
    power_w: float | None
    power_label: str | None
    temperature_c: float | None
    reasons: dict[str, str]


class RequestNews(Struct, frozen=True):
    """A request now; `agent` is the key of its agent, null for the coordinator's own users. Times in microseconds."""

    key: int
    id: str
    agent: int | None
    num_prompt_tokens: int
    num_tokens: int
    num_rounds: int
    num_drafted: int
    num_accepted: int
    opened_us: int
    ended_us: int | None
    end: str | None


class PageEvent(Struct, frozen=True, omit_defaults=True):
    """What a viewer is sent.

    Attributes:
        now_us: the instant, as the journal counts.
        begin: in the first event.
        agents, requests: rows that have changed.
        seconds: sums by the second, from the one on that was not over at the last look.
        passes: `PassEntry` as arrays.
        rounds: `RoundEntry` as arrays; tokens are strings with a character a byte, or null where they are not shown.
    """

    now_us: int
    begin: Begin | None = None
    agents: tuple[AgentNews, ...] = ()
    requests: tuple[RequestNews, ...] = ()
    seconds: tuple[Second, ...] = ()
    passes: tuple[PassEntry, ...] = ()
    rounds: tuple[tuple[Any, ...], ...] = ()


class Cursor(NamedTuple):
    """How far a viewer has seen."""

    version: int
    second: int
    end_of_passes: int
    end_of_rounds: int


START = Cursor(0, 0, 0, 0)


class Feed:
    """Reads a journal for viewers.

    Args:
        journal: of the dispatcher.
        begin: what stands at the head of the page.
        token_bytes: of the target's tokenizer.
    """

    def __init__(self, journal: PageJournal, begin: Begin, token_bytes: Callable[[int], bytes]) -> None:
        self._journal = journal
        self._begin = begin
        self._token_bytes = token_bytes

    def since(self, cursor: Cursor | None, now_ns: int, *, texts_reason: str | None) -> tuple[PageEvent, Cursor]:
        """Return what is new, and the cursor for the next look.

        Args:
            cursor: of the last look; null at the first.
            now_ns: monotonic.
            texts_reason: why the viewer may not see texts; null if it may.
        """
        journal = self._journal
        begin = None
        if cursor is None:
            cursor = START
            begin = _with_reason(self._begin, texts_reason)
        with_texts = texts_reason is None
        event = PageEvent(
            now_us=journal.us(now_ns),
            begin=begin,
            agents=tuple(agent_news(row) for row in journal.agents.values() if row.version > cursor.version),
            requests=tuple(request_news(row) for row in journal.requests.values() if row.version > cursor.version),
            seconds=tuple(second for second in journal.seconds if second.number >= cursor.second),
            passes=tuple(journal.passes.since(cursor.end_of_passes)),
            rounds=tuple(
                self._round(entry, with_texts=with_texts) for entry in journal.rounds.since(cursor.end_of_rounds)
            ),
        )
        second = journal.seconds[-1].number if journal.seconds else 0
        return event, Cursor(journal.version, second, journal.passes.end, journal.rounds.end)

    def _round(self, entry: RoundEntry, *, with_texts: bool) -> tuple[Any, ...]:
        tokens = next_token = None
        if with_texts and entry.tokens is not None:
            tokens = [self._text(token) for token in entry.tokens]
            next_token = None if entry.next_token is None else self._text(entry.next_token)
        return (*entry[:5], tokens, next_token, *entry[7:])

    def _text(self, token_id: int) -> str:
        """Return a token with a character for every byte: a token can end in the middle of a character."""
        return self._token_bytes(token_id).decode("latin-1")


def _with_reason(begin: Begin, texts_reason: str | None) -> Begin:
    return Begin(**{name: getattr(begin, name) for name in begin.__struct_fields__} | {"texts_reason": texts_reason})


def agent_news(row: AgentRow) -> AgentNews:
    """Return an agent's row for viewers."""
    condition, verdict = row.condition, row.verdict
    num_drafted = sum(drafted for drafted, _ in row.drafts)
    reasons: dict[str, str] = {}
    if condition is None:
        reasons |= dict.fromkeys(("draft", "power_w", "temperature_c"), "the agent has not told yet")
    else:
        reasons |= {} if condition.power_reason is None else {"power_w": condition.power_reason}
        reasons |= {} if condition.temperature_reason is None else {"temperature_c": condition.temperature_reason}
    if row.network_us is None:
        reasons["link_s"] = "no draft with a time has come"
    if not num_drafted:
        reasons["acceptance"] = "nothing was drafted yet"
    if not row.drafts:
        reasons["length"] = "nothing was drafted yet"
    power_mw = None if condition is None else condition.power_mw
    temperature = None if condition is None else condition.temperature_millidegrees
    return AgentNews(
        key=row.key,
        name=row.name,
        state=_state(row),
        num_open=row.num_open,
        draft=None if condition is None else condition.draft,
        draft_fingerprint=row.draft_fingerprint[:12],
        link_s=None if row.network_us is None else row.network_us / 1e6,
        draft_s=None if row.draft_us is None else row.draft_us / 1e6,
        acceptance=sum(accepted for _, accepted in row.drafts) / num_drafted if num_drafted else None,
        length=num_drafted / len(row.drafts) if row.drafts else None,
        allowed_length=None if verdict is None else verdict.num_draft_tokens,
        price=None if verdict is None else verdict.price / PRICE_UNIT,
        power_w=None if power_mw is None else power_mw / 1e3,
        power_label=None if condition is None else condition.power_label,
        temperature_c=None if temperature is None else temperature / 1e3,
        reasons=reasons,
    )


def _state(row: AgentRow) -> str:
    if row.is_lost:
        return "lost"
    if not row.num_open:
        return "idle"
    return "alone" if row.verdict is not None and row.verdict.alone else "drafting"


def request_news(row: RequestRow) -> RequestNews:
    """Return a request's row for viewers."""
    return RequestNews(
        key=row.key,
        id=f"{row.request_id:016x}",
        agent=None if row.agent is None else row.agent.key,
        num_prompt_tokens=row.num_prompt_tokens,
        num_tokens=row.num_tokens,
        num_rounds=row.num_rounds,
        num_drafted=row.num_drafted,
        num_accepted=row.num_accepted,
        opened_us=row.opened_us,
        ended_us=row.ended_us,
        end=row.end,
    )
