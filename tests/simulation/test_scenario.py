"""A scenario's figures against what paper and pencil say, and what a scenario may hold."""

from pathlib import Path

import msgspec
import pytest

from multispin.simulate.language import read_trace
from multispin.simulate.scenario import AgentGroup, Coordinator, Link, SimulatedScenario, read_simulated_scenario
from multispin.simulate.summary import Summary, summarize
from multispin.simulate.world import run_scenario
from multispin_coordinator.config import Limits
from multispin_models.errors import ConfigError
from multispin_models.records import RoundRecord, write_jsonl

ALONE = AgentGroup(
    draft_s=0.01, alpha=1.0, num_draft_tokens=4, draft_ahead=False, max_tokens=400, link=Link(delay_s=0.005)
)


def simulate(*groups: AgentGroup, duration_s: float = 20.0, seed: int = 0, **coordinator: float) -> Summary:
    limits = Limits(max_sessions=64, max_agents=64, max_rows=1024)
    scenario = SimulatedScenario(
        coordinator=Coordinator(**{"c0_s": 0.03, **coordinator}, limits=limits),  # type: ignore[arg-type]
        agents=groups,
        seed=seed,
        duration_s=duration_s,
    )
    return summarize(scenario, run_scenario(scenario, {}), 0.0, 0.0)


def test_a_round_takes_draft_link_and_pass() -> None:
    # 4 * 10 ms of drafting, 2 * 5 ms of link, 30 ms of pass: 5 tokens in 80 ms, or 1 if none is accepted.
    right = simulate(ALONE)
    assert right.all.tpot_s == pytest.approx(0.080 / 5, rel=0.01)
    assert right.acceptance_rate == pytest.approx(1.0, abs=0.01)  # the last draft has no answer any more
    assert right.num_texts_differ == 0
    wrong = simulate(msgspec.structs.replace(ALONE, alpha=0.0, max_tokens=100))
    assert wrong.all.tpot_s == pytest.approx(0.080, rel=0.015)  # before a text's end there is less to draft
    assert wrong.acceptance_rate == 0.0


def test_drafting_ahead_hides_behind_link_and_pass() -> None:
    # While 40 ms pass, four tokens are drafted: all of the next draft but the token of the pass itself.
    ahead = simulate(msgspec.structs.replace(ALONE, draft_ahead=True))
    assert ahead.all.tpot_s == pytest.approx(0.050 / 5, rel=0.02)


def test_rows_and_users_cost_what_the_scenario_says() -> None:
    summary = simulate(ALONE, per_row_s=0.002, per_user_s=0.005)
    assert summary.all.tpot_s == pytest.approx((0.080 + 5 * 0.002 + 0.005) / 5, rel=0.01)


def test_drafts_of_all_ready_agents_go_into_one_pass() -> None:
    # At worst one agent is computed alone while the other seven come, then these, and so on: 20 rows on average.
    summary = simulate(msgspec.structs.replace(ALONE, count=8, draft_s=0.001), duration_s=5.0)
    assert summary.rows_per_pass is not None
    assert 18 < summary.rows_per_pass <= 40


def test_acceptance_is_what_the_scenario_says() -> None:
    summary = simulate(msgspec.structs.replace(ALONE, alpha=0.7, num_draft_tokens=1, max_tokens=1500), duration_s=60.0)
    assert summary.acceptance_rate == pytest.approx(0.7, abs=0.06)  # 3 standard errors of 1,200 rounds: 0.04
    assert summary.mean_acceptance_length == pytest.approx(1.7, abs=0.06)


def test_users_come_and_go() -> None:
    summary = simulate(ALONE, msgspec.structs.replace(ALONE, start_s=5.0, end_s=10.0, max_tokens=1900), duration_s=15.0)
    by_second = summary.tokens_by_second
    assert by_second[2] == pytest.approx(62.5, abs=6)
    assert by_second[7] == pytest.approx(125, abs=12)
    assert by_second[12] == pytest.approx(62.5, abs=6)
    assert summary.groups[1].num_begun == 1


