"""The HTTP interface of an agent, listening; it answers 503 until it is given a service."""

from multispin_agent.config import Config
from multispin_models.api.app import Api
from multispin_models.api.keys import load_keys
from multispin_models.api.server import HttpServer, check_listen
from multispin_models.manifest import load_pair

__all__ = ["open_interface"]


def open_interface(config: Config) -> tuple[Api, HttpServer]:
    """Return the routes, and the server that answers by them once it is started.

    Raises:
        ConfigError: the address is not valid, taken, or off loopback without keys; the keys cannot be read.
        ModelError: no such pair.
    """
    assert config.http_listen is not None
    host, port = check_listen(config.http_listen, config.http_keys_file)
    keys = None if config.http_keys_file is None else load_keys(config.http_keys_file)
    api = Api(config.http, load_pair(config.pair).name, keys)
    return api, HttpServer(api.app, host, port, config.http)
