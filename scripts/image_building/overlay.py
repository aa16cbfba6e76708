"""The folder `multispin` of a boot partition: what `first-boot` installs, and the sums by which it checks the copy.

    first-boot, multispin-first-boot.service
    multispin-agent_VERSION_ARCH.deb, models.tar     of a card; a disk image has them in its root
    40-image.toml, 60-site.toml                      settings of the agent
    authorized_keys                                  of a disk image: who may log in
    SHA256SUMS                                       of all these
    enrolment-token                                  of this one box; moved away by the agent's package, so in no sum

The only secret is the token: it is for one box, once, and is not asked for when a box is enrolled in another way.
"""

import hashlib
import io
import os
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import multispin_agent.config
from multispin_models.cache import Progress, cache_directory, recorded_sha256_path
from multispin_models.channel import is_loopback
from multispin_models.engines import DEFAULT_ENGINE, prepare_side
from multispin_models.errors import ConfigError
from multispin_models.keys.token import decode_token
from multispin_models.manifest import expected_paths, load_pair
from multispin_models.settings import load_settings

__all__ = [
    "DEFAULT_PAIR",
    "copied_size_mb",
    "image_settings",
    "model_files",
    "pack",
    "read_site_settings",
    "read_token",
    "write_overlay",
]

DEFAULT_PAIR: Final = "smollm2-135m-small"  # an agent needs its draft alone, and this one is small
HERE: Final = Path(__file__).parent
OWN_FILES: Final = ("first-boot", "multispin-first-boot.service")
TOKEN: Final = "enrolment-token"  # noqa: S105 - a file's name


def model_files(pair_name: str, progress: Progress) -> dict[str, Path]:
    """Return what an agent needs to draft without a network, by its place in the cache: the export, and no GGUF file.

    Raises:
        ConfigError, ModelError: it cannot be brought or exported here.
    """
    folder = prepare_side(pair_name, "draft", DEFAULT_ENGINE, progress)
    files = [file for file in sorted(folder.iterdir()) if file.is_file()]
    draft = load_pair(pair_name).draft
    if draft.layers is not None:  # the name of the export is known by what was recorded when the draft was put together
        files.append(recorded_sha256_path(expected_paths(draft)[0]))
    return {str(file.relative_to(cache_directory())): file for file in files}


def pack(files: Mapping[str, Path], out: Path) -> None:
    """Write a tar archive; the same files give the same bytes."""
    with tarfile.open(out, "w", format=tarfile.PAX_FORMAT) as archive:
        for name in _folders(files):
            archive.addfile(_entry(name, tarfile.DIRTYPE, 0o755))
        for name, file in sorted(files.items()):
            entry = _entry(name, tarfile.REGTYPE, 0o644)
            entry.size = file.stat().st_size
            with file.open("rb") as content:
                archive.addfile(entry, content)


def _folders(files: Mapping[str, Path]) -> list[str]:
    found = {str(parent) for name in files for parent in Path(name).parents if str(parent) != "."}
    return sorted(found)


def _entry(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.mtime = kind, mode, 0
    return entry


def image_settings(pair: str, coordinator: str | None) -> str:
    """Return the settings that an image brings, as TOML.

    Raises:
        ConfigError, ModelError: the address is none, or there is no such pair.
    """
    if coordinator is not None:
        is_loopback(coordinator)  # refuses what is no address
    lines = ["# Written by multispin's scripts/image.", f'pair = "{load_pair(pair).name}"']
    if coordinator is not None:
        lines.append(f'coordinator = "{coordinator}"')
    return "\n".join([*lines, ""])


def read_site_settings(path: Path) -> str:
    """Return the text of a file of settings of the agent that is valid.

    Raises:
        ConfigError: it cannot be read, or a setting is not valid.
    """
    load_settings(multispin_agent.config.Config, path)
    return path.read_text(encoding="utf-8")


def read_token(path: Path) -> str:
    """Return the enrolment token of a file.

    Raises:
        ConfigError: it cannot be read, or is no token.
    """
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"token file {path} cannot be read: {error}") from error
    decode_token(text)
    return text


def write_overlay(folder: Path, texts: Mapping[str, str], files: Mapping[str, Path], token: str | None) -> None:
    """Write the folder, which must not be there yet: two cards share no folder, so a token is never copied twice.

    Args:
        folder: to be made.
        texts: files by name, as text.
        files: files by name, to be copied.
        token: for this one box; null for a box that is enrolled by hand.

    Raises:
        ConfigError: the folder is there.
    """
    try:
        folder.mkdir(parents=True)
    except FileExistsError as error:
        raise ConfigError(f"{folder} is there already: every card has a folder of its own, so give another") from error
    sums = []
    for name, content in _contents(texts, files):
        digest = hashlib.sha256()
        with (folder / name).open("wb") as file:
            while chunk := content.read(1 << 20):
                digest.update(chunk)
                file.write(chunk)
        sums.append(f"{digest.hexdigest()}  {name}\n")
    (folder / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")
    if token is not None:
        descriptor = os.open(folder / TOKEN, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(token + "\n")


def _contents(texts: Mapping[str, str], files: Mapping[str, Path]) -> Iterator[tuple[str, io.BufferedIOBase]]:
    own = {name: HERE / name for name in OWN_FILES}
    for name, path in sorted({**own, **files}.items()):
        with path.open("rb") as file:
            yield name, file
    for name, text in sorted(texts.items()):
        yield name, io.BytesIO(text.encode())


def copied_size_mb(folder: Path) -> float:
    """Return how much a folder holds, in megabytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
