"""What a run shows, in sentences made from its numbers; where cooperation loses is said as plainly as where not.

A difference counts as found if the 95 % interval excludes "no effect" and Holm's adjusted p is at most 0.05.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from statistics import mean
from typing import Final, NamedTuple

from multispin.campaign.effects import ALL, EffectRow, judged_arms, rival_arms
from multispin.campaign.figures.drawing import energy_words
from multispin.campaign.measured import METRICS, Measured
from multispin.campaign.plan import Cooperation, LocalDraft

__all__ = ["Section", "conclusions", "effect_words"]

_SHOWN: Final = 12
_ENERGY: Final = "energy_j_per_token"


class Section(NamedTuple):
    """Sentences under a heading."""

    title: str
    sentences: list[str]


def conclusions(run: Measured, found: Sequence[EffectRow]) -> list[Section]:
    """Return what the run shows."""
    sections = [
        Section("What was asked", list(_hypotheses(run, found))),
        Section("Where cooperation wins", list(_by_verdict(run, found, "better"))),
        Section("Where cooperation loses", list(_by_verdict(run, found, "worse"))),
        Section("Where no difference was found", list(_undecided(run, found))),
        Section("The draft model alone", list(_drafts_alone(run, found))),
        Section("Energy", list(_energy(run))),
    ]
    return [section for section in sections if section.sentences]


def effect_words(row: EffectRow) -> str:
    """Return an effect with its interval and n: "TPOT 40.0 % lower (ratio 0.600, 95 % 0.571 to 0.630; n = 5 ...)"."""
    found, name = row.effect, row.metric.title
    n = f"n = {found.num_blocks} device-blocks"
    if found.estimate is None:
        return f"{name}: nothing to compare"
    if found.scale == "ratio":
        change = f"{abs(found.estimate - 1.0):.1%}".replace("%", " %")
        way = "lower" if found.estimate < 1.0 else "higher"
        said = f"{name} {change} {way} (ratio {found.estimate:.3f}"
    else:
        way = "less" if found.estimate < 0.0 else "more"
        said = f"{name} {abs(found.estimate):.3g} {row.metric.unit} {way} (difference"
    if found.low is None or found.high is None:
        return f"{said}; no interval: {found.reason}; {n})"
    return f"{said}, 95 % interval {found.low:.3g} to {found.high:.3g}; {n})"


def _hypotheses(run: Measured, found: Sequence[EffectRow]) -> Iterator[str]:
    for each in run.plan.hypotheses:
        row = _overall(found, each.arm, each.rival, each.metric)
        wanted = f"{each.name}: {each.arm} against {each.rival}"
        if row is None:
            yield f"{wanted}: not answered, no device-block has figures of both."
            continue
        is_wished = (row.verdict == "better") == ((each.effect < 0.0) == row.metric.lower_is_better)
        answer = {
            "not known": "not answered",
            "no difference found": "not shown: no difference was found",
        }.get(row.verdict, "shown" if is_wished else "refuted: the difference is the other way round")
        size = f"asked was {each.effect:+.0%}".replace("%", " %")
        yield f"{wanted}: {answer}. {effect_words(row)}; {size}."


def _by_verdict(run: Measured, found: Sequence[EffectRow], verdict: str) -> Iterator[str]:
    """Yield a sentence a pair and metric with the settings where it is so."""
    usable = [row for row in found if isinstance(run.arms[row.arm], Cooperation) and _is_said(run, row)]
    for row in usable:
        if row.setting == ALL and not row.device and row.verdict == verdict:
            yield f"{row.arm} against {row.rival}, over all settings: {effect_words(row)}."
    settings: dict[tuple[str, str, str], list[EffectRow]] = defaultdict(list)
    totals: dict[tuple[str, str, str], int] = defaultdict(int)
    for row in usable:
        if row.setting != ALL:
            key = row.arm, row.rival, row.metric.title
            totals[key] += 1
            if row.verdict == verdict:
                settings[key].append(row)
    for (arm, rival, title), rows in settings.items():
        shown = "; ".join(f"{row.setting}: {_short(row)}" for row in rows[:_SHOWN])
        more = f"; and {len(rows) - _SHOWN} more, in the table" if len(rows) > _SHOWN else ""
        yield f"{arm} against {rival}, {title}, in {len(rows)} of {totals[arm, rival, title]} settings: {shown}{more}."
    if verdict == "worse" and usable and not any(row.verdict == "worse" for row in usable):
        yield f"In none of {len(usable)} comparisons was cooperation found to lose."
    if verdict == "better" and usable and not any(row.verdict == "better" for row in usable):
        yield f"In none of {len(usable)} comparisons was cooperation found to win."
    if not usable and verdict == "better":
        yield "No arm that cooperates shares device-blocks with a rival: nothing can be said."


def _undecided(run: Measured, found: Sequence[EffectRow]) -> Iterator[str]:
    usable = [row for row in found if isinstance(run.arms[row.arm], Cooperation) and _is_said(run, row)]
    for row in usable:
        if row.setting == ALL and not row.device and row.verdict in {"no difference found", "not known"}:
            yield f"{row.arm} against {row.rival}, over all settings: {effect_words(row)}."
    settings = [row for row in usable if row.setting != ALL]
    undecided = sum(row.verdict in {"no difference found", "not known"} for row in settings)
    if settings:
        yield f"At single settings, {undecided} of {len(settings)} comparisons are undecided."


def _drafts_alone(run: Measured, found: Sequence[EffectRow]) -> Iterator[str]:
    for name in judged_arms(run):
        if not isinstance(run.arms[name], LocalDraft):
            continue
        quality = [each.quality_nll for each in run.cells if each.cell.arm == name and each.quality_nll is not None]
        told = f"{mean(quality):.2f} nats a token under the target" if quality else "its quality was not recorded"
        yield f"{name} writes another text than the target: {told} (n = {len(quality)} cells)."
        for rival in rival_arms(run)[:1]:
            row = _overall(found, name, rival, "tpot_s")
            if row is not None:
                yield f"{name} against {rival}: {effect_words(row)}."


def _energy(run: Measured) -> Iterator[str]:
    label, sentence = energy_words(run)
    yield sentence
    if label in {"replayed", "modelled"}:
        yield "So nothing is concluded about joules; the figures show what such a campaign would report."
    idle = [each.idle_w for each in run.cells if each.idle_w is not None]
    if idle:
        yield f"Idle power before the cells was {mean(idle):.3g} W in the mean ({label}); it is in all joules."


def _is_said(run: Measured, row: EffectRow) -> bool:
    """Whether conclusions may rest on a row: joules only if a sensor saw them."""
    return row.metric.name != _ENERGY or energy_words(run)[0] in {"measured", "calibrated"}


def _short(row: EffectRow) -> str:
    found = row.effect
    assert found.estimate is not None
    return f"x {found.estimate:.2f}" if found.scale == "ratio" else f"{found.estimate:+.3g} {row.metric.unit}"


def _overall(found: Sequence[EffectRow], arm: str, rival: str, metric: str) -> EffectRow | None:
    assert metric in {each.name for each in METRICS}
    rows = [
        row
        for row in found
        if (row.arm, row.rival, row.metric.name, row.setting, row.device) == (arm, rival, metric, ALL, "")
    ]
    return rows[0] if rows else None
