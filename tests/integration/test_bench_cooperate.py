"""`multispin bench cooperate`: the arithmetic on hand-worked records, and the command on the real models."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import msgspec
import pytest

from multispin.bench import cooperate_command
from multispin.bench.cooperate import NeverAllServed, bound_of, pass_line, survival_of, window_of, yield_of
from multispin.bench.cooperate_site import Arm, Served
from multispin.cli import main
from multispin_models.errors import ConfigError
from multispin_models.line import Line
from multispin_models.prompts import Job
from multispin_models.records import RequestRecord, RoundRecord
from multispin_models.sampling import Sampling

MS = 1_000_000
ROUND = RoundRecord(
    run_id="r",
    wire_request_id=1,
    agent_id="a",
    round=1,
    is_open=False,
    num_draft_tokens=4,
    num_accepted=2,
    next_token_id=5,
    sent_ns=0,
    draft_s=0.0,
    round_trip_s=0.01,
    residence_s=0.01,
    verify_s=0.01,
    network_s=0.0,
    batch_rows=5,
    ahead_hit=None,
    payload_up_bytes=30,
    payload_down_bytes=50,
)
REQUEST = RequestRecord(
    run_id="r",
    id="1",
    wire_request_id=1,
    agent_id="a",
    prompt_sha256="0",
    num_prompt_tokens=3,
    token_ids=(1,),
    text="",
    finish="length",
    num_rounds=1,
    num_drafted=4,
    num_accepted=2,
    num_generated=3,
    started_ns=0,
    ended_ns=1,
    ttft_s=0.1,
    tpot_s=0.02,
    e2e_s=0.2,
    payload_up_bytes=0,
    payload_down_bytes=0,
)


def made(agent: str, sent_ms: int, **changes: Any) -> RoundRecord:
    return msgspec.structs.replace(ROUND, agent_id=agent, sent_ns=sent_ms * MS, **changes)


def test_goodput_is_counted_while_all_users_are_served() -> None:
    # a from 10 ms to 110, b from 60 to 210: 50 ms for both, with two rounds of 3 tokens and one of 1.
    rounds = [made("a", 0, is_open=True, num_draft_tokens=0, num_accepted=0), made("a", 50), made("a", 100)]
    rounds += [made("b", 50), made("b", 60, num_draft_tokens=0, num_accepted=0), made("b", 200)]
    window = window_of("price", 2, [REQUEST], rounds)
    found = yield_of("price", 2, [0.01, 0.02, 0.03], [window, window], 0)
    assert (window.tokens, window.seconds) == (4, pytest.approx(0.05))
    assert (found.tokens, found.blocks, found.goodput_tokens_per_s) == (8, 2, pytest.approx(4 / 0.05))
    assert (found.drafted_per_round, found.acceptance_rate, found.alone_share) == (2.0, 0.5, 0.25)
    assert found.tpot_ms_median == pytest.approx(20.0)


def test_what_came_before_the_users_were_settled_does_not_count() -> None:
    rounds = [made("a", 10 * at) for at in range(6)]  # three tokens each, from 10 ms to 60
    rounds += [made("b", 20 * at, num_accepted=0) for at in range(4)]  # one each, from 10 ms to 70
    window = window_of("price", 2, [REQUEST], rounds, 6)
    # a has written 12 tokens and b 2 at 40 ms, which is 7 of a user: from then to 60 ms come two rounds of a, one of b
    assert (window.tokens, window.seconds) == (7, pytest.approx(0.02))
    with pytest.raises(NeverAllServed, match="longer texts"):
        window_of("price", 2, [REQUEST], rounds, 10)


def test_users_that_were_never_served_together_give_no_figure() -> None:
    with pytest.raises(ConfigError, match="never all at one time"):
        window_of("price", 2, [REQUEST], [made("a", 0), made("a", 10), made("b", 100), made("b", 110)])
    with pytest.raises(ConfigError, match="1 of 2 users"):
        window_of("price", 2, [REQUEST], [made("a", 0), made("a", 10)])


def test_a_request_that_failed_gives_no_figure() -> None:
    with pytest.raises(ConfigError, match="1 requests failed"):
        window_of("price", 1, [msgspec.structs.replace(REQUEST, finish="error")], [made("a", 0), made("a", 10)])


def test_the_cost_of_a_pass_is_fitted_through_its_rounds() -> None:
    rounds = [made("a", 0, batch_rows=rows, verify_s=0.01 + 0.002 * rows) for rows in (1, 2, 5) for _ in range(20)]
    rounds += [made("a", 0, batch_rows=40, verify_s=9.0, is_open=True)]
    line = pass_line(rounds)
    assert line is not None
    assert line[:2] == pytest.approx((0.01, 0.002))


def test_survival_counts_drafts_that_were_long_enough_and_ends_where_they_are_few() -> None:
    rounds = [made("a", 0, num_draft_tokens=2, num_accepted=accepted) for accepted in (0, 1, 2, 2) for _ in range(10)]
    rounds += [made("a", 0, num_draft_tokens=1, num_accepted=1)] * 10 + [made("a", 0, num_draft_tokens=3)] * 5
    # At least one of 55 - 10; two of 2 or more tokens: 20 + 5 of 45; three: 5 drafts only.
    assert survival_of(rounds) == pytest.approx([45 / 55, 25 / 45])


def test_the_bound_is_the_best_length_with_drafting_for_nothing() -> None:
    line = Line(0.010, 0.002, 0.0, 0.0)
    # L = 0: 1 / 12 ms; L = 1: 1.9 / 14; L = 2: 2.4 / 16.
    bound = bound_of(1, line, [0.9, 0.5])
    assert (bound.num_draft_tokens, bound.goodput_tokens_per_s) == (2, pytest.approx(150.0))
    assert bound_of(8, line, [0.9, 0.5]).goodput_tokens_per_s == pytest.approx(8 * 1.9 / 0.042)


class _Site:
    """Two users; in the first block one is done under `price` before the other has begun."""

    def __init__(self, *_: Any) -> None:
        pass

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def serve(self, arm: Arm, jobs: Sequence[Job]) -> Served:
        late = 500 if arm.name == "price" and jobs[0].job_id == "0" else 0
        rounds = [made("a", 10 * at) for at in range(4)] + [made("b", late + 10 * at) for at in range(4)]
        wrong = arm.name == "price" and jobs[0].job_id == "0"
        texts = [msgspec.structs.replace(REQUEST, id=job.job_id, token_ids=(1 + wrong,)) for job in jobs]
        return Served(texts, rounds)


def test_a_block_that_one_arm_was_not_measured_in_is_left_out_of_all(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    jobs = [Job(str(n), f"Count to {n}.", 12, Sampling()) for n in range(4)]
    for name, value in (("Site", _Site), ("jobs_of", lambda *_: jobs)):
        monkeypatch.setattr(cooperate_command, name, value)
    for name in ("prepare_side", "prepare_draft"):
        monkeypatch.setattr(cooperate_command, name, lambda *_: None)
    words = ["bench", "cooperate", "--prompts", str(tmp_path), "--users", "2", "--lengths", "2", "--blocks", "2"]
    assert main([*words, "--json"]) == 1  # texts are compared in the block that is left out, too
    printed = capsys.readouterr()
    yields = json.loads(printed.out)["yields"]
    assert "block 1 with 2 users is left out of all arms: price: 2 of 2 users" in printed.err
    assert {each["arm"]: each["blocks"] for each in yields} == {"alone": 1, "fixed 2": 1, "lookup": 1, "price": 1}
    assert sum(each["text_differences"] for each in yields) > 0
    assert main([*words, "--blocks", "1"]) == 1
    assert "no block was measured" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.model
def test_the_command_compares_its_arms_on_the_real_models(run_multispin: Any, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"Count to {n}."}) + "\n" for n in (20, 30)))
    ran = run_multispin(
        *("bench", "cooperate", "--prompts", prompts, "--users", 1, "--lengths", 2, "--core-lengths", 3),
        *("--blocks", 2, "--max-tokens", 24, "--json"),
    )
    assert ran.status == 0, ran.stderr
    yields = {each["arm"]: each for each in ran.summary["yields"]}
    assert list(yields) == ["alone", "core 3", "fixed 2", "lookup", "price"]
    assert all(each["goodput_tokens_per_s"] > 0 and each["text_differences"] == 0 for each in yields.values())
    assert all(each["blocks"] == 2 for each in yields.values())
    assert (yields["alone"]["drafted_per_round"], yields["alone"]["alone_share"]) == (0.0, 1.0)
    assert yields["fixed 2"]["drafted_per_round"] == pytest.approx(2.0, abs=0.2)
    assert yields["core 3"]["drafted_per_round"] is None
