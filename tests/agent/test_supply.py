"""Drafting ahead follows the box's supply where that is asked for, and the coordinator is told."""

import asyncio
from contextlib import suppress

import msgspec
import pytest

from multispin_agent.config import Config
from multispin_agent.supply import drafts_ahead, follow_supply

FORBIDDEN = Config(draft_ahead_on_battery=False)


@pytest.mark.parametrize(
    ("draft_ahead", "draft_ahead_on_battery", "on_battery", "expected"),
    [
        (True, True, True, True),
        (True, False, True, False),
        (True, False, False, True),
        (True, False, None, True),
        (False, True, False, False),
    ],
)
def test_a_box_drafts_ahead_if_it_is_set_to_and_its_supply_allows_it(
    draft_ahead: bool, draft_ahead_on_battery: bool, on_battery: bool | None, expected: bool
) -> None:
    config = Config(draft_ahead=draft_ahead, draft_ahead_on_battery=draft_ahead_on_battery)
    assert drafts_ahead(config, on_battery) is expected


def followed(config: Config, supplies: list[bool | None]) -> list[bool]:
    """Return what was told while the supply changed so."""
    told: list[bool] = []

    async def follow() -> None:
        left = iter(supplies)
        ended = asyncio.Event()

        def read() -> bool | None:
            found = next(left, "end")
            if found == "end":
                loop.call_soon_threadsafe(ended.set)
                return supplies[-1]
            return found  # type: ignore[return-value]

        loop = asyncio.get_running_loop()
        following = asyncio.create_task(follow_supply(config, told.append, read, look_s=0.0))
        waited = asyncio.create_task(ended.wait())
        await asyncio.wait({following, waited}, return_when=asyncio.FIRST_COMPLETED)
        for task in (following, waited):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    asyncio.run(follow())
    return told


def test_a_change_of_the_supply_is_told_once() -> None:
    assert followed(FORBIDDEN, [False, True, True, False, False, True]) == [False, True, False]
    assert followed(FORBIDDEN, [True]) == [False], "from the battery at the start"
    assert followed(FORBIDDEN, [None, None]) == []


@pytest.mark.parametrize("changes", [{"draft_ahead_on_battery": True}, {"draft_ahead": False}])
def test_without_a_word_on_batteries_the_supply_is_not_asked(changes: dict[str, bool]) -> None:
    config = msgspec.structs.replace(FORBIDDEN, **changes)

    def never() -> bool:
        raise AssertionError("asked")

    asyncio.run(follow_supply(config, lambda _: None, never))
