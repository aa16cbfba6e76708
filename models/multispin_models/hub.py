"""One file of a Hugging Face repository, at a stated revision, checked against its sha256 and kept in the cache.

Needs the extra `hub`. The endpoint is $HF_ENDPOINT (a mirror, or the stand-in of the tests), otherwise the public hub;
a token is taken where huggingface_hub finds it ($HF_TOKEN, or its login file). An interrupted download goes on where
it stopped (less 10 MB at most), in another process too: `hf_hub_download` would begin again there, so the range
request beneath it is used.
"""

import os
from pathlib import Path
from typing import Any

from multispin_models.cache import Progress, cached_path, file_sha256, is_sha256, locked, silent, watched
from multispin_models.errors import ModelError

__all__ = ["fetch_from_hub"]


def fetch_from_hub(
    repository: str, file: str, revision: str, sha256: str, progress: Progress = silent, endpoint: str | None = None
) -> Path:
    """Return the path of a file of a repository, brought into the cache if it is not there.

    Args:
        repository: "owner/name".
        file: path inside it.
        revision: commit, tag or branch; whatever it names, the sha256 decides.
        sha256: of the file, in hex.
        progress: told of each step.
        endpoint: base URL of the hub; null takes $HF_ENDPOINT, then the public one.

    Raises:
        ModelError: huggingface_hub is not installed, the hub is not reached or refuses, or the sha256 differs.
        ConfigError: there is no folder for the cache.
    """
    path = cached_path(sha256, Path(file).name)
    name = f"{repository}/{file}@{revision}"
    with locked(path):
        if path.exists():
            if file_sha256(path, progress) == sha256:
                return path
            progress(f"{path} is damaged, bringing it again", 0, None)
        partial = path.with_name(path.name + ".incomplete")
        try:
            _download(repository, file, revision, sha256, partial, progress, endpoint)
        except ModelError:
            raise
        except Exception as error:  # huggingface_hub raises its own tree, httpx's, OSError and ValueError
            raise ModelError(_reason(name, error)) from error
        found = file_sha256(partial, progress)
        if found != sha256:
            partial.unlink()
            raise ModelError(
                f"{name} has sha256 {found}, expected {sha256}: nothing was kept; check revision and sha256"
            )
        partial.replace(path)
    return path


def _download(
    repository: str, file: str, revision: str, sha256: str, partial: Path, progress: Progress, endpoint: str | None
) -> None:
    try:
        from huggingface_hub import get_hf_file_metadata, hf_hub_url  # noqa: PLC0415 - an extra
        from huggingface_hub.file_download import http_get  # noqa: PLC0415
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # noqa: PLC0415
    except ImportError as error:
        raise ModelError(
            f"{repository} is on the Hugging Face hub, which needs the extra 'hub': pip install 'multispin[hub]'"
        ) from error
    base = endpoint or os.environ.get("HF_ENDPOINT") or None
    url = hf_hub_url(repository, file, revision=revision, endpoint=base)
    metadata = get_hf_file_metadata(url, endpoint=base)
    # The entity tag of a large file is its sha256: a wrong one is seen before the download.
    if metadata.etag is not None and is_sha256(metadata.etag) and metadata.etag != sha256:
        raise ModelError(f"{repository}/{file}@{revision} has sha256 {metadata.etag} on the hub, expected {sha256}")
    with partial.open("ab") as handle:
        done_bytes = handle.tell()
        if metadata.size is not None and done_bytes > metadata.size:
            handle.truncate(0)
            done_bytes = 0
        with watched(partial, f"downloading {repository}/{file}", progress, metadata.size):
            http_get(
                url,
                handle,
                resume_size=done_bytes,
                headers=build_hf_headers(),
                expected_size=metadata.size,
                tqdm_class=_NoBar,
            )


class _NoBar:
    """Stands in for tqdm, whose bar is not wanted: progress is told from the growing file."""

    def __init__(self, *_arguments: Any, **_keywords: Any) -> None:
        pass

    def __enter__(self) -> "_NoBar":
        return self

    def __exit__(self, *_exception: object) -> None:
        pass

    def update(self, _count: float | None = 1) -> None:
        """Show nothing."""


def _reason(name: str, error: Exception) -> str:
    """Return what went wrong with a fetch, and what to do."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return (
            f"the hub refuses {name} (HTTP {status}): it does not exist, or is private or gated; check its name, "
            "accept its terms on its page, and set HF_TOKEN"
        )
    if status == 404:
        return f"the hub has no {name} (HTTP 404): check owner, name, file and revision"
    if status is not None:
        return f"the hub answered {name} with HTTP {status}: try again later, or set HF_ENDPOINT to a mirror"
    if type(error).__name__ == "OfflineModeIsEnabled":
        return f"{name} is not in the cache and HF_HUB_OFFLINE forbids the network: unset it, or copy the file by hand"
    return (
        f"{name} could not be fetched ({type(error).__name__}: {error}): check the network and HF_ENDPOINT; what has "
        "come so far is kept and the next attempt goes on from there; or name local GGUF files in a pair manifest"
    )
