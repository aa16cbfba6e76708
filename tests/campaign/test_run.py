"""The driver: what it leaves, and that it goes on where it was whatever kills it. Its processes are toys."""

import itertools
import os
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq
import pytest

from multispin.campaign.cell_files import ConditionsRow
from multispin.campaign.collect import part_faults
from multispin.campaign.cool_down import cool_down, faults_of
from multispin.campaign.figures import CellFigures
from multispin.campaign.folder import (
    CELLS,
    KEY_COLUMNS,
    REQUEST_COLUMNS,
    Cell,
    FolderError,
    completed_cells,
    excluded_cells,
    read_campaign,
    read_clock,
    read_energy,
    read_events,
    read_header,
    read_schedule,
)
from multispin.campaign.headers import campaign_of
from multispin.campaign.meter import MachineMeter
from multispin.campaign.plan import Factors, Limits
from multispin.campaign.plan_command import schedule_of
from multispin.campaign.plan_file import PlanFile
from multispin.campaign.run import Driver, Outcome
from multispin.campaign.run_folder import RunFolder
from multispin_models.cache import silent
from multispin_models.errors import ConfigError
from multispin_models.records import RequestRecord, RoundRecord, RunHeader


class Quiet:
    def say(self, what: str) -> None: ...

    def begin(self, cell: Cell) -> None: ...

    def done(self, cell: Cell, figures: CellFigures, seconds: float) -> None: ...


class Killed(BaseException):
    """As SIGKILL, as far as it can be told from inside."""


def run(file: PlanFile, out: Path, toys: Any, sleep: Any = time.sleep) -> Outcome:
    schedule, prompts = schedule_of(file)
    folder = RunFolder(out, file, schedule, campaign_of(file, prompts.sha256, ("bench",), silent))
    try:
        with MachineMeter(file.plan.energy.meter, file.plan.energy.hz) as meter:
            driver = Driver(file, folder, prompts, ("bench",), meter, Quiet(), toys, sleep)
            outcome = driver.run()
            driver.seal(outcome)
            return outcome
    finally:
        folder.close()


def assert_whole(out: Path) -> None:
    """Every cell is there once, and the journal tells of each once."""
    planned = [cell.cell_id for cell in read_schedule(out).cells]
    assert completed_cells(out) == sorted(planned)
    told = Counter(event.cell_id for event in read_events(out) if event.event == "cell-completed")
    assert told == Counter(planned)
    assert part_faults(out) == []


@pytest.mark.usefixtures("signing_key")
def test_a_run_leaves_the_folder_that_is_promised(plan_file: PlanFile, tmp_path: Path, toys: Any) -> None:
    out = tmp_path / "run"
    assert run(plan_file, out, toys) == Outcome(12, (), None)
    assert_whole(out)
    assert (out / "plan.toml").read_bytes() == plan_file.text
    campaign, schedule = read_campaign(out), read_schedule(out)
    assert (campaign.campaign_id, campaign.devices) == (plan_file.campaign_id, ("bench",))
    assert campaign.target is not None
    assert campaign.target.name == "toy"
    for cell in schedule.cells:
        header = read_header(out, cell.cell_id)
        assert isinstance(header, RunHeader)
        policy = {"target alone": "alone", "core": "single-node model", "fixed": "fixed"}[cell.arm]
        assert (header.policy, header.seed) == (policy, cell.seed)
        table = pq.read_table(out / CELLS / cell.cell_id / "requests.parquet")
        assert table.column_names[:5] == list(KEY_COLUMNS)
        assert set(RequestRecord.__struct_fields__) | set(REQUEST_COLUMNS) <= set(table.column_names)
        rows = table.to_pylist()
        assert tuple(row["id"] for row in rows) == cell.prompt_ids
        assert {row["factor_users"] for row in rows} == {cell.factors["users"]}
        assert {row["factor_link"] for row in rows} == {cell.factors.get("link")}
        assert {row["factor_policy"] for row in rows} == {None}
        assert (rows[0]["wire_request_id"], rows[0]["token_ids"]) == (1 << 63, [1, 2, 3])
        rounds = out / CELLS / cell.cell_id / "rounds.parquet"
        assert rounds.exists() == (cell.arm != "core")
        if rounds.exists():
            table = pq.read_table(rounds)
            assert set(RoundRecord.__struct_fields__) <= set(table.column_names)
            assert table.to_pylist()[0]["confidences"] == [0.5, None]
            [clock] = read_clock(out, cell.cell_id).agents
            assert (clock.is_same_machine, clock.bound_s_largest) == (True, 0.002)
        [window] = read_energy(out, cell.cell_id).windows
        assert (window.kind, window.end, window.label) == ("run", "machine", "modelled")


@pytest.mark.usefixtures("signing_key")
def test_tables_of_all_cells_have_the_same_columns_and_types(plan_file: PlanFile, tmp_path: Path, toys: Any) -> None:
    out = tmp_path / "run"
    run(plan_file, out, toys)
    for name in ("requests", "rounds", "conditions"):
        schemas = {str(pq.read_schema(path)) for path in (out / CELLS).glob(f"*/{name}.parquet")}
        assert len(schemas) == 1


