"""Plugs by their recorded answers: watts and counted joules by hand, several channels, and what is no meter."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from multispin_models.energy import open_meter, plug
from multispin_models.errors import SensorError

# Fields and units: Shelly's Gen2 reference (Switch.GetStatus, PM1.GetStatus), Gen1 reference (/shelly, /meter/0),
# Tasmota's documentation (Status 10). The values are made up.
SHELLY_2 = {
    "/shelly": {"id": "shellyplusplugs-b8d61a", "gen": 2, "app": "PlusPlugS", "auth_en": False},
    "/rpc/Switch.GetStatus?id=0": {
        "id": 0,
        "source": "init",
        "output": True,
        "apower": 6.4,
        "voltage": 231.1,
        "current": 0.052,
        "aenergy": {"total": 1234.567, "by_minute": [101.2, 99.8, 100.1], "minute_ts": 1764000000},
    },
}
SHELLY_PM = {
    "/shelly": {"id": "shellypmminig3-84fce6", "gen": 3},
    "/rpc/PM1.GetStatus?id=0": {"id": 0, "apower": 5.25, "aenergy": {"total": 10.0}},
}
SHELLY_1 = {
    "/shelly": {"type": "SHPLG-S", "mac": "8CAAB5", "auth": False, "fw": "20230913-113421/v1.14.0"},
    "/meter/0": {"power": 7.31, "is_valid": True, "timestamp": 1764000000, "counters": [7.2, 7.3, 7.1], "total": 91},
}
TASMOTA = {
    "/cm?cmnd=Status%2010": {
        "StatusSNS": {
            "Time": "2026-11-24T09:00:00",
            "ENERGY": {"Total": 12.345, "Yesterday": 0.15, "Power": 8, "Voltage": 230, "Current": 0.061},
        }
    }
}


def serve(answers: dict[str, Any]) -> plug.Fetch:
    def fetch(_host: str, path: str) -> Any:
        if path not in answers:
            raise SensorError(f"{path} answered with status 404")
        return answers[path]

    return fetch


@pytest.mark.parametrize(
    ("open_plug", "answers", "watts", "joules"),
    [
        (plug.open_shelly, SHELLY_2, 6.4, 1234.567 * 3600),
        (plug.open_shelly, SHELLY_PM, 5.25, 36000.0),
        (plug.open_shelly, SHELLY_1, 7.31, 91 * 60),
        (plug.open_tasmota, TASMOTA, 8.0, 12.345 * 3.6e6),
    ],
)
def test_watts_and_counted_joules_are_as_computed_by_hand(
    open_plug: Any, answers: dict[str, Any], watts: float, joules: float
) -> None:
    meter = open_plug("plug", "power", serve(answers))
    assert meter.read().total(meter.info.rails) == pytest.approx(watts)
    counter = open_plug("plug", "energy", serve(answers))
    assert counter.read().total(counter.info.rails) == pytest.approx(joules)
    assert (meter.info.covers, meter.info.quantity, counter.info.quantity) == ("wall", "power", "energy")


def test_several_channels_are_rails_that_add_up() -> None:
    energy = {"Total": [1.0, 2.0], "Power": [10, 5]}
    meter = plug.open_tasmota("plug", "power", serve({"/cm?cmnd=Status%2010": {"StatusSNS": {"ENERGY": energy}}}))
    assert meter.read().values == (10.0, 5.0)
    assert meter.read().total(meter.info.rails) == 15.0


def test_a_plug_without_a_meter_and_a_value_that_is_not_valid_are_errors() -> None:
    with pytest.raises(SensorError, match=r"has no StatusSNS.ENERGY.Power.*has it a meter"):
        plug.open_tasmota("plug", "power", serve({"/cm?cmnd=Status%2010": {"StatusSNS": {"Time": "x"}}}))
    answers = {**SHELLY_1, "/meter/0": {**SHELLY_1["/meter/0"], "is_valid": False}}
    with pytest.raises(SensorError, match="not valid now"):
        plug.open_shelly("plug", "power", serve(answers))


class Handler(BaseHTTPRequestHandler):
    """Answers as a Gen2 plug, or with what the test says."""

    status = 200
    body = b""

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.body or json.dumps(SHELLY_2[self.path]).encode())

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture
def host() -> Iterator[str]:
    Handler.status, Handler.body = 200, b""
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_plug_is_asked_over_http(host: str) -> None:
    meter = open_meter(f"shelly:{host}").meter
    assert meter is not None
    assert meter.read().total(meter.info.rails) == 6.4
    Handler.status = 401
    with pytest.raises(SensorError, match="asks for a password"):
        meter.read()
    Handler.status = 500
    with pytest.raises(SensorError, match="status 500"):
        meter.read()
    Handler.status, Handler.body = 200, b"<html>"
    with pytest.raises(SensorError, match="expected is JSON"):
        meter.read()


def test_a_plug_that_is_not_there_fails_with_its_address() -> None:
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        port = server.server_port  # free again when closed
    with pytest.raises(SensorError, match=f"http://127.0.0.1:{port}/shelly does not answer"):
        open_meter(f"shelly:127.0.0.1:{port}")
