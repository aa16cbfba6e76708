"""Rules 500: machines kept their clocks, cooled, and were not changed."""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence

from multispin.campaign.cell_files import ConditionsRow
from multispin.campaign.folder import HEADER
from multispin.campaign.plan import Cooperation
from multispin.campaign.rules.evidence import CellEvidence, CellNote, RunEvidence
from multispin.campaign.rules.rule import CellRule, NotesRule, RunRule

__all__ = ["RULES"]


def check_looks(run: RunEvidence, found: CellEvidence) -> Iterator[str]:
    """The driver's machine, and every agent elsewhere, was looked at before and after the cell."""
    by_end: dict[str, set[str]] = defaultdict(set)
    for row in found.conditions:
        by_end[row.end].add(row.when)
    ends = ["machine", *(f"agent:{agent.agent_id}" for agent in found.clock.agents if not agent.is_same_machine)]
    for end in ends:
        if missing := {"before", "after"} - by_end[end]:
            yield f"{end}: no conditions {' and '.join(sorted(missing))} the cell"


def check_throttling(run: RunEvidence, found: CellEvidence) -> Iterator[str]:
    """No machine throttled, or ran under voltage: by its flags at any look, by its counters between first and last.

    A cell in which one did is excluded; the plan may say to keep it, then the journal must have noted it.
    """
    for end, rows in _by_end(found.conditions).items():
        flags = {flag for row in rows for flag in json.loads(row.throttled or "[]") if "since boot" not in flag}
        first, last = json.loads(rows[0].throttle_events), json.loads(rows[-1].throttle_events)
        rising = {name for name in last if last[name] > first.get(name, last[name])}
        since = set(json.loads(rows[-1].throttled or "[]")) - set(json.loads(rows[0].throttled or "[]"))
        if (told := flags | rising | since) and not _is_kept(run, found):
            yield f"{end}: {', '.join(sorted(told))}, and the cell counts"


def check_heat(run: RunEvidence, found: CellEvidence) -> Iterator[str]:
    """No machine got hotter than the plan's limit."""
    limit = run.plan.plan.limits.max_temperature_c
    if limit is None:
        return
    for end, rows in _by_end(found.conditions).items():
        hottest = max((row.temperature_c for row in rows if row.temperature_c is not None), default=None)
        if hottest is None:
            yield f"{end}: the plan limits the temperature, and none was read"
        elif hottest > limit:
            yield f"{end}: {hottest:g} °C, the plan's limit is {limit:g}"


def check_clocks(run: RunEvidence, found: CellEvidence) -> Iterator[str]:
    """One-way times have a bound: clocks of two machines are known to {max_clock_bound_s:g} s in the median round.

    Where an exchange takes longer than that on the network, so long a bound is allowed: no exchange can tell more.
    Clocks jumped in at most {max_clock_events:.0%} of the rounds of a cell, and those are marked.
    """
    limits = run.thresholds
    if isinstance(found.arm, Cooperation) and not found.clock.agents:
        yield "an arm that cooperates says nothing of its clocks"
    marked = sum(each.clock_event is not None for each in found.rounds)
    if sum(agent.clock_events for agent in found.clock.agents) != marked:
        yield f"clock.json counts other jumps of clocks than the {marked} of the rounds"
    if marked > limits.max_clock_events * max(1, len(found.rounds)):
        yield f"a clock jumped in {marked} of {len(found.rounds)} rounds"
    bounds = [each.clock_bound_s for each in found.rounds if each.clock_bound_s is not None]
    drafts = [each for each in found.rounds if not each.is_open]
    if found.clock.agents and drafts and not bounds:
        yield "no round has a clock bound"
    for agent in found.clock.agents:
        own = [each.clock_bound_s for each in found.rounds if each.agent_id == agent.agent_id]
        known = [bound for bound in own if bound is not None]
        if known and max(known) != agent.bound_s_largest:
            yield f"agent {agent.agent_id}: clock.json says {agent.bound_s_largest} s, its rounds {max(known)} s"
        median = agent.bound_s_median
        waits = sorted(each.network_s for each in found.rounds if each.agent_id == agent.agent_id)
        allowed = max(limits.max_clock_bound_s, waits[len(waits) // 2] if waits else 0.0)
        if not agent.is_same_machine and (median is None or median > allowed):
            yield f"agent {agent.agent_id}: its clock is known to {median} s, allowed are {allowed:.3g} s"


def check_machine(run: RunEvidence, found: CellEvidence) -> Iterator[str]:
    """Every cell ran on the campaign's machine: the same processor, cores, memory, kernel, and commit of multispin."""
    campaigns = (run.campaign, *run.campaign.merged_from)
    own = found.header.machine
    names = ("node", "cpu_model", "num_cores", "memory_bytes", "kernel")
    if all(any(getattr(own, name) != getattr(each.machine, name) for name in names) for each in campaigns):
        differs = [name for name in names if getattr(own, name) != getattr(run.campaign.machine, name)]
        yield f"{HEADER}: another machine than the campaign's: {', '.join(differs)}"
    if own.commit not in {each.machine.commit for each in campaigns}:
        yield f"{HEADER}: commit {own.commit} of multispin, the campaign began with {run.campaign.machine.commit}"


def check_commit(run: RunEvidence) -> Iterator[str]:
    """Multispin's files were as they are committed: what nobody else can get cannot be repeated."""
    for campaign in (run.campaign, *run.campaign.merged_from):
        commit = campaign.machine.commit or ""
        if commit.endswith("-dirty"):
            yield f"{campaign.machine.node}: files were changed since commit {commit.removesuffix('-dirty')}"


def check_governors(run: RunEvidence, notes: Sequence[CellNote]) -> Iterator[str]:
    """The governor of the processors' clocks was the same in all cells of a device."""
    seen: dict[str, dict[frozenset[str], str]] = defaultdict(dict)
    for note in notes:
        seen[note.cell.device].setdefault(note.governors, note.cell.cell_id)
    for device, kinds in seen.items():
        if len(kinds) > 1:
            told = "; ".join(f"{', '.join(sorted(kind)) or 'none'} from {cell} on" for kind, cell in kinds.items())
            yield f"{device}: {told}"


def _by_end(rows: Sequence[ConditionsRow]) -> dict[str, list[ConditionsRow]]:
    found: dict[str, list[ConditionsRow]] = defaultdict(list)
    for row in sorted(rows, key=lambda each: each.t_ns):
        found[row.end].append(row)
    return found


def _is_kept(run: RunEvidence, found: CellEvidence) -> bool:
    noted = {event.cell_id for event in run.events if event.event == "limit-passed"}
    return run.plan.plan.limits.on_throttling == "keep" and found.cell.cell_id in noted


RULES = (
    CellRule(501, check_looks),
    CellRule(502, check_throttling),
    CellRule(503, check_heat),
    CellRule(504, check_clocks),
    CellRule(505, check_machine),
    NotesRule(506, check_governors),
    RunRule(507, check_commit),
)
