"""The back ends that the conformance tests are run on. A further one is a further line of BACKENDS, and nothing else.

Each opens the same tiny Llama of random weights where it reads a file, and says how its files can be damaged.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec
from tests.onnx_tiny import write_tiny
from tests.toy_model import ToyModel

from multispin_models.language_model import LanguageModel
from multispin_models.llamacpp import load_llamacpp
from multispin_models.onnx.engine import load_onnx
from multispin_models.onnx.export import export_onnx
from multispin_models.onnx.variants import VARIANTS

__all__ = ["BACKENDS", "FILE_BACKENDS", "Backend", "Sizes"]


class Sizes(NamedTuple):
    """What a model is loaded with; as in ModelInfo."""

    n_ctx: int = 128
    max_sequences: int = 4
    max_rows: int = 16
    num_threads: int = 1


class Backend(NamedTuple):
    """One implementation of `LanguageModel`.

    Attributes:
        name: in the names of the tests.
        make: writes a sound model into an empty folder, and returns what `load` opens.
        load: opens it.
        damages: what can happen to its files, each with a part of the message that is then expected; none for a back
            end without files.
    """

    name: str
    make: Callable[[Path], Path]
    load: Callable[[Path, Sizes], LanguageModel]
    damages: dict[str, tuple[Callable[[Path], None], str]]


def _load_toy(_path: Path, sizes: Sizes) -> LanguageModel:
    return ToyModel(n_vocab=256, n_ctx=sizes.n_ctx, max_sequences=sizes.max_sequences, max_rows=sizes.max_rows)


def _write_gguf(folder: Path) -> Path:
    return write_tiny(folder / "tiny.gguf", "llama")


def _export(recipe: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        export_onnx(_write_gguf(folder), folder / recipe, recipe)
        return folder / recipe

    return make


def _write(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda path: _existing(path / name if path.is_dir() else path).write_bytes(content) and None  # type: ignore[func-returns-value]


def _cut(name: str = "", count: int = 1000) -> Callable[[Path], None]:
    """Take away the end of a file."""

    def damage(path: Path) -> None:
        file = _existing(path / name)
        file.write_bytes(file.read_bytes()[:-count])

    return damage


def _flip(name: str, place: int) -> Callable[[Path], None]:
    """Change one bit."""

    def damage(path: Path) -> None:
        content = bytearray(_existing(path / name).read_bytes())
        content[place] ^= 1
        (path / name).write_bytes(content)

    return damage


def _other_format(path: Path) -> None:
    manifest = msgspec.json.decode((path / "manifest.json").read_bytes())
    (path / "manifest.json").write_bytes(msgspec.json.encode({**manifest, "format_version": 99}))


def _existing(path: Path) -> Path:
    assert path.exists()
    return path


_GGUF_DAMAGES = {
    "missing": (Path.unlink, "cannot be read: No such file"),
    "empty": (_write("", b""), "starts with b''"),
    "another format": (_write("", b"PK\x03\x04 a zip"), "starts with b'PK"),
    "a header alone": (_write("", b"GGUF\x03\x00\x00\x00"), "failed to read header"),
    "truncated": (_cut(), "not within the file bounds"),
}
_EXPORT_DAMAGES = {
    "no manifest": (lambda path: (path / "manifest.json").unlink(), "manifest.json: No such file"),
    "no weights": (lambda path: (path / "weights.bin").unlink(), "weights.bin: No such file"),
    "a manifest that is none": (_write("manifest.json", b"{}"), "manifest.json is no manifest"),
    "another format": (_other_format, "has format 99, this version reads"),
    "truncated weights": (_cut("weights.bin"), "a file is damaged"),
    "one bit of the weights": (_flip("weights.bin", 5000), "a file is damaged"),
    "truncated graph": (_cut(VARIANTS[0].file_name, 100), "a file is damaged"),
}

BACKENDS = (
    Backend("toy", lambda folder: folder, _load_toy, {}),
    Backend("llamacpp", _write_gguf, lambda path, sizes: load_llamacpp(path, **sizes._asdict()), _GGUF_DAMAGES),
    *(
        Backend(
            f"onnx:{recipe}", _export(recipe), lambda path, sizes: load_onnx(path, **sizes._asdict()), _EXPORT_DAMAGES
        )
        for recipe in ("int8-block32", "w8a8-rotated")  # those that are served
    ),
)
FILE_BACKENDS = tuple(backend for backend in BACKENDS if backend.damages)
