"""What the tests of campaigns share."""

from pathlib import Path

import pytest

from multispin.campaign.plan_file import PlanFile, read_plan
from tests.campaign.toys import PLAN, Toys


@pytest.fixture
def toys() -> Toys:
    return Toys()


@pytest.fixture
def signing_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "keys" / "campaign.key"
    monkeypatch.setenv("MULTISPIN_CAMPAIGN_KEY", str(path))
    return path


@pytest.fixture
def plan_file(tmp_path: Path) -> PlanFile:
    path = tmp_path / "toy.toml"
    path.write_text(PLAN)
    return read_plan(path)
