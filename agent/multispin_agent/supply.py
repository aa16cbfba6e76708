"""Whether an agent drafts ahead: as it is set, and not from its battery where that is forbidden."""

import asyncio
import logging
from collections.abc import Callable

from multispin_agent.config import Config
from multispin_models.energy.supply import runs_from_battery

__all__ = ["drafts_ahead", "follow_supply"]

log = logging.getLogger(__name__)

LOOK_S = 10.0


def drafts_ahead(config: Config, on_battery: bool | None) -> bool:
    """Return whether to draft ahead; a box that tells of no battery counts as one on mains."""
    return config.draft_ahead and (config.draft_ahead_on_battery or not on_battery)


async def follow_supply(
    config: Config,
    change: Callable[[bool], None],
    read: Callable[[], bool | None] = runs_from_battery,
    look_s: float = LOOK_S,
) -> None:
    """Look at the supply every few seconds and say whether to draft ahead when that has changed, until cancelled.

    Args:
        config: of the agent; one that does not ask for the supply ends this at once.
        change: told; what counts before is `config.draft_ahead`.
        read: as `runs_from_battery`; called in a thread, for the chip of a battery may be slow to answer.
        look_s: between two looks.
    """
    if not config.draft_ahead or config.draft_ahead_on_battery:
        return
    told: bool = config.draft_ahead
    is_first = True
    while True:
        on_battery = await asyncio.to_thread(read)
        if is_first and on_battery is None:
            log.info("supply: this box tells of no battery, so it counts as one on mains")
        is_first = False
        wanted = drafts_ahead(config, on_battery)
        if wanted != told:
            told = wanted
            log.info(
                "supply: %s, drafting ahead is %s", "battery" if on_battery else "mains", "on" if wanted else "off"
            )
            change(wanted)
        await asyncio.sleep(look_s)
