"""Every cell of a plan, in the order in which they are run: random within blocks, a function of the plan alone.

A block holds every combination of arm and levels once for each device, so what drifts from hour to hour meets all of
them, and differences are taken within blocks. Within a block the order is random in three steps: devices, groups, cells
of a group. A group is what can share processes (a link, a rule of verification, a source of drafts): starting them
takes longer than a cell. This is a split-plot design; a factor that divides groups is known a little less sharply than
one within them, and the interval over blocks holds for both.

The n-th block asks prompts of its own; within it, every arm is asked the same ones with the same draws.
"""

import hashlib
import itertools
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from multispin.campaign.folder import Cell, FactorValue, Schedule
from multispin.campaign.plan import (
    ARM_FACTORS,
    SETTING_FACTORS,
    Arm,
    Cooperation,
    Device,
    External,
    LocalDraft,
    Plan,
    SingleNode,
)
from multispin_models.errors import ConfigError

__all__ = ["SiteKey", "make_schedule", "settings_of_cell", "site_key"]

_DEFAULTS: dict[str, FactorValue] = {
    "policy": "price",
    "schedule": "continuous",
    "verification": "coupled",
    "num_draft_tokens": 4,
    "draft": "model",
    "draft_entries": 1024,
}


class SiteKey(NamedTuple):
    """What the processes of a cell are started with; cells of one key share them.

    Attributes:
        device: whose agents.
        link: between agents and coordinator.
        external: arm of an external server, "" if the coordinator is ours.
        schedule, verification, draft, draft_entries, draft_ahead: as in `Cooperation`.
    """

    device: str
    link: str
    external: str
    schedule: str
    verification: str
    draft: str
    draft_entries: int
    draft_ahead: bool


def settings_of_cell(arm: Arm, factors: dict[str, FactorValue]) -> dict[str, FactorValue]:
    """Return the settings of a cell's cooperation: what the arm says, else its factors, else the default."""
    found = dict(_DEFAULTS)
    for name in SETTING_FACTORS:
        own = getattr(arm, name, None) if isinstance(arm, Cooperation) else None
        if own is not None:
            found[name] = own
        elif name in factors:
            found[name] = factors[name]
    return found


def site_key(arm: Arm, device: str, factors: dict[str, FactorValue]) -> SiteKey:
    """Return what a cell's processes are started with."""
    settings = settings_of_cell(arm, factors)
    return SiteKey(
        device=device,
        link=str(factors.get("link", "none")),
        external=arm.name if isinstance(arm, External) else "",
        schedule=str(settings["schedule"]),
        verification=str(settings["verification"]),
        draft=str(settings["draft"]),
        draft_entries=int(settings["draft_entries"]),
        draft_ahead=arm.draft_ahead if isinstance(arm, Cooperation) else True,
    )


def make_schedule(plan: Plan, plan_sha256: str, prompts_by_task: Mapping[str, Sequence[str]]) -> Schedule:
    """Return all cells of a plan.

    Args:
        plan: checked.
        plan_sha256: of its file.
        prompts_by_task: ids of the prompts of every task of the plan, "all" among them, in the order of their file.

    Raises:
        ConfigError: a task has fewer prompts than a block needs.
    """
    order = random.Random(plan.seed)  # noqa: S311 - an order is to be repeatable
    combinations = list(_combinations(plan))
    prompts = _Prompts(plan, prompts_by_task)
    cells: list[Cell] = []
    group = 0
    for block in range(plan.blocks):
        place = 0
        for device in order.sample(plan.devices, len(plan.devices)):
            for mates in _groups(combinations, device, order):
                for arm, factors in order.sample(mates, len(mates)):
                    users = int(factors["users"])
                    text_key = _text_key(block, factors)
                    cells.append(
                        Cell(
                            cell_id=f"b{block:03d}-{place:03d}-{_slug(device.name)}-{_slug(arm.name)}",
                            block=block,
                            device=device.name,
                            order=len(cells),
                            group=group,
                            arm=arm.name,
                            factors=factors,
                            seed=_seed(plan.seed, text_key),
                            text_key=text_key,
                            prompt_ids=prompts.of(block, str(factors["task"]), users),
                        )
                    )
                    place += 1
                group += 1
    levels = {name: tuple(getattr(plan.factors, name)) for name in plan.factors.__struct_fields__}
    return Schedule(
        plan_sha256=plan_sha256,
        seed=plan.seed,
        factors={name: each for name, each in levels.items() if each},
        cells=tuple(cells),
    )


_Combination = tuple[Arm, dict[str, FactorValue]]


def _combinations(plan: Plan) -> Iterator[_Combination]:
    for arm in plan.arms:
        names = [name for name in ARM_FACTORS[type(arm)] if getattr(plan.factors, name)]
        if isinstance(arm, SingleNode) and arm.drafts == "model":
            names.remove("link")
        if isinstance(arm, Cooperation):
            names = [name for name in names if name not in SETTING_FACTORS or getattr(arm, name) is None]
        for values in itertools.product(*(getattr(plan.factors, name) for name in names)):
            yield arm, dict(zip(names, values, strict=True))


def _groups(combinations: Sequence[_Combination], device: Device, order: random.Random) -> list[list[_Combination]]:
    """Return a device's cells by what they share, the groups in random order; who needs no link joins any group."""
    by_key: dict[SiteKey, list[_Combination]] = {}
    guests: list[_Combination] = []
    for arm, factors in combinations:
        if isinstance(arm, LocalDraft) or (isinstance(arm, SingleNode) and arm.drafts == "model"):
            guests.append((arm, factors))
        else:
            by_key.setdefault(site_key(arm, device.name, factors), []).append((arm, factors))
    hosts = [mates for key, mates in by_key.items() if not key.external and key.draft != "lookup"]
    for guest in guests:
        if hosts:
            order.choice(hosts).append(guest)
        else:
            by_key.setdefault(site_key(guest[0], device.name, guest[1]), []).append(guest)
    groups = list(by_key.values())
    return order.sample(groups, len(groups))


class _Prompts:
    """Hands every block its own prompts; starts anew, in another order, when all were asked."""

    def __init__(self, plan: Plan, by_task: Mapping[str, Sequence[str]]) -> None:
        self._plan = plan
        self._by_task = by_task
        self._needed = max(plan.factors.users) * plan.requests_per_user

    def of(self, block: int, task: str, users: int) -> tuple[str, ...]:
        ids = self._by_task.get(task, ())
        if len(ids) < self._needed:
            raise ConfigError(
                f"task {task!r} has {len(ids)} prompts that are short enough, a cell of the most users needs "
                f"{self._needed}: other prompts, fewer users or requests, or a larger max_prompt_tokens"
            )
        blocks_a_pass = len(ids) // self._needed
        this_pass, place = divmod(block, blocks_a_pass)
        order = random.Random(f"{self._plan.seed}/{task}/{this_pass}")  # noqa: S311
        own = order.sample(list(ids), len(ids))[place * self._needed : (place + 1) * self._needed]
        return tuple(own[: users * self._plan.requests_per_user])


def _text_key(block: int, factors: dict[str, FactorValue]) -> str:
    return f"b{block:03d}/{factors['task']}/t{factors['temperature']:g}/n{factors['max_tokens']}"


def _seed(seed: int, text_key: str) -> int:
    """Return the seed of the draws: of 32 bits, one a text_key."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{text_key}".encode()).digest()[:4], "big")


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)
