"""NVIDIA cards behind a library that answers as NVML does: counted joules, watts, and "Not Supported" on a Jetson."""

from pathlib import Path

import pytest

from multispin_models.energy import nvml
from multispin_models.errors import SensorAbsent, SensorError


class Library:
    """Stands for the module pynvml of nvidia-ml-py: functions by the names and units of the NVML reference."""

    class NVMLError(Exception):
        pass

    def __init__(self, energies_mj: list[int] | None, powers_mw: list[int] | None, starts: bool = True) -> None:
        self.energies_mj, self.powers_mw, self.starts = energies_mj, powers_mw, starts
        self.open = 0

    def nvmlInit(self) -> None:  # noqa: N802 - the library's own name
        if not self.starts:
            raise self.NVMLError("NVML Shared Library Not Found")
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.energies_mj or self.powers_mw or [None])

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetTotalEnergyConsumption(self, card: int) -> int:  # noqa: N802
        if self.energies_mj is None:
            raise self.NVMLError("Not Supported")
        return self.energies_mj[card]

    def nvmlDeviceGetPowerUsage(self, card: int) -> int:  # noqa: N802
        if self.powers_mw is None:
            raise self.NVMLError("Not Supported")
        return self.powers_mw[card]


def test_joules_are_taken_where_every_card_counts_them() -> None:
    library = Library([187_250, 42_000], [91_000, 30_500])
    meter = nvml.open_cards(library)
    assert meter.read().values == pytest.approx((187.25, 42.0))
    assert meter.read().total(meter.info.rails) == pytest.approx(229.25)
    assert (meter.info.quantity, meter.info.covers) == ("energy", "gpu")
    meter.close()
    meter.close()
    assert library.open == 0


def test_watts_are_taken_from_older_cards() -> None:
    meter = nvml.open_cards(Library(None, [91_500]))
    assert meter.read().values == pytest.approx((91.5,))
    assert meter.info.quantity == "power"
    assert "averaged by the driver" in meter.info.note


def test_not_supported_is_an_error_and_never_a_zero() -> None:
    library = Library(None, None)
    with pytest.raises(SensorError, match=r"Not Supported.*on a Jetson use the meter 'jetson'") as caught:
        nvml.open_cards(library)
    assert not isinstance(caught.value, SensorAbsent)
    assert library.open == 0


def test_a_card_that_falls_off_the_bus_fails_the_read() -> None:
    library = Library([1000], None)
    meter = nvml.open_cards(library)
    library.energies_mj = None
    with pytest.raises(SensorError, match="nvmlDeviceGetTotalEnergyConsumption answered: Not Supported"):
        meter.read()


def test_a_driver_loaded_anew_starts_a_new_segment() -> None:
    library = Library([9000], None)
    meter = nvml.open_cards(library)
    before = meter.read().segment
    library.energies_mj = [10]
    assert meter.read().segment == before + 1


def test_without_a_driver_it_is_absent_and_a_recorded_tree_has_none(tmp_path: Path) -> None:
    with pytest.raises(SensorAbsent, match=r"Shared Library Not Found.*driver loaded"):
        nvml.open_cards(Library(None, None, starts=False))
    with pytest.raises(SensorAbsent, match="asks the driver of this machine"):
        nvml.open_first(tmp_path)
