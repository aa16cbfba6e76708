"""Links of a rate or a delay, made and removed; and `bench links` on real models."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from multispin import cli
from multispin.links import PORT, PREFIX, open_link, parse_link, why_no_namespaces
from multispin_models.errors import ConfigError

needs_namespaces = pytest.mark.skipif(bool(why_no_namespaces()), reason=f"not tested: {why_no_namespaces()}")

ECHO = f"""
import socket
server = socket.create_server(("127.0.0.1", {PORT}))
client = socket.create_connection(("127.0.0.1", {PORT}))
accepted, _ = server.accept()
client.sendall(bytes(5000))
received = 0
while received < 5000:
    received += len(accepted.recv(5000))
accepted.sendall(b"1" * 100)
print(len(client.recv(100)))
"""


def namespaces() -> list[str]:
    listed = subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, text=True).stdout
    return [line.split()[0] for line in listed.splitlines()]


@needs_namespaces
def test_a_rate_is_a_namespace_that_counts_both_directions_and_goes_with_the_run() -> None:
    subprocess.run(["ip", "netns", "add", f"{PREFIX}999999999"], check=True)  # of a run that was killed
    with open_link(parse_link("1Mbit/s")) as reached:
        mine = f"{PREFIX}{os.getpid()}"
        assert mine in namespaces()
        assert f"{PREFIX}999999999" not in namespaces()
        command = [*reached.prefix, sys.executable, "-c", ECHO]
        assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "100\n"
        sent = reached.sent_bytes()
        assert sent is not None
        assert 5000 < sent[0] < 7000
        assert 100 < sent[1] < 2000
        shown = subprocess.run(
            ["tc", "-n", mine, "qdisc", "show", "dev", "lo"], check=True, capture_output=True, text=True
        ).stdout
        assert shown.count("rate 1Mbit") == 2
    assert mine not in namespaces()


def test_a_round_trip_is_a_relay_to_the_coordinator() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, open_link(parse_link("2ms")) as reached:
        port = server.getsockname()[1]
        there = reached.reach(f"tcp://127.0.0.1:{port}")
        assert there == reached.reach(f"tcp://127.0.0.1:{port}") != f"tcp://127.0.0.1:{port}"

        def answer() -> None:
            with server.accept()[0] as accepted:
                accepted.sendall(b"here")
                accepted.recv(1)  # until the other side has it

        thread = threading.Thread(target=answer)
        thread.start()
        with socket.create_connection(("127.0.0.1", int(there.rsplit(":", 1)[1]))) as client:
            assert client.recv(4) == b"here"
            client.sendall(b".")
        thread.join()
    assert not [thread for thread in threading.enumerate() if thread.name == "relay"]


@pytest.mark.parametrize("text", ["", "64", "0kbit/s", "64kbit", "1Mbit/s ", "20", "-20ms"])
def test_a_link_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="a rate as 64kbit/s"):
        parse_link(text)


@pytest.mark.model
def test_the_bench_gives_bytes_and_goodput_by_rule(run_multispin: Callable[..., Any], tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "Why is the sky blue?"}\n')
    flags = ["--prompts", prompts, "--links", "none", "--rules", "rejection-lean,rejection", "--requests", 1]
    ran = run_multispin("bench", "links", *flags, "--max-tokens", 8, "--temperature", 1.2, "--json")
    assert ran.status == 0, ran.stderr
    lean, full = json.loads(ran.stdout)["yields"]
    assert (lean["rule"], full["rule"]) == ("rejection-lean", "rejection")
    for each in (lean, full):
        assert each["tokens"] == 8
        assert each["goodput_tokens_per_s"] > 0
        assert each["link_up_bytes_per_token"] is None
    assert lean["draft_bytes_median"] <= 64 < full["draft_bytes_median"]
    assert full["papers_bytes_per_drafted_token"] == 4096


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--rules", "coupled,best"), "--rules has best, allowed are coupled, rejection, rejection-lean"),
        (("--temperature", "0"), "--temperature is 0.0"),
        (("--links", "dsl"), "link 'dsl'"),
    ],
)
def test_what_it_does_not_know_is_refused(
    flags: tuple[str, str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bench", "links", "--prompts", "absent.jsonl", *flags]) == 1
    assert said in capsys.readouterr().err
