"""The RAPL meter on recorded trees: what is added, wraps, resets, and what cannot be read."""

import os
from pathlib import Path
from typing import Any

import pytest

from multispin_models.energy import MeterStatus, discover_meters, open_meter
from multispin_models.energy.rapl import RaplMeter
from multispin_models.errors import SensorError

S = 1_000_000_000
RANGE_UJ = 262_143_999_938
ZONES = {
    "intel-rapl:0": "package-0",
    "intel-rapl:0:0": "core",
    "intel-rapl:0:1": "dram",
    "intel-rapl:1": "package-1",
    "intel-rapl:2": "psys",
    "intel-rapl-mmio:0": "package-0",
}
_open = os.open


class Tree:
    """A recorded powercap tree with two packages, their parts, the platform zone and the MMIO twin."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now_ns = 0
        (root / "sys/class/powercap/intel-rapl").mkdir(parents=True)  # the control type itself: no zone
        for zone, name in ZONES.items():
            self.path(zone).mkdir()
            (self.path(zone) / "name").write_text(name + "\n")
            (self.path(zone) / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
            self.set(zone, 1_000_000)

    def path(self, zone: str) -> Path:
        return self.root / "sys/class/powercap" / zone

    def set(self, zone: str, energy_uj: int) -> None:
        (self.path(zone) / "energy_uj").write_text(f"{energy_uj}\n")

    def clock(self) -> int:
        return self.now_ns


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_packages_are_added_and_their_parts_the_platform_and_the_twin_are_not(tree: Tree) -> None:
    meter = RaplMeter(tree.root, tree.clock)
    assert meter.read().total(meter.info.rails) == 2.0  # the counters' own
    tree.now_ns = S
    tree.set("intel-rapl:0", 31_000_000)
    tree.set("intel-rapl:0:0", 21_000_000)
    tree.set("intel-rapl:0:1", 6_000_000)
    tree.set("intel-rapl:1", 13_000_000)
    tree.set("intel-rapl:2", 71_000_000)
    tree.set("intel-rapl-mmio:0", 31_000_000)
    reading = meter.read()
    assert reading.total(meter.info.rails) == pytest.approx(31.0 + 13.0)
    assert dict(zip([rail.name for rail in meter.info.rails], reading.values, strict=True)) == pytest.approx(
        {"package-0": 31.0, "package-0/core": 21.0, "package-0/dram": 6.0, "package-1": 13.0, "psys": 71.0}
    )
    assert reading.t_ns == S


def test_a_counter_that_wraps_goes_on_by_its_own_range(tree: Tree) -> None:
    tree.set("intel-rapl:1", RANGE_UJ - 2_000_000)
    meter = RaplMeter(tree.root, tree.clock)
    before = meter.read().total(meter.info.rails)
    assert before is not None
    tree.now_ns = S
    tree.set("intel-rapl:1", 3_000_000)
    reading = meter.read()
    assert reading.total(meter.info.rails) == pytest.approx(before + 5.0)
    assert reading.segment == 0


def test_a_counter_that_was_set_back_starts_a_new_segment(tree: Tree) -> None:
    tree.set("intel-rapl:0", 50_000_000_000)
    meter = RaplMeter(tree.root, tree.clock)
    tree.now_ns = S
    tree.set("intel-rapl:0", 4_000_000)  # as a wrap it would be 212 kJ in a second
    before = meter.read()
    assert before.segment == 1
    tree.now_ns = 2 * S
    tree.set("intel-rapl:0", 9_000_000)
    reading = meter.read()
    assert reading.segment == 1
    assert reading.values[0] == pytest.approx((before.values[0] or 0.0) + 5.0)


def test_a_counter_left_unread_so_long_that_a_wrap_could_be_missed_starts_a_new_segment(tree: Tree) -> None:
    meter = RaplMeter(tree.root, tree.clock)
    tree.now_ns = 263 * S  # 1000 W x 263 s is more than the range
    tree.set("intel-rapl:0", 2_000_000)
    assert meter.read().segment == 1


def found(root: Path) -> MeterStatus:
    return {status.name: status for status in discover_meters(root)}["rapl"]


def _denied(path: object, *args: Any, **kwargs: Any) -> int:
    if str(path).endswith("energy_uj"):
        raise PermissionError(13, "Permission denied", str(path))
    return _open(path, *args, **kwargs)  # type: ignore[call-overload, no-any-return]


def test_permission_denied_says_what_to_do(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "open", _denied)  # root, who may run this test, is denied nothing
    status = found(tree.root)
    assert status.present
    assert not status.usable
    assert "CAP_DAC_READ_SEARCH" in status.reason
    assert "intel-rapl:0/energy_uj" in status.reason


@pytest.mark.parametrize("text", ["", "0", "-1", "none"])
def test_a_zone_whose_range_cannot_be_used_is_null_not_guessed(tree: Tree, text: str) -> None:
    (tree.path("intel-rapl:0") / "max_energy_range_uj").write_text(text)
    meter = RaplMeter(tree.root)
    reading = meter.read()
    assert reading.values[0] is None
    assert "max_energy_range_uj" in reading.reasons[0]
    assert reading.total(meter.info.rails) is None  # a package is missing: half a socket is no socket
    assert not found(tree.root).usable


def test_a_part_that_cannot_be_read_is_null_and_the_package_is_measured(tree: Tree) -> None:
    (tree.path("intel-rapl:0:1") / "max_energy_range_uj").unlink()
    meter = RaplMeter(tree.root)
    reading = meter.read()
    rails = [rail.name for rail in meter.info.rails]
    assert reading.values[rails.index("package-0/dram")] is None
    assert "max_energy_range_uj cannot be read: No such file" in reading.reasons[rails.index("package-0/dram")]
    assert reading.total(meter.info.rails) == 2.0


def test_a_zone_that_vanishes_is_null_and_the_count_goes_on_when_it_is_back(tree: Tree) -> None:
    meter = RaplMeter(tree.root, tree.clock)
    (tree.path("intel-rapl:1") / "energy_uj").unlink()
    reading = meter.read()
    assert reading.total(meter.info.rails) is None
    assert any("intel-rapl:1/energy_uj cannot be read" in reason for reason in reading.reasons)
    tree.now_ns = S
    tree.set("intel-rapl:1", 8_000_000)
    assert meter.read().total(meter.info.rails) == pytest.approx(1.0 + 8.0)


def test_a_socket_that_goes_altogether_fails_the_read(tree: Tree) -> None:
    meter = RaplMeter(tree.root, tree.clock)
    for zone in ZONES:
        (tree.path(zone) / "energy_uj").unlink()
    with pytest.raises(SensorError, match="intel-rapl:0/energy_uj cannot be read: No such file"):
        meter.read()


def test_without_a_package_zone_there_is_no_meter(tree: Tree) -> None:
    for zone in ("intel-rapl:0", "intel-rapl:1"):
        (tree.path(zone) / "name").write_text("psys\n")
    with pytest.raises(SensorError, match="no package zone"):
        RaplMeter(tree.root)


def test_a_usable_tree_is_found_and_taken_by_auto(tree: Tree) -> None:
    status = found(tree.root)
    assert (status.name, status.usable, status.covers, status.reason) == ("rapl", True, "socket", "")
    assert "package-1" in status.rails
    meter = open_meter("auto", tree.root).meter
    assert meter is not None
    assert meter.info.label == "measured"


def test_a_counter_is_subtracted_whatever_it_began_with(tree: Tree) -> None:
    tree.set("intel-rapl:0", 123_456_789)
    meter = RaplMeter(tree.root, tree.clock)
    assert meter.read().values[0] == pytest.approx(123.456789)


def test_a_machine_without_sensors_gives_null_and_a_reason(tmp_path: Path) -> None:
    opened = open_meter("auto", tmp_path)
    assert opened.meter is None
    assert "powercap is not there" in opened.reason
    with pytest.raises(SensorError, match="powercap is not there"):
        open_meter("rapl", tmp_path)
