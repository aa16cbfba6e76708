"""Whether records fit together: what a reader may rely on, checked. No I/O."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from multispin_models.records.kinds import AnyRecord
from multispin_models.records.schema import EnergyRecord, GapRecord, RequestRecord, RoundRecord

__all__ = ["check_records"]

_JOULES_REL = 1e-9
_PARTS_S = 1e-6


def check_records(records: Iterable[AnyRecord]) -> Iterator[str]:
    """Yield what does not fit, a sentence each; nothing if all does.

    Checked: no round twice; every request has the rounds that it counts, gaps apart; joules of rounds sum to their
    request, and those of an end to its window; the parts of a round sum to it, and one-way times have a bound.
    """
    requests: list[RequestRecord] = []
    rounds: dict[tuple[str, int], list[RoundRecord]] = defaultdict(list)
    gaps: Counter[tuple[str, str]] = Counter()
    for record in records:
        if isinstance(record, RequestRecord):
            requests.append(record)
        elif isinstance(record, RoundRecord):
            rounds[record.run_id, record.wire_request_id].append(record)
            yield from _check_round(record)
        elif isinstance(record, GapRecord):
            gaps[record.run_id, record.agent_id] += record.num_dropped
        elif isinstance(record, EnergyRecord):
            yield from _check_energy(record)
    for (run_id, wire_request_id), own in rounds.items():
        twice = [number for number, count in Counter(record.round for record in own).items() if count > 1]
        if twice:
            yield f"run {run_id} request {wire_request_id:016x}: rounds {twice} are there more than once"
    for request in requests:
        own = rounds[request.run_id, request.wire_request_id]
        drafts = sum(not record.is_open for record in own)
        if drafts == request.num_rounds:
            yield from _check_joules(request, own)
        elif not gaps[request.run_id, request.agent_id]:
            yield f"request {request.id} counts {request.num_rounds} rounds, {drafts} are there, and no gap is recorded"


def _check_round(record: RoundRecord) -> Iterator[str]:
    name = f"request {record.wire_request_id:016x} round {record.round}"
    if (record.uplink_s is None) != (record.clock_bound_s is None):
        yield f"{name} has a one-way time without its bound, or a bound without it"
    parts = (
        *(record.draft_wait_s, record.rewind_s, record.agent_queue_s, record.uplink_s),
        *(record.coordinator_queue_s, record.verify_s, record.downlink_s),
    )
    known = [part for part in parts if part is not None]
    if record.round_s is not None and len(known) == len(parts) and abs(math.fsum(known) - record.round_s) > _PARTS_S:
        yield f"{name} lasts {record.round_s} s, its parts {math.fsum(known)} s"


def _check_energy(record: EnergyRecord) -> Iterator[str]:
    if record.energy_j is None and record.reason is None:
        yield f"{record.end} of run {record.run_id} has no joules and no reason"
    if record.energy_j is None or record.attributed_j is None or record.unattributed_j is None:
        return
    joules = record.attributed_j + record.unattributed_j
    if not math.isclose(joules, record.energy_j, rel_tol=_JOULES_REL):
        yield f"{record.end} of run {record.run_id} counts {record.energy_j} J, its parts sum to {joules}"


def _check_joules(request: RequestRecord, own: list[RoundRecord]) -> Iterator[str]:
    for name in ("energy_agent_j", "energy_coordinator_j"):
        whole = getattr(request, name)
        parts = [joules for joules in (getattr(record, name) for record in own) if joules is not None]
        if whole is None or len(parts) < len(own):
            continue
        if not math.isclose(math.fsum(parts), whole, rel_tol=_JOULES_REL):
            yield f"request {request.id} has {name} {whole}, its rounds sum to {math.fsum(parts)}"
