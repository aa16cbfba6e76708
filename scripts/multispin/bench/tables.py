"""The results of `multispin bench` as a person sees them, in plain text."""

from collections.abc import Iterable, Sequence

from multispin.bench.overhead import Spread
from multispin.bench.overhead_run import OverheadRun
from multispin.bench.ranking import RULE_DRAFT_TOKENS, Best, Fit
from multispin.bench.verify import Point

__all__ = ["overhead_lines", "verify_lines"]


def verify_lines(
    points: Sequence[Point], drafts: Sequence[Point], fits: Sequence[Fit], best: Sequence[Best]
) -> Iterable[str]:
    """Yield a line a point with its ratio to one row, then the fits, the drafts, and what serves best."""
    yield f"{'pair':24} {'engine':9} {'recipe':10} {'thr':>3} {'ctx':>5} {'seq':>4} {'rows':>5} " + (
        f"{'median ms':>10} {'min':>9} {'p90':>9} {'T/T(1)':>7}"
    )
    ones = {(*_model(point), point.context): point.ms_median for point in points if point.rows == 1}
    for point in points:
        one = ones.get((*_model(point), point.context))
        ratio = "-" if one is None else f"{point.ms_median / one:.2f}"
        yield f"{_name(point)} {point.context:5} {point.sequences:4} {point.rows:5} " + (
            f"{point.ms_median:10.2f} {point.ms_min:9.2f} {point.ms_p90:9.2f} {ratio:>7}"
        )
    yield ""
    yield "T_v = c0 + c1 * rows, Theil-Sen through the medians:"
    for fit in fits:
        where = f"{_name(fit)} {fit.context:5} {fit.sequences:4}"
        if fit.c0_ms is None:
            yield f"{where}  no line: one number of rows only"
        else:
            yield f"{where}  c0 {fit.c0_ms:8.2f} ms  c1 {fit.c1_ms_per_row:7.3f} ms/row  {_distances(fit)}"
    for draft in drafts:
        yield f"draft: {_name(draft)} {draft.context:5}  {draft.ms_median:.2f} ms/token (min {draft.ms_min:.2f})"
    for each in best:
        yield (
            f"best at context {each.context}: {each.engine} {each.recipe} of {each.pair}, {each.threads} thread(s): "
            f"{each.ms:.2f} ms for {RULE_DRAFT_TOKENS + 1} rows; rule: {each.rule}"
        )


def _distances(fit: Fit) -> str:
    if fit.residual_ms_median is None:
        return f"of {fit.num_points} points: no distances"
    return (
        f"distances of {fit.num_points} points: median {fit.residual_ms_median:.2f}, "
        f"largest {fit.residual_ms_largest:.2f} ms"
    )


def _model(of: Point | Fit) -> tuple[str, str, str, int]:
    return of.pair, of.engine, of.recipe, of.threads


def _name(of: Point | Fit) -> str:
    return f"{of.pair[-24:]:24} {of.engine:9} {of.recipe:10} {of.threads:3}"


def overhead_lines(runs: Sequence[OverheadRun]) -> Iterable[str]:
    """Yield a line a run: where the time of a round goes."""
    yield "median / 90th percentile, ms a round; overhead = agent + network + coordinator"
    parts = (
        "overhead",
        "share",
        "agent",
        "network",
        "coordinator",
        "waiting",
        "draft",
        "verify",
        "period",
        "cpu",
        "core wait",
    )
    yield f"{'engine':9} {'agents':>6} {'rounds':>6} " + " ".join(f"{part:>13}" for part in parts)
    for run in runs:
        found = run.overhead
        cells = [
            _cell(found.overhead_ms),
            f"{found.share:.1%}",
            *map(_cell, (found.agent_ms, found.network_ms, found.coordinator_ms, found.waiting_ms)),
            *map(_cell, (found.draft_ms, found.verify_ms, found.period_ms)),
            _both(run.cpu_ms_per_round_agent, run.cpu_ms_per_round_coordinator),
            _both(run.core_wait_ms_per_round_agent, run.core_wait_ms_per_round_coordinator),
        ]
        yield f"{run.engine:9} {run.agents:6} {found.rounds:6} " + " ".join(f"{cell:>13}" for cell in cells)
    yield ""
    yield "share: of all the rounds' time. waiting: for passes of other agents, no overhead."
    if any(not run.is_model for run in runs):
        yield (
            "null: no model, a pass sleeps; the processes, the sockets and all the code around it are those of a run. "
            "cpu: processor time a round, agent + coordinator, with their choices. core wait: mean a round in which "
            "their threads could have computed, but others had the cores: on boxes of their own there would be none."
        )


def _cell(spread: Spread) -> str:
    return f"{spread.median:.2f} / {spread.p90:.2f}"


def _both(agent_ms: float | None, coordinator_ms: float | None) -> str:
    return "-" if agent_ms is None or coordinator_ms is None else f"{agent_ms:.2f} + {coordinator_ms:.2f}"
