"""The simulator from the command line."""

from pathlib import Path

import msgspec
import pytest

from multispin.cli import main
from multispin.simulate.summary import Summary

SCENARIO = """\
duration_s = 5.0
coordinator = { c0_s = 0.03 }
[[agents]]
count = 2
draft_s = 0.01
alpha = 0.8
"""


def test_a_scenario_is_simulated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "scenario.toml"
    path.write_text(SCENARIO, encoding="utf-8")
    assert main(["simulate", str(path), "--json"]) == 0
    summary = msgspec.json.decode(capsys.readouterr().out, type=Summary)
    assert summary.num_agents == 2
    assert summary.all.goodput_tokens_per_s > 50
    assert main(["simulate", str(path)]) == 0
    assert "modelled" in capsys.readouterr().out


def test_a_scenario_that_is_not_valid_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "scenario.toml"
    path.write_text(SCENARIO + "speed = 1\n", encoding="utf-8")
    assert main(["simulate", str(path)]) == 2
    assert "speed" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [[], ["a.toml", "--fault-seed", "1"], ["--faulty-runs", "1", "--fault-seed", "1"]]
)
def test_one_thing_is_asked_for(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", *arguments]) == 2
    assert "give one of" in capsys.readouterr().err


def test_faulty_runs_are_counted_and_one_is_run_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "--faulty-runs", "2", "--first-seed", "5"]) == 0
    assert "2 faulty runs, 0 broken" in capsys.readouterr().out
    assert main(["simulate", "--fault-seed", "5", "--json"]) == 0
    assert '"problems":[]' in capsys.readouterr().out
