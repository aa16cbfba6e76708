"""This machine's side of a trial: a coordinator with keys, its tokens, its table of boxes, and requests over HTTP.

It listens on loopback, where guests of qemu reach it under another address; so it has keys all the same.
"""

import json
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Final

from image_building.guest import wait_until
from image_building.overlay import DEFAULT_PAIR
from image_building.root import run
from multispin.supervised import free_port
from multispin_models.errors import ConfigError

__all__ = ["Host", "ask", "metrics"]

REQUEST_LIMIT_S: Final = 600.0
LOAD_LIMIT_S: Final = 600.0
SEED: Final = 7


class Host:
    """A coordinator that runs from entering to leaving.

    Args:
        folder: for its keys, settings, records and log; made here.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._bind, self._enrol, http = free_port(), free_port(), free_port()
        self.url = f"http://127.0.0.1:{http}"
        folder.mkdir(parents=True)
        self._cli("keys", "create", *self._keys())
        settings = folder / "coordinator.toml"
        # Fixed: the policy "price" finds the drafts of an emulated box not worth their time, and asks for none.
        settings.write_text(
            'policy = "fixed"\n'
            f'bind = "tcp://127.0.0.1:{self._bind}"\npair = "{DEFAULT_PAIR}"\nhttp_listen = "127.0.0.1:{http}"\n'
            f'store = "{folder / "records.sqlite"}"\nfleet_file = "{folder / "fleet.json"}"\nrequire_exact = true\n'
            f'\n[security]\nsecret_key_file = "{folder / "keys/coordinator.key_secret"}"\n'
            f'authorized_keys_dir = "{folder / "agents"}"\nenrol_bind = "tcp://127.0.0.1:{self._enrol}"\n',
            encoding="utf-8",
        )
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    def _keys(self) -> tuple[object, ...]:
        return ("--keys", self._folder / "keys", "--agents", self._folder / "agents")

    def _cli(self, *arguments: object) -> str:
        return run(sys.executable, "-m", "multispin", *arguments)

    def __enter__(self) -> "Host":
        command = [sys.executable, "-m", "multispin", "coordinator", "--config", str(self._settings)]
        with (self._folder / "coordinator.log").open("wb") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)  # noqa: S603
        wait_until("the coordinator here", self._is_ready, LOAD_LIMIT_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _is_ready(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise ConfigError(f"the coordinator has ended; see {self._folder / 'coordinator.log'}")
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:  # noqa: S310 - loopback
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def token(self, device: str, address: str) -> str:
        """Return a new token for one device that sees this machine at an address."""
        endpoint = f"tcp://{address}:{self._enrol}"
        return self._cli("keys", "token", device, "--endpoint", endpoint, "--hours", 1, *self._keys()).strip()

    def fleet(self) -> object:
        """Return the table of boxes."""
        file = self._folder / "fleet.json"
        if not file.exists():
            return {}
        return json.loads(self._cli("fleet", "status", "--json", "--file", file))

    def keys(self) -> object:
        """Return devices, revoked keys and tokens."""
        return json.loads(self._cli("keys", "list", "--json", "--agents", self._folder / "agents"))

    def metrics(self) -> dict[str, float]:
        """Return the coordinator's counts of drafts."""
        return metrics(self.url, None)


def ask(url: str, key: str | None, prompt: str, temperature: float, tokens: int) -> str:
    """Return the text that a daemon writes; its seed is always the same."""
    body = {
        "messages": [{"role": "user", "content": prompt}],
        "temperature": temperature,
        "seed": SEED,
        "max_tokens": tokens,
    }
    answer = json.loads(_open(f"{url}/v1/chat/completions", key, json.dumps(body).encode()))
    return str(answer["choices"][0]["message"]["content"])


def metrics(url: str, key: str | None) -> dict[str, float]:
    """Return a daemon's counts of drafts: num_drafts, num_draft_tokens, num_accepted_tokens."""
    found = {}
    for line in _open(f"{url}/metrics", key).decode().splitlines():
        name, _, value = line.partition(" ")
        if name.startswith("multispin:spec_decode_") and name.endswith("_total"):
            found[name.removeprefix("multispin:spec_decode_").removesuffix("_total")] = float(value)
    return found


def _open(url: str, key: str | None, body: bytes | None = None) -> bytes:
    headers = {"content-type": "application/json"}
    if key is not None:
        headers["authorization"] = f"Bearer {key}"
    request = urllib.request.Request(url, body, headers)  # noqa: S310 - loopback
    try:
        with urllib.request.urlopen(request, timeout=REQUEST_LIMIT_S) as answer:  # noqa: S310
            return bytes(answer.read())
    except (urllib.error.URLError, OSError) as error:
        said = error.read()[:500] if isinstance(error, urllib.error.HTTPError) else b""
        raise ConfigError(f"{url}: {error} {said!r}") from error
