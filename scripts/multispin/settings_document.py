"""The reference of a daemon's settings, and its file with every default, written from the Structs themselves."""

import argparse
import importlib
import json
from collections.abc import Iterator
from types import ModuleType
from typing import Annotated, Any, Final, NamedTuple, get_args, get_origin, get_type_hints

import msgspec
from msgspec import NODEFAULT, Struct

import multispin_models
from multispin_agent.config import Config as AgentConfig
from multispin_coordinator.config import Config as CoordinatorConfig
from multispin_models.records.fields import describe_fields, first_line, type_name, unit_of

__all__ = ["DAEMONS", "settings_document", "settings_toml"]


class Daemon(NamedTuple):
    """A daemon: its settings, and the module with its flags."""

    settings: type[Struct]
    module: str


DAEMONS: Final = {
    "agent": Daemon(AgentConfig, "multispin_agent.daemon"),
    "coordinator": Daemon(CoordinatorConfig, "multispin_coordinator.daemon"),
}
_HEADING: Final = """\
# Settings of the {daemon}

Written by `multispin settings {daemon}` from the code; a test compares. Every key of `{daemon}.toml` has a default; an
unknown key, a wrong type and a value out of range are refused by name. A flag wins over the file.
`multispin settings {daemon} --toml` prints the file with every key at its default.
"""
_SYMBOLS: Final = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


class _Setting(NamedTuple):
    name: str
    hint: Any
    default: Any
    meaning: str


def settings_document(daemon: str) -> str:
    """Return the reference of "agent" or "coordinator", in Markdown."""
    settings, module = DAEMONS[daemon]
    flags = _flags(importlib.import_module(module))
    parts = [_HEADING.format(daemon=daemon)]
    for table, struct in _tables(settings):
        own_flags = {} if table else flags
        rows = [_row(each, own_flags) for each in _settings(struct) if not isinstance(each.default, Struct)]
        head = ["| key | type | unit | allowed | default | flag | meaning |", "|---|---|---|---|---|---|---|"]
        parts.append("\n".join([f"## {table or 'At the top'}", "", first_line(struct), "", *head, *rows, ""]))
    return "\n".join(parts)


def _row(setting: _Setting, flags: dict[str, str]) -> str:
    """Return the line of a setting in its table."""
    cells = (
        f"`{setting.name}`",
        type_name(_plain(setting.hint)),
        unit_of(setting.name),
        _allowed(setting.hint),
        "null" if setting.default is None else f"`{_toml(setting.default)}`",
        f"`{flags[setting.name]}`" if setting.name in flags else "",
        setting.meaning,
    )
    return f"| {' | '.join(cells)} |"


def settings_toml(daemon: str) -> str:
    """Return the file of "agent" or "coordinator" with every key at its default; what has none is a comment."""
    lines = [f"# {daemon}.toml: every key at its default, as multispin {multispin_models.__version__} has it"]
    for table, struct in _tables(DAEMONS[daemon].settings):
        lines += ["", table] if table else [""]
        for each in _settings(struct):
            if isinstance(each.default, Struct):
                continue
            is_null = each.default is None
            lines.append(f"# {each.name} =" if is_null else f"{each.name} = {_toml(each.default)}")
    return "\n".join(lines) + "\n"


def _tables(settings: type[Struct]) -> Iterator[tuple[str, type[Struct]]]:
    """Yield the header of every table of the file, "" for the top, and its Struct."""
    yield "", settings
    for each in _settings(settings):
        if isinstance(each.default, Struct):
            yield f"[{each.name}]", type(each.default)


def _settings(struct: type[Struct]) -> Iterator[_Setting]:
    hints = get_type_hints(struct, include_extras=True)
    meanings = describe_fields(struct)
    for field in msgspec.structs.fields(struct):
        default = field.default if field.default_factory is NODEFAULT else field.default_factory()
        yield _Setting(field.name, hints[field.name], default, meanings[field.name])


def _flags(module: ModuleType) -> dict[str, str]:
    """Return the flag of every setting that has one."""
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return {action.dest: action.option_strings[0] for action in parser._actions if action.option_strings}  # noqa: SLF001


def _plain(hint: Any) -> Any:
    """Return a type without its bounds."""
    if get_origin(hint) is Annotated:
        return get_args(hint)[0]
    return hint


def _allowed(hint: Any) -> str:
    """Return the bounds of a type, for people; "" where there are none."""
    told: list[str] = []
    for meta in getattr(hint, "__metadata__", ()):
        bounds = {symbol: getattr(meta, name) for name, symbol in _SYMBOLS.items()}
        told += [f"{symbol} {_number(bound)}" for symbol, bound in bounds.items() if bound is not None]
        told += [] if meta.pattern is None else [f"`{meta.pattern}`"]
    return ", ".join(told)


def _number(value: float) -> str:
    return f"{value:,}".removesuffix(".0").replace(",", " ")


def _toml(value: Any) -> str:
    """Return a default as TOML writes it: its texts, numbers, truths and lists are JSON's."""
    return json.dumps(list(value) if isinstance(value, tuple) else value)
