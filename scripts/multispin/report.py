"""The table of a run, in plain text that reads well in a terminal and in a log."""

import textwrap
from collections.abc import Iterable, Sequence
from statistics import median
from typing import NamedTuple, TextIO

from multispin_models.records import EnergyRecord, RequestSummary, RoundRecord, Summary, reliability

__all__ = ["print_table"]

_WIDTH = 118
_ID_WIDTH = 20
_REASONS_SHOWN = 5


class _Column(NamedTuple):
    heading: str
    unit: str
    width: int
    digits: int
    scale: float = 1.0


_COLUMNS = (
    _Column("tokens", "", 7, 0),
    _Column("acceptance", "rate", 10, 3),
    _Column("mean acc.", "length", 9, 2),
    _Column("goodput", "tok/s", 8, 1),
    _Column("TTFT", "ms", 8, 1, 1e3),
    _Column("TPOT", "ms", 8, 2, 1e3),
    _Column("up", "B/tok", 7, 1),
    _Column("down", "B/tok", 7, 1),
    _Column("energy", "J/tok", 9, 4),
)


def print_table(
    summary: Summary, stream: TextIO, rounds: Sequence[RoundRecord] = (), energy: Sequence[EnergyRecord] = ()
) -> None:
    """Print the figures of a run: a line a request, the total, and what has to be said of them.

    Args:
        summary: of the run.
        stream: where to; no colour, at most 118 columns.
        rounds: if given, a line says where the time of a round goes.
        energy: if given, lines say what of each end's joules was shared out, and what it draws when idle.
    """
    for line in _lines(summary, rounds, energy):
        print(line, file=stream)


def _lines(summary: Summary, rounds: Sequence[RoundRecord], energy: Sequence[EnergyRecord]) -> Iterable[str]:
    yield _row("request", [column.heading for column in _COLUMNS], "finish")
    yield _row("", [column.unit for column in _COLUMNS], "")
    rule = "-" * len(_row("", ["" for _ in _COLUMNS], "finish"))
    yield rule
    for request in summary.per_request:
        yield _row(_shortened(request.id), _cells(_figures(request)), request.finish)
    yield rule
    total = [
        summary.tokens,
        summary.acceptance_rate,
        summary.mean_acceptance_length,
        summary.goodput_tokens_per_s,
        summary.ttft_s_median,
        summary.tpot_s_median,
        summary.payload_up_bytes_per_token,
        summary.payload_down_bytes_per_token,
        summary.energy_j_per_token,
    ]
    yield _row("total", _cells(total), f"{summary.completed}/{summary.requests}")
    yield ""
    for note in [*_notes(summary, rounds), *_energy_notes(summary, energy)]:
        yield from textwrap.wrap(note, _WIDTH, subsequent_indent="    ", break_on_hyphens=False)


def _notes(summary: Summary, rounds: Sequence[RoundRecord]) -> Iterable[str]:
    yield (
        "total: TTFT and TPOT are medians over the requests; goodput is all tokens from the first start to the last "
        "end; mean acceptance length is 1 + accepted / rounds; bytes are payload of frames."
    )
    if rounds:
        yield _round_times(rounds)
        yield from _confidence(rounds)
    differences = summary.text_differences
    checked = (
        "not compared with the target alone (--check-text)" if differences is None else f"{differences} tokens differ"
    )
    yield f"text: {checked}; target's engine exact to the last bit: {'yes' if summary.exact else 'no'}"
    value = "-" if summary.energy_j_per_token is None else f"{summary.energy_j_per_token:.4f} J/token"
    label = f", {summary.energy_label}" if summary.energy_label else ""
    yield f"energy: {value}{label}: {summary.energy_reason}"
    reasons = {request.energy_reason for request in summary.per_request if request.energy_j_per_token is None}
    yield from _some("energy of a request", sorted(reason for reason in reasons if reason))
    yield from _some("error", [f"{request.id}: {request.error}" for request in summary.per_request if request.error])


def _round_times(rounds: Sequence[RoundRecord]) -> str:
    """Return where the time of a median round goes; each figure is a median of its own, so they need not add up."""
    drafts = [record for record in rounds if not record.is_open] or rounds

    def ms(field: str) -> str:
        return f"{median(getattr(record, field) for record in drafts) * 1e3:.2f}"

    parts = _parts(drafts)
    hits = [record.ahead_hit for record in drafts if record.ahead_hit is not None]
    ahead = f"{sum(hits) / len(hits):.3f} of {len(hits)}" if hits else "-"
    return (
        f"rounds: {len(drafts)}; median ms: draft {ms('draft_s')}, round trip {ms('round_trip_s')} (coordinator "
        f"{ms('residence_s')}, of it verify {ms('verify_s')}; network {ms('network_s')}); "
        f"rows in a batch {median(record.batch_rows for record in drafts):g}; drafts ahead used {ahead}{parts}"
    )


