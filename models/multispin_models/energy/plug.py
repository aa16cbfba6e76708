"""Network power plugs with a meter: Shelly (first and later generations) and Tasmota, over HTTP.

    shelly:192.168.1.20             tasmota:192.168.1.21               watts now, once a second
    shelly:192.168.1.20,counter     tasmota:192.168.1.21,counter       the plug's own joules: for long runs only

    Shelly 1    GET /meter/0                          {"power": W, "is_valid": true, "total": watt-minutes}
    Shelly 2+   GET /rpc/Switch.GetStatus?id=0        {"apower": W, "aenergy": {"total": Wh}}     (PM1.GetStatus)
    Tasmota     GET /cm?cmnd=Status%2010              {"StatusSNS": {"ENERGY": {"Power": W, "Total": kWh}}}

A counter steps by 60 J (Shelly 1), 3.6 J (Shelly 2+) or 3,600 J (Tasmota). A reading takes as long as the network does,
so a plug is for the machine of a run or for an agent, not for the passes of a coordinator. Passwords are not supported.

Source: Shelly Gen1 and Gen2 API reference; Tasmota documentation, JSON status responses.
"""

import http.client
import json
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from multispin_models.energy.meter import MeterInfo, Quantity, Rail
from multispin_models.energy.rail_meter import RailMeter
from multispin_models.errors import SensorError

__all__ = ["Fetch", "http_json", "open_shelly", "open_tasmota"]

Fetch = Callable[[str, str], Any]
"""Returns the JSON at a host and a path; raises SensorError."""

_TIMEOUT_S = 2.0
_MOST_BYTES = 65536
_NAMES: Final[dict[Quantity, str]] = {"power": "watts", "energy": "counted joules"}


class _Place(NamedTuple):
    """Where a value stands in an answer, and its unit in watts or joules."""

    path: str
    keys: tuple[str, ...]
    unit: float


_SHELLY_1: Final[dict[Quantity, _Place]] = {
    "power": _Place("/meter/0", ("power",), 1.0),
    "energy": _Place("/meter/0", ("total",), 60.0),
}
_SHELLY_2: Final[dict[Quantity, _Place]] = {
    "power": _Place("/rpc/Switch.GetStatus?id=0", ("apower",), 1.0),
    "energy": _Place("/rpc/Switch.GetStatus?id=0", ("aenergy", "total"), 3600.0),
}
_TASMOTA: Final[dict[Quantity, _Place]] = {
    "power": _Place("/cm?cmnd=Status%2010", ("StatusSNS", "ENERGY", "Power"), 1.0),
    "energy": _Place("/cm?cmnd=Status%2010", ("StatusSNS", "ENERGY", "Total"), 3.6e6),
}


def http_json(host: str, path: str) -> Any:
    """Return the JSON that a plug answers.

    Args:
        host: name or address, with ":port" or without.
        path: on it.

    Raises:
        SensorError: it is not reached, or answers something else.
    """
    connection = http.client.HTTPConnection(host, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read(_MOST_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise SensorError(f"http://{host}{path} does not answer: {error}; is the plug on this network?") from error
    finally:
        connection.close()
    if response.status in (401, 403):
        raise SensorError(f"http://{host} asks for a password, which is not supported: switch it off for this network")
    if response.status != 200:
        raise SensorError(
            f"http://{host}{path} answered with status {response.status}; is this the right kind of plug?"
        )
    try:
        return json.loads(body)
    except ValueError as error:
        raise SensorError(f"http://{host}{path} answered {body[:60]!r}, expected is JSON") from error


def open_shelly(host: str, quantity: Quantity = "power", fetch: Fetch = http_json) -> RailMeter:
    """Return a Shelly's meter, of whichever generation it is.

    Raises:
        SensorError: it is not reached, or has no meter.
    """
    about = fetch(host, "/shelly")
    if not isinstance(about, dict) or "gen" not in about:
        return _open("shelly", host, quantity, _SHELLY_1[quantity], fetch)
    place = _SHELLY_2[quantity]
    try:
        return _open("shelly", host, quantity, place, fetch)
    except SensorError:  # without a switch: a meter alone
        return _open("shelly", host, quantity, place._replace(path="/rpc/PM1.GetStatus?id=0"), fetch)


def open_tasmota(host: str, quantity: Quantity = "power", fetch: Fetch = http_json) -> RailMeter:
    """Return a Tasmota plug's meter.

    Raises:
        SensorError: as `open_shelly`.
    """
    return _open("tasmota", host, quantity, _TASMOTA[quantity], fetch)


def _open(kind: str, host: str, quantity: Quantity, place: _Place, fetch: Fetch) -> RailMeter:
    num_channels = len(_values(fetch(host, place.path), place, host))
    info = MeterInfo(
        name=f"{kind}:{host}",
        quantity=quantity,
        covers="wall",
        label="measured",
        rails=tuple(Rail(f"channel{index}", in_total=True) for index in range(num_channels)),
        native_hz=1.0,
        note=f"everything behind the plug, {_NAMES[quantity]} by its firmware",
    )
    return RailMeter(info, lambda: _values(fetch(host, place.path), place, host))


def _values(answer: Any, place: _Place, host: str) -> list[float]:
    """Return the value of every channel of an answer."""
    if isinstance(answer, dict) and answer.get("is_valid") is False:
        raise SensorError(f"the plug {host} says that its value is not valid now")
    value = answer
    for key in place.keys:
        value = value.get(key) if isinstance(value, dict) else None
    values = value if isinstance(value, list) else [value]  # a list where it has several channels
    if not values or any(isinstance(part, bool) or not isinstance(part, int | float) for part in values):
        said = json.dumps(answer)[:80]
        raise SensorError(f"the plug {host} has no {'.'.join(place.keys)}, it says {said}: has it a meter?")
    return [float(part) * place.unit for part in values]
