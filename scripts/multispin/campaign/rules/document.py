"""The rules in words, in Markdown, written from the checks themselves."""

import inspect
from typing import Any, Final

import msgspec

from multispin.campaign.rules.checking import BYTE_RULES, READING, RULES, _readable
from multispin.campaign.rules.evidence import Thresholds

__all__ = ["rules_document"]

_HEADING: Final = """# Rules of `multispin campaign verify`

Written by `multispin campaign verify --rules` from the code; a test compares. A run counts if no rule finds a fault;
the exit status says so (0 or 1). What cannot be checked is a fault. Cells that the journal excludes are left alone by
the rules from 204 on, but for their share (602).

After the practice of MLPerf Power (`compliance/check.py` of mlcommons/power-dev: hashes of every artefact, the workload
within the metered phase, no debug build; `tools/submission/power/power_checker.py` of mlcommons/inference: power of the
test run against the ranging run) and of MLPerf Tiny (repeated runs, accuracy and figures from the same run).
"""
_FAMILIES: Final = {
    1: "The folder is what was sealed",
    2: "What was run is what was planned",
    3: "Records fit together, and texts are the same in every arm",
    4: "Joules have windows, samples and labels",
    5: "Machines kept their clocks, cooled, and were not changed",
    6: "There is enough of it, and little was left out",
}


def rules_document() -> str:
    """Return the whole document."""
    limits = msgspec.to_builtins(Thresholds())
    checks: dict[int, Any] = {**BYTE_RULES, READING: _readable, **{rule.number: rule.check for rule in RULES}}
    parts = [_HEADING]
    family = 0
    for number in sorted(checks):
        if number // 100 != family:
            family = number // 100
            parts.append(f"## {family}00: {_FAMILIES[family]}\n")
        first, _, rest = (inspect.getdoc(checks[number]) or "").partition("\n\n")
        text = f"**{number}.** {first}" + (f"\n\n{rest}" if rest else "")
        parts.append(text.format(**limits) + "\n")
    return "\n".join(parts)
