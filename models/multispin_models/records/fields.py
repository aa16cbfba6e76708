"""The documentation of all records, field by field with types and units, written from the Structs themselves."""

import inspect
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from multispin_models.records.kinds import KINDS
from multispin_models.records.schema import SCHEMA_VERSION

__all__ = ["describe_fields", "documented_structs", "first_line", "records_document", "type_name", "unit_of"]

_UNITS = {
    "_j_per_token": "J",
    "_bytes": "B",
    "_bytes_per_s": "B/s",
    "_per_s": "1/s",
    "_ppm": "ppm",
    "_mbps": "Mbit/s",
    "_dbm": "dBm",
    "_ns": "ns",
    "_us": "µs",
    "_hz": "Hz",
    "_c": "°C",
    "_s": "s",
    "_j": "J",
    "_w": "W",
}
_NAMES = {int: "integer", float: "number", str: "text", bool: "true or false", bytes: "bytes", type(None): "null"}

_HEADING = f"""# Records, schema {SCHEMA_VERSION}

Written by `multispin records fields` from the code; a test compares. One JSON object a line; each kind in a file of its
own, or in the coordinator's store by (agent, boot, sequence). The version goes up when a field changes its meaning or
goes away; new fields are null in records of earlier versions. Instants are of a monotonic clock, within one boot of one
machine.
"""


def records_document() -> str:
    """Return the whole document, in Markdown."""
    parts = [_HEADING]
    for struct in documented_structs():
        hints = get_type_hints(struct)
        rows = [
            f"| `{name}` | {type_name(hints[name])} | {unit_of(name)} | {meaning} |"
            for name, meaning in describe_fields(struct).items()
        ]
        table = ["| field | type | unit | meaning |", "|---|---|---|---|", *rows]
        parts.append("\n".join([f"## {struct.__name__}", "", first_line(struct), "", *table, ""]))
    return "\n".join(parts)


def documented_structs() -> list[type[msgspec.Struct]]:
    """Return every kind of record, then the structs that stand in their fields, each once."""
    found: list[type[msgspec.Struct]] = list(KINDS.values())
    for struct in found:  # grows while it is gone through
        for hint in get_type_hints(struct).values():
            found += [inner for inner in _structs_in(hint) if inner not in found]
    return found


def describe_fields(struct: type[msgspec.Struct]) -> dict[str, str]:
    """Return what the docstring says of every field; "" where it says nothing."""
    described: dict[str, str] = {}
    names: list[str] = []
    _, _, attributes = (inspect.getdoc(struct) or "").partition("Attributes:\n")
    for line in attributes.splitlines():
        if line and not line.startswith(" "):
            break
        head, colon, rest = line.strip().partition(": ")
        candidates = [name.strip() for name in head.split(",")]
        if colon and line.startswith("    ") and line[4:5] != " " and set(candidates) <= set(struct.__struct_fields__):
            names = candidates
            described |= dict.fromkeys(names, rest)
        elif line.strip():
            described |= {name: f"{described[name]} {line.strip()}" for name in names}
    return {name: described.get(name, "").replace("|", "\\|") for name in struct.__struct_fields__}


def first_line(struct: type[msgspec.Struct]) -> str:
    """Return what a struct is, from its docstring."""
    return (inspect.getdoc(struct) or "").partition("\n\n")[0].replace("\n", " ")


def unit_of(name: str) -> str:
    """Return the unit that a field's name ends with; "" if with none."""
    return next((unit for suffix, unit in _UNITS.items() if name.endswith(suffix)), "")


def _structs_in(hint: Any) -> Iterator[type[msgspec.Struct]]:
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        yield hint
    for inner in get_args(hint):
        yield from _structs_in(inner)


def type_name(hint: Any) -> str:
    """Return a type in the words of the documents."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return type_name(arguments[0])
    if origin is Literal:
        return " or ".join(f'"{value}"' for value in arguments)
    if origin in {Union, types.UnionType}:
        return " or ".join(type_name(argument) for argument in arguments)
    if origin in {tuple, list}:
        return f"list of {type_name(arguments[0])}"
    if origin is dict or hint is dict:
        return "object"
    return _NAMES.get(hint, getattr(hint, "__name__", str(hint)))
