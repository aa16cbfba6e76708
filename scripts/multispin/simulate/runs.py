"""What `multispin simulate` does: a scenario, many faulty seeds, or one of them again."""

import sys
import time
from collections import Counter
from pathlib import Path

import msgspec

from multispin.progress import counter_line
from multispin.simulate.fault_setting import FaultyRun, draw_setting
from multispin.simulate.faults import run_faulty
from multispin.simulate.language import read_trace
from multispin.simulate.paper_setting import ALPHA_STD, simulate_paper
from multispin.simulate.scenario import read_simulated_scenario
from multispin.simulate.summary import Summary, summarize
from multispin.simulate.virtual_time import log_by_virtual_time
from multispin.simulate.world import run_scenario
from multispin_models.errors import ConfigError

__all__ = ["replay", "run_faulty_seeds", "show_paper_setting", "simulate_scenario"]


def simulate_scenario(path: Path, seed: int | None, *, as_json: bool) -> int:
    """Print the figures of a scenario; return 1 if a text is not the target's, 2 if the scenario is not valid."""
    try:
        scenario = read_simulated_scenario(path)
        traces = {group.trace: read_trace(Path(group.trace)) for group in scenario.agents if group.trace is not None}
    except ConfigError as error:
        print(f"multispin simulate: {error}", file=sys.stderr)
        return 2
    if seed is not None:
        scenario = msgspec.structs.replace(scenario, seed=seed)
    started, processor = time.perf_counter(), time.process_time()
    world = run_scenario(scenario, traces)
    summary = summarize(scenario, world, time.process_time() - processor, time.perf_counter() - started)
    if as_json:
        print(msgspec.json.encode(summary).decode())
    else:
        _show(summary)
    return int(summary.num_texts_differ > 0)


def _show(summary: Summary) -> None:
    everything = summary.all
    rows = summary.rows_per_pass
    waits = f"{_ms(everything.ttft_s)}, {_ms(everything.tpot_s)} (nine tenths below {_ms(everything.tpot_p90_s)})"
    lines = {
        "goodput": f"{everything.goodput_tokens_per_s:.1f} tokens/s",
        "requests": f"{everything.num_finished} of {everything.num_begun} finished",
        "median TTFT, TPOT": waits,
        "acceptance": f"rate {_two(summary.acceptance_rate)}, mean length {_two(summary.mean_acceptance_length)}",
        "coordinator": f"busy {summary.busy_share:.0%}, {summary.num_passes} passes of {_two(rows)} rows",
        "bytes per token": f"{_two(summary.up_bytes_per_token)} up, {_two(summary.down_bytes_per_token)} down",
        "texts not the target's": str(summary.num_texts_differ),
        "took (measured)": f"{summary.process_s:.1f} s of processor, {summary.elapsed_s:.1f} s",
    }
    print(
        f"{summary.num_agents} agents, {summary.num_users} users, {summary.duration_s:g} s of virtual time, modelled:"
    )
    for name, value in lines.items():
        print(f"  {name:22} {value}")


def _ms(seconds: float | None) -> str:
    return "none" if seconds is None else f"{seconds * 1e3:.1f} ms"


def _two(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"


def run_faulty_seeds(first_seed: int, count: int, *, as_json: bool) -> int:
    """Run faulty seeds and print their sum, or each as JSON; return 1 if any broke."""
    started, processor = time.perf_counter(), time.process_time()
    show = counter_line("faulty runs")
    broken: list[int] = []
    total: Counter[str] = Counter()
    for number, seed in enumerate(range(first_seed, first_seed + count), 1):
        done = run_faulty(draw_setting(seed))
        if as_json:
            print(msgspec.json.encode(done).decode(), flush=True)
        for name in FaultyRun.__struct_fields__:
            if name.startswith("num_"):
                total[name] += getattr(done, name)
        total["virtual_s"] += round(done.virtual_s)
        if done.problems:
            broken.append(seed)
            print(f"seed {seed}: {'; '.join(done.problems)[:500]}", file=sys.stderr)
            print(f"  again: multispin simulate --fault-seed {seed} --log", file=sys.stderr, flush=True)
        show(number, count)
    if not as_json:
        print(
            f"{count} faulty runs, {len(broken)} broken: {total['num_texts']} texts compared, {total['num_messages']} "
            f"messages, {total['num_agent_deaths']} agents and {total['num_coordinator_deaths']} coordinators died, "
            f"{total['num_engine_faults']} passes failed, {total['num_hang_ups']} users hung up, {total['virtual_s']} "
            f"s of virtual time; took {time.process_time() - processor:.0f} s of processor, "
            f"{time.perf_counter() - started:.0f} s"
        )
    return int(bool(broken))


def replay(seed: int, *, as_json: bool, log: bool) -> int:
    """Run one faulty seed again and print what it drew and what became of it; return 1 if it broke."""
    if log:
        log_by_virtual_time(sys.stderr)
    setting = draw_setting(seed)
    done = run_faulty(setting)
    for each in (setting, done):
        encoded = msgspec.json.encode(each)
        print((encoded if as_json else msgspec.json.format(encoded)).decode())
    return int(bool(done.problems))


def show_paper_setting(num_realisations: int, alpha_std: float | None, *, as_json: bool) -> int:
    """Print the paper's setting, a line a point as it is done; return 0."""
    std = ALPHA_STD if alpha_std is None else alpha_std
    if not 0 <= std < 0.5:
        raise ConfigError(f"--alpha-std is {std}, allowed is 0 to below 0.5")
    if not as_json:
        print(f"{'pair':28} {'MHz':>4} {'policy':20} {'tokens/s':>9} {'s.e.':>6} {'formula':>8}   (modelled)")
    for point in simulate_paper(num_realisations, std):
        if as_json:
            print(msgspec.json.encode(point).decode(), flush=True)
            continue
        error = "" if point.standard_error is None else f"{point.standard_error:.1f}"
        planned = "" if point.planned_tokens_per_s is None else f"{point.planned_tokens_per_s:.1f}"
        print(
            f"{point.pair:28} {point.bandwidth_mhz:4g} {point.policy:20} {point.goodput_tokens_per_s:9.1f} {error:>6} "
            f"{planned:>8}",
            flush=True,
        )
    return 0
