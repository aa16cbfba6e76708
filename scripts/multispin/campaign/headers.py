"""The header of a cell, and of a campaign."""

import importlib.metadata
import sys
from pathlib import Path
from typing import Final

import msgspec

import multispin_models
from multispin.bench.cooperate_protocol import NULL_ENGINE
from multispin.campaign.asking import Ready, Told
from multispin.campaign.cell_files import ExternalHeader
from multispin.campaign.folder import Campaign, Cell, FactorValue
from multispin.campaign.hashing import file_sha256
from multispin.campaign.plan import Arm, Cooperation, External, Plan
from multispin.campaign.plan_file import PlanFile
from multispin.campaign.schedule import settings_of_cell
from multispin.local_run import RunSettings
from multispin_coordinator.config import Limits
from multispin_models.cache import Progress
from multispin_models.clock import wall_time
from multispin_models.clock_watch import read_clock_sync
from multispin_models.errors import ConfigError
from multispin_models.manifest import load_pair, resolve_source
from multispin_models.records import (
    FieldNotes,
    MeteredEnd,
    RunHeader,
    describe_machine,
    read_boot_id,
    read_governor,
)

__all__ = ["campaign_of", "header_of"]

_PACKAGES: Final = ("numpy", "onnxruntime", "llama-cpp-python", "pyzmq", "msgspec", "pyarrow", "tokenizers")


def campaign_of(file: PlanFile, prompts_sha256: str, devices: tuple[str, ...], progress: Progress) -> Campaign:
    """Return the description of a campaign that begins now.

    Raises:
        ConfigError: a file that an external arm names is not there.
        ModelError: the pair is not usable.
    """
    plan = file.plan
    return Campaign(
        campaign_id=file.campaign_id,
        plan_sha256=file.sha256,
        prompts_sha256=prompts_sha256,
        started_at=wall_time(),
        machine=describe_machine(),
        boot_id=read_boot_id(),
        governor=read_governor(),
        clock_sync=read_clock_sync(),
        versions=_versions(),
        model_files=_model_files(plan, file.folder, progress),
        configuration=msgspec.to_builtins(plan),
        devices=devices,
    )


def header_of(
    plan: Plan,
    arm: Arm,
    cell: Cell,
    settings: RunSettings | None,
    ready: Ready,
    told: Told,
    meter: MeteredEnd,
    *,
    run_id: str,
    started_at: str,
    model_files: dict[str, str],
) -> RunHeader | ExternalHeader:
    """Return the header of a cell.

    Args:
        plan, arm, cell: which.
        settings: of the group; null of an external one.
        ready, told: by its process.
        meter: of the driver's machine.
        run_id: of its records.
        started_at: UTC wall time.
        model_files: of the campaign.
    """
    temperature = float(cell.factors["temperature"])
    if isinstance(arm, External):
        return ExternalHeader(
            run_id=run_id,
            started_at=started_at,
            machine=describe_machine(),
            boot_id=read_boot_id(),
            governor=read_governor(),
            url=arm.url,
            command=arm.command,
            model=ready.model,
            model_files={k: v for k, v in model_files.items() if k.startswith(f"{arm.name}: ")},
            body=arm.body,
            seed=cell.seed,
            temperature=temperature,
            top_k=0,
            top_p=1.0,
        )
    assert settings is not None
    assert ready.target is not None
    assert ready.draft is not None
    own = settings_of_cell(arm, cell.factors)
    policy, length = _policy(arm, own)
    return RunHeader(
        run_id=run_id,
        started_at=started_at,
        machine=describe_machine(),
        boot_id=read_boot_id(),
        governor=read_governor(),
        command_line=("multispin", *sys.argv[1:]),
        configuration=msgspec.to_builtins(settings) | {"arm": msgspec.to_builtins(arm), "plan": plan.name},
        seed=cell.seed,
        temperature=temperature,
        num_draft_tokens=length,
        policy=policy,
        schedule=settings.schedule,
        verification=settings.verification,
        target=ready.target,
        draft=ready.draft,
        exact=bool(ready.target.exact),
        energy_meters=(meter, *(answer.meter for answer in told.answers if answer.meter.meter is not None)),
        clock_sync=read_clock_sync(),
        notes=FieldNotes(arm=cell.arm, order=cell.order),
    )


def _policy(arm: Arm, settings: dict[str, FactorValue]) -> tuple[str, int]:
    """Return how draft lengths were chosen, and the longest."""
    if isinstance(arm, Cooperation):
        policy = str(settings["policy"])
        return policy, int(str(settings["num_draft_tokens"])) if policy == "fixed" else Limits().max_draft_tokens
    kind = str(msgspec.to_builtins(arm)["kind"])
    names = {"centralised": "alone", "single-node": f"single-node {getattr(arm, 'drafts', '')}"}
    return names.get(kind, kind), int(getattr(arm, "num_draft_tokens", 0))


def _versions() -> dict[str, str]:
    found = {"multispin": multispin_models.__version__, "python": sys.version.split()[0]}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _model_files(plan: Plan, folder: Path, progress: Progress) -> dict[str, str]:
    found: dict[str, str] = {}
    for arm in plan.arms:
        if isinstance(arm, External):
            found |= _external_files(arm, folder)
    if plan.models.engine != NULL_ENGINE and not all(isinstance(arm, External) for arm in plan.arms):
        pair = load_pair(plan.models.pair)
        for side, model in (("target", pair.target), ("draft", pair.draft)):
            path, sha256 = resolve_source(model, progress)
            found[f"{side}: {path.name}"] = sha256
    return found


def _external_files(arm: External, folder: Path) -> dict[str, str]:
    try:
        return {f"{arm.name}: {Path(name).name}": file_sha256(folder / name) for name in arm.model_files}
    except OSError as error:
        raise ConfigError(f"arm {arm.name!r}: model_files: {error}") from error
