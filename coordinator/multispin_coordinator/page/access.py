"""Who sees the page, and who sees the texts of users on it.

    keys of users   page keys   asked with        sees
    no              no          nothing           figures, and texts with `page = "texts"`; this machine only
    yes             no          a user's key      figures
    any             yes         a page key        figures, and texts with `page = "texts"`
    yes             yes         a user's key      figures

So a user's key never shows what others write. Without keys the coordinator listens on loopback alone, and there a page
of somewhere else could still be made to look like this one by its name (DNS rebinding): so the name must be local, too.
"""

import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from multispin_coordinator.config import Config
from multispin_models.api.errors import ApiError
from multispin_models.api.keys import Keys, load_keys
from multispin_models.errors import ConfigError

__all__ = ["Access", "check_page", "open_access"]

NOT_KEPT = 'this coordinator shows no texts here: its setting is page = "figures"'
OTHERS = "a user's key shows no texts of others: give one of page_keys_file"


def check_page(config: Config) -> None:
    """Refuse settings under which users could read each other's texts.

    Raises:
        ConfigError: as the message says.
    """
    if config.page == "texts" and config.http_keys_file is not None and config.page_keys_file is None:
        raise ConfigError(
            'page is "texts" and users have keys, but nobody has a key for texts: give page_keys_file, the keys of '
            'those who may read what all users write, or set page = "figures"'
        )


def open_access(config: Config) -> "Access":
    """Return the access that the settings give.

    Raises:
        ConfigError: a key file cannot be used, or see `check_page`.
    """
    check_page(config)
    files = (config.http_keys_file, config.page_keys_file)
    users, page = (None if path is None else load_keys(path) for path in files)
    return Access(users, page, shows_texts=config.page == "texts")


class Access:
    """Lets viewers in.

    Args:
        users: keys of users; null if they need none.
        page: keys for the page; null if there are none.
        shows_texts: texts are kept, for those who may see them.
    """

    def __init__(self, users: Keys | None, page: Keys | None, *, shows_texts: bool) -> None:
        self._users = users
        self._page = page
        self._reason = None if shows_texts else NOT_KEPT

    def check(self, headers: Headers) -> str | None:
        """Return why a viewer may not see texts, null if it may.

        Raises:
            ApiError: 401 without a key that is known, 403 for a page from elsewhere.
        """
        if headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
            raise _elsewhere("another site's page asks for it")
        authorization = headers.get("authorization", "").encode("latin-1") or None
        if self._page is not None:
            try:
                self._page.check(authorization)
            except ApiError:
                if self._users is None:
                    raise
            else:
                return self._reason
        if self._users is not None:
            self._users.check(authorization)
            return self._reason or OTHERS
        if not _is_local(headers.get("host", "")):
            raise _elsewhere(f"it was asked for as {headers.get('host', '')[:80]!r}")
        return self._reason


def _elsewhere(what: str) -> ApiError:
    return ApiError(
        403,
        "invalid_request_error",
        f"{what}: without keys the page is for this machine alone, as http://127.0.0.1:PORT/page",
        code="not_local",
    )


def _is_local(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
