"""The lines through the points of `verify.py`, one a model, and the model that they say serves best."""

from collections.abc import Iterable, Sequence

from msgspec import Struct

from multispin.bench.verify import Point
from multispin_models.line import fit_line

__all__ = ["RULE", "RULE_DRAFT_TOKENS", "Best", "Fit", "best_of", "fit_points"]

RULE_DRAFT_TOKENS = 4
RULE = "least c0 + c1 * (L + 1) of the fit at L = 4, at the fewest sequences measured"


class Fit(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """T_v = c0 + c1 * rows of one model, through the medians of its points.

    Attributes:
        pair, engine, recipe, threads, sequences, context: whose points.
        c0_ms, c1_ms_per_row: of the line; null with points of one number of rows only.
        residual_ms_median, residual_ms_largest: distances of the points from the line; null below three points, which
            any line fits.
        num_points: that were fitted.
    """

    pair: str
    engine: str
    recipe: str
    threads: int
    sequences: int
    context: int
    c0_ms: float | None
    c1_ms_per_row: float | None
    residual_ms_median: float | None
    residual_ms_largest: float | None
    num_points: int


class Best(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What serves best at one context, and by which rule."""

    context: int
    pair: str
    engine: str
    recipe: str
    threads: int
    sequences: int
    ms: float
    rule: str


def fit_points(points: Iterable[Point]) -> list[Fit]:
    """Return a fit for every model, number of sequences and context, in the order in which they come."""
    groups: dict[tuple[str, str, str, int, int, int], list[Point]] = {}
    for point in points:
        key = (point.pair, point.engine, point.recipe, point.threads, point.sequences, point.context)
        groups.setdefault(key, []).append(point)
    return [_fit(*key, members) for key, members in groups.items()]


def _fit(
    pair: str, engine: str, recipe: str, threads: int, sequences: int, context: int, members: Sequence[Point]
) -> Fit:
    line = fit_line((point.rows, point.ms_median) for point in members)
    return Fit(
        pair=pair,
        engine=engine,
        recipe=recipe,
        threads=threads,
        sequences=sequences,
        context=context,
        c0_ms=line.intercept if line else None,
        c1_ms_per_row=line.slope if line else None,
        residual_ms_median=line.residual_median if line and len(members) > 2 else None,
        residual_ms_largest=line.residual_largest if line and len(members) > 2 else None,
        num_points=len(members),
    )


def best_of(fits: Sequence[Fit]) -> list[Best]:
    """Return what serves best at each context by RULE; nothing for a context without a fit."""
    found: list[Best] = []
    for context in dict.fromkeys(fit.context for fit in fits):
        here = [fit for fit in fits if fit.context == context]
        fewest = min(fit.sequences for fit in here)
        costs = [
            (fit.c0_ms + fit.c1_ms_per_row * (RULE_DRAFT_TOKENS + 1), fit)
            for fit in here
            if fit.sequences == fewest and fit.c0_ms is not None and fit.c1_ms_per_row is not None
        ]
        if not costs:
            continue
        ms, fit = min(costs, key=lambda cost: cost[0])
        found.append(
            Best(
                context=context,
                pair=fit.pair,
                engine=fit.engine,
                recipe=fit.recipe,
                threads=fit.threads,
                sequences=fit.sequences,
                ms=ms,
                rule=RULE,
            )
        )
    return found
