"""The file of a plan: read, checked, and every fault told with its file, line, key and what is allowed there."""

import hashlib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import msgspec
from msgspec import inspect

from multispin.campaign.plan import SETTING_FACTORS, Cooperation, External, Plan, SingleNode
from multispin.links import parse_link
from multispin_models.errors import ConfigError
from multispin_models.settings_allowed import closest, words_of

__all__ = ["DEMO_PROMPTS", "EXAMPLES", "PlanFile", "read_plan"]

DEMO_PROMPTS: Final = Path(__file__).parents[1] / "prompts" / "demo.jsonl"
EXAMPLES: Final = Path(__file__).parent / "examples"
_AT: Final = re.compile(r" - at `\$([^`]*)`$")
_STEP: Final = re.compile(r"\.([A-Za-z0-9_]+)|\[(\d+)\]")
_UNKNOWN: Final = re.compile(r"unknown field `([^`]*)`")
_TABLE: Final = re.compile(r"^\s*\[{1,2}\s*([A-Za-z0-9_.\-]+)\s*\]{1,2}\s*(#.*)?$")
_KEY: Final = re.compile(r"^\s*([A-Za-z0-9_\-]+)\s*=")

Keys = tuple[str | int, ...]


class PlanFile(NamedTuple):
    """A plan and where it is from.

    Attributes:
        plan: checked.
        text: of the file, byte for byte.
        sha256: of it.
        prompts: file of its prompts.
        folder: that its relative paths start from.
    """

    plan: Plan
    text: bytes
    sha256: str
    prompts: Path
    folder: Path

    @property
    def campaign_id(self) -> str:
        """The same on every box that runs this plan."""
        return f"{self.plan.name}-{self.sha256[:12]}".replace(" ", "-")


def read_plan(path: Path, folder: Path | None = None) -> PlanFile:
    """Return the plan of a file, or of a shipped example by its name.

    Args:
        path: of the file, or "loopback-smoke", ...
        folder: that relative paths of the plan start from; null is the file's own.

    Raises:
        ConfigError: it cannot be read, or a key is unknown, out of range, or does not fit the others.
    """
    example = EXAMPLES / f"{path}.toml"
    if not path.exists() and example.exists():
        path = example
    try:
        text = path.read_bytes()
        values = tomllib.loads(text.decode())
    except (OSError, ValueError) as error:  # of TOML and of UTF-8; the first names its line
        shipped = ", ".join(sorted(each.stem for each in EXAMPLES.glob("*.toml")))
        raise ConfigError(f"plan {path} cannot be read: {error}; shipped are {shipped}") from error
    try:
        plan = msgspec.convert(values, Plan)
    except msgspec.ValidationError as error:
        raise ConfigError(_explained(path, text.decode(), values, str(error))) from error
    for keys, fault in _faults(plan):
        raise ConfigError(f"{_place(path, text.decode(), keys)}: {_written(keys)} {fault}")
    own = path.parent if folder is None else folder
    prompts = DEMO_PROMPTS if plan.prompts == "demo" else own / plan.prompts
    return PlanFile(plan, text, hashlib.sha256(text).hexdigest(), prompts, own)


def _faults(plan: Plan) -> Iterator[tuple[Keys, str]]:
    """Yield what does not fit together: where it stands, and what is wrong."""
    arms = [arm.name for arm in plan.arms]
    for kind, names in (("arms", arms), ("devices", [device.name for device in plan.devices])):
        for index, name in enumerate(names):
            if name in names[:index]:
                yield (kind, index, "name"), f"is {name!r} a second time; allowed is a name of its own"
    for index, hypothesis in enumerate(plan.hypotheses):
        for key in ("arm", "rival"):
            if getattr(hypothesis, key) not in arms:
                said = f"is {getattr(hypothesis, key)!r}; allowed are the arms: {', '.join(map(repr, arms))}"
                yield ("hypotheses", index, key), said
        if hypothesis.effect == 0.0:
            yield ("hypotheses", index, "effect"), "is 0; allowed is what should be found, as -0.1 for 10 % less"
    yield from _factor_faults(plan)
    yield from _device_faults(plan)


def _factor_faults(plan: Plan) -> Iterator[tuple[Keys, str]]:
    for name in plan.factors.__struct_fields__:
        levels = getattr(plan.factors, name)
        if len(set(levels)) < len(levels):
            yield ("factors", name), f"is {list(levels)}; allowed is each level once"
        if not levels and name not in SETTING_FACTORS:
            yield ("factors", name), "is empty; allowed is at least one level (leave it out for the default)"
        if levels and name in SETTING_FACTORS:
            open_arms = [arm for arm in plan.arms if isinstance(arm, Cooperation) and getattr(arm, name) is None]
            if not open_arms:
                yield ("factors", name), "concerns no arm: every cooperation arm sets it itself, or there is none"
    is_elsewhere = any(box.launch for device in plan.devices for box in device.boxes)
    for link in plan.factors.link:
        if is_elsewhere:
            break  # the link is what is there; its level is a name
        try:
            parsed = parse_link(link)
        except ConfigError as error:
            yield ("factors", "link"), f"has {error}"
            continue
        for index, arm in enumerate(plan.arms):
            if isinstance(arm, External) and parsed.bit_per_s is not None and arm.command is None:
                said = f"is missing: over link {link} the server must be in the campaign's network namespace"
                yield ("arms", index, "command"), said
            if isinstance(arm, External) and link != "none" and not _is_here(arm.url):
                said = f"is {arm.url!r}; over link {link} allowed is a server here, http://127.0.0.1:PORT/v1"
                yield ("arms", index, "url"), said


