"""What came of a leg, of all legs together, and the table. No I/O."""

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from multispin.faults.books import RecordsFound
from multispin.faults.kinds import KINDS
from multispin.faults.outages import OutageFigures
from multispin.faults.strangers import StrangersFigures
from multispin.faults.users import Served

__all__ = ["DaemonFigures", "KindFigures", "LegFigures", "by_kind", "table", "wrongs"]

MEMORY_GROWTH, MEMORY_SLACK_MB = 1.10, 16.0
FILES_SLACK = 8  # connections and databases that happen to be open when they are counted
LONG_LIFE_S = 300.0  # below it the memory of a life says nothing: caches are touched for the first time


class KindFigures(msgspec.Struct, frozen=True):
    """What a kind of fault did.

    Attributes:
        num_injected: had an effect.
        num_requests: served whole although it met them.
        num_broken: streams of these that broke with their agent, and were asked again.
        num_different: characters of these that are not the target's.
        num_failed: requests that it met and that were not served.
        longest_s: of these requests.
    """

    num_injected: int = 0
    num_requests: int = 0
    num_broken: int = 0
    num_different: int = 0
    num_failed: int = 0
    longest_s: float = 0.0


class DaemonFigures(msgspec.Struct, frozen=True):
    """A daemon's longest life in a leg.

    Attributes:
        name: of it.
        num_lives: how often it was started.
        life_s: of the longest.
        memory_mb, memory_end_mb: resident, a minute after it began to serve (or a fifth of the life, if that is less),
            and at the end.
        files, files_end: open ones, likewise.
    """

    name: str
    num_lives: int
    life_s: float
    memory_mb: float
    memory_end_mb: float
    files: int
    files_end: int

    @property
    def is_flat(self) -> bool:
        """Whether memory and files are where they were; of a short life, only files are asked."""
        grown = self.memory_end_mb > self.memory_mb * MEMORY_GROWTH + MEMORY_SLACK_MB
        return not (grown and self.life_s >= LONG_LIFE_S) and self.files_end <= self.files + FILES_SLACK


class LegFigures(msgspec.Struct, frozen=True):
    """A leg that was carried to its end.

    Attributes:
        seconds: with faults.
        kinds: by name.
        num_requests, num_failed: served whole, and not.
        num_broken: streams that broke with their agent; each was asked again.
        num_characters, num_different: of the texts.
        longest_s: of a request.
        errors: of those that failed, the first ones.
        died: daemons that nobody had killed, each as often as it did.
        num_not_started: starts after a kill that failed as the disk was full; the next one is tried at once.
        records: found.
        daemons: their longest lives.
        left_out: kinds that could not be tried, with the reason.
        seed: of the faults.
        num_resumed: broken streams that went on at another agent by their id.
        median_s: of a request, from the first asking to the last character.
        strangers: half-open connections that were held; null without.
        outages: what links that were down by turns were worth; null without.
    """

    seconds: float
    kinds: dict[str, KindFigures]
    num_requests: int
    num_failed: int
    num_broken: int
    num_characters: int
    num_different: int
    longest_s: float
    errors: tuple[str, ...]
    died: tuple[str, ...]
    num_not_started: int
    records: RecordsFound
    daemons: tuple[DaemonFigures, ...]
    left_out: tuple[str, ...]
    seed: int
    median_s: float | None = None
    num_resumed: int = 0
    strangers: StrangersFigures | None = None
    outages: OutageFigures | None = None

    @property
    def num_faults(self) -> int:
        """Faults that had an effect."""
        return sum(kind.num_injected for kind in self.kinds.values())


def by_kind(injected: Counter[str], served: Iterable[Served]) -> dict[str, KindFigures]:
    """Return what each kind did."""
    figures = {name: KindFigures(num_injected=count) for name, count in injected.items()}
    for each in served:
        for name in each.kinds:
            was = figures.get(name, KindFigures())
            figures[name] = KindFigures(
                was.num_injected,
                was.num_requests + (not each.error),
                was.num_broken + each.num_broken,
                was.num_different + each.num_different,
                was.num_failed + bool(each.error),
                max(was.longest_s, each.seconds),
            )
    return figures


