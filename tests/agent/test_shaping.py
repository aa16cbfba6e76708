"""HTB classes on a link of a network namespace that the test makes: set, removed, and replaced after a kill."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from multispin.links import why_no_namespaces
from multispin_agent.shaping import ShapedClass, check_interface, parse_class, parse_rate, shaping_commands
from multispin_models.errors import ConfigError

NAMESPACE = f"multispin-test-{os.getpid()}"
LINK = "box0"
SHAPE = ["ip", "netns", "exec", NAMESPACE, sys.executable, "-m", "multispin", "shape", LINK]
FLAGS = ["--rate", "2Mbit/s", "--class", "10.0.0.7:5599=500kbit/s", "--class", "5600=100kbit/s"]

needs_namespaces = pytest.mark.skipif(bool(why_no_namespaces()), reason=f"not tested: {why_no_namespaces()}")


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def tc(*arguments: str) -> str:
    return subprocess.run(["tc", "-n", NAMESPACE, *arguments], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def link() -> Iterator[None]:
    ip("netns", "add", NAMESPACE)
    try:
        ip("-n", NAMESPACE, "link", "add", LINK, "type", "veth", "peer", "name", "far0")
        for each in (LINK, "far0"):
            ip("-n", NAMESPACE, "link", "set", each, "up")
        yield
    finally:
        ip("netns", "delete", NAMESPACE)


@pytest.fixture
def shape() -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Give what starts a run and returns it when it has set its classes; none outlives the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*flags: str) -> "subprocess.Popen[str]":
        started.append(subprocess.Popen([*SHAPE, *flags], stdout=subprocess.PIPE, text=True))
        stdout = started[-1].stdout
        assert stdout is not None
        assert stdout.readline() == f"ready {LINK}\n"
        return started[-1]

    yield start
    for process in started:
        with process:
            process.kill()


def end(process: "subprocess.Popen[str]", number: signal.Signals) -> int:
    process.send_signal(number)
    return process.wait(20)


def root() -> str:
    [found] = [each for each in json.loads(tc("-j", "qdisc", "show", "dev", LINK)) if each.get("root")]
    return f"{found['kind']} {found['handle']}"


def rates() -> dict[str, str]:
    """Return the rate of every class, as `tc` says it."""
    return dict(re.findall(r"class htb (\S+) .*?rate (\S+) ", tc("class", "show", "dev", LINK)))


def refusal(*flags: str) -> str:
    done = subprocess.run([*SHAPE, *flags], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    return done.stderr


@needs_namespaces
@pytest.mark.usefixtures("link")
def test_classes_are_set_while_it_runs_and_gone_after_it_also_after_one_that_was_killed(
    shape: Callable[..., "subprocess.Popen[str]"],
) -> None:
    before = root()
    killed = shape(*FLAGS)
    assert root() == "htb 4d53:"
    assert rates() == {"4d53:1": "2Mbit", "4d53:ffff": "1400Kbit", "4d53:2": "500Kbit", "4d53:3": "100Kbit"}
    filters = tc("filter", "show", "dev", LINK)
    assert filters.count("flowid") == 2
    assert "0a000007/ffffffff" in filters
    assert "another run shapes box0" in refusal(*FLAGS)
    assert end(killed, signal.SIGKILL) == -signal.SIGKILL
    assert root() == "htb 4d53:"  # left behind
    again = shape("--rate", "1Mbit/s")
    assert rates() == {"4d53:1": "1Mbit", "4d53:ffff": "1Mbit"}
    assert end(again, signal.SIGTERM) == 0
    assert root() == before


@needs_namespaces
@pytest.mark.usefixtures("link")
def test_what_somebody_else_has_set_stays() -> None:
    tc("qdisc", "add", "dev", LINK, "root", "handle", "7:", "tbf", "rate", "1mbit", "burst", "1600", "limit", "9000")
    assert "has a queueing discipline tbf 7: that somebody has set" in refusal(*FLAGS)
    assert root() == "tbf 7:"


def test_command_lines_are_lists_and_all_of_the_link_is_given_out() -> None:
    commands = shaping_commands("eth0", 1_000_000, [ShapedClass(None, 5599, 600_000)])
    assert [command[1] for command in commands] == ["qdisc", "class", "class", "class", "filter"]
    assert [command[command.index("rate") + 1] for command in commands[1:4]] == ["1000000bit", "400000bit", "600000bit"]


@pytest.mark.parametrize("rate", ["", "64", "7kbit/s", "101Gbit/s", "-1kbit/s", "1e6bit/s", "64kbit/s; true"])
def test_a_rate_that_is_none_is_refused(rate: str) -> None:
    with pytest.raises(ConfigError, match="allowed are 8kbit/s to 100Gbit/s"):
        parse_rate(rate)


@pytest.mark.parametrize("text", ["5599", "0=1Mbit/s", "70000=1Mbit/s", "host:5599=1Mbit/s", "::1:5599=1Mbit/s"])
def test_a_class_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_class(text)


@pytest.mark.parametrize("name", ["", "no-such-link", "lo;true", "../lo", "a" * 16, "-j"])
def test_an_interface_that_is_not_here_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="there are lo"):
        check_interface(name)


def test_classes_that_take_all_of_the_link_or_stand_twice_are_refused() -> None:
    half = ShapedClass(None, 5599, 500_000)
    with pytest.raises(ConfigError, match="leave 8kbit/s"):
        shaping_commands("eth0", 500_000, [half])
    with pytest.raises(ConfigError, match="twice"):
        shaping_commands("eth0", 2_000_000, [half, half])
