"""All figures and tables of a report."""

from collections.abc import Sequence

from multispin.campaign.drawings import (
    Drawing,
    Table,
    acceptance,
    by_setting,
    crossover,
    forest,
    pareto,
    round_parts,
    thermal,
)
from multispin.campaign.drawings.forest import effect_table
from multispin.campaign.effects import ALL, EffectRow
from multispin.campaign.measured import CellFigures, Measured
from multispin.campaign.metrics import METRICS, WAITED
from multispin.campaign.rules.checking import Verdict

__all__ = ["drawings_of", "tables_of"]


def drawings_of(run: Measured, found: list[EffectRow]) -> list[Drawing]:
    """Return the figures, in the order of the page."""
    return [
        forest(run, found),
        crossover(run),
        *(by_setting(run, metric) for metric in METRICS),
        *([by_setting(run, WAITED)] if run.plan.arrivals.spacing == "poisson" else []),
        pareto(run),
        round_parts(run),
        acceptance(run),
        thermal(run),
    ]


def tables_of(run: Measured, found: Sequence[EffectRow], verdict: Verdict) -> list[tuple[str, str, Table]]:
    """Return name, title and numbers of the tables besides."""
    by_level = [row for row in found if row.setting != ALL]
    by_device = [row for row in found if row.device]
    return [
        ("effects-by-setting", "Effects at every setting", effect_table(by_level)),
        ("effects-by-device", "Effects on every device", effect_table(by_device)),
        ("excluded", "Cells that were left out, and why", _left_out(run)),
        (
            "faults",
            "Faults found by campaign verify",
            Table(("rule", "where", "what"), [(each.rule, each.where, each.what) for each in verdict.faults]),
        ),
        ("cells", "Every cell", _cells(run)),
    ]


def _left_out(run: Measured) -> Table:
    rows = [(name, "excluded", reason) for name, reason in sorted(run.excluded.items())]
    rows += [(name, "missing", "was not run, or not completed") for name in run.missing]
    return Table(("cell", "what", "why"), rows)


def _cells(run: Measured) -> Table:
    factors = sorted({name for each in run.cells for name in each.cell.factors})
    figures = [name for name in CellFigures.__struct_fields__ if name != "cell"]
    return Table(
        ("cell_id", "block", "device", "order", "arm", *factors, *figures),
        [
            (
                *(each.cell.cell_id, each.cell.block, each.cell.device, each.cell.order, each.cell.arm),
                *(each.cell.factors.get(name) for name in factors),
                *(getattr(each, name) for name in figures),
            )
            for each in run.cells
        ],
    )
