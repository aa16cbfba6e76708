"""A GGUF file's key/value header as a GGUF file of its own: vocabulary and chat template travel with an export."""

import struct
from pathlib import Path
from typing import Any, Final

import gguf

__all__ = ["write_vocabulary_file"]

_HEADER: Final = struct.Struct("<4sIQQ")  # magic, version, tensors, pairs


def write_vocabulary_file(source_gguf: Path, destination: Path) -> None:
    """Copy the key/value pairs of a GGUF file, byte for byte, into a file without tensors."""
    fields: list[Any] = [field for field in gguf.GGUFReader(source_gguf).fields.values() if field.offset]
    end = max(field.offset + sum(part.nbytes for part in field.parts) for field in fields)
    with source_gguf.open("rb") as file:
        magic, version, _, pairs = _HEADER.unpack(file.read(_HEADER.size))
        destination.write_bytes(_HEADER.pack(magic, version, 0, pairs) + file.read(end - _HEADER.size))
