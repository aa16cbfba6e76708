"""How a run goes, for people: on a terminal a table that is drawn anew, elsewhere a line a cell."""

import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from statistics import mean
from typing import TextIO

from multispin.campaign.figures import CellFigures
from multispin.campaign.folder import Cell

__all__ = ["Live"]

_HEADING = f"{'arm':24} {'cells':>6} {'TPOT ms':>9} {'TTFT ms':>9} {'tok/s':>8} {'J/token':>9} {'B/token':>8}"


class Live:
    """Says how far a run is.

    Args:
        arms: names, in the order of the table.
        total: cells of this call.
        stream: null for stderr.
    """

    def __init__(
        self,
        arms: Sequence[str],
        total: int,
        stream: TextIO | None = None,
    ) -> None:
        self._out = sys.stderr if stream is None else stream
        self._is_live = self._out.isatty()
        self._total = total
        self._begun_s = time.monotonic()
        self._seconds: list[float] = []
        self._before = 0
        self._figures: dict[str, list[CellFigures]] = defaultdict(list)
        self._arms = list(arms)
        self._drawn = 0

    def know(self, known: Sequence[tuple[Cell, CellFigures]]) -> None:
        """Take in cells that are there already."""
        self._before += len(known)
        for cell, figures in known:
            self._figures[cell.arm].append(figures)

    def begin(self, cell: Cell) -> None:
        """A cell begins: told on a terminal alone."""
        if self._is_live:
            self._draw(_named(cell))

    def say(self, what: str) -> None:
        """Something happens between cells."""
        if self._is_live:
            self._draw(what)
        else:
            print(f"{self._progress()} {what}", file=self._out, flush=True)

    def done(self, cell: Cell, figures: CellFigures, seconds: float) -> None:
        """A cell is complete."""
        self._figures[cell.arm].append(figures)
        self._seconds.append(seconds)
        if self._is_live:
            self._draw(f"{_named(cell)}: done")
        else:
            tpot = "-" if figures.tpot_s is None else f"{1e3 * figures.tpot_s:.1f} ms"
            said = f"{_named(cell)}: {seconds:.1f} s, TPOT {tpot}"
            print(f"{self._progress()} {said}", file=self._out, flush=True)

    def table(self) -> str:
        """Return what each arm has come to so far: means over cells, of all levels."""
        lines = [_HEADING]
        for arm in self._arms:
            own = self._figures[arm]
            columns = (
                _mean([each.tpot_s for each in own], 1e3, "9.1f"),
                _mean([each.ttft_s for each in own], 1e3, "9.1f"),
                _mean([each.goodput_tokens_per_s for each in own], 1.0, "8.1f"),
                _mean([each.energy_j_per_token for each in own], 1.0, "9.3f"),
                _mean([each.backhaul_bytes_per_token for each in own], 1.0, "8.0f"),
            )
            lines.append(f"{arm[:24]:24} {len(own):6} {' '.join(columns)}")
        return "\n".join(lines)

    def _progress(self) -> str:
        done = self._before + len(self._seconds)
        spent_s = time.monotonic() - self._begun_s
        left_s = spent_s / len(self._seconds) * (self._total - done) if self._seconds else None
        until = "" if left_s is None else f", about {left_s / 60:.0f} min left"
        return f"[{done}/{self._total}{until}]"

    def _draw(self, what: str) -> None:
        width = shutil.get_terminal_size().columns
        lines = [*self.table().splitlines(), f"{self._progress()} {what}"]
        up = f"\x1b[{self._drawn}A" if self._drawn else ""
        body = "".join(f"\x1b[2K{line[: width - 1]}\n" for line in lines)
        print(f"{up}{body}", end="", file=self._out, flush=True)
        self._drawn = len(lines)


def _named(cell: Cell) -> str:
    return f"{cell.cell_id} ({', '.join(f'{name} {level}' for name, level in cell.factors.items())})"


def _mean(values: Sequence[float | None], factor: float, form: str) -> str:
    known = [value for value in values if value is not None]
    width = int(form.split(".", maxsplit=1)[0])
    return format(factor * mean(known), form) if known else "-".rjust(width)
