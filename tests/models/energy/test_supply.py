"""What feeds the machine: by recorded boards, and by changes to them."""

from pathlib import Path

import pytest
from tests.models.energy.recorded_board import unpack

from multispin_models.energy.supply import runs_from_battery


def test_a_laptop_runs_from_its_battery_until_a_supply_is_plugged_in(tmp_path: Path) -> None:
    root = unpack("laptop", tmp_path)
    assert runs_from_battery(root) is True
    (root / "sys/class/power_supply/AC/online").write_text("1\n")
    assert runs_from_battery(root) is False, "whatever a slow gauge still says"


def test_a_dock_feeds_a_laptop_whose_mouse_runs_from_a_battery(tmp_path: Path) -> None:
    root = unpack("laptop-docked", tmp_path)
    assert runs_from_battery(root) is False
    port = root / "sys/class/power_supply/ucsi-source-psy-USBC000:001/online"
    port.write_text("0\n")
    assert runs_from_battery(root) is False, "no battery discharges"
    (root / "sys/class/power_supply/BAT0/status").write_text("Discharging\n")
    assert runs_from_battery(root) is True
    port.write_text("2\n")
    assert runs_from_battery(root) is False, "at a voltage that was negotiated"


@pytest.mark.parametrize("board", ["raspberry-pi-5", "agx-orin", "server"])
def test_a_board_without_a_battery_tells_nothing(board: str, tmp_path: Path) -> None:
    assert runs_from_battery(unpack(board, tmp_path)) is None


def test_a_battery_whose_state_cannot_be_read_feeds_nothing(tmp_path: Path) -> None:
    root = unpack("laptop", tmp_path)
    (root / "sys/class/power_supply/BAT0/status").unlink()
    assert runs_from_battery(root) is False
