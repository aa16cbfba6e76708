"""Shares of a link that this box owns, by HTB classes of the kernel: set with `tc`, removed at the end. Needs root.

    root 4d53: htb          the rate of the link
      4d53:1                all of it
        4d53:2, 3, ...      traffic to a port of a coordinator: its rate is guaranteed, and it may borrow what is idle
        4d53:ffff           everything else, what is left

The handle is this program's own ("MS"): what stands there under it was left behind by a run that was killed, and is
replaced. Any other queueing discipline that somebody has set is refused, not replaced. IPv4, outgoing packets only.

Source: tc-htb(8), tc-u32(8).
"""

import ipaddress
import json
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from multispin_models.errors import ConfigError

__all__ = ["ShapedClass", "check_interface", "parse_class", "parse_rate", "shaped", "shaping_commands", "why_not_here"]

HANDLE: Final = "4d53:"
LEAST_BIT_PER_S: Final = 8_000
MOST_BIT_PER_S: Final = 100_000_000_000
CAP_NET_ADMIN: Final = 12  # linux/capability.h
_UNITS: Final = {"": 1, "k": 1_000, "M": 1_000_000, "G": 1_000_000_000}
_NOBODYS: Final = {"noqueue", "pfifo_fast", "fq_codel", "mq", "pfifo"}  # what the kernel puts there by itself

Call = Callable[[Sequence[str]], str]


class ShapedClass(NamedTuple):
    """Traffic with a rate of its own.

    Attributes:
        address: of a coordinator; null is any.
        port: likewise.
        bit_per_s: guaranteed.
    """

    address: str | None
    port: int
    bit_per_s: int


def parse_rate(text: str) -> int:
    """Return bits a second.

    >>> parse_rate("1Mbit/s"), parse_rate("64kbit/s")
    (1000000, 64000)

    Raises:
        ConfigError: written otherwise, or out of range.
    """
    found = re.fullmatch(r"(\d{1,12})([kMG]?)bit/s", text)
    rate = int(found[1]) * _UNITS[found[2]] if found else 0
    if not LEAST_BIT_PER_S <= rate <= MOST_BIT_PER_S:
        raise ConfigError(f"rate {text!r}: allowed are 8kbit/s to 100Gbit/s, written as 64kbit/s or 1Mbit/s")
    return rate


def parse_class(text: str) -> ShapedClass:
    """Return a class written as [ADDRESS:]PORT=RATE.

    >>> parse_class("10.0.0.7:5599=64kbit/s")
    ShapedClass(address='10.0.0.7', port=5599, bit_per_s=64000)

    Raises:
        ConfigError: written otherwise.
    """
    end, _, rate = text.partition("=")
    address, _, port = end.rpartition(":")
    try:
        known = str(ipaddress.IPv4Address(address)) if address else None
    except ValueError as error:
        raise ConfigError(f"class {text!r}: {error}; allowed is [ADDRESS:]PORT=RATE, an IPv4 address") from error
    if not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65_535):
        raise ConfigError(f"class {text!r}: port {port!r}, allowed is [ADDRESS:]PORT=RATE with a port of 1 to 65535")
    return ShapedClass(known, int(port), parse_rate(rate))


def check_interface(name: str) -> None:
    """Refuse what is no network interface of this box.

    Raises:
        ConfigError: says which there are.
    """
    names = [each for _, each in socket.if_nameindex()]
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}", name) or name not in names:
        raise ConfigError(f"interface {name!r} is not here, there are {', '.join(names)}")


def shaping_commands(interface: str, bit_per_s: int, classes: Sequence[ShapedClass]) -> list[list[str]]:
    """Return the `tc` command lines that set the classes.

    Raises:
        ConfigError: the classes leave less than 8 kbit/s of the link, or one stands there twice.
    """
    rest = bit_per_s - sum(each.bit_per_s for each in classes)
    if rest < LEAST_BIT_PER_S:
        raise ConfigError(f"classes take {bit_per_s - rest} of {bit_per_s} bit/s: leave 8kbit/s for everything else")
    if len({(each.address, each.port) for each in classes}) < len(classes):
        raise ConfigError("a class stands there twice")
    tc = ["tc"]
    on = ["dev", interface]
    commands = [[*tc, "qdisc", "add", *on, "root", "handle", HANDLE, "htb", "default", "ffff"]]
    rates = [(HANDLE, "1", bit_per_s), (f"{HANDLE}1", "ffff", rest)]
    rates += [(f"{HANDLE}1", f"{number:x}", each.bit_per_s) for number, each in enumerate(classes, start=2)]
    for parent, minor, rate in rates:
        limits = ["rate", f"{rate}bit", "ceil", f"{bit_per_s}bit", "quantum", "1514"]
        commands.append([*tc, "class", "add", *on, "parent", parent, "classid", f"{HANDLE}{minor}", "htb", *limits])
    for number, each in enumerate(classes, start=2):
        match = ["match", "ip", "dport", str(each.port), "0xffff"]
        match += [] if each.address is None else ["match", "ip", "dst", f"{each.address}/32"]
        flow = ["flowid", f"{HANDLE}{number:x}"]
        commands.append([*tc, "filter", "add", *on, "parent", HANDLE, "protocol", "ip", "u32", *match, *flow])
    return commands


def call_tc(command: Sequence[str]) -> str:
    """Run a command line of `tc` and return what it says.

    Raises:
        ConfigError: it failed, with its own words.
    """
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603 - no shell
    except subprocess.CalledProcessError as error:
        raise ConfigError(f"{' '.join(command)}: {error.stderr.strip()}") from error
    except FileNotFoundError as error:
        raise ConfigError("tc is not here: apt-get install iproute2") from error


@contextmanager
def shaped(interface: str, bit_per_s: int, classes: Sequence[ShapedClass], call: Call = call_tc) -> Iterator[None]:
    """Keep the classes set for as long as the context lasts.

    Raises:
        ConfigError: not root, no such interface, somebody else's discipline, or another run of this program is on it.
    """
    check_interface(interface)
    commands = shaping_commands(interface, bit_per_s, classes)
    with _alone_on(interface):
        _remove_own(interface, call)
        try:
            for command in commands:
                call(command)
            yield
        finally:
            _remove_own(interface, call)


@contextmanager
def _alone_on(interface: str) -> Iterator[None]:
    """Hold a name of the network namespace, which the kernel frees when this process ends, however it does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as held:
        try:
            held.bind(f"\0multispin-shape-{interface}")
        except OSError as error:
            raise ConfigError(f"another run shapes {interface}: end that one first") from error
        yield


def _remove_own(interface: str, call: Call) -> None:
    """Remove what stands under this program's handle; refuse what is somebody else's."""
    for each in json.loads(call(["tc", "-j", "qdisc", "show", "dev", interface]) or "[]"):
        if not each.get("root"):
            continue
        if each["handle"] == HANDLE:
            call(["tc", "qdisc", "delete", "dev", interface, "root"])
        elif each["handle"] != "0:" or each["kind"] not in _NOBODYS:
            raise ConfigError(
                f"{interface} has a queueing discipline {each['kind']} {each['handle']} that somebody has set: "
                f"remove it first, if it may go (tc qdisc delete dev {interface} root)"
            )


def why_not_here() -> str:
    """Return why no link can be shaped by this process; "" if one can."""
    if shutil.which("tc") is None:
        return "tc is not here: apt-get install iproute2"
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    [effective] = [int(line.split()[1], 16) for line in lines if line.startswith("CapEff:")]
    return "" if effective >> CAP_NET_ADMIN & 1 else "it takes root, or CAP_NET_ADMIN"
