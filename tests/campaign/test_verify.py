"""Every planted fault is caught by the rule that is there for it, and the good run passes."""

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from multispin.campaign import rules, verify_command
from multispin.campaign.folder import (
    CAMPAIGN,
    CELLS,
    CLOCK,
    CONDITIONS,
    ENERGY,
    HASHES,
    HEADER,
    JOURNAL,
    LOG,
    PLAN,
    REQUESTS,
    ROUNDS,
    SCHEDULE,
    SIGNATURE,
    Event,
)
from multispin.campaign.hashing import cell_digest
from multispin.campaign.rules import check_run, rules_document
from multispin.campaign.rules.evidence import Thresholds
from multispin_models.errors import ConfigError
from tests.campaign.good_run import change_json, make_run, reseal, some_cell

Damage = Callable[[Path], None]
LIMITS = Thresholds(min_blocks=2)
DOCUMENT = Path(rules.__file__).parents[1] / "docs" / "rules.md"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("good") / "run", blocks=2)


def cell_of(path: Path, arm: str = "price", place: int = 0) -> Path:
    return path / CELLS / some_cell(path, arm, place).cell_id


def change_rows(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the rows of a table; its types stay."""
    table = pq.read_table(path)
    rows = table.to_pylist()
    for row in rows:
        change(row)
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)


def change_windows(path: Path, kind: str, **changes: Any) -> None:
    values = json.loads((path / ENERGY).read_text())
    values["windows"] = [each | changes if each["kind"] == kind else each for each in values["windows"]]
    (path / ENERGY).write_text(json.dumps(values))


def change_journal(path: Path, change: Callable[[Event], Event | None]) -> None:
    events = [msgspec.json.decode(line, type=Event) for line in (path / JOURNAL).read_bytes().splitlines()]
    changed = [event for event in map(change, events) if event is not None]
    (path / JOURNAL).write_bytes(b"".join(msgspec.json.encode(event) + b"\n" for event in changed))


def exclude(path: Path, cell_id: str, reason: str = "throttled") -> None:
    last = msgspec.json.decode((path / JOURNAL).read_bytes().splitlines()[-1], type=Event)
    event = msgspec.structs.replace(last, event="cell-excluded", cell_id=cell_id, reason=reason)
    with (path / JOURNAL).open("ab") as file:
        file.write(msgspec.json.encode(event) + b"\n")


def redigest(path: Path) -> None:
    """Write the journal's digests anew: a forger who has the key covers the traces of a change."""
    digests = {cell.name: cell_digest(cell) for cell in (path / CELLS).iterdir()}
    change_journal(
        path, lambda e: msgspec.structs.replace(e, sha256=digests.get(e.cell_id or "")) if e.sha256 is not None else e
    )


# --- changes after the folder was sealed -----------------------------------------------------------------------------


def a_figure_is_made_better(path: Path) -> None:
    def change(row: dict[str, Any]) -> None:
        row["tpot_s"] *= 0.5

    change_rows(cell_of(path) / REQUESTS, change)


def a_log_line_is_added(path: Path) -> None:
    with (cell_of(path) / LOG).open("ab") as file:
        file.write(b"all was well\n")


def a_file_is_removed(path: Path) -> None:
    (cell_of(path) / LOG).unlink()


def a_file_is_added(path: Path) -> None:
    (cell_of(path) / "notes.txt").write_text("see?")


def the_list_of_hashes_is_written_anew(path: Path) -> None:
    a_log_line_is_added(path)
    lines = (path / HASHES).read_text().replace("0", "1", 1)
    (path / HASHES).write_text(lines)


def the_signature_is_anothers(path: Path) -> None:
    change_json(path / SIGNATURE, signature="0" * 128)


def the_signature_is_missing(path: Path) -> None:
    (path / SIGNATURE).unlink()


# --- faults of a run that was sealed with them -----------------------------------------------------------------------


def the_plan_is_changed(path: Path) -> None:
    (path / PLAN).write_text((path / PLAN).read_text().replace("effect", "effect") + "\n# later\n")


def the_plan_is_changed_with_its_hashes(path: Path) -> None:
    text = (path / PLAN).read_text().replace("idle_s = 2.0", "idle_s = 0.0")
    (path / PLAN).write_text(text)
    import hashlib  # noqa: PLC0415

    digest = hashlib.sha256(text.encode()).hexdigest()
    change_json(path / SCHEDULE, plan_sha256=digest)
    change_json(path / CAMPAIGN, plan_sha256=digest, campaign_id=f"good-{digest[:12]}")


def a_cell_was_changed_before_it_was_sealed(path: Path) -> None:
    a_log_line_is_added(path)


def a_cell_is_missing(path: Path) -> None:
    shutil.rmtree(cell_of(path))


def a_cell_is_missing_and_so_is_its_line(path: Path) -> None:
    name = cell_of(path).name
    shutil.rmtree(cell_of(path))
    change_journal(path, lambda event: None if event.cell_id == name else event)


def a_cell_is_there_twice(path: Path) -> None:
    shutil.copytree(cell_of(path), path / CELLS / "b000-999-bench-price")


def a_cell_was_completed_twice(path: Path) -> None:
    with (path / JOURNAL).open("ab") as file:
        lines = [line for line in (path / JOURNAL).read_bytes().splitlines() if b"cell-completed" in line]
        file.write(lines[0].replace(b'"attempt":1', b'"attempt":2') + b"\n")


def the_driver_was_killed(path: Path) -> None:
    change_journal(path, lambda event: None if event.event == "ended" else event)


def a_schedule_was_arranged(path: Path) -> None:
    values = json.loads((path / SCHEDULE).read_text())
    values["cells"][0], values["cells"][1] = values["cells"][1], values["cells"][0]
    (path / SCHEDULE).write_text(json.dumps(values))


def the_configuration_is_another(path: Path) -> None:
    values = json.loads((path / CAMPAIGN).read_text())
    change_json(path / CAMPAIGN, configuration=values["configuration"] | {"requests_per_user": 7})


def the_configuration_has_an_unknown_setting(path: Path) -> None:
    values = json.loads((path / CAMPAIGN).read_text())
    change_json(path / CAMPAIGN, configuration=values["configuration"] | {"lucky": True})


def a_cell_ran_another_policy(path: Path) -> None:
    change_json(cell_of(path) / HEADER, policy="fixed")


def a_cell_ran_another_temperature(path: Path) -> None:
    change_json(cell_of(path, "target alone") / HEADER, temperature=0.7)


def a_cell_had_another_target(path: Path) -> None:
    values = json.loads((cell_of(path) / HEADER).read_text())
    change_json(cell_of(path) / HEADER, target=values["target"] | {"fingerprint": "0" * 64})


def a_cell_had_another_engine(path: Path) -> None:
    values = json.loads((cell_of(path) / HEADER).read_text())
    change_json(cell_of(path) / HEADER, target=values["target"] | {"engine_version": "2"})


def a_cell_had_another_version(path: Path) -> None:
    values = json.loads((cell_of(path) / HEADER).read_text())
    change_json(cell_of(path) / HEADER, machine=values["machine"] | {"multispin": "0.0.9"})


def a_cells_tables_are_anothers(path: Path) -> None:
    shutil.copy(cell_of(path, "fixed") / REQUESTS, cell_of(path) / REQUESTS)


def a_prompt_was_left_out(path: Path) -> None:
    table = pq.read_table(cell_of(path) / REQUESTS)
    pq.write_table(table.slice(1), cell_of(path) / REQUESTS)


def a_request_failed(path: Path) -> None:
    change_rows(cell_of(path) / REQUESTS, lambda row: row.update(finish="error", error="the coordinator went away"))


def a_round_is_missing(path: Path) -> None:
    table = pq.read_table(cell_of(path) / ROUNDS)
    pq.write_table(table.slice(0, table.num_rows - 1), cell_of(path) / ROUNDS)


def a_round_is_there_twice(path: Path) -> None:
    table = pq.read_table(cell_of(path) / ROUNDS)
    pq.write_table(pa.concat_tables([table, table.slice(1, 1)]), cell_of(path) / ROUNDS)


def a_column_is_missing(path: Path) -> None:
    table = pq.read_table(cell_of(path) / REQUESTS)
    pq.write_table(table.drop_columns(["waited_s"]), cell_of(path) / REQUESTS)


def a_figure_is_rounded_in_favour(path: Path) -> None:
    a_figure_is_made_better(path)


def one_token_differs(path: Path) -> None:
    change_rows(cell_of(path) / REQUESTS, lambda row: row["token_ids"].__setitem__(5, row["token_ids"][5] + 1))


def texts_were_not_recorded(path: Path) -> None:
    change_rows(cell_of(path) / REQUESTS, lambda row: row.update(token_ids=[], text=""))


def the_run_window_is_missing(path: Path) -> None:
    values = json.loads((cell_of(path) / ENERGY).read_text())
    windows = [each for each in values["windows"] if each["kind"] == "idle"]
    change_json(cell_of(path) / ENERGY, windows=windows)


def the_idle_window_is_missing(path: Path) -> None:
    values = json.loads((cell_of(path) / ENERGY).read_text())
    windows = [each for each in values["windows"] if each["kind"] == "run"]
    change_json(cell_of(path) / ENERGY, windows=windows)


def the_window_is_too_short(path: Path) -> None:
    values = json.loads((cell_of(path) / ENERGY).read_text())
    [run] = [each for each in values["windows"] if each["kind"] == "run"]
    change_windows(cell_of(path), "run", started_ns=run["started_ns"] - 9 * 10**9, ended_ns=run["started_ns"])


def a_missing_sensor_counts_as_zero(path: Path) -> None:
    change_windows(cell_of(path), "run", energy_j=0.0)


def joules_have_no_label(path: Path) -> None:
    change_windows(cell_of(path), "run", label=None)


def a_recording_is_called_measured(path: Path) -> None:
    for cell in (path / CELLS).iterdir():
        for kind in ("idle", "run"):
            change_windows(cell, kind, meter="replay:power.csv")


def the_sensor_was_slow(path: Path) -> None:
    change_windows(cell_of(path), "run", achieved_hz=2.0)


def the_sensor_had_a_gap(path: Path) -> None:
    change_windows(cell_of(path), "run", largest_gap_s=4.0, coverage=0.7)


def work_drew_less_than_idling(path: Path) -> None:
    change_windows(cell_of(path), "idle", energy_j=100.0)


def the_meter_was_changed_half_way(path: Path) -> None:
    for kind in ("idle", "run"):
        change_windows(cell_of(path, place=1), kind, meter="another", label="calibrated")


def conditions_after_are_missing(path: Path) -> None:
    table = pq.read_table(cell_of(path) / CONDITIONS)
    pq.write_table(table.slice(0, 1), cell_of(path) / CONDITIONS)


def the_box_was_throttled(path: Path) -> None:
    change_rows(cell_of(path) / CONDITIONS, lambda row: row.update(throttled='["throttled", "under-voltage"]'))


def a_core_throttled_between_looks(path: Path) -> None:
    def change(row: dict[str, Any]) -> None:
        if row["when"] == "after":
            row["throttle_events"] = '{"core": 9}'

    change_rows(cell_of(path) / CONDITIONS, change)


def the_box_was_hot(path: Path) -> None:
    change_rows(cell_of(path) / CONDITIONS, lambda row: row.update(temperature_c=95.0))


def texts_are_never_compared(path: Path) -> None:
    values = json.loads((path / SCHEDULE).read_text())
    for cell in values["cells"]:
        cell["text_key"] += cell["arm"]
    (path / SCHEDULE).write_text(json.dumps(values))


def a_clock_is_not_known(path: Path) -> None:
    values = json.loads((cell_of(path) / CLOCK).read_text())
    agents = [each | {"is_same_machine": False, "bound_s_median": 0.5} for each in values["agents"]]
    change_json(cell_of(path) / CLOCK, agents=agents)


def a_clock_jumped(path: Path) -> None:
    change_rows(cell_of(path) / ROUNDS, lambda row: row.update(clock_event="suspend"))


def rounds_have_no_clock_bound(path: Path) -> None:
    change_rows(cell_of(path) / ROUNDS, lambda row: row.update(clock_bound_s=None))


def a_cell_ran_elsewhere(path: Path) -> None:
    values = json.loads((cell_of(path) / HEADER).read_text())
    change_json(cell_of(path) / HEADER, machine=values["machine"] | {"cpu_model": "a faster one"})


def the_code_was_changed_meanwhile(path: Path) -> None:
    values = json.loads((cell_of(path) / HEADER).read_text())
    change_json(cell_of(path) / HEADER, machine=values["machine"] | {"commit": "abc"})


def the_code_is_nobody_elses(path: Path) -> None:
    values = json.loads((path / CAMPAIGN).read_text())
    change_json(path / CAMPAIGN, machine=values["machine"] | {"commit": "abc-dirty"})


def the_governor_was_changed(path: Path) -> None:
    change_rows(cell_of(path, place=1) / CONDITIONS, lambda row: row.update(governor="powersave"))


def too_much_was_left_out(path: Path) -> None:
    exclude(path, some_cell(path, "price").cell_id, "it was slow")


def a_cell_is_excluded_without_a_reason(path: Path) -> None:
    exclude(path, some_cell(path, "price").cell_id, " ")


AFTERWARDS: list[tuple[Damage, int]] = [
    (a_figure_is_made_better, 102),
    (a_log_line_is_added, 102),
    (a_file_is_removed, 102),
    (a_file_is_added, 102),
    (the_list_of_hashes_is_written_anew, 103),
    (the_signature_is_anothers, 103),
    (the_signature_is_missing, 101),
]
SEALED: list[tuple[Damage, int]] = [
    (the_plan_is_changed, 104),
    (the_plan_is_changed_with_its_hashes, 203),
    (a_cell_was_changed_before_it_was_sealed, 105),
    (a_cell_is_missing, 202),
    (a_cell_is_missing_and_so_is_its_line, 202),
    (a_cell_is_there_twice, 202),
    (a_cell_was_completed_twice, 105),
    (the_driver_was_killed, 105),
    (a_schedule_was_arranged, 201),
    (texts_are_never_compared, 305),
    (the_configuration_is_another, 203),
    (the_configuration_has_an_unknown_setting, 203),
    (a_cell_is_excluded_without_a_reason, 202),
    (too_much_was_left_out, 602),
]
FORGED: list[tuple[Damage, int]] = [
    (a_cell_ran_another_policy, 204),
    (a_cell_ran_another_temperature, 204),
    (a_cell_had_another_target, 205),
    (a_cell_had_another_version, 205),
    (a_cell_had_another_engine, 205),
    (a_cells_tables_are_anothers, 206),
    (a_column_is_missing, 106),
    (a_prompt_was_left_out, 301),
    (a_request_failed, 301),
    (a_round_is_missing, 302),
    (a_round_is_there_twice, 302),
    (a_figure_is_rounded_in_favour, 303),
    (one_token_differs, 304),
    (texts_were_not_recorded, 304),
    (the_run_window_is_missing, 401),
    (the_idle_window_is_missing, 401),
    (the_window_is_too_short, 401),
    (a_missing_sensor_counts_as_zero, 402),
    (joules_have_no_label, 402),
    (a_recording_is_called_measured, 402),
    (the_sensor_was_slow, 403),
    (the_sensor_had_a_gap, 404),
    (work_drew_less_than_idling, 405),
    (the_meter_was_changed_half_way, 406),
    (conditions_after_are_missing, 501),
    (the_box_was_throttled, 502),
    (a_core_throttled_between_looks, 502),
    (the_box_was_hot, 503),
    (a_clock_is_not_known, 504),
    (a_clock_jumped, 504),
    (rounds_have_no_clock_bound, 504),
    (a_cell_ran_elsewhere, 505),
    (the_code_was_changed_meanwhile, 505),
    (the_code_is_nobody_elses, 507),
    (the_governor_was_changed, 506),
]


def test_the_good_run_passes(good: Path) -> None:
    verdict = check_run(good, LIMITS)
    assert verdict.faults == ()
    assert verdict.cells == 10
    assert len(verdict.rules) >= 25


@pytest.mark.parametrize(("damage", "rule"), AFTERWARDS, ids=lambda each: getattr(each, "__name__", str(each)))
def test_a_change_of_a_sealed_folder_is_caught(good: Path, tmp_path: Path, damage: Damage, rule: int) -> None:
    path = shutil.copytree(good, tmp_path / "run")
    damage(path)
    assert rule in {fault.rule for fault in check_run(path, LIMITS).faults}


@pytest.mark.parametrize(("damage", "rule"), SEALED, ids=lambda each: getattr(each, "__name__", str(each)))
def test_a_fault_that_was_sealed_is_caught(good: Path, tmp_path: Path, damage: Damage, rule: int) -> None:
    path = shutil.copytree(good, tmp_path / "run")
    damage(path)
    reseal(path)
    faults = {fault.rule for fault in check_run(path, LIMITS).faults}
    assert rule in faults
    assert not faults & {101, 102, 103}, "hashes and signature hold: only the rule can tell"


@pytest.mark.parametrize(("damage", "rule"), FORGED, ids=lambda each: getattr(each, "__name__", str(each)))
def test_a_fault_in_a_cell_is_caught_by_its_rule_alone(good: Path, tmp_path: Path, damage: Damage, rule: int) -> None:
    path = shutil.copytree(good, tmp_path / "run")
    damage(path)
    redigest(path)
    reseal(path)
    faults = {fault.rule for fault in check_run(path, LIMITS).faults}
    assert rule in faults
    assert not faults & {101, 102, 103, 104, 105}


def test_limits_can_be_set(good: Path) -> None:
    assert {fault.rule for fault in check_run(good, Thresholds()).faults} == {601, 603}
    [fault] = check_run(good, Thresholds(min_blocks=2, public_key="0" * 64)).faults
    assert fault.rule == 103


def test_a_run_of_an_earlier_version_that_had_fewer_settings_passes(good: Path, tmp_path: Path) -> None:
    path = shutil.copytree(good, tmp_path / "run")
    configuration = json.loads((path / CAMPAIGN).read_text())["configuration"]
    del configuration["passes"]
    change_json(path / CAMPAIGN, configuration=configuration)
    reseal(path)
    assert check_run(path, LIMITS).faults == ()


def test_an_excluded_cell_is_not_looked_at_and_an_empty_folder_fails(good: Path, tmp_path: Path) -> None:
    path = shutil.copytree(good, tmp_path / "run")
    the_box_was_throttled(path)
    redigest(path)
    exclude(path, cell_of(path).name)
    reseal(path)
    assert {fault.rule for fault in check_run(path, Thresholds(min_blocks=1, max_excluded=0.5)).faults} == set()
    (tmp_path / "empty").mkdir()
    assert {fault.rule for fault in check_run(tmp_path / "empty", LIMITS).faults} == {101, 102, 103, 106}


def command(*words: str) -> int:
    parser = argparse.ArgumentParser()
    verify_command.add_arguments(parser)
    return verify_command.run(parser.parse_args(words))


def test_the_command_says_what_and_its_status_says_whether(
    good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(str(good), "--min-blocks", "2") == 0
    assert "over 10 cells: the run counts" in capsys.readouterr().out
    path = shutil.copytree(good, tmp_path / "run")
    one_token_differs(path)
    assert command(str(path), "--json", "--min-blocks", "2") == 1
    told = json.loads(capsys.readouterr().out)
    [text] = [fault for fault in told["faults"] if fault["rule"] == 304]
    assert "from token 5 on" in text["what"]
    with pytest.raises(ConfigError, match="is no folder"):
        command(str(tmp_path / "nowhere"))


def test_the_document_is_what_the_code_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--rules") == 0
    assert capsys.readouterr().out == rules_document() == DOCUMENT.read_text(encoding="utf-8")
