"""The reference of a plan is what the code says."""

from pathlib import Path

import multispin.campaign
from multispin.campaign.plan_document import plan_document


def test_the_reference_of_a_plan_is_up_to_date() -> None:
    written = Path(multispin.campaign.__path__[0]) / "plan.md"
    assert written.read_text(encoding="utf-8") == plan_document(), "multispin campaign plan --keys > plan.md"
