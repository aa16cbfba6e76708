"""The figures of one cell, for the live table and the stopping rule; the report draws its own from all rows."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

from msgspec import Struct

from multispin.campaign.folder import CELLS, REQUESTS, read_energy
from multispin_models.errors import ConfigError

__all__ = ["CellFigures", "figures_of"]


class CellFigures(Struct, frozen=True, kw_only=True):
    """Of a cell; null where there is none. Names are those of `plan.Metric`.

    Attributes:
        requests, tokens: served.
        tpot_s, ttft_s, e2e_s: median over requests.
        goodput_tokens_per_s: all tokens over the time from the first start to the last end.
        energy_j_per_token: of the run window, all domains; null if one has no joules or labels differ.
        backhaul_bytes_per_token: payload both ways.
        quality_nll: mean over requests.
    """

    requests: int
    tokens: int
    tpot_s: float | None
    ttft_s: float | None
    e2e_s: float | None
    goodput_tokens_per_s: float | None
    energy_j_per_token: float | None
    backhaul_bytes_per_token: float | None
    quality_nll: float | None = None


def figures_of(run: Path, cell_id: str) -> CellFigures:
    """Return the figures of a completed cell.

    Raises:
        ConfigError: the extra is not installed.
        FolderError: its energy cannot be read.
    """
    try:
        import pyarrow.parquet as pq  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigError(f"Parquet is not installed ({error}): pip install 'multispin[campaign]'") from error
    names = ["num_generated", "tpot_s", "ttft_s", "e2e_s", "started_ns", "ended_ns", "quality_nll"]
    names += ["payload_up_bytes", "payload_down_bytes"]
    table: dict[str, list[Any]] = pq.read_table(run / CELLS / cell_id / REQUESTS, columns=names).to_pydict()
    tokens = sum(table["num_generated"])
    span_s = (max(table["ended_ns"]) - min(table["started_ns"])) / 1e9 if table["ended_ns"] else 0.0
    sent = sum(table["payload_up_bytes"]) + sum(table["payload_down_bytes"])
    joules = _joules(run, cell_id)
    quality = [each for each in table["quality_nll"] if each is not None]
    return CellFigures(
        requests=len(table["num_generated"]),
        tokens=tokens,
        tpot_s=_median(table["tpot_s"]),
        ttft_s=_median(table["ttft_s"]),
        e2e_s=_median(table["e2e_s"]),
        goodput_tokens_per_s=tokens / span_s if span_s else None,
        energy_j_per_token=joules / tokens if joules is not None and tokens else None,
        backhaul_bytes_per_token=sent / tokens if tokens else None,
        quality_nll=mean(quality) if quality else None,
    )


def _joules(run: Path, cell_id: str) -> float | None:
    windows = [window for window in read_energy(run, cell_id).windows if window.kind == "run"]
    by_domain = {window.domain: window for window in windows}
    if not windows or len({window.label for window in windows}) > 1:
        return None
    known = [window.energy_j for window in by_domain.values() if window.energy_j is not None]
    return sum(known) if len(known) == len(by_domain) else None


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None
