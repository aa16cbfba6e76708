"""The coordinator of a group of cells with its agents, in a process that the driver tells what to serve.

    python -m multispin.campaign.site_process PARENT

`asking.py` has what is said. The driver is another process, so that a coordinator that dies takes no campaign along.
"""

import asyncio
import hashlib
import os
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import msgspec

from multispin.bench.by_itself import ByItself
from multispin.bench.cooperate_protocol import Block
from multispin.bench.cooperate_site import Arm, Site, Where
from multispin.campaign.asking import Ask, Ready, SiteStart, Told, Window
from multispin.campaign.lines import Lines, serve_lines
from multispin_models.clock import monotonic_ns
from multispin_models.prompts import Job
from multispin_models.records import RequestRecord

__all__ = ["main"]


async def _serve(start: SiteStart, lines: Lines) -> None:
    if start.cpus is not None:
        os.sched_setaffinity(0, start.cpus)
    where = Where(start.bind, start.reach, start.security, start.agents)
    async with Site(start.settings, Path(start.folder), where) as site:
        lines.say("ready", Ready(target=site.info, draft=site.drafts[0]))
        while line := await lines.next():
            ask = msgspec.json.decode(line, type=Ask)
            lines.say("done", await _told(site, start, ask))


async def _told(site: Site, start: SiteStart, ask: Ask) -> Told:
    if ask.kind == "single-node":
        return await _single_node(site, ask)
    if ask.kind == "look":
        return await _look(site, start, ask)
    is_local = ask.kind == "local"
    arm = Arm("fixed", ask.length) if ask.policy == "fixed" else Arm(ask.policy)
    sent_ns = monotonic_ns()
    answers = await site.ask(arm, _blocks(ask, start))
    ended_ns = monotonic_ns()
    idle_ns = sent_ns + int(ask.idle_s * 1e9)
    requests = [record for answer in answers.values() for record in answer.requests]
    run = Window(idle_ns, ended_ns)
    if requests and not any(place.launch for place in start.agents):  # one machine, one clock
        run = Window(min(each.started_ns for each in requests), max(each.ended_ns for each in requests))
    quality = await _quality(site, ask.jobs, requests) if is_local else {}
    idle = Window(sent_ns, idle_ns) if ask.idle_s else None
    return Told(idle=idle, run=run, answers=tuple(answers.values()), quality_nll=quality)


async def _look(site: Site, start: SiteStart, ask: Ask) -> Told:
    """Have agents elsewhere look at their boxes."""
    begun_ns = monotonic_ns()
    places = [index for index, place in enumerate(start.agents) if place.launch]
    block = Block(jobs=[], conditions_s=ask.conditions_s)
    answers = await site.ask(Arm("alone"), dict.fromkeys(places, block))
    return Told(idle=None, run=Window(begun_ns, monotonic_ns()), answers=tuple(answers.values()))


def _blocks(ask: Ask, start: SiteStart) -> dict[int, Block]:
    """Return what each agent is to serve: users go round the agents, each with all its requests."""
    num_agents = len(start.agents)
    each = len(ask.jobs) // ask.users
    jobs: dict[int, list[Job]] = defaultdict(list)
    users: dict[int, int] = defaultdict(int)
    for user in range(ask.users):
        jobs[user % num_agents] += ask.jobs[user * each : (user + 1) * each]
        users[user % num_agents] += 1
    return {
        index: Block(
            jobs=own,
            run_id=ask.run_id,
            at_once=users[index],
            due_s={job.job_id: ask.due_s[job.job_id] for job in own if job.job_id in ask.due_s},
            by_itself=ask.kind == "local",
            idle_s=ask.idle_s,
            conditions_s=ask.conditions_s if start.agents[index].launch else 0.0,
        )
        for index, own in jobs.items()
    }


async def _quality(site: Site, jobs: Sequence[Job], requests: Sequence[RequestRecord]) -> dict[str, float | None]:
    prompts = {job.job_id: site.encoded(job.prompt) for job in jobs}
    found = await site.likelihood([(prompts[record.id], record.token_ids) for record in requests])
    return {record.id: nll for record, nll in zip(requests, found, strict=True)}


async def _single_node(site: Site, ask: Ask) -> Told:
    """Let the coordinator write: each user's first request at once, then each one's second, ..."""
    idle = None
    if ask.idle_s:
        begun_ns = monotonic_ns()
        await asyncio.sleep(ask.idle_s)
        idle = Window(begun_ns, monotonic_ns())
    each = len(ask.jobs) // ask.users
    begun_ns = monotonic_ns()
    requests: list[RequestRecord] = []
    for turn in range(each):
        jobs = ask.jobs[turn::each]
        started_ns = monotonic_ns()
        written = await site.write(Arm("core", ask.length), jobs)
        requests += [_record(site, ask.run_id, job, written, started_ns) for job in jobs]
    ended_ns = max(record.ended_ns for record in requests)
    return Told(idle=idle, run=Window(begun_ns, ended_ns), requests=tuple(requests), begun_ns=begun_ns)


def _record(site: Site, run_id: str, job: Job, written: ByItself, started_ns: int) -> RequestRecord:
    name = job.job_id
    token_ids = written.texts[name]
    total_s = written.prefill_s + written.written_s[name]
    return RequestRecord(
        run_id=run_id,
        id=name,
        wire_request_id=0,
        agent_id="coordinator",
        prompt_sha256=hashlib.sha256(job.prompt.encode()).hexdigest(),
        num_prompt_tokens=written.num_prompt_tokens[name],
        token_ids=token_ids,
        text=site.decoded(token_ids),
        finish="length" if len(token_ids) >= job.max_tokens else "end",
        num_rounds=written.rounds[name],
        num_drafted=written.drafted[name],
        num_accepted=written.accepted[name],
        num_generated=len(token_ids),
        started_ns=started_ns,
        ended_ns=started_ns + int(total_s * 1e9),
        ttft_s=written.prefill_s,
        tpot_s=written.written_s[name] / (len(token_ids) - 1) if len(token_ids) > 1 else None,
        e2e_s=total_s,
        payload_up_bytes=0,
        payload_down_bytes=0,
        energy_reason="its joules are those of the window",
        verification="coupled",
    )


def main(arguments: list[str]) -> int:
    """Run the process; return its exit status."""
    return serve_lines(arguments, SiteStart, _serve)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
