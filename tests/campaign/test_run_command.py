"""`multispin campaign` as it is called."""

import json
import sys
from pathlib import Path

import pytest

from multispin.campaign.boxes import box_faults
from multispin.campaign.headers import campaign_of
from multispin.campaign.plan import AgentBox, Device
from multispin.campaign.plan_command import schedule_of
from multispin.campaign.plan_file import PlanFile
from multispin.campaign.run_folder import RunFolder
from multispin.cli import main
from multispin_models.cache import silent
from tests.campaign.toys import PLAN


def test_a_dry_run_starts_nothing_and_says_what_would_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = tmp_path / "toy.toml"
    plan.write_text(PLAN)
    out = tmp_path / "run"
    assert main(["campaign", "run", str(plan), "--out", str(out), "--dry-run"]) == 0
    assert "12 of 12 cells are to be run" in capsys.readouterr().out
    assert not out.exists()
    assert main(["campaign", "run", str(plan), "--out", str(out), "--device", "beach"]) == 1
    assert "--device has beach, allowed are bench" in capsys.readouterr().err


@pytest.mark.usefixtures("signing_key")
def test_parts_are_collected_and_merged_by_commands(
    plan_file: PlanFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    schedule, prompts = schedule_of(plan_file)
    folder = RunFolder(tmp_path / "a", plan_file, schedule, campaign_of(plan_file, prompts.sha256, ("bench",), silent))
    folder.close()  # cut short before its first cell
    assert main(["campaign", "merge", str(tmp_path / "all"), str(tmp_path / "a")]) == 1
    assert "campaign collect" in capsys.readouterr().err
    assert main(["campaign", "collect", str(tmp_path / "a"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["completed"], found["planned"], len(found["missing"]), found["faults"]) == (0, 12, 12, [])
    assert main(["campaign", "merge", str(tmp_path / "all"), str(tmp_path / "a")]) == 0
    assert "all: 0 of 12 cells, missing b000-000" in capsys.readouterr().out


def test_a_plan_is_shown_with_its_power_and_its_cells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = tmp_path / "toy.toml"
    plan.write_text(PLAN)
    assert main(["campaign", "plan", str(plan), "--cells"]) == 0
    shown = capsys.readouterr().out
    assert "12 cells in 2 blocks, 2 starts of processes" in shown
    assert "is found with power 0." in shown
    assert "200000 draws" in shown
    assert len([line for line in shown.splitlines() if " group " in line]) == 12


def test_keys_are_asked_for_off_loopback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = tmp_path / "toy.toml"
    plan.write_text(PLAN.replace('engine = "null"', 'engine = "null"\nbind = "tcp://0.0.0.0:5599"'))
    assert main(["campaign", "run", str(plan), "--out", str(tmp_path / "run"), "--dry-run"]) == 1
    assert "0.0.0.0" in capsys.readouterr().err


def test_boxes_that_cannot_be_reached_or_differ_are_told_before_a_run() -> None:
    here = AgentBox(name="here", launch=("env",))
    away = AgentBox(name="away", launch=("false",))
    none = AgentBox(name="none", launch=("no-such-program",))
    old = AgentBox(name="old", launch=("echo", "multispin 0.0.1"), python=sys.executable)
    faults = box_faults([Device(name="all", agents=(here, away, none, old)), Device(name="local", copies=2)])
    assert list(faults) == ["here", "away", "none", "old"]
    assert faults["here"] == ""
    assert "status 1" in faults["away"]
    assert "No such file" in faults["none"]
    assert "it has 'multispin 0.0.1" in faults["old"]
