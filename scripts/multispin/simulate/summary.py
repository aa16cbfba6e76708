"""What a simulation shows: goodput, waiting times, acceptance, load, bytes; and whether every text was right."""

from collections import Counter
from collections.abc import Sequence
from statistics import median

from msgspec import Struct

from multispin.bench.percentile import percentile_90
from multispin.simulate.language import FIRST_TOKEN
from multispin.simulate.scenario import SimulatedScenario
from multispin.simulate.world import Served, World

__all__ = ["GroupFigures", "Summary", "summarize"]


class GroupFigures(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One group of agents, or all of them. All modelled.

    Attributes:
        goodput_tokens_per_s: committed tokens over the simulation's duration.
        num_begun, num_finished: requests.
        ttft_s, tpot_s, tpot_p90_s: over requests, those cut off by the end included; null without one.
    """

    goodput_tokens_per_s: float
    num_begun: int
    num_finished: int
    ttft_s: float | None
    tpot_s: float | None
    tpot_p90_s: float | None


class Summary(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A simulation. All modelled, but for `process_s` and `elapsed_s`.

    Attributes:
        seed, duration_s: of the scenario.
        num_agents, num_users: at most at once.
        all, groups: figures together and by group.
        num_texts_differ: texts, whole or cut off by the end, that are not the target's; 0 or something is broken.
        num_drafts, num_drafted, num_verdicts, num_accepted: as sent; those without a draft (openings) are in verdicts.
        acceptance_rate: accepted over drafted; null without drafts.
        mean_acceptance_length: committed tokens over verdicts.
        num_passes, rows_per_pass: of the target.
        busy_share: of the time, in which the target computed.
        up_bytes_per_token, down_bytes_per_token: with an allowance for the lower layers, over committed tokens.
        tokens_by_second: committed in each second, from the start.
        num_messages: delivered.
        process_s, elapsed_s: measured: processor and wall time of the simulation.
    """

    seed: int
    duration_s: float
    num_agents: int
    num_users: int
    all: GroupFigures
    groups: list[GroupFigures]
    num_texts_differ: int
    num_drafts: int
    num_drafted: int
    num_verdicts: int
    num_accepted: int
    acceptance_rate: float | None
    mean_acceptance_length: float | None
    num_passes: int
    rows_per_pass: float | None
    busy_share: float
    up_bytes_per_token: float | None
    down_bytes_per_token: float | None
    tokens_by_second: list[int]
    num_messages: int
    process_s: float
    elapsed_s: float


def summarize(scenario: SimulatedScenario, world: World, process_s: float, elapsed_s: float) -> Summary:
    """Return what a world's run shows."""
    num_tokens = sum(len(served.written) for served in world.requests)
    counts, target = world.observed, world.target
    up, down = (sum(each) for each in zip(*map(world.network.bytes_of, world.agent_ids), strict=True))
    return Summary(
        seed=scenario.seed,
        duration_s=scenario.duration_s,
        num_agents=sum(group.count for group in scenario.agents),
        num_users=sum(group.count * group.users for group in scenario.agents),
        all=_figures(world.requests, scenario.duration_s),
        groups=[
            _figures([served for served in world.requests if served.group == number], scenario.duration_s)
            for number in range(len(scenario.agents))
        ],
        num_texts_differ=sum(not _is_right(served) for served in world.requests),
        num_drafts=counts.drafts,
        num_drafted=counts.drafted,
        num_verdicts=counts.verdicts,
        num_accepted=counts.accepted,
        acceptance_rate=_ratio(counts.accepted, counts.drafted),
        mean_acceptance_length=_ratio(num_tokens, counts.verdicts),
        num_passes=target.num_passes,
        rows_per_pass=_ratio(target.num_rows, target.num_passes),
        busy_share=min(1.0, target.busy_s / scenario.duration_s),
        up_bytes_per_token=_ratio(up, num_tokens),
        down_bytes_per_token=_ratio(down, num_tokens),
        tokens_by_second=_by_second(world.requests, scenario.duration_s),
        num_messages=world.network.num_messages,
        process_s=process_s,
        elapsed_s=elapsed_s,
    )


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _is_right(served: Served) -> bool:
    written = [ord(letter) - ord("0") + FIRST_TOKEN for letter in served.written]
    is_whole = served.finished is None or len(written) == len(served.text.token_ids)
    return is_whole and written == served.text.token_ids[: len(written)]


def _figures(requests: Sequence[Served], duration_s: float) -> GroupFigures:
    first = [served.pieces[0][0] - served.started_s for served in requests if served.pieces]
    gaps = [
        (served.pieces[-1][0] - served.pieces[0][0]) / (served.pieces[-1][1] - served.pieces[0][1])
        for served in requests
        if len(served.pieces) > 1
    ]
    return GroupFigures(
        goodput_tokens_per_s=sum(len(served.written) for served in requests) / duration_s,
        num_begun=len(requests),
        num_finished=sum(served.finished is not None for served in requests),
        ttft_s=median(first) if first else None,
        tpot_s=median(gaps) if gaps else None,
        tpot_p90_s=percentile_90(gaps) if gaps else None,
    )


def _by_second(requests: Sequence[Served], duration_s: float) -> list[int]:
    tokens: Counter[int] = Counter()
    for served in requests:
        before = 0
        for at_s, count in served.pieces:
            tokens[int(at_s)] += count - before
            before = count
    return [tokens[second] for second in range(int(duration_s))]
