"""Rules 300: records fit together, and texts are the same in every arm."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from multispin.campaign.folder import Cell, ExternalHeader
from multispin.campaign.plan import Cooperation
from multispin.campaign.rules.evidence import CellEvidence, CellNote, RunEvidence
from multispin.campaign.rules.rule import CellRule, NotesRule
from multispin_models.records import RequestRecord
from multispin_models.records.checking import check_records

__all__ = ["RULES"]

_SHOWN = 3
_SAME_S = 1e-6


def check_requests(run: RunEvidence, found: CellEvidence) -> Iterator[str]:
    """A cell answered the prompts that were scheduled, each once, without an error."""
    counts = Counter(request.id for request in found.requests)
    for name in found.cell.prompt_ids:
        if counts[name] != 1:
            yield f"prompt {name!r} was answered {counts[name]} times"
    for name in sorted(counts.keys() - set(found.cell.prompt_ids))[:_SHOWN]:
        yield f"prompt {name!r} was not scheduled"
    for request in found.requests:
        if request.finish == "error":
            yield f"request {request.id!r} ended with an error: {request.error}"
        elif not request.num_generated:
            yield f"request {request.id!r} has no token"


def check_records_fit(run: RunEvidence, found: CellEvidence) -> Iterator[str]:
    """Rounds and requests fit: no round twice or missing, parts of a round sum to it, joules of rounds to requests.

    Only arms that cooperate record rounds.
    """
    if isinstance(found.arm, Cooperation) and not found.rounds:
        yield "an arm that cooperates has no rounds"
    if found.rounds:
        yield from check_records([*found.requests, *found.rounds])


def check_figures(run: RunEvidence, found: CellEvidence) -> Iterator[str]:
    """A request's own figures follow from each other: times from instants, tokens from lengths, accepted from drafted.

    No figure is negative or not finite.
    """
    for request in found.requests:
        for fault in _request_faults(request):
            yield f"request {request.id!r}: {fault}"
    bad = [
        each for each in found.rounds if each.num_accepted > each.num_draft_tokens or not math.isfinite(each.draft_s)
    ]
    for each in bad[:_SHOWN]:
        yield f"round {each.round}: {each.num_accepted} of {each.num_draft_tokens} drafted tokens were accepted"
    for row, request in zip(found.extras, found.requests, strict=True):
        if not (math.isfinite(row["arrival_s"]) and row["waited_s"] >= 0.0):
            yield f"request {request.id!r} waited {row['waited_s']} s"


def _request_faults(request: RequestRecord) -> Iterator[str]:
    span_s = (request.ended_ns - request.started_ns) / 1e9
    if not math.isclose(span_s, request.e2e_s, abs_tol=1e-3):
        yield f"e2e_s is {request.e2e_s}, its instants are {span_s} s apart"
    if request.ttft_s is not None and request.ttft_s > request.e2e_s + _SAME_S:
        yield f"its first token came after {request.ttft_s} s, its last after {request.e2e_s} s"
    if request.tpot_s is not None and request.ttft_s is not None and request.num_generated > 1:
        tpot_s = (request.e2e_s - request.ttft_s) / (request.num_generated - 1)
        if not math.isclose(tpot_s, request.tpot_s, rel_tol=1e-3, abs_tol=_SAME_S):
            yield f"tpot_s is {request.tpot_s}, its times and tokens make {tpot_s}"
    if request.token_ids and len(request.token_ids) != request.num_generated:
        yield f"{request.num_generated} tokens are counted, {len(request.token_ids)} are there"
    if request.num_accepted > request.num_drafted:
        yield f"{request.num_accepted} of {request.num_drafted} drafted tokens were accepted"


def check_texts(run: RunEvidence, notes: Sequence[CellNote]) -> Iterator[str]:
    """The text of a prompt is the same in every arm, link and number of users that asked it with the same draws.

    The target's text is what is served: an arm that changes it has not computed the same thing, whatever its speed.
    Compared are coordinators of one kind of processor and engine: kernels of others round otherwise. Left out are arms
    whose text is not the target's (the draft alone, external servers) and, at a temperature above 0, cells
    verified by rejection, whose draws are others. (MLPerf: accuracy is checked on the run that gives the figure.)
    """
    first: dict[tuple[str, ...], tuple[Cell, tuple[int, ...]]] = {}
    faults: dict[tuple[str, str], list[str]] = defaultdict(list)
    for note in notes:
        if isinstance(note.header, ExternalHeader) or not _is_coupled(note):
            continue
        for prompt, token_ids in note.texts.items():
            if not token_ids:
                yield f"{note.cell.cell_id}: the text of {prompt!r} was not recorded, so it cannot be compared"
                continue
            kernels = note.header.machine.cpu_model, note.header.target.engine_version
            other, expected = first.setdefault((note.cell.text_key, prompt, *kernels), (note.cell, token_ids))
            if token_ids != expected:
                same = next((i for i, (a, b) in enumerate(zip(token_ids, expected, strict=False)) if a != b), None)
                where = f"from token {same} on" if same is not None else "in length"
                exact = "" if note.header.exact else " (its engine is not exact to the last bit)"
                faults[other.cell_id, note.cell.cell_id].append(f"{prompt!r} {where}{exact}")
    for (one, two), told in faults.items():
        yield f"{one} and {two} differ in {len(told)} texts: {', '.join(told[:_SHOWN])}"


def _is_coupled(note: CellNote) -> bool:
    return (
        isinstance(note.header, ExternalHeader) or note.header.verification == "coupled" or not note.header.temperature
    )


def check_comparison(run: RunEvidence, notes: Sequence[CellNote]) -> Iterator[str]:
    """Texts were compared at all: wherever two arms give the target's text, some prompt was written by both."""
    arms: dict[tuple[str, str], set[str]] = defaultdict(set)
    for note in notes:
        for prompt in note.texts:
            arms[note.cell.text_key, prompt].add(note.cell.arm)
    comparable = {note.cell.arm for note in notes if note.texts}
    compared = set().union(*(own for own in arms.values() if len(own) > 1))
    if len(comparable) > 1:
        for arm in sorted(comparable - compared):
            yield f"no text of arm {arm!r} was written by another arm too"


RULES = (
    CellRule(301, check_requests),
    CellRule(302, check_records_fit),
    CellRule(303, check_figures),
    NotesRule(304, check_texts),
    NotesRule(305, check_comparison),
)
