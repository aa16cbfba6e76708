"""The HTTP interface of a daemon, listening; it answers 503 until it is given a service."""

from collections.abc import Sequence

from starlette.routing import Route

from multispin_models.api.app import Api
from multispin_models.api.keys import load_keys
from multispin_models.api.server import HttpServer, check_listen
from multispin_models.api.settings import HttpSettings
from multispin_models.manifest import load_pair

__all__ = ["open_interface"]


def open_interface(
    listen: str, keys_file: str | None, settings: HttpSettings, pair: str, own_routes: Sequence[Route] = ()
) -> tuple[Api, HttpServer]:
    """Return the routes, and the server that answers by them once it is started.

    Args:
        listen: HOST:PORT.
        keys_file: bearer keys; null lets in everybody, on loopback.
        settings: bounds.
        pair: name or path of the pair that is served.
        own_routes: of the daemon; they let in whom they want.

    Raises:
        ConfigError: the address is not valid, taken, or off loopback without keys; the keys cannot be read.
        ModelError: no such pair.
    """
    host, port = check_listen(listen, keys_file)
    keys = None if keys_file is None else load_keys(keys_file)
    api = Api(settings, load_pair(pair).name, keys, own_routes)
    return api, HttpServer(api.app, host, port, settings)
