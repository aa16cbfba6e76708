"""How a command reaches a daemon's HTTP interface: its URL, and a bearer key that stands on no command line."""

import os
from pathlib import Path
from urllib.parse import urlsplit

from multispin_models.errors import ConfigError

__all__ = ["KEY_VARIABLE", "authorization", "checked_url"]

KEY_VARIABLE = "MULTISPIN_API_KEY"


def checked_url(url: str) -> str:
    """Return scheme, host and port of a URL; what follows them, as /v1, is left off.

    >>> checked_url("http://127.0.0.1:8080/v1")
    'http://127.0.0.1:8080'

    Raises:
        ConfigError: not http://HOST:PORT.
    """
    parts = urlsplit(url)
    try:
        is_url = parts.scheme in {"http", "https"} and parts.hostname and (parts.port or True)
    except ValueError:
        is_url = False
    if not is_url:
        raise ConfigError(f"URL is {url!r}, allowed is http://HOST:PORT")
    return f"{parts.scheme}://{parts.netloc}"


def authorization(keys_file: str | None) -> dict[str, str]:
    """Return the header with the first key of a file, else of $MULTISPIN_API_KEY, else no header.

    Raises:
        ConfigError: the file cannot be read or holds no key, or a key is no printable ASCII; no key is told.
    """
    if keys_file is None:
        key, where = os.environ.get(KEY_VARIABLE, "").strip(), f"${KEY_VARIABLE}"
    else:
        key, where = _first_key(keys_file), f"key file {keys_file}"
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"{where} holds a key with characters other than printable ASCII")
    return {"authorization": f"Bearer {key}"} if key else {}


def _first_key(path: str) -> str:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"key file {path} cannot be read: {error}") from error
    keys = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not keys:
        raise ConfigError(f"key file {path} holds no key")
    return keys[0]
