"""Every key of a plan with what is allowed, written from the Structs themselves: plan.md beside this file."""

from typing import Any, Final

from msgspec import NODEFAULT, Struct, inspect, json, structs

from multispin.campaign.plan import (
    AgentBox,
    Arrivals,
    Centralised,
    Cooperation,
    Device,
    Energy,
    External,
    Factors,
    Hypothesis,
    Limits,
    LocalDraft,
    Models,
    Plan,
    SingleNode,
    StoppingRule,
)
from multispin_models.records.fields import describe_fields, first_line
from multispin_models.settings_allowed import words_of

__all__ = ["plan_document"]

_HEADING: Final = """\
# Every key of a plan

Written by `multispin campaign plan --keys` from the code; a test compares. An unknown key, a wrong type and a value out
of range are refused with the line, the key and what is allowed. What has no default must be given.
"""
_TABLES: Final[tuple[tuple[str, type[Struct]], ...]] = (
    ("At the top", Plan),
    ("[models]", Models),
    ("[factors]", Factors),
    ("[[devices]]", Device),
    ("[[devices.agents]]", AgentBox),
    ('[[arms]] kind = "centralised"', Centralised),
    ('[[arms]] kind = "single-node"', SingleNode),
    ('[[arms]] kind = "local"', LocalDraft),
    ('[[arms]] kind = "cooperation"', Cooperation),
    ('[[arms]] kind = "external"', External),
    ("[[hypotheses]]", Hypothesis),
    ("[arrivals]", Arrivals),
    ("[limits]", Limits),
    ("[energy]", Energy),
    ("[stop]", StoppingRule),
)


def plan_document() -> str:
    """Return the reference of a plan, in Markdown."""
    parts = [_HEADING]
    for title, kind in _TABLES:
        head = ["| key | allowed | default | meaning |", "|---|---|---|---|"]
        parts.append("\n".join([f"## {title}", "", first_line(kind), "", *head, *_rows(kind), ""]))
    return "\n".join(parts)


def _rows(kind: type[Struct]) -> list[str]:
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    meanings = describe_fields(kind)
    rows = []
    for field, own in zip(info.fields, structs.fields(kind), strict=True):
        if isinstance(own.default, Struct) or field.encode_name in {"arms", "devices", "hypotheses", "stop", "agents"}:
            continue  # a table of its own
        allowed = words_of(field.type).replace("|", "\\|")
        rows.append(f"| `{field.encode_name}` | {allowed} | {_default(own)} | {meanings[field.name]} |")
    return rows


def _default(field: Any) -> str:
    value = field.default if field.default_factory is NODEFAULT else field.default_factory()
    if value is NODEFAULT:
        return "(must be given)"
    return "null" if value is None else f"`{json.encode(value).decode()}`"