def test_a_seed_gives_the_same_figures_again() -> None:
    group = msgspec.structs.replace(
        ALONE, count=3, alpha=0.6, link=Link(delay_s=0.01, jitter_s=0.02, loss=0.02), pause_s=0.1, max_tokens=30
    )
    first, again, other = (simulate(group, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


# -- links --


def test_a_slow_link_sends_one_bit_after_the_other() -> None:
    # A draft's extra 4 * 1,000 bits take 40 ms at 100 kbit/s, its frame and the verdict's a few more.
    link = Link(uplink_bit_per_s=1e5, bits_per_drafted_token=1000.0)
    slow = simulate(msgspec.structs.replace(ALONE, link=link))
    assert slow.all.tpot_s is not None
    assert slow.all.tpot_s * 5 == pytest.approx(0.070 + 0.040 + 80 * 8 / 1e5, rel=0.02)
    assert slow.up_bytes_per_token == pytest.approx((500 + 80) / 5, rel=0.1)


def test_a_share_of_the_band_has_shannons_rate() -> None:
    # log2(1 + 3) = 2 bit/s/Hz of 500 kHz; without fading, then with: E[log2(1 + 3 h)] = 1.64, h exponential.
    shannon = Link(bandwidth_hz=5e5, snr=3.0, bits_per_drafted_token=25_000.0)
    steady = simulate(msgspec.structs.replace(ALONE, link=shannon))
    assert steady.all.tpot_s is not None
    assert steady.all.tpot_s * 5 == pytest.approx(0.070 + 0.100, rel=0.02)
    fading = msgspec.structs.replace(shannon, fading="rayleigh", coherence_s=0.001)
    faded = simulate(msgspec.structs.replace(ALONE, link=fading), duration_s=40.0)
    assert faded.all.tpot_s is not None
    assert faded.all.tpot_s * 5 == pytest.approx(0.070 + 0.100 * 2 / 1.64, rel=0.03)


def test_nothing_gets_through_a_dead_link_and_the_text_goes_on_after() -> None:
    link = Link(delay_s=0.005, outages_s=((5.0, 9.0),))
    summary = simulate(msgspec.structs.replace(ALONE, link=link, max_tokens=1500))
    assert summary.tokens_by_second[6:9] == [0, 0, 0]
    assert sum(summary.tokens_by_second[12:]) > 400
    assert summary.num_texts_differ == 0


# -- traces --


def round_record(number: int, drafted: int, accepted: int, *, is_open: bool = False) -> RoundRecord:
    return RoundRecord(
        run_id="r", wire_request_id=9, agent_id="a", round=number, is_open=is_open, num_draft_tokens=drafted,
        num_accepted=accepted, next_token_id=1, sent_ns=0, draft_s=0.0, round_trip_s=0.0, residence_s=0.0, verify_s=0.0,
        network_s=0.0, batch_rows=1, ahead_hit=None, payload_up_bytes=0, payload_down_bytes=0,
    )  # fmt: skip


def test_a_trace_says_where_a_real_draft_agreed(tmp_path: Path) -> None:
    records = [round_record(2, 2, 2), round_record(0, 0, 0, is_open=True), round_record(1, 3, 1)]
    write_jsonl(tmp_path / "rounds.jsonl", records)
    assert read_trace(tmp_path) == [[None, True, False, True, True, None]]


def test_a_folder_without_rounds_is_no_trace(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no rounds\.jsonl"):
        read_trace(tmp_path)


# -- scenario files --


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("colour = 1\n", "keys of a scenario are"),
        ("[[agents]]\ndraft_s = 0.01\n", "give either alpha or trace"),
        ("[[agents]]\ndraft_s = 0.01\nalpha = 1.5\n", "keys of .*agents"),
        ("[[agents]]\ndraft_s = 0.01\nalpha = 0.5\nalpha_std = 0.6\n", "alpha_std is 0.6"),
        ("[[agents]]\ndraft_s = 0.01\nalpha = 0.5\nlink = { speed = 1 }\n", "keys of a link are"),
        ("[[agents]]\ndraft_s = 0.01\nalpha = 0.5\nprompt_tokens = 2000\n", "prompt_tokens is 2000"),
        ("[[agents]]\ndraft_s = 0.01\nalpha = 0.5\nstart_s = 2.0\nend_s = 1.0\n", "end_s is 1.0"),
    ],
)
def test_a_scenario_that_cannot_be_is_refused_by_name(tmp_path: Path, change: str, message: str) -> None:
    path = tmp_path / "scenario.toml"
    good = "coordinator = { c0_s = 0.03 }\n"
    path.write_text(good + change, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        read_simulated_scenario(path)
