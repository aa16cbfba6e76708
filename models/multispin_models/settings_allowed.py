"""What is allowed where in settings, in words, from the types that the settings are checked with."""

import difflib
from typing import Any

import msgspec
from msgspec import inspect

__all__ = ["allowed_keys", "allowed_values", "closest", "words_of"]


def allowed_keys(kind: type[msgspec.Struct], path: tuple[str, ...]) -> list[str]:
    """Return the names of the settings in a table; none if there is no such table.

    >>> class Example(msgspec.Struct):
    ...     depth: int = 1
    >>> allowed_keys(Example, ())
    ['depth']
    """
    found = _type_at(kind, path)
    return [field.encode_name for field in found.fields] if isinstance(found, inspect.StructType) else []


def allowed_values(kind: type[msgspec.Struct], path: tuple[str, ...]) -> str:
    """Return what a setting may be, "" if there is none of that name."""
    found = _type_at(kind, path)
    return "" if found is None else words_of(found)


def closest(word: str, allowed: list[str]) -> str:
    """Return the name that was perhaps meant, "" if none is near."""
    return next(iter(difflib.get_close_matches(word, allowed, 1)), "")


def _type_at(kind: type[msgspec.Struct], path: tuple[str, ...]) -> Any:
    found: Any = inspect.type_info(kind)
    for name in path:
        if not isinstance(found, inspect.StructType):
            return None
        found = next((field.type for field in found.fields if field.encode_name == name), None)
    return found


def words_of(found: Any) -> str:
    """Return what a type of `msgspec.inspect` allows, in words."""
    words = type(found).__name__.removesuffix("Type").lower()
    match found:
        case inspect.LiteralType():
            words = ", ".join(map(repr, found.values))
        case inspect.BoolType():
            words = "true or false"
        case inspect.IntType() | inspect.FloatType():
            words = _numbers(found)
        case inspect.StrType():
            words = "text" if found.pattern is None else f"text that matches {found.pattern}"
        case inspect.StructType():
            words = "a table of " + ", ".join(field.encode_name for field in found.fields)
        case inspect.DictType():
            words = f"a table, each {words_of(found.value_type)}"
        case inspect.VarTupleType() | inspect.ListType():
            words = f"a list, each {words_of(found.item_type)}"
        case inspect.UnionType():
            # "null" cannot be written in TOML: to leave the key out is to say so.
            words = " or ".join(words_of(part) for part in found.types if not isinstance(part, inspect.NoneType))
    return words


def _numbers(found: inspect.IntType | inspect.FloatType) -> str:
    bounds = [
        f"{words} {bound:g}"
        for words, bound in (("from", found.ge), ("above", found.gt), ("to", found.le), ("below", found.lt))
        if bound is not None
    ]
    return " ".join(["integers" if isinstance(found, inspect.IntType) else "numbers", *bounds])
