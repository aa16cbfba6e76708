"""Rules 200: what was run is what was planned."""

from collections.abc import Iterator, Sequence

import msgspec

from multispin.campaign.folder import CELLS, HEADER, Cell, ExternalHeader, completed_cells, factor_column
from multispin.campaign.plan import Cooperation, Plan
from multispin.campaign.rules.evidence import CellEvidence, RunEvidence
from multispin.campaign.rules.rule import CellRule, RunRule
from multispin.campaign.schedule import make_schedule, settings_of_cell
from multispin.campaign.tables import FACTOR_KINDS

__all__ = ["RULES"]


def check_schedule(run: RunEvidence) -> Iterator[str]:
    """The schedule is the one that the plan makes: cells, order, levels, seeds. The prompts' ids are not made again."""
    most = _prompts_needed(run.plan.plan)
    ids = tuple(map(str, range(most)))
    prompts: dict[str, Sequence[str]] = dict.fromkeys(run.plan.plan.factors.task, ids)
    made = make_schedule(run.plan.plan, run.plan.sha256, prompts)
    if len(made.cells) != len(run.schedule.cells):
        yield f"it has {len(run.schedule.cells)} cells, the plan makes {len(made.cells)}"
    for wanted, found in zip(made.cells, run.schedule.cells, strict=False):
        if _without_prompts(wanted) != _without_prompts(found):
            yield f"cell {found.order} is {found.cell_id}, not as the plan makes it ({wanted.cell_id})"
    if made.seed != run.schedule.seed or made.factors != run.schedule.factors:
        yield "its seed or its levels are not those of the plan"


def check_cells(run: RunEvidence) -> Iterator[str]:
    """Every scheduled cell is there, or excluded with a reason, or of a block after the stopping rule was met.

    None is there that was not scheduled, and no name of a cell occurs twice.
    """
    known = [cell.cell_id for cell in run.schedule.cells]
    for cell_id in sorted({each for each in known if known.count(each) > 1}):
        yield f"{cell_id} is scheduled more than once"
    there = set(completed_cells(run.path))
    for cell_id in sorted(there - {cell.cell_id for cell in run.cells}):
        yield f"{CELLS}/{cell_id} is there and was not scheduled"
    has_stopped = any(event.event == "stopped" for event in run.events)
    last = max((cell.block for cell in run.cells if cell.cell_id in there), default=-1)
    for cell in run.cells:
        is_after = has_stopped and cell.block > last
        if cell.cell_id not in there | run.excluded.keys() and not is_after:
            yield f"{cell.cell_id} is missing, and nothing says why"
    for cell_id, reason in run.excluded.items():
        if cell_id not in known:
            yield f"{cell_id} is excluded and was not scheduled"
        elif not reason.strip():
            yield f"{cell_id} is excluded without a reason"


def check_configuration(run: RunEvidence) -> Iterator[str]:
    """The configuration in force is the plan's, with its defaults; what later versions have added is at its default."""
    wanted, found = run.plan.plan, msgspec.convert(run.campaign.configuration, Plan)
    for name in wanted.__struct_fields__:
        if getattr(found, name) != getattr(wanted, name):
            yield f"{name} is {str(getattr(found, name))[:200]}, the plan says {str(getattr(wanted, name))[:200]}"


def check_header(run: RunEvidence, found: CellEvidence) -> Iterator[str]:
    """A cell ran with what was scheduled for it: seed, temperature, policy, schedule, rule and L.

    A cell whose own header says that its figures are to be left out is excluded by the journal too.
    """
    header, cell = found.header, found.cell
    pairs: list[tuple[str, object, object]] = [
        ("seed", header.seed, cell.seed),
        ("temperature", header.temperature, cell.factors.get("temperature", 0.0)),
    ]
    if isinstance(found.arm, Cooperation) and not isinstance(header, ExternalHeader):
        settings = settings_of_cell(found.arm, cell.factors)
        names = ["policy", "schedule", "verification"] + ["num_draft_tokens"] * (settings["policy"] == "fixed")
        pairs += [(name, getattr(header, name), settings[name]) for name in names]
    for name, was, wanted in pairs:
        if was != wanted:
            yield f"{HEADER}: {name} is {was!r}, scheduled was {wanted!r}"
    if not isinstance(header, ExternalHeader) and header.notes is not None:
        for reason in header.notes.exclusions:
            yield f"{HEADER} says that its figures are to be left out ({reason}), the journal does not"


def check_models(run: RunEvidence, found: CellEvidence) -> Iterator[str]:
    """Every cell had the models of the campaign, by the hash of the file that was served, and the same software."""
    header, campaign = found.header, run.campaign
    versions = {each.versions.get("multispin") for each in (campaign, *campaign.merged_from)}
    if header.machine.multispin not in versions:
        yield f"{HEADER}: multispin {header.machine.multispin}, the campaign {campaign.versions.get('multispin')}"
    if isinstance(header, ExternalHeader):
        for name, sha256 in header.model_files.items():
            if campaign.model_files.get(name) != sha256:
                yield f"{HEADER}: {name} has another hash than in the campaign"
        return
    parts = (campaign, *campaign.merged_from)
    targets = [each.target for each in parts if each.target is not None]
    for name in ("fingerprint", "recipe", "engine", "engine_version"):
        own = getattr(header.target, name)
        if targets and own not in {getattr(target, name) for target in targets}:
            yield f"{HEADER}: the target's {name} is {own[:40]}, the campaign's {getattr(targets[0], name)[:40]}"
    if header.target.vocabulary_hash != header.draft.vocabulary_hash:
        yield f"{HEADER}: target and draft have different vocabularies"


def check_keys(run: RunEvidence, found: CellEvidence) -> Iterator[str]:
    """Every row of a cell's tables names this campaign, cell, block, device, arm and levels; its files are its own."""
    cell = found.cell
    wanted: dict[str, object] = {
        "campaign_id": run.campaign.campaign_id,
        "cell_id": cell.cell_id,
        "block": cell.block,
        "device": cell.device,
        "arm": cell.arm,
    } | {factor_column(name): cell.factors.get(name) for name in FACTOR_KINDS}
    for table, columns in found.keys.items():
        for name, values in columns.items():
            if values - {wanted[name]}:
                yield f"{table}: {name} is {sorted(map(str, values))[:4]}, scheduled was {wanted[name]!r}"
    for name, said in (("energy.json", found.energy.cell_id), ("clock.json", found.clock.cell_id)):
        if said != cell.cell_id:
            yield f"{name} is of {said!r}"
    if any(request.run_id != found.header.run_id for request in found.requests):
        yield "requests are of another run than the header"
    if any(each.run_id != found.header.run_id for each in found.rounds):
        yield "rounds are of another run than the header"


def _prompts_needed(plan: Plan) -> int:
    return max(plan.factors.users) * plan.requests_per_user


def _without_prompts(cell: Cell) -> Cell:
    return msgspec.structs.replace(cell, prompt_ids=())


RULES = (
    RunRule(201, check_schedule),
    RunRule(202, check_cells),
    RunRule(203, check_configuration),
    CellRule(204, check_header),
    CellRule(205, check_models),
    CellRule(206, check_keys),
)