def wrongs(legs: Sequence[LegFigures]) -> list[str]:
    """Return what is not as promised, in words; nothing if all is."""
    found: list[str] = []
    for number, leg in enumerate(legs, start=1):
        records = leg.records
        counts = {
            "requests were not served": leg.num_failed,
            "characters differ": leg.num_different,
            "tokens in records differ": records.num_different,
            "acknowledged records are missing": records.num_missing,
            "records are changed": records.num_changed,
            "records are there twice": records.num_twice,
            "records are left in spools": records.num_left,
            "requests of agents that were never killed have no record": records.num_unrecorded,
            "daemons died by themselves": len(leg.died),
        }
        found += [f"leg {number}: {count} {what}" for what, count in counts.items() if count]
        found += [f"leg {number}: {daemon.name} has grown" for daemon in leg.daemons if not daemon.is_flat]
    return found


def table(legs: Sequence[LegFigures]) -> str:
    """Return the table of all legs."""
    lines = ["fault              injected  requests met   served  streams broken  characters differ  longest s"]
    for kind in KINDS:
        parts = [leg.kinds[kind.name] for leg in legs if kind.name in leg.kinds]
        met = sum(part.num_requests + part.num_failed for part in parts)
        lines.append(
            f"{kind.name:<18} {sum(part.num_injected for part in parts):>8} {met:>13} "
            f"{sum(part.num_requests for part in parts):>8} {sum(part.num_broken for part in parts):>15} "
            f"{sum(part.num_different for part in parts):>18} {max((p.longest_s for p in parts), default=0.0):>10.1f}"
        )
    requests, failed = sum(leg.num_requests for leg in legs), sum(leg.num_failed for leg in legs)
    lines.append(
        f"{'all':<18} {sum(leg.num_faults for leg in legs):>8} {requests + failed:>13} {requests:>8} "
        f"{sum(leg.num_broken for leg in legs):>15} {sum(leg.num_different for leg in legs):>18} "
        f"{max((leg.longest_s for leg in legs), default=0.0):>10.1f}"
    )
    lines.append("")
    for number, leg in enumerate(legs, start=1):
        records = leg.records
        lines += [
            f"leg {number}: {leg.seconds:.0f} s, seed {leg.seed}, {leg.num_faults} faults; "
            f"{leg.num_requests} requests, {leg.num_characters} characters",
            f"  records: {records.num_seen} seen on a disk, {records.num_stored} in the store; missing "
            f"{records.num_missing}, changed {records.num_changed}, twice {records.num_twice}, "
            f"left {records.num_left}; {records.num_untold} requests whose record a kill took before it was on a disk",
            f"  tokens in records: {records.num_tokens}, not the target's: {records.num_different}",
        ]
        lines += [
            f"  {daemon.name:<12} lives {daemon.num_lives:>3}, longest {daemon.life_s:>6.0f} s: memory "
            f"{daemon.memory_mb:>6.0f} -> {daemon.memory_end_mb:>6.0f} MB, files {daemon.files:>3} -> "
            f"{daemon.files_end:>3}"
            for daemon in leg.daemons
        ]
        if leg.median_s is not None:
            lines.append(
                f"  a request took {leg.median_s:.2f} s (median of {leg.num_requests}); {leg.num_resumed} of the "
                "broken streams went on at another agent by their id"
            )
        if leg.strangers is not None:
            flood = leg.strangers
            lines.append(
                f"  strangers: {flood.most_open} of {flood.wanted} half-open connections at once; {flood.opened} "
                f"opened, {flood.given_up} given up by the coordinator, {flood.refused} refused"
            )
        if leg.outages is not None:
            outages = leg.outages
            of_expected = "not known" if outages.of_expected is None else f"{outages.of_expected:.2f}"
            lines.append(
                f"  links down for {outages.phase_s:.0f} s by turns: {outages.baseline_characters} characters in "
                f"{outages.baseline_s:.0f} s without outages, then {outages.outages_characters} in "
                f"{outages.outages_s:.0f} s, {outages.up_s:.0f} s of them with links: {of_expected} of what these "
                "are worth"
            )
        if leg.num_not_started:
            lines.append(f"  starts that failed since the disk was full: {leg.num_not_started}")
        lines += [f"  not tried: {what}" for what in leg.left_out]
        lines += [f"  failed: {error}" for error in leg.errors]
    return "\n".join(lines)
