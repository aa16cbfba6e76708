"""The key/value header of a GGUF file, read in one pass without its weights and without llama.cpp.

    "GGUF" | version u32 | tensors u64 | pairs u64 | pairs x (key string, type u32, value) | tensor table | weights
    string = length u64, bytes;   array = element type u32, count u64, elements

Little-endian, versions 2 and 3. Every length is checked against the bytes that are left before anything is read, so a
cut or corrupt file ends in a ModelError that names file, offset and fault, never in a huge allocation. Nested arrays,
which the format allows and nobody writes, are refused, as llama.cpp does.
Source: ggml/docs/gguf.md of llama.cpp.
"""

import os
import struct
from pathlib import Path
from typing import Any, BinaryIO, Final, NoReturn, TypeVar

import msgspec

from multispin_models.errors import ModelError

__all__ = ["GgufMetadata", "read_gguf_metadata"]

MAX_METADATA_BYTES: Final = 1 << 28  # the largest vocabularies in use, 262,144 tokens, take 16 MB
MAX_PAIRS: Final = 1 << 16
MAX_KEY_BYTES: Final = (1 << 16) - 1  # as the format says

_SCALARS: Final = {  # type number -> struct code
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
_STRING, _ARRAY = 8, 9
_KINDS: Final = {
    str: "a string",
    int: "an integer",
    bool: "a bool",
    float: "a float",
    tuple: "numbers",
    list: "strings",
}

T = TypeVar("T")


class GgufMetadata(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The key/value pairs of one file.

    Attributes:
        path: of the file, for messages.
        values: str, int, float, bool; arrays of numbers as tuples; arrays of strings as lists of bytes, because
            tokens need not be valid UTF-8.
    """

    path: Path
    values: dict[str, Any]

    def get(self, key: str, kind: type[T]) -> T | None:
        """Return a value, None where the file has no such key.

        Args:
            key: "tokenizer.ggml.model", ...
            kind: str, int, float, bool, tuple (array of numbers) or list (array of strings).

        Raises:
            ModelError: the value is of another kind.
        """
        value = self.values.get(key)
        if value is None or type(value) is kind:  # exactly: a bool is no integer here
            return value
        raise ModelError(
            f"model file {self.path}: {key} is {_KINDS[type(value)]}, it must be {_KINDS[kind]}; "
            "convert the model again"
        )


def read_gguf_metadata(path: Path) -> GgufMetadata:
    """Return the metadata of a GGUF file.

    Raises:
        ModelError: no file, not GGUF, another version, cut short or corrupt; says where.
    """
    try:
        with path.open("rb", buffering=1 << 20) as file:
            return GgufMetadata(path, _Header(path, file).pairs())
    except OSError as error:
        raise ModelError(f"model file {path} cannot be read: {error.strerror or error}") from error


class _Header:
    """The place in the file, and how many bytes may still be read."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        self._left = min(os.fstat(file.fileno()).st_size, MAX_METADATA_BYTES)

    def pairs(self) -> dict[str, Any]:
        magic = self._take(4, "magic")
        if magic != b"GGUF":
            self._fail(f"the file starts with {magic!r}, a GGUF file with b'GGUF': it is another format")
        version = self._number("I", "version")
        if version not in {2, 3}:
            self._fail(f"GGUF version is {version}, supported are 2 and 3, little-endian; convert the model again")
        self._number("Q", "tensor count")
        count = self._number("Q", "pair count")
        if count > MAX_PAIRS:
            self._fail(f"{count} key/value pairs, allowed are {MAX_PAIRS}")
        values: dict[str, Any] = {}
        for _ in range(count):
            key = self._text("key", MAX_KEY_BYTES)
            if key in values:
                self._fail(f"key {key!r} stands twice")
            values[key] = self._value(key)
        return values

    def _value(self, key: str) -> Any:
        kind = self._number("I", key)
        if kind == _STRING:
            return self._text(key, MAX_METADATA_BYTES)
        if kind != _ARRAY:
            return self._number(self._code(kind, key), key)
        kind = self._number("I", key)
        count = self._number("Q", key)
        if kind == _STRING:
            return self._strings(key, count)
        code = self._code(kind, key)
        raw = self._take(count * struct.calcsize(code), key)
        return struct.unpack(f"<{count}{code}", raw)

    def _strings(self, key: str, count: int) -> list[bytes]:
        """Return an array of strings: the one loop that runs a hundred thousand times."""
        if count * 8 > self._left:
            self._fail(f"{key}: {count} strings cannot stand in the {self._left} bytes left")
        read, from_bytes, left = self._file.read, int.from_bytes, self._left
        strings: list[bytes] = []
        for _ in range(count):
            size = from_bytes(read(8), "little")
            left -= 8 + size
            if left < 0:
                self._fail(f"{key}[{len(strings)}]: a string of {size} bytes passes the end")
            strings.append(read(size))
        self._left = left
        return strings

    def _code(self, kind: int, key: str) -> str:
        if kind not in _SCALARS:
            self._fail(f"{key}: value type is {kind}, allowed are 0 to 12, and 9 (array) not within an array")
        return _SCALARS[kind]

    def _number(self, code: str, what: str) -> Any:
        raw = self._take(struct.calcsize(code), what)
        if code == "?" and raw[0] > 1:
            self._fail(f"{what}: a bool is {raw[0]}, allowed are 0 and 1")
        return struct.unpack("<" + code, raw)[0]

    def _text(self, what: str, limit: int) -> str:
        size = self._number("Q", what)
        if size > limit:
            self._fail(f"{what}: a string of {size} bytes, allowed are {limit}")
        raw = self._take(size, what)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            self._fail(f"{what}: not UTF-8 ({error.reason} at byte {error.start})")

    def _take(self, size: int, what: str) -> bytes:
        if size > self._left:
            self._fail(f"{what}: {size} bytes are due, {self._left} are left")
        self._left -= size
        return self._file.read(size)

    def _fail(self, fault: str) -> NoReturn:
        raise ModelError(
            f"model file {self._path}, offset {self._file.tell()}: {fault}; "
            "the file is no GGUF model or was cut or damaged: fetch it again"
        )
