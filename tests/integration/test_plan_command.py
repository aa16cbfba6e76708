"""`multispin plan`: a scenario in, a plan out, and faults in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SCENARIO = """
bandwidth_hz = 1e6
l_max = 8
[verify]
c0_s = 0.03
[[user]]
draft_s = 0.01
alpha = 0.5
snr = 1.0
[[user]]
draft_s = 0.02
survival = [0.9, 0.2]
snr = 3.0
bits_per_token = 2000
weight = 2.0
"""


@pytest.mark.parametrize("policy", ["fixed", "homogeneous", "heterogeneous", "exact"])
def test_a_plan_has_a_length_and_a_share_for_each_user(
    run_multispin: Callable[..., Any], tmp_path: Path, policy: str
) -> None:
    (tmp_path / "two.toml").write_text(SCENARIO)
    ran = run_multispin("plan", "two.toml", "--policy", policy, "--json", cwd=tmp_path)
    assert (ran.status, ran.stderr) == (0, "")
    plan = json.loads(ran.stdout)
    assert plan["policy"] == policy
    assert len(plan["num_draft_tokens"]) == len(plan["bandwidth_hz"]) == 2
    assert plan["round_s"] > 0.03
    assert plan["goodput_tokens_per_s"] > 0


def test_the_table_says_that_its_goodput_is_modelled(run_multispin: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "two.toml").write_text(SCENARIO)
    ran = run_multispin("plan", "two.toml", cwd=tmp_path)
    assert "(modelled), proven the most" in ran.stdout


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("l_max = 8", "l_max = 0", "l_max"),
        ("l_max = 8", "lmax = 8", "`lmax`; the keys of a scenario are bandwidth_hz, verify, user, l_max, noise"),
        ("weight = 2.0", "wait = 2.0", "`wait` - at `$.user[1]`; the keys of [[user]] are draft_s, alpha, survival"),
        ("c0_s = 0.03", "c0 = 0.03", "`c0` - at `$.verify`; the keys of [verify] are c0_s, per_row_s, per_user_s"),
        ("c0_s = 0.03", "c0_s = 0.0", "all 0, allowed is a verification that takes time"),
        ("l_max = 8", 'noise = "pink"', "'pink' - at `$.noise`"),
        ("alpha = 0.5", "alpha = 1.0", "alpha"),
        ("alpha = 0.5", "", "`$.user[0]`: give either alpha or survival"),
        ("snr = 3.0", "s_hz = 3.0", "`$.user[1]`: give snr, and not s_hz"),
        ("[0.9, 0.2]", "[0.2, 0.9]", "`$.user[1]`: survival is [0.2, 0.9]"),
        ("bandwidth_hz = 1e6", "bandwidth_hz = ", "cannot be read"),
        ("bandwidth_hz = 1e6", "bandwidth_hz = nan", "bandwidth_hz"),
        ("bandwidth_hz = 1e6", "bandwidth_hz = inf", "bandwidth_hz"),
    ],
)
def test_a_scenario_that_is_not_valid_is_one_line_that_names_the_fault(
    run_multispin: Callable[..., Any], tmp_path: Path, old: str, new: str, said: str
) -> None:
    (tmp_path / "bad.toml").write_text(SCENARIO.replace(old, new))
    ran = run_multispin("plan", "bad.toml", cwd=tmp_path)
    assert ran.status == 2
    [line] = ran.stderr.splitlines()
    assert line.startswith("multispin plan: scenario bad.toml")
    assert said in line
