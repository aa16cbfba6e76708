"""The prompts of a plan: which are short enough, which task each is of, and what a cell asks of them."""

import hashlib
import random
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from multispin.bench.cooperate_protocol import NULL_ENGINE
from multispin.bench.null_model import NullTokenizer
from multispin.campaign.folder import Cell
from multispin.campaign.plan import Plan
from multispin_models.cache import Progress
from multispin_models.engines import load_tokenizer
from multispin_models.language_model import Tokenizer
from multispin_models.prompts import Job, JobDefaults, encode_prompt, read_jobs
from multispin_models.sampling import Sampling

__all__ = ["ANY_TASK", "Prompts", "due_of", "jobs_of_cell", "read_prompts"]

ANY_TASK = "all"


class Prompts(NamedTuple):
    """What is asked.

    Attributes:
        jobs: by id, those that are short enough.
        by_task: ids of every task of the plan, in the order of the file.
        sha256: of the file.
    """

    jobs: Mapping[str, Job]
    by_task: dict[str, list[str]]
    sha256: str


def read_prompts(plan: Plan, path: Path, progress: Progress) -> Prompts:
    """Return the prompts of a plan.

    Raises:
        ConfigError: the file cannot be read.
    """
    jobs = read_jobs(str(path), JobDefaults(ignore_end=plan.ignore_end))
    tokenizer: Tokenizer = NullTokenizer()
    if plan.models.engine != NULL_ENGINE:
        tokenizer = load_tokenizer(plan.models.pair, "target", plan.models.engine, progress)
    short = [job for job in jobs if len(encode_prompt(tokenizer, job.prompt)) <= plan.max_prompt_tokens]
    by_task = {task: [job.job_id for job in short if task in {ANY_TASK, job.task}] for task in plan.factors.task}
    return Prompts({job.job_id: job for job in short}, by_task, hashlib.sha256(path.read_bytes()).hexdigest())


def jobs_of_cell(cell: Cell, prompts: Prompts) -> tuple[Job, ...]:
    """Return what a cell asks: its prompts with its temperature, length and seed."""
    sampling = Sampling(temperature=float(cell.factors["temperature"]), seed=cell.seed)
    return tuple(
        msgspec.structs.replace(prompts.jobs[name], sampling=sampling, max_tokens=int(cell.factors["max_tokens"]))
        for name in cell.prompt_ids
    )


def due_of(plan: Plan, cell: Cell) -> dict[str, float]:
    """Return when each job of a cell comes, in seconds; empty where a user asks when served.

    Gaps of a Poisson process are exponential; they are drawn from the cell's seed, the same for every arm.
    """
    rate = plan.arrivals.rate_per_s
    if rate is None:
        return {}
    gaps = random.Random(cell.seed)  # noqa: S311 - to be repeatable
    users = int(cell.factors["users"])
    each = len(cell.prompt_ids) // users
    turns = [name for turn in range(each) for name in cell.prompt_ids[turn::each]]
    due, now_s = {}, 0.0
    for name in turns:
        now_s += gaps.expovariate(rate)
        due[name] = now_s
    return due
