"""Rules 100: the folder is what was sealed. They look at bytes, so they also run where nothing can be read."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec

from multispin.campaign.folder import CAMPAIGN, CELLS, HASHES, JOURNAL, PLAN, SCHEDULE, SIGNATURE, Signature
from multispin.campaign.hashing import cell_digest, file_sha256, hash_lines, read_hashes, signature_fault
from multispin.campaign.rules.evidence import RunEvidence, Thresholds
from multispin.campaign.rules.rule import RunRule

__all__ = ["RULES", "check_files", "check_hashes", "check_signature"]


def check_files(path: Path) -> Iterator[str]:
    """All files of a run are there: plan, schedule, campaign, journal, cells, list of hashes, signature."""
    for name in (PLAN, SCHEDULE, CAMPAIGN, JOURNAL, CELLS, HASHES, SIGNATURE):
        if not (path / name).exists():
            yield f"{name} is not there"


def check_hashes(path: Path) -> Iterator[str]:
    """Every file has the hash that it had when the folder was sealed; none is missing, none was added.

    MLPerf Power: `compliance/check.py` compares the hash of every result file with the session's own list.
    """
    listed = read_hashes(path)
    there = {name: digest for digest, _, name in (line.partition("  ") for line in hash_lines(path))}
    for name in sorted(listed.keys() | there.keys()):
        if name not in there:
            yield f"{name} is listed and not there"
        elif name not in listed:
            yield f"{name} is there and not listed"
        elif listed[name] != there[name]:
            yield f"{name} has the hash {there[name][:16]}..., sealed was {listed[name][:16]}..."


def check_signature(path: Path, thresholds: Thresholds) -> Iterator[str]:
    """The list of hashes is signed (ed25519), by the expected key where one is given."""
    if fault := signature_fault(path):
        yield fault
        return
    key = msgspec.json.decode((path / SIGNATURE).read_bytes(), type=Signature).public_key
    if thresholds.public_key not in {None, key}:
        yield f"signed by {key[:16]}..., expected was {str(thresholds.public_key)[:16]}..."


def check_plan_hash(run: RunEvidence) -> Iterator[str]:
    """plan.toml has the hash that schedule and campaign name, and the campaign is named after it."""
    found = file_sha256(run.path / PLAN)
    for name, said in ((SCHEDULE, run.schedule.plan_sha256), (CAMPAIGN, run.campaign.plan_sha256)):
        if said != found:
            yield f"plan.toml has the hash {found[:16]}..., {name} says {said[:16]}..."
    if run.campaign.campaign_id != run.plan.campaign_id:
        yield f"the campaign is {run.campaign.campaign_id!r}, this plan makes {run.plan.campaign_id!r}"


def check_journal(run: RunEvidence) -> Iterator[str]:
    """The journal tells one story: every cell there was started and completed once, and is still what it was then.

    Also: the campaign was started and has ended, no cell was completed that is not there, and time does not run
    backwards within a boot.
    """
    names = [event.event for event in run.events]
    if "campaign-started" not in names[:1]:
        yield "it does not begin with campaign-started"
    if "ended" not in names:
        yield "the driver has not ended: the run may be going on, or was killed and not resumed"
    last: dict[str | None, int] = {}
    for number, event in enumerate(run.events, 1):
        is_one_machine = not run.campaign.merged_from  # lines of several stand by wall time, which may step
        if is_one_machine and event.t_ns < last.get(event.boot_id, 0):
            yield f"line {number} is earlier than the line before it"
        last[event.boot_id] = event.t_ns
    completions = [event for event in run.events if event.event == "cell-completed"]
    completed = Counter(str(event.cell_id) for event in completions)
    digests = {event.cell_id: event.sha256 for event in completions}
    started = {event.cell_id for event in run.events if event.event == "cell-started"}
    for cell_id in run.completed:
        if completed[cell_id] != 1:
            yield f"{cell_id} is there and was completed {completed[cell_id]} times"
        if cell_id not in started:
            yield f"{cell_id} is there and was never started"
        if cell_id in digests and digests[cell_id] != cell_digest(run.path / CELLS / cell_id):
            yield f"{cell_id} is not what it was when it was completed"
    for cell_id in completed.keys() - set(run.completed):
        yield f"{cell_id} was completed and is not there"


RULES = (RunRule(104, check_plan_hash), RunRule(105, check_journal))