def _confidence(rounds: Sequence[RoundRecord]) -> Iterable[str]:
    """Yield how the agents' confidences came out, if they stated any."""
    found = reliability(rounds)
    if found is not None:
        points = ", ".join(f"{point.predicted:.2f}/{point.accepted:.2f} ({point.tokens})" for point in found.bins)
        yield (
            f"confidence of {found.tokens} judged tokens: calibration error {found.calibration_error:.3f}; "
            f"predicted/accepted (tokens): {points}"
        )


def _parts(drafts: Sequence[RoundRecord]) -> str:
    """Return the medians of a round's parts, in the order in which they follow each other, and of the clock bound."""
    whole = [record for record in drafts if record.uplink_s is not None and record.clock_event is None]
    if not whole:
        return ""
    names = ("draft_wait_s", "rewind_s", "agent_queue_s", "uplink_s", "coordinator_queue_s", "verify_s", "downlink_s")

    def ms(name: str) -> str:
        return f"{median(getattr(record, name) for record in whole) * 1e3:.2f}"

    told = ", ".join(f"{name.removesuffix('_s').replace('_', ' ')} {ms(name)}" for name in names)
    marked = sum(record.clock_event is not None for record in drafts)
    left_out = f"; {marked} rounds with a clock event left out" if marked else ""
    return f"; from verdict to verdict {ms('round_s')}: {told}; one-way times within {ms('clock_bound_s')}{left_out}"


def _energy_notes(summary: Summary, energy: Sequence[EnergyRecord]) -> Iterable[str]:
    """Say what each side's joules a token are, and of every end what was shared out and what it draws when idle."""
    network = summary.energy_network_j_per_token
    if network is not None:
        told = f"{network:.3g} J/token, {summary.energy_network_label}"
        yield f"energy of the network: {told}: {summary.energy_network_reason}"
    if not energy:
        return
    for name, value, label, reason in (
        ("agents", summary.energy_agent_j_per_token, summary.energy_agent_label, summary.energy_agent_reason),
        (
            "coordinator",
            summary.energy_coordinator_j_per_token,
            summary.energy_coordinator_label,
            summary.energy_coordinator_reason,
        ),
    ):
        told = "-" if value is None else f"{value:.4f} J/token, {label}"
        yield f"energy of the {name}: {told}: {reason}"
    for record in energy:
        if record.attributed_j is None or record.unattributed_j is None:
            continue
        prefill = "" if record.prefill_j is None else f" (prefill {record.prefill_j:.3f})"
        yield (
            f"{record.end}: {record.energy_j or 0.0:.3f} J, of them shared out to requests {record.attributed_j:.3f}"
            f"{prefill}, to nobody {record.unattributed_j:.3f}; {_idle(record)}"
        )


def _idle(record: EnergyRecord) -> str:
    if record.idle is None or record.idle.power_w is None:
        return f"idle baseline not known: {record.idle.reason if record.idle else 'not measured'}"
    return f"idle baseline {record.idle.power_w:.3f} W over {record.idle.length_s:.1f} s, not subtracted"


def _some(what: str, lines: Sequence[str]) -> Iterable[str]:
    for line in lines[:_REASONS_SHOWN]:
        yield f"{what}: {line}"
    if len(lines) > _REASONS_SHOWN:
        yield f"{what}: and {len(lines) - _REASONS_SHOWN} more, in the records"


def _figures(request: RequestSummary) -> list[float | None]:
    return [
        request.tokens,
        request.acceptance_rate,
        request.mean_acceptance_length,
        request.goodput_tokens_per_s,
        request.ttft_s,
        request.tpot_s,
        request.payload_up_bytes_per_token,
        request.payload_down_bytes_per_token,
        request.energy_j_per_token,
    ]


def _cells(figures: Sequence[float | None]) -> list[str]:
    return [
        "-" if figure is None else f"{figure * column.scale:.{column.digits}f}"
        for column, figure in zip(_COLUMNS, figures, strict=True)
    ]


def _row(name: str, cells: Sequence[str], finish: str) -> str:
    columns = [f"{cell:>{column.width}}" for column, cell in zip(_COLUMNS, cells, strict=True)]
    return " ".join([f"{name:<{_ID_WIDTH}}", *columns, f" {finish}"]).rstrip()


def _shortened(name: str) -> str:
    """Return an id that fits its column: what differs is most often at its end."""
    printable = "".join(char if char.isprintable() else "?" for char in name)
    return printable if len(printable) <= _ID_WIDTH else "~" + printable[1 - _ID_WIDTH :]
