"""Opening by name: every name that is documented, and the order in which auto looks."""

from pathlib import Path

import pytest
from tests.models.energy.recorded_board import unpack

from multispin_agent.config import Config as AgentConfig
from multispin_coordinator.config import Config as CoordinatorConfig
from multispin_models.energy import open_meter
from multispin_models.energy.sensors import AUTO_ORDER, METER_FORMS, open_sensor
from multispin_models.errors import ConfigError

DOCUMENT = Path(__file__).parents[3] / "models/docs/meters.md"


@pytest.mark.parametrize("form", METER_FORMS)
def test_every_name_stands_in_the_settings_of_both_ends_and_in_the_document(form: str) -> None:
    for settings in (AgentConfig, CoordinatorConfig):
        assert f'"{form}"' in str(settings.__doc__)
    assert f"`{form}`" in DOCUMENT.read_text(encoding="utf-8")


def test_auto_takes_the_sensor_that_covers_most(tmp_path: Path) -> None:
    unpack("server", tmp_path)
    unpack("orin-nx", tmp_path)
    meter = open_meter("auto", tmp_path).meter
    assert meter is not None
    assert meter.info.name == "jetson"
    assert AUTO_ORDER == ("jetson", "pmic", "rapl")


def test_auto_goes_on_when_the_first_has_no_total_and_says_so_when_none_has(tmp_path: Path) -> None:
    unpack("agx-orin", tmp_path)
    reason = open_meter("auto", tmp_path).reason
    assert "jetson: it has no rail for the whole (VDD_GPU_SOC" in reason
    assert "pmic: " in reason
    assert "rapl: " in reason
    unpack("server", tmp_path)
    meter = open_meter("auto", tmp_path).meter
    assert meter is not None
    assert meter.info.name == "rapl"


@pytest.mark.parametrize("spec", ["auto", "none", "shared", "rappel", "hwmon:", "nothing:x"])
def test_what_is_no_sensor_is_refused(spec: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"allowed are auto, none, shared, jetson"):
        open_sensor(spec, tmp_path)
