"""Whether the boxes of a plan can be reached and have the same multispin, asked before a run that takes days."""

import subprocess
import sys
from collections.abc import Iterable

import multispin_models
from multispin.campaign.plan import AgentBox, Device

__all__ = ["box_faults"]

WITHIN_S = 60.0


def box_faults(devices: Iterable[Device]) -> dict[str, str]:
    """Return what is wrong, by box, "" for one that is ready; boxes of this machine are not asked."""
    boxes = {box.name: box for device in devices for box in device.boxes if box.launch}
    return {name: _fault(box) for name, box in boxes.items()}


def _fault(box: AgentBox) -> str:
    words = [*box.launch, box.python or sys.executable, "-m", "multispin", "--version"]
    try:
        done = subprocess.run(  # noqa: S603 - the plan's own words, no shell of ours
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=WITHIN_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    said = done.stdout.strip()
    if done.returncode:
        return f"status {done.returncode}: {done.stderr.strip()[-500:]}"
    wanted = f"multispin {multispin_models.__version__}"
    return "" if said == wanted else f"it has {said!r}, this machine {wanted!r}: both ends must be of one version"
