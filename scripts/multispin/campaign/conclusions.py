"""What a run shows, in sentences made from its numbers; where cooperation loses is said as plainly as where not.

A difference counts as found if the 95 % interval excludes "no effect" and Holm's adjusted p is at most 0.05.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from statistics import mean
from typing import Final, NamedTuple

from multispin.campaign.drawings.drawing import energy_words
from multispin.campaign.effects import ALL, EffectRow, judged_arms, rival_arms
from multispin.campaign.measured import Measured
from multispin.campaign.metrics import METRICS
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
        Section("In short", list(_in_short(run, found))),
        Section("What was asked", list(_hypotheses(run, found))),
        Section("Where cooperation wins", list(_by_verdict(run, found, "better"))),
        Section("Where cooperation loses", list(_by_verdict(run, found, "worse"))),
        Section("Where no difference was found", list(_undecided(run, found))),
        Section("Where there is too little to say", list(_unknown(run, found))),
        Section("The draft model alone", list(_drafts_alone(run, found))),
        Section("Energy", list(_energy(run))),
    ]
    return [section for section in sections if section.sentences]


def effect_words(row: EffectRow) -> str:
    """Return an effect with interval and n: "40.0 % lower (ratio 0.600, 95 % interval 0.571 to 0.630; n = 5 ...)"."""
    found = row.effect
    n = f"n = {found.num_blocks} device-blocks"
    if found.estimate is None:
        return "nothing to compare"
    if found.scale == "ratio":
        change = f"{abs(found.estimate - 1.0):.1%}".replace("%", " %")
        way = "lower" if found.estimate < 1.0 else "higher"
        said = f"{change} {way} (ratio {found.estimate:.3f}"
    else:
        way = "less" if found.estimate < 0.0 else "more"
        said = f"{abs(found.estimate):.3g} {row.metric.unit} {way} (difference"
    digits = "3f" if found.scale == "ratio" else "3g"
    if found.low is None or found.high is None:
        return f"{said}; no interval: {found.reason}; {n})"
    return f"{said}, 95 % interval {found.low:.{digits}} to {found.high:.{digits}}; {n})"


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
        yield f"{wanted}, {row.metric.title}: {answer}. {effect_words(row)}; {size}."


def _in_short(run: Measured, found: Sequence[EffectRow]) -> Iterator[str]:
    """Yield what becomes of the best cooperating arm against the best rival, setting by setting, and over all."""
    judged = [row for row in found if _is_said(run, row) and isinstance(run.arms[row.arm], Cooperation)]
    for metric in (metric for metric in METRICS if metric.name in {"tpot_s", "energy_j_per_token"}):
        rows = [row for row in judged if row.metric == metric and not row.device]
        by_arm: dict[str, dict[str, list[EffectRow]]] = defaultdict(lambda: defaultdict(list))
        has_settings = any(row.setting != ALL for row in rows)
        for row in rows:
            if (row.setting != ALL) == has_settings:
                by_arm[row.setting][row.arm].append(row)
        won = [
            name
            for name, arms in by_arm.items()
            if any(all(r.verdict == "better" for r in own) for own in arms.values())
        ]
        lost = [
            name
            for name, arms in by_arm.items()
            if all(any(r.verdict == "worse" for r in own) for own in arms.values())
        ]
        if by_arm:
            yield (
                f"{metric.title}: of {len(by_arm)} settings, in {len(won)} some cooperating arm beats every rival; in "
                f"{len(lost)} every cooperating arm loses to some rival{_listed(lost)}; in "
                f"{len(by_arm) - len(won) - len(lost)} neither is shown."
            )


def _listed(settings: Sequence[str]) -> str:
    if not settings:
        return ""
    more = f"; and {len(settings) - _SHOWN} more" if len(settings) > _SHOWN else ""
    return f" ({'; '.join(settings[:_SHOWN])}{more})"


def _by_verdict(run: Measured, found: Sequence[EffectRow], verdict: str) -> Iterator[str]:
    """Yield a sentence a metric and pair for which it is so, over all settings or at some."""
    usable = [row for row in found if isinstance(run.arms[row.arm], Cooperation) and _is_said(run, row)]
    groups: dict[tuple[str, str, str], list[EffectRow]] = defaultdict(list)
    for row in usable:
        if not row.device:
            groups[row.arm, row.rival, row.metric.title].append(row)
    for (arm, rival, title), rows in groups.items():
        overall = [row for row in rows if row.setting == ALL]
        settings = [row for row in rows if row.setting != ALL]
        so = [row for row in settings if row.verdict == verdict]
        told = [f"over all settings {effect_words(row)}" for row in overall if row.verdict == verdict]
        if so and len(so) == len(settings):
            told.append(f"and at each of {len(settings)} settings ({_range(so)})")
        elif so:
            shown = "; ".join(f"{row.setting}: {_short(row)}" for row in so[:_SHOWN])
            more = f"; and {len(so) - _SHOWN} more, in the table" if len(so) > _SHOWN else ""
            told.append(f"at {len(so)} of {len(settings)} settings ({shown}{more})")
        if told:
            yield f"{arm} against {rival}, {title}: {', '.join(told)}."
    known = [row for row in usable if row.verdict != "not known"]
    if known and not any(row.verdict == verdict for row in known):
        yield f"In none of {len(known)} comparisons that have an interval."


def _undecided(run: Measured, found: Sequence[EffectRow]) -> Iterator[str]:
    usable = [row for row in found if isinstance(run.arms[row.arm], Cooperation) and _is_said(run, row)]
    for row in usable:
        if row.setting == ALL and not row.device and row.verdict == "no difference found":
            yield f"{row.arm} against {row.rival}, {row.metric.title}: over all settings {effect_words(row)}."
    settings = [row for row in usable if row.setting != ALL]
    undecided = sum(row.verdict == "no difference found" for row in settings)
    if undecided:
        yield f"At single settings, in {undecided} of {len(settings)} comparisons."


def _unknown(run: Measured, found: Sequence[EffectRow]) -> Iterator[str]:
    usable = [row for row in found if isinstance(run.arms[row.arm], Cooperation) and _is_said(run, row)]
    without = [row for row in usable if row.verdict == "not known"]
    if without:
        reasons = "; ".join(sorted({str(row.effect.reason) for row in without})[:_SHOWN])
        yield f"{len(without)} of {len(usable)} comparisons have no interval, so nothing is claimed of them: {reasons}."
    for row in without:
        if row.setting == ALL and not row.device and row.metric.name == "tpot_s" and row.effect.estimate is not None:
            yield f"What was seen, {row.arm} against {row.rival}, {row.metric.title}: {_short(row)}."
    if not usable:
        yield "No arm that cooperates shares device-blocks with a rival."


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
                yield f"{name} against {rival}, {row.metric.title}: {effect_words(row)}."


def _energy(run: Measured) -> Iterator[str]:
    label, sentence = energy_words(run)
    yield sentence
    if label in {"replayed", "modelled"}:
        yield "So nothing is concluded about joules; the figures show what such a campaign would report."
    idle = [each.idle_w for each in run.cells if each.idle_w is not None]
    if idle:
        yield f"Idle power before the cells was {mean(idle):.3g} W in the mean ({label}); it is in all joules."


def _is_said(run: Measured, row: EffectRow) -> bool:
    """Whether conclusions name a row: joules only if a sensor saw them, and a whole request is left to the table."""
    return row.metric.name != "e2e_s" and (
        row.metric.name != _ENERGY or energy_words(run)[0] in {"measured", "calibrated"}
    )


def _range(rows: Sequence[EffectRow]) -> str:
    ordered = sorted(rows, key=lambda row: row.effect.estimate or 0.0)
    return f"{_short(ordered[0])} to {_short(ordered[-1])}"


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
