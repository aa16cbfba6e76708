"""Starts what the cells of a group share: the link, and coordinator and agents or an external server's users."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from multispin.bench.cooperate_protocol import AgentPlace
from multispin.campaign.asking import Ask, ExternalStart, SiteStart
from multispin.campaign.folder import Cell
from multispin.campaign.plan import Arm, Centralised, Cooperation, Device, External, LocalDraft, Plan, SingleNode
from multispin.campaign.processes import GroupProcess
from multispin.campaign.prompts import Prompts, due_of, jobs_of_cell
from multispin.campaign.schedule import SiteKey, settings_of_cell
from multispin.links import Link, open_link, parse_link
from multispin.local_run import RunSettings
from multispin.supervised import free_port
from multispin_coordinator.config import Config as CoordinatorConfig
from multispin_models.channel import Security
from multispin_models.errors import ConfigError
from multispin_models.settings import load_settings

__all__ = ["ask_of_cell", "open_group", "run_settings", "security_of", "warm_up_of"]

SITE: Final = "multispin.campaign.site_process"
EXTERNAL: Final = "multispin.campaign.external_process"
NO_LINK: Final = Link("none", None, 0.0)


@contextmanager
def open_group(plan: Plan, key: SiteKey, device: Device, folder: Path, plan_folder: Path) -> Iterator[GroupProcess]:
    """Give the process of a group for as long as the context lasts.

    Args:
        plan: of the campaign.
        key: of the group.
        device: whose agents.
        folder: for logs.
        plan_folder: that the plan's relative paths start from.

    Raises:
        DaemonFailed: it did not start.
        ConfigError: the link cannot be made, or a file of settings is not valid.
    """
    is_elsewhere = any(box.launch for box in device.boxes)
    link = NO_LINK if is_elsewhere else parse_link(key.link)
    if key.external:
        [arm] = [each for each in plan.arms if each.name == key.external]
        assert isinstance(arm, External)
        with _external(arm, link, folder) as process:
            yield process
        return
    with open_link(link) as reached:
        bind, reach = plan.models.bind, plan.models.reach
        if link.bit_per_s is not None:
            bind = reached.bind
        elif link.round_trip_s:
            bind = f"tcp://127.0.0.1:{free_port()}"
            reach = reached.reach(bind)
        start = SiteStart(
            settings=run_settings(plan, key, device),
            folder=str(folder),
            bind=bind,
            reach=reach,
            security=security_of(plan, plan_folder),
            agents=tuple(AgentPlace(box.name, box.launch, box.python, box.cpus, box.config) for box in device.boxes),
            cpus=plan.models.coordinator_cpus,
        )
        with GroupProcess(SITE, start, folder / "site.log", prefix=reached.prefix) as process:
            yield process


def run_settings(plan: Plan, key: SiteKey, device: Device) -> RunSettings:
    """Return the settings of a group's coordinator and agents."""
    models = plan.models
    num_agents = len(device.boxes)
    try:
        return msgspec.convert(
            {
                "num_agents": num_agents,
                "concurrent_per_agent": -(-max(plan.factors.users) // num_agents),
                "schedule": key.schedule,
                "verification": key.verification,
                "draft": key.draft,
                "draft_entries": key.draft_entries,
                "draft_ahead": key.draft_ahead,
                "policy": "price",
                "pair": models.pair,
                "engine": models.engine,
                "draft_engine": models.draft_engine or models.engine,
                "coordinator_threads": models.threads,
                "agent_threads": models.draft_threads,
                "max_context_tokens": models.max_context_tokens,
                "coordinator_cpus": models.coordinator_cpus,
            },
            RunSettings,
        )
    except msgspec.ValidationError as error:
        raise ConfigError(f"settings of device {device.name!r}: {error}") from error


def ask_of_cell(plan: Plan, arm: Arm, cell: Cell, prompts: Prompts, run_id: str) -> Ask:
    """Return what the process of its group is asked for a cell."""
    return Ask(
        run_id=run_id,
        jobs=jobs_of_cell(cell, prompts),
        users=int(cell.factors["users"]),
        due_s=due_of(plan, cell),
        idle_s=plan.energy.idle_s,
        conditions_s=plan.energy.conditions_s,
        **_manner(arm, cell),
    )


def warm_up_of(plan: Plan, arm: Arm, cell: Cell, prompts: Prompts, device: Device) -> Ask | None:
    """Return what warms up the processes for an arm: each agent serves a few short texts; null if none are wanted."""
    if not plan.warm_up_requests:
        return None
    users = min(len(device.boxes), int(cell.factors["users"])) if isinstance(arm, External) else len(device.boxes)
    texts = list(prompts.jobs.values())
    jobs = tuple(
        msgspec.structs.replace(
            texts[number % len(texts)], job_id=f"warm-up-{number}", max_tokens=plan.warm_up_tokens, ignore_end=True
        )
        for number in range(users * plan.warm_up_requests)
    )
    return Ask(run_id="warm-up", jobs=jobs, users=users, **_manner(arm, cell))


def _manner(arm: Arm, cell: Cell) -> dict[str, Any]:
    """Return how an arm is served."""
    settings = settings_of_cell(arm, cell.factors)
    match arm:
        case Centralised():
            return {"kind": "agents", "policy": "alone"}
        case SingleNode(drafts="lookup"):
            return {"kind": "agents", "policy": "lookup"}
        case SingleNode():
            return {"kind": "single-node", "policy": "core", "length": arm.num_draft_tokens}
        case LocalDraft():
            return {"kind": "local"}
        case Cooperation():
            return {
                "kind": "agents",
                "policy": str(settings["policy"]),
                "length": int(settings["num_draft_tokens"]) if settings["policy"] == "fixed" else 0,
            }
        case External():
            return {"kind": "external"}


@contextmanager
def _external(arm: External, link: Link, folder: Path) -> Iterator[GroupProcess]:
    parts = urlsplit(arm.url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    with open_link(link, port) as reached:
        url = arm.url
        if link.round_trip_s:
            far = reached.reach(f"tcp://127.0.0.1:{port}").rsplit(":", 1)[1]
            url = f"http://127.0.0.1:{far}{parts.path}"
        start = ExternalStart(
            url=url,
            command=arm.command,
            cpus=arm.cpus,
            log=str(folder / "server.log"),
            model=arm.model,
            key_file=arm.key_file,
            ready_s=arm.ready_s,
            body=arm.body,
            ignores_end=arm.ignores_end,
        )
        with GroupProcess(EXTERNAL, start, folder / "users.log", prefix=reached.prefix) as process:
            yield process


def security_of(plan: Plan, folder: Path) -> Security:
    """Return the coordinator's keys: those of the file that the plan names.

    Raises:
        ConfigError: the file is not valid.
    """
    name = plan.models.coordinator_config
    return Security() if name is None else load_settings(CoordinatorConfig, folder / name).security
