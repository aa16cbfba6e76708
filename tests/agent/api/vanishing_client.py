"""A client that vanishes without a word, between two network namespaces: run as root in a namespace of its own.

    unshare -n python -m tests.agent.api.vanishing_client

Prints what became of its request as JSON. The agent with its toy models is here, the client in a namespace beside it,
joined by a pair of virtual links; when its stream has begun the link goes down, so that nothing of it ever comes again,
no FIN and no RST.
"""

import asyncio
import json
import subprocess
import sys

from tests.toy_api import Loopback, play, until

from multispin_models.api.server import HttpServer
from multispin_models.api.settings import HttpSettings

HERE, THERE = "10.77.0.1", "10.77.0.2"
CLIENT = """
import socket, sys
body = sys.argv[2].encode()
with socket.create_connection((sys.argv[1], int(sys.argv[3]))) as connection:
    connection.sendall(b"POST /v1/completions HTTP/1.1\\r\\nhost: t\\r\\ncontent-type: application/json\\r\\n"
                       b"content-length: %d\\r\\n\\r\\n" % len(body) + body)
    received = b""
    while b'"text":"' not in received:
        received += connection.recv(4096)
    print("begun", flush=True)
    sys.stdin.read()
"""
BODY = {"prompt": [1, 2, 3], "max_tokens": 400, "temperature": 0.8, "seed": 5, "ignore_eos": True, "stream": True}


def ip(*arguments: str, inside: int | None = None) -> None:
    prefix = [] if inside is None else ["nsenter", "-t", str(inside), "-n"]
    subprocess.run([*prefix, "ip", *arguments], check=True)


def joined() -> "subprocess.Popen[str]":
    """Return a process that holds the client's namespace, with the links up."""
    there = subprocess.Popen(["unshare", "-n", "sh", "-c", "echo up; exec sleep 60"], stdout=subprocess.PIPE, text=True)
    assert there.stdout is not None
    there.stdout.readline()
    ip("link", "add", "here", "type", "veth", "peer", "name", "there", "netns", str(there.pid))
    for name, address, inside in (("here", HERE, None), ("there", THERE, there.pid)):
        ip("address", "add", f"{address}/30", "dev", name, inside=inside)
        ip("link", "set", name, "up", inside=inside)
    return there


async def vanish(loopback: Loopback) -> None:
    there = joined()
    http = HttpServer(loopback.api.app, HERE, 0, HttpSettings(stop_grace_s=0.0, idle_timeout_s=1))
    http.start()
    try:
        loopback.target.num_passes_left = 20
        port = http.url.rpartition(":")[2]
        client = await asyncio.create_subprocess_exec(
            *("nsenter", "-t", str(there.pid), "-n", sys.executable, "-c", CLIENT, HERE, json.dumps(BODY), port),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert client.stdout is not None
        assert await client.stdout.readline() == b"begun\n"
        await until(lambda: not loopback.target.gate.is_set(), "the target is held in mid-text")
        ip("link", "set", "there", "down", inside=there.pid)
        client.kill()  # its last words go nowhere
        await client.wait()
        held = sum(slot["is_processing"] for slot in await loopback.slots())
        loopback.target.gate.set()
        await until(lambda: loopback.api.num_present == 0, "the text is written to its end")
        await until(lambda: http.num_connections == 0, "the connection is closed")
        await until(loopback.is_idle, "nothing is left")
        print(
            json.dumps(
                {"held_then": held, "held_at_the_end": sum(slot["is_processing"] for slot in await loopback.slots())}
            )
        )
    finally:
        await http.stop()
        there.kill()
        there.wait()


if __name__ == "__main__":
    ip("link", "set", "lo", "up")
    play(vanish, HttpSettings(stop_grace_s=0.0))
