"""The order of cells: random within blocks, the same for the same plan, and the same prompts for every arm."""

import textwrap
from collections import Counter, defaultdict

import msgspec
import pytest

from multispin.campaign import plan as plan_module
from multispin.campaign.plan import Plan
from multispin.campaign.prompts import Prompts, due_of, jobs_of_cell
from multispin.campaign.schedule import make_schedule, settings_of_cell, site_key
from multispin_models.errors import ConfigError
from multispin_models.prompts import Job
from multispin_models.sampling import Sampling

PLAN = msgspec.toml.decode(
    """
name = "s"
blocks = 6
requests_per_user = 2
factors = { users = [1, 2], link = ["none", "20ms"], num_draft_tokens = [2, 4] }
devices = [{ name = "a", copies = 2 }, { name = "b", copies = 1 }]
arms = [
    { kind = "centralised", name = "alone" },
    { kind = "single-node", name = "core", drafts = "model" },
    { kind = "local", name = "local" },
    { kind = "cooperation", name = "fixed", policy = "fixed" },
    { kind = "cooperation", name = "lean", policy = "fixed", num_draft_tokens = 3, verification = "rejection-lean" },
]
""",
    type=Plan,
)
IDS = {"all": [str(number) for number in range(24)]}


def test_the_example_in_the_documentation_of_a_plan_is_one() -> None:
    assert plan_module.__doc__ is not None
    text = textwrap.dedent(plan_module.__doc__.split("\n\n", 1)[1])
    assert msgspec.toml.decode(text, type=Plan).blocks == 6


def test_a_schedule_is_a_function_of_the_plan() -> None:
    schedule = make_schedule(PLAN, "0", IDS)
    assert schedule == make_schedule(PLAN, "0", IDS)
    other = make_schedule(msgspec.structs.replace(PLAN, seed=2), "0", IDS)
    assert [cell.arm for cell in other.cells] != [cell.arm for cell in schedule.cells]
    assert msgspec.json.decode(msgspec.json.encode(schedule), type=type(schedule)) == schedule


def test_a_block_holds_every_combination_once_for_each_device_in_an_order_of_its_own() -> None:
    schedule = make_schedule(PLAN, "0", IDS)
    seen = defaultdict(list)
    for cell in schedule.cells:
        seen[cell.block, cell.device].append((cell.arm, *sorted(cell.factors.items())))
    # alone 2 users x 2 links; core and local 2 users; fixed 2 x 2 x 2 lengths; lean 2 x 2.
    assert {len(own) for own in seen.values()} == {4 + 2 + 2 + 8 + 4}
    assert all(max(Counter(own).values()) == 1 for own in seen.values())
    assert len({tuple(own) for own in seen.values()}) == len(seen)  # 12 orders of 20: two the same would be a wonder
    assert [cell.order for cell in schedule.cells] == list(range(len(schedule.cells)))
    assert len({cell.cell_id for cell in schedule.cells}) == len(schedule.cells)


def test_a_factor_concerns_only_the_arms_that_it_can() -> None:
    cells = make_schedule(PLAN, "0", IDS).cells
    by_arm = {cell.arm: cell for cell in cells}
    assert "link" not in by_arm["core"].factors
    assert "link" not in by_arm["local"].factors
    assert "link" in by_arm["alone"].factors
    assert "num_draft_tokens" in by_arm["fixed"].factors
    assert "num_draft_tokens" not in by_arm["lean"].factors
    assert "num_draft_tokens" not in by_arm["alone"].factors


def test_cells_of_a_group_follow_each_other_and_can_share_their_processes() -> None:
    schedule = make_schedule(PLAN, "0", IDS)
    groups = [cell.group for cell in schedule.cells]
    assert groups == sorted(groups)
    arms = {arm.name: arm for arm in PLAN.arms}
    keys = defaultdict(set)
    for cell in schedule.cells:
        if "link" in cell.factors:
            keys[cell.group].add(site_key(arms[cell.arm], cell.device, cell.factors))
    assert all(len(own) == 1 for own in keys.values())
    # Two links, each by the coupled and by the lean rule, in every block for each device.
    assert len(keys) == 4 * PLAN.blocks * 2


def test_every_arm_of_a_block_is_asked_the_same_and_another_block_something_else() -> None:
    schedule = make_schedule(PLAN, "0", IDS)
    asked = defaultdict(set)
    for cell in schedule.cells:
        asked[cell.text_key, cell.factors["users"]].add((cell.prompt_ids, cell.seed))
    assert all(len(own) == 1 for own in asked.values())
    blocks = {cell.block: cell.prompt_ids for cell in schedule.cells if cell.factors["users"] == 2}
    assert len(set(blocks.values())) == PLAN.blocks
    assert sorted(name for names in blocks.values() for name in names) == sorted(IDS["all"])  # 6 x 4 of 24
    ones = {cell.block: cell.prompt_ids for cell in schedule.cells if cell.factors["users"] == 1}
    assert all(blocks[block][:2] == names for block, names in ones.items())


def test_too_few_prompts_are_told() -> None:
    with pytest.raises(ConfigError, match=r"task 'all' has 3 prompts .* the most users needs 4"):
        make_schedule(PLAN, "0", {"all": ["1", "2", "3"]})


def test_what_an_arm_says_goes_before_a_factor_and_that_before_the_default() -> None:
    lean = PLAN.arms[4]
    found = settings_of_cell(lean, {"num_draft_tokens": 8, "policy": "price"})
    assert (found["num_draft_tokens"], found["policy"], found["verification"]) == (3, "fixed", "rejection-lean")
    assert settings_of_cell(PLAN.arms[3], {"num_draft_tokens": 8})["num_draft_tokens"] == 8
    assert settings_of_cell(PLAN.arms[3], {})["num_draft_tokens"] == 4


def test_a_cell_asks_with_its_temperature_length_and_seed_and_arrivals_are_the_same_for_every_arm() -> None:
    schedule = make_schedule(PLAN, "0", IDS)
    jobs = {name: Job(name, f"prompt {name}", 1, Sampling()) for name in IDS["all"]}
    prompts = Prompts(jobs, IDS, "0")
    cell = schedule.cells[0]
    asked = jobs_of_cell(cell, prompts)
    assert [job.job_id for job in asked] == list(cell.prompt_ids)
    assert {(job.max_tokens, job.sampling.seed) for job in asked} == {(64, cell.seed)}
    assert due_of(PLAN, cell) == {}
    poisson = msgspec.structs.replace(PLAN, arrivals=plan_module.Arrivals(spacing="poisson", rate_per_s=2.0))
    mates = [each for each in schedule.cells if each.text_key == cell.text_key and each.prompt_ids == cell.prompt_ids]
    dues = [due_of(poisson, each) for each in mates]
    assert len(dues) > 2
    assert all(due == dues[0] for due in dues)
    assert list(dues[0].values()) == sorted(dues[0].values())


def test_poisson_arrivals_have_the_rate_that_was_asked_for() -> None:
    plan = msgspec.structs.replace(
        PLAN,
        blocks=1,
        requests_per_user=2000,
        factors=plan_module.Factors(users=(2,)),
        arrivals=plan_module.Arrivals(spacing="poisson", rate_per_s=5.0),
    )
    cell = make_schedule(plan, "0", {"all": [str(number) for number in range(4000)]}).cells[0]
    assert max(due_of(plan, cell).values()) == pytest.approx(4000 / 5.0, rel=0.08)  # 5 standard deviations
