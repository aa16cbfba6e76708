"""What is told of a drafter's pace: the tokens behind the first of a call, whose beginning is the round's."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from multispin_agent.confidence import Confidence
from multispin_agent.draft_length import DraftHistory
from multispin_agent.drafter import Drafted, Evidence
from multispin_agent.guessing import Guessing

START_NS, TOKEN_NS = 4_000_000, 8_000_000


class _Drafter:
    """Takes 4 ms to begin and 8 ms a token; `pieces` of tokens come at once, one by one without them."""

    num_reused = 0

    def __init__(self, clock: "_Clock", pieces: Sequence[int] = ()) -> None:
        self._clock, self._pieces = clock, pieces

    def draft(self, tokens: Sequence[int], count: int, end: frozenset[int], interrupted: Callable[[], bool]) -> Any:
        self._clock.now_ns += START_NS
        drafted: list[Drafted] = []
        pieces = deque(self._pieces)
        while len(drafted) < count and not (drafted and interrupted()):
            self._clock.now_ns += TOKEN_NS
            drafted += [Drafted(7, Evidence(0, 0.9))] * (pieces.popleft() if pieces else 1)
        return drafted

    def rewind(self, tokens: Sequence[int]) -> None:
        pass

    def close(self) -> None:
        pass


class _Clock:
    now_ns = 1_000


class _Engine:
    async def run(self, call: Callable[..., Any], *arguments: Any) -> Any:
        return call(*arguments)


def _paces(
    counts: Sequence[int], pieces: Sequence[int] = (), *, alone: bool = False, draft_ahead: bool = True
) -> list[float]:
    """Return what is known of a drafted token's milliseconds after each of these calls."""
    clock, history = _Clock(), DraftHistory()
    client: Any = SimpleNamespace(now_ns=lambda: clock.now_ns, history=history, confidence=Confidence())
    generation: Any = SimpleNamespace(
        tokens=[1, 2], guess=[], alone=alone, draft_ahead=draft_ahead, weighs=False, sampling=None,
        drafted=lambda *_: None, rest=lambda: None, request_id=1,
    )  # fmt: skip
    drafts: Any = SimpleNamespace(open_drafter=lambda *_: _Drafter(clock, pieces))
    span_clock: Any = SimpleNamespace(drafted=lambda *_: None)
    guessing = Guessing(generation, drafts, _Engine(), client, span_clock, asyncio.Queue(), 8, frozenset())

    async def run() -> list[float]:
        await guessing.open()
        found = []
        for count in counts:
            await guessing.guess(count)
            found.append(history.draft_us / 1e3)
        return found

    return asyncio.run(run())


def test_the_beginning_of_a_call_is_no_tokens_time() -> None:
    assert _paces([4, 2]) == pytest.approx([8.0, 8.0])


def test_a_call_for_one_token_counts_only_until_there_are_longer_ones() -> None:
    assert _paces([1, 3, 1, 1, 1]) == pytest.approx([12.0, 10.0, 10.0, 10.0, 10.0])  # median of 12 and 8 from then on


def test_without_drafting_ahead_and_beside_a_stream_calls_for_one_token_count() -> None:
    assert _paces([3, 1, 1], draft_ahead=False)[-1] == pytest.approx(12.0)
    assert _paces([3, 1, 1], alone=True)[-1] == pytest.approx(12.0)


def test_tokens_that_come_at_once_share_the_calls_time() -> None:
    assert _paces([6], pieces=[4, 2]) == pytest.approx([(4 + 16) / 6], abs=1e-3)
