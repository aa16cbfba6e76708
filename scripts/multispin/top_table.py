"""A line for each daemon from two readings of its /metrics. No I/O."""

from collections.abc import Sequence

import msgspec
from prometheus_client.parser import text_string_to_metric_families

__all__ = ["EndState", "Readings", "read_metrics", "state_of", "table"]

Readings = dict[str, float]  # sums over all labels, by name without prefix

PREFIX = "multispin:"
COLUMNS = ("at", "is", "served", "waiting", "tok/s", "TTFT ms", "TPOT ms", "accepted", "length", "rows", "W", "max C")


class EndState(msgspec.Struct, frozen=True):
    """What a daemon did between two readings.

    Attributes:
        url: where it answers.
        role: "agent" or "coordinator"; null if it does not answer.
        error: why it does not; else null.
        num_running, num_waiting: requests now.
        tokens_per_s: written for its users; at the coordinator committed, for agents too.
        ttft_s, tpot_s: means over the texts that ended meanwhile; null without one.
        acceptance_rate, mean_acceptance_length: of drafts verified meanwhile; null without one.
        mean_rows: of passes meanwhile; null without one, and at agents.
        power_w: mean, as its meter covers it; null without a meter.
        temperature_c: of the warmest zone; null where none is told.
    """

    url: str
    role: str | None = None
    error: str | None = None
    num_running: int | None = None
    num_waiting: int | None = None
    tokens_per_s: float | None = None
    ttft_s: float | None = None
    tpot_s: float | None = None
    acceptance_rate: float | None = None
    mean_acceptance_length: float | None = None
    mean_rows: float | None = None
    power_w: float | None = None
    temperature_c: float | None = None


def read_metrics(text: str) -> Readings:
    """Return the values of a text in Prometheus' format: sums over labels, of temperatures the highest.

    Raises:
        ValueError: it is no such text, or not of a multispin daemon.
    """
    if f"\n{PREFIX}" not in text:
        raise ValueError("no metrics of multispin are told there")
    found: Readings = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            name = sample.name.removeprefix(PREFIX)
            if name == "temperature_celsius":
                found[name] = max(found.get(name, sample.value), sample.value)
            elif "le" not in sample.labels:
                found[name] = found.get(name, 0.0) + sample.value
    return found


def state_of(url: str, before: Readings, now: Readings, seconds: float) -> EndState:
    """Return what a daemon did between two readings; one that was started anew meanwhile counts from its start."""
    anew = any(now[name] < before.get(name, 0.0) for name in now if name.endswith("_total"))
    base = {} if anew else before

    def gained(name: str) -> float:
        return now.get(name, 0.0) - base.get(name, 0.0)

    def ratio(above: str, below: str) -> float | None:
        return gained(above) / gained(below) if gained(below) > 0 else None

    is_coordinator = "agents_connected" in now
    tokens = "committed_tokens_total" if is_coordinator else "generation_tokens_total"
    joules = "pass_energy_joules_total" if is_coordinator else "energy_joules_total"
    length = ratio("spec_decode_num_accepted_tokens_total", "spec_decode_num_drafts_total")
    return EndState(
        url=url,
        role="coordinator" if is_coordinator else "agent",
        num_running=int(now["num_requests_running"]),
        num_waiting=int(now["num_requests_waiting"]),
        tokens_per_s=gained(tokens) / seconds,
        ttft_s=ratio("time_to_first_token_seconds_sum", "time_to_first_token_seconds_count"),
        tpot_s=ratio("request_time_per_output_token_seconds_sum", "request_time_per_output_token_seconds_count"),
        acceptance_rate=ratio("spec_decode_num_accepted_tokens_total", "spec_decode_num_draft_tokens_total"),
        mean_acceptance_length=None if length is None else 1 + length,
        mean_rows=ratio("batch_rows_sum", "batch_rows_count"),
        power_w=gained(joules) / seconds if joules in now else None,
        temperature_c=now.get("temperature_celsius"),
    )


def table(states: Sequence[EndState]) -> list[str]:
    """Return the lines of a table; what is not known is a dash."""
    rows = [COLUMNS, *(_row(state) for state in states)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    lines = []
    for row in rows:
        padded = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        padded[:2] = [cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)]
        lines.append("  ".join(padded).rstrip())
    return lines + [f"{state.url}: {state.error}" for state in states if state.error is not None]


def _row(state: EndState) -> tuple[str, ...]:
    return (
        state.url,
        state.role or "no answer",
        _number(state.num_running, ".0f"),
        _number(state.num_waiting, ".0f"),
        _number(state.tokens_per_s, ".1f"),
        _number(state.ttft_s, ".0f", 1e3),
        _number(state.tpot_s, ".1f", 1e3),
        _number(state.acceptance_rate, ".1%"),
        _number(state.mean_acceptance_length, ".2f"),
        _number(state.mean_rows, ".1f"),
        _number(state.power_w, ".1f"),
        _number(state.temperature_c, ".0f"),
    )


def _number(value: float | None, form: str, scale: float = 1.0) -> str:
    return "-" if value is None else format(value * scale, form)