@pytest.mark.usefixtures("signing_key")
def test_a_driver_killed_at_any_write_to_the_disk_goes_on_to_the_same_cells(
    plan_file: PlanFile, tmp_path: Path, toys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = msgspec.structs.replace(plan_file.plan, blocks=1, factors=Factors(max_tokens=(6,)))
    plan_file = plan_file._replace(plan=plan)  # three cells
    whole = tmp_path / "whole"
    run(plan_file, whole, toys)
    real_fsync, real_rename = os.fsync, Path.rename
    left = 0

    def step() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise Killed

    def fsync(descriptor: int) -> None:
        step()
        real_fsync(descriptor)

    def rename(path: Path, target: Path) -> Path:
        step()
        found = real_rename(path, target)
        step()
        return found

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", rename)
    kills = 0
    for first in range(1, 60, 4):
        out = tmp_path / f"killed-{first}"
        for n in itertools.count():
            left = first + 11 * n  # dies again, and later each time
            try:
                run(plan_file, out, toys)
                break
            except Killed:
                kills += 1
        left = 0
        assert_whole(out)
        assert completed_cells(out) == completed_cells(whole)
        shutil.rmtree(out)
    assert kills >= 15


@pytest.mark.usefixtures("signing_key")
def test_a_cell_whose_process_dies_is_run_again_with_a_new_one(plan_file: PlanFile, tmp_path: Path, toys: Any) -> None:
    toys.deaths = {4, 9, 16}  # asks, warm-ups among them; never twice in one cell
    out = tmp_path / "run"
    assert run(plan_file, out, toys).missing == ()
    assert_whole(out)
    failed = [event for event in read_events(out) if event.event == "cell-failed"]
    assert len(failed) == 3
    assert all(event.reason == "it died" for event in failed)
    assert len(toys.keys) == 2 + 3  # groups, and one more for each death


@pytest.mark.usefixtures("signing_key")
def test_a_cell_that_fails_at_every_attempt_is_left_out_told_and_tried_again_by_the_next_call(
    plan_file: PlanFile, tmp_path: Path, toys: Any
) -> None:
    # Three warm-ups of a group's arms, then the first cell; its second attempt is at the fourth ask of a new process.
    toys.deaths = {4, 8}
    out = tmp_path / "run"
    outcome = run(plan_file, out, toys)
    first = read_schedule(out).cells[0].cell_id
    assert outcome == Outcome(11, (first,), None)
    assert part_faults(out) == []  # what is there is signed all the same
    assert run(plan_file, out, toys) == Outcome(12, (), None)
    assert_whole(out)


@pytest.mark.usefixtures("signing_key")
def test_a_cell_that_failed_is_tried_anew_after_all_the_rest_and_waits_get_longer(
    plan_file: PlanFile, tmp_path: Path, toys: Any
) -> None:
    toys.deaths = {4, 8, 12}
    plan = msgspec.structs.replace(plan_file.plan, passes=2, attempts=3, retry_s=200.0)
    waits: list[float] = []
    out = tmp_path / "run"
    assert run(plan_file._replace(plan=plan), out, toys, waits.append) == Outcome(12, (), None)
    assert waits == [200.0, 300.0]
    first = read_schedule(out).cells[0].cell_id
    completed = [event.cell_id for event in read_events(out) if event.event == "cell-completed"]
    assert completed[-1] == first
    assert_whole(out)


@pytest.mark.usefixtures("signing_key")
def test_processes_that_do_not_start_are_not_tried_for_every_cell(
    plan_file: PlanFile, tmp_path: Path, toys: Any
) -> None:
    toys.no_starts = {1, 2}
    out = tmp_path / "run"
    outcome = run(plan_file, out, toys)
    assert (outcome.completed, len(outcome.missing)) == (6, 6)  # the second block's group started
    assert len(toys.keys) == 3
    failed = [event for event in read_events(out) if event.event == "cell-failed"]
    assert [event.attempt for event in failed] == [1, 2]
    assert run(plan_file, out, toys).missing == ()


@pytest.mark.usefixtures("signing_key")
def test_a_folder_is_gone_on_with_only_by_its_own_plan_and_by_one_driver(
    plan_file: PlanFile, tmp_path: Path, toys: Any
) -> None:
    out = tmp_path / "run"
    run(plan_file, out, toys)
    other = plan_file._replace(text=plan_file.text + b"\n")
    with pytest.raises(ConfigError, match=r"holds a run of another plan"):
        run(other, out, toys)
    schedule, prompts = schedule_of(plan_file)
    campaign = campaign_of(plan_file, prompts.sha256, ("bench",), silent)
    folder = RunFolder(out, plan_file, schedule, campaign)
    with pytest.raises(ConfigError, match="another driver is at work"):
        RunFolder(out, plan_file, schedule, campaign)
    folder.close()
    changed = msgspec.structs.replace(schedule, seed=99)
    with pytest.raises(ConfigError, match="another schedule"):
        RunFolder(out, plan_file, changed, campaign)
    full = tmp_path / "full"
    full.mkdir()
    (full / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty and holds no run"):
        RunFolder(full, plan_file, schedule, campaign)


@pytest.mark.usefixtures("signing_key")
def test_a_folder_of_no_cell_is_told(plan_file: PlanFile, tmp_path: Path, toys: Any) -> None:
    out = tmp_path / "run"
    run(plan_file, out, toys)
    (out / CELLS / "b000-099-mine").mkdir()
    with pytest.raises(FolderError, match="b000-099-mine is of no cell"):
        run(plan_file, out, toys)


@pytest.mark.usefixtures("signing_key")
def test_a_rule_that_is_met_ends_a_run_and_keeps_it_ended(plan_file: PlanFile, tmp_path: Path, toys: Any) -> None:
    path = tmp_path / "toy.toml"
    text = path.read_text().replace("blocks = 2", "blocks = 9") + "[stop]\nhalf_width = 0.01\nmin_blocks = 3\n"
    path.write_text(text)
    file = plan_file._replace(text=text.encode(), plan=msgspec.toml.decode(text, type=type(plan_file.plan)))
    out = tmp_path / "run"
    outcome = run(file, out, toys)
    assert (outcome.completed, outcome.missing) == (3 * 6, ())
    assert "after 3 blocks" in str(outcome.stopped)
    again = run(file, out, toys)
    assert (again.completed, again.stopped) == (18, outcome.stopped)
    assert len([event for event in read_events(out) if event.event == "stopped"]) == 1


def conditions(
    t_ns: int, celsius: float | None = None, throttled: str | None = None, events: str = "{}"
) -> ConditionsRow:
    return ConditionsRow(
        end="machine",
        when="during",
        t_ns=t_ns,
        wall="",
        temperature_c=celsius,
        temperatures_c="{}",
        throttled=throttled,
        throttle_events=events,
        frequency_hz=None,
        frequencies_hz=(),
        governor=None,
        power_mode=None,
        rssi_dbm=None,
        link_rate_bps=None,
        load_1min=None,
        machine_busy_s=None,
        own_busy_s=0.0,
        available_memory_bytes=None,
        faults="[]",
    )


def test_heat_and_throttling_exclude_a_cell_and_what_was_before_does_not() -> None:
    limits = Limits(max_temperature_c=80.0)
    hot = [conditions(0, 70.0), conditions(1, 81.5)]
    assert faults_of(limits, hot) == (["machine reached 81.5 C, limit 80"], [])
    assert faults_of(limits, hot[:1]) == ([], [])
    flagged = [conditions(0, throttled='["throttled"]')]
    assert faults_of(limits, flagged) == (["machine: throttled"], [])
    assert faults_of(Limits(on_throttling="keep"), flagged) == ([], ["machine: throttled"])
    assert faults_of(limits, [conditions(0, throttled='["throttled since boot"]')]) == ([], [])
    risen = [conditions(0, events='{"cpu0": 4}'), conditions(1, events='{"cpu0": 5}')]
    assert faults_of(limits, risen) == (["machine: cpu0"], [])
    assert faults_of(limits, [risen[0], risen[0]]) == ([], [])


def test_a_cell_waits_until_it_is_cool_and_not_for_ever() -> None:
    slept: list[float] = []
    heat = iter([{"cpu": 71.0, "off": None}, {"cpu": 66.0, "off": None}, {"cpu": 59.0, "off": None}])
    limits = Limits(cool_down_s=5.0, start_below_c=60.0, cool_down_most_s=30.0)
    cooled = cool_down(limits, lambda: next(heat), slept.append)
    assert (cooled.is_cool, cooled.seconds, slept) == (True, 9.0, [5.0, 2.0, 2.0])
    warm = cool_down(limits, lambda: {"cpu": 70.0}, lambda _: None)
    assert (warm.is_cool, warm.seconds) == (False, 31.0)
    assert "70.0 C" in warm.reason
    unknown = cool_down(limits, dict, lambda _: None)
    assert not unknown.is_cool
    assert cool_down(Limits(), dict, slept.append).seconds == 0.0


@pytest.mark.usefixtures("signing_key")
def test_a_hot_cell_is_kept_and_excluded(plan_file: PlanFile, tmp_path: Path, toys: Any) -> None:
    plan = msgspec.structs.replace(plan_file.plan, limits=Limits(max_temperature_c=-50.0))
    out = tmp_path / "run"
    assert run(plan_file._replace(plan=plan), out, toys).completed == 12
    warm = {cell.cell_id for cell in read_schedule(out).cells} if _has_temperature(out) else set()
    assert set(excluded_cells(out)) == warm


def _has_temperature(out: Path) -> bool:
    cell_id = completed_cells(out)[0]
    rows = pq.read_table(out / CELLS / cell_id / "conditions.parquet").to_pylist()
    return any(row["temperature_c"] is not None for row in rows)