def _device_faults(plan: Plan) -> Iterator[tuple[Keys, str]]:
    most = max(plan.factors.max_tokens, default=0)
    room = plan.models.max_context_tokens
    if plan.max_prompt_tokens + most + 1 > room:
        said = f"is {room}; allowed is at least {plan.max_prompt_tokens + most + 1}: max_prompt_tokens + max_tokens + 1"
        yield ("models", "max_context_tokens"), said
    for index, device in enumerate(plan.devices):
        names = [box.name for box in device.boxes]
        if len(set(names)) < len(names):
            yield ("devices", index, "agents"), f"has the names {', '.join(names)}; allowed is each once"
        if any(box.launch for box in device.boxes) and plan.models.reach is None:
            said = "is missing: agents elsewhere must be told where the coordinator is, as tcp://HOST:PORT"
            yield ("models", "reach"), said
    for index, arm in enumerate(plan.arms):
        if isinstance(arm, SingleNode) and arm.drafts == "model" and plan.arrivals.rate_per_s is not None:
            said = "is 'model'; with arrivals.spacing 'poisson' allowed is 'lookup': it writes for all users at once"
            yield ("arms", index, "drafts"), said


def _is_here(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "http" and parts.hostname in {"127.0.0.1", "localhost"} and parts.port is not None


# -- what a fault is told with --


def _explained(path: Path, text: str, values: dict[str, Any], error: str) -> str:
    found = _AT.search(error)
    said = error[: found.start()] if found else error
    keys: Keys = tuple(name or int(index) for name, index in (_STEP.findall(found[1]) if found else []))
    kind = _type_at(keys, values)
    if unknown := _UNKNOWN.search(said):
        names = [field.encode_name for field in getattr(kind, "fields", ())]
        meant = closest(unknown[1], names)
        hint = f"; is {meant} meant?" if meant else ""
        place = _place(path, text, (*keys, unknown[1]))
        return f"{place}: {_written((*keys, unknown[1]))} is unknown; allowed are {', '.join(names)}{hint}"
    value = _value_at(values, keys)
    if isinstance(value, dict | list) or kind is None:
        allowed = f"; allowed: {words_of(kind)}" if kind is not None and not isinstance(value, dict) else ""
        return f"{_place(path, text, keys)}: {_written(keys)} {said}{allowed}".replace(":  ", ": ")
    return f"{_place(path, text, keys)}: {_written(keys)} is {value!r}; allowed: {words_of(kind)}"


def _type_at(keys: Keys, values: Any) -> Any:
    """Return the type that is wanted at a place, by the values on the way: a table's `kind` chooses among several."""
    found: Any = inspect.type_info(Plan)
    for key in keys:
        found = _chosen(found, values)
        if isinstance(key, int):
            found = getattr(found, "item_type", None)
        elif isinstance(found, inspect.StructType):
            if key == found.tag_field:
                return inspect.LiteralType((found.tag,))
            found = next((field.type for field in found.fields if field.encode_name == key), None)
        elif isinstance(found, inspect.UnionType) and key == "kind":
            tags = sorted(str(part.tag) for part in found.types if isinstance(part, inspect.StructType))
            return inspect.LiteralType(tuple(tags))
        else:
            return None
        values = _value_at(values, (key,))
    return _chosen(found, values)


def _chosen(found: Any, values: Any) -> Any:
    if not isinstance(found, inspect.UnionType):
        return found
    structs = [part for part in found.types if isinstance(part, inspect.StructType)]
    kind = values.get("kind") if isinstance(values, dict) else None
    own = [part for part in structs if part.tag == kind and part.tag is not None]
    return own[0] if own else structs[0] if len(structs) == 1 and len(found.types) == 2 else found


def _value_at(values: Any, keys: Keys) -> Any:
    for key in keys:
        try:
            values = values[key]
        except (KeyError, IndexError, TypeError):
            return None
    return values


def _written(keys: Keys) -> str:
    """Return a place as it would be written: arms[1].policy."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).lstrip(".")


def _place(path: Path, text: str, keys: Keys) -> str:
    line = _line_of(text, keys)
    return f"plan {path}, line {line}" if line else f"plan {path}"


def _line_of(text: str, keys: Keys) -> int:
    """Return the line of a key, or of the table that it belongs to; 0 if neither is found."""
    table: Keys = ()
    counts: dict[str, int] = {}
    best, best_length = 0, 0
    for number, line in enumerate(text.splitlines(), 1):
        if header := _TABLE.match(line):
            name = header[1]
            if line.lstrip().startswith("[["):
                counts[name] = counts.get(name, -1) + 1
                table = (*_with_counts(name, counts),)
            else:
                table = tuple(name.split("."))
            here = table
        elif key := _KEY.match(line):
            here = (*table, key[1])
        else:
            continue
        if len(here) > best_length and keys[: len(here)] == here:
            best, best_length = number, len(here)
    return best


def _with_counts(name: str, counts: dict[str, int]) -> Iterator[str | int]:
    parts = name.split(".")
    for depth, part in enumerate(parts, 1):
        yield part
        above = ".".join(parts[:depth])
        if above in counts:
            yield counts[above]
