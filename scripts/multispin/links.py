"""Links for a run on one machine: a rate by `tbf` in a network namespace, or a delay by a relay.

In the namespace coordinator and agents speak over its loopback device, on one port; what goes to that port is the
uplink, what comes from it the downlink, each with a `tbf` of its own. The namespace ends with the run; one that a
killed run has left behind is removed by the next. Needs root, `ip` and `tc`.
"""

import asyncio
import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple

from multispin.bench.relay import Relay
from multispin_models.errors import ConfigError

__all__ = ["Link", "Reached", "open_link", "parse_link", "why_no_namespaces"]

PORT: Final = 5599
MTU_BYTES: Final = 1500
BURST_BYTES: Final = 1600
QUEUE_BYTES: Final = 60_000  # of each direction: what waits in a modem
PREFIX: Final = "multispin-links-"
_FORM: Final = re.compile(r"(?:(\d+)(k|M)bit/s)|(?:(\d+)ms)|none")


class Link(NamedTuple):
    """A link between agents and coordinator.

    Attributes:
        name: as it was asked for.
        bit_per_s: of each direction; null is not limited.
        round_trip_s: added.
    """

    name: str
    bit_per_s: int | None
    round_trip_s: float


class Reached:
    """A link under way.

    Attributes:
        prefix: of the command of both ends.
        bind: where the coordinator listens.
    """

    prefix: tuple[str, ...] = ()
    bind = "tcp://127.0.0.1:*"

    def reach(self, endpoint: str) -> str:
        """Return where agents connect, given where the coordinator listens."""
        return endpoint

    def sent_bytes(self) -> tuple[int, int] | None:
        """Return the bytes of packets (up, down) since it began; null where nobody counts them."""
        return None


def parse_link(text: str) -> Link:
    """Return a link written as 64kbit/s, 1Mbit/s, 20ms or none.

    >>> parse_link("64kbit/s")
    Link(name='64kbit/s', bit_per_s=64000, round_trip_s=0.0)

    Raises:
        ConfigError: it is written otherwise.
    """
    found = _FORM.fullmatch(text)
    if found is None or found[1] == "0":
        raise ConfigError(f"link {text!r}: allowed are a rate as 64kbit/s or 1Mbit/s, a round trip as 20ms, or none")
    unit = {"k": 1000, "M": 1_000_000}
    bit_per_s = int(found[1]) * unit[found[2]] if found[1] else None
    return Link(text, bit_per_s, int(found[3]) / 1e3 if found[3] else 0.0)


def why_no_namespaces() -> str:
    """Return why no namespace can be made here; "" if one can."""
    if os.geteuid() != 0:
        return "it takes root to make a network namespace"
    if missing := [tool for tool in ("ip", "tc") if shutil.which(tool) is None]:
        return f"{' and '.join(missing)} not found: apt-get install iproute2"
    return ""


@contextmanager
def open_link(link: Link, port: int = PORT) -> Iterator[Reached]:
    """Give a link for as long as the context lasts.

    Args:
        link: that is wanted.
        port: that a rate is given to, in its namespace.

    Raises:
        ConfigError: a rate is asked for, and no namespace can be made.
    """
    if link.bit_per_s is not None:
        if why := why_no_namespaces():
            raise ConfigError(f"link {link.name}: {why}")
        with _namespace(link.bit_per_s, port) as shaped:
            yield shaped
    elif link.round_trip_s:
        with _relayed(link.round_trip_s) as delayed:
            yield delayed
    else:
        yield Reached()


# -- a rate --


class _Shaped(Reached):
    def __init__(self, namespace: str, port: int) -> None:
        self.bind = f"tcp://127.0.0.1:{port}"
        self._namespace = namespace
        self.prefix = ("ip", "netns", "exec", namespace)

    def sent_bytes(self) -> tuple[int, int]:
        shown = json.loads(_call(["tc", "-n", self._namespace, "-s", "-j", "qdisc", "show", "dev", "lo"]))
        by_handle = {each["handle"]: int(each["bytes"]) for each in shown}
        return by_handle["10:"], by_handle["20:"]


@contextmanager
def _namespace(bit_per_s: int, port: int) -> Iterator[_Shaped]:
    _remove_left_behind()
    name = f"{PREFIX}{os.getpid()}"
    _call(["ip", "netns", "add", name])
    try:
        _call(["ip", "-n", name, "link", "set", "lo", "mtu", str(MTU_BYTES), "up"])
        for command in _shaping(bit_per_s, port):
            _call(["tc", "-n", name, *command])
        yield _Shaped(name, port)
    finally:
        _call(["ip", "netns", "delete", name])


def _shaping(bit_per_s: int, port: int) -> list[list[str]]:
    """Return the arguments of `tc`: classes sort the packets, each direction's tbf holds them back."""
    commands = ["qdisc add dev lo root handle 1: htb default 3"]
    commands += [f"class add dev lo parent 1: classid 1:{each} htb rate 10gbit quantum 60000" for each in (1, 2, 3)]
    for direction, end in ((1, "dport"), (2, "sport")):
        tbf = f"tbf rate {bit_per_s}bit burst {BURST_BYTES} limit {QUEUE_BYTES}"
        commands += [
            f"qdisc add dev lo parent 1:{direction} handle {direction}0: {tbf}",
            f"filter add dev lo parent 1: protocol ip prio 1 u32 match ip {end} {port} 0xffff flowid 1:{direction}",
        ]
    return [command.split() for command in commands]


def _remove_left_behind() -> None:
    for line in _call(["ip", "netns", "list"]).splitlines():
        name = line.split()[0]
        owner = name.removeprefix(PREFIX)
        if owner != name and owner.isdigit() and not os.path.exists(f"/proc/{owner}"):
            _call(["ip", "netns", "delete", name])


def _call(command: Sequence[str]) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603 - no shell
    except subprocess.CalledProcessError as error:
        raise ConfigError(f"{' '.join(command)}: {error.stderr.strip()}") from error


# -- a delay --


class _Delayed(Reached):
    def __init__(self, loop: asyncio.AbstractEventLoop, round_trip_s: float) -> None:
        self._loop = loop
        self._round_trip_s = round_trip_s
        self._relay: Relay | None = None

    def reach(self, endpoint: str) -> str:
        if self._relay is None:
            half_s = self._round_trip_s / 2
            self._relay = Relay("127.0.0.1", int(endpoint.rsplit(":", 1)[1]), up_s=half_s, down_s=half_s)
            asyncio.run_coroutine_threadsafe(self._relay.__aenter__(), self._loop).result()
        return f"tcp://127.0.0.1:{self._relay.port}"

    def close(self) -> None:
        if self._relay is not None:
            asyncio.run_coroutine_threadsafe(self._relay.__aexit__(None, None, None), self._loop).result()


@contextmanager
def _relayed(round_trip_s: float) -> Iterator[_Delayed]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="relay", daemon=True)
    thread.start()
    delayed = _Delayed(loop, round_trip_s)
    try:
        yield delayed
    finally:
        delayed.close()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
