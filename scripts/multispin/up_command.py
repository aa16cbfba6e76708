"""Run coordinator and agents on this machine for users, until interrupted: agent i answers on HTTP port P + i.

With N agents the coordinator answers on P + N: the target alone, without any draft, for comparison.

Each is a process of its own; one that dies is started again, and the texts under way go on.

    multispin up --agents 2 --http-port 8080
    curl http://127.0.0.1:8080/v1/chat/completions -H 'content-type: application/json' \\
         -d '{"messages": [{"role": "user", "content": "Why is the sky blue?"}]}'
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import msgspec

from multispin.flags import add_draft_flags, add_policy_flags, policy_of, positive
from multispin.local_run import MULTISPIN, RunSettings, coordinator_toml, draft_flags, prepare_draft
from multispin.progress import terminal_progress
from multispin.supervised import Supervised
from multispin_models.engines import prepare_side
from multispin_models.errors import ConfigError

__all__ = ["add_arguments", "run", "tell"]

POLL_S = 0.2
LAST_PORT = 65_535


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `multispin up`."""
    default = RunSettings()
    parser.add_argument("--agents", type=int, default=1, metavar="N", help="agents, a process each (default 1)")
    parser.add_argument("--http-port", type=int, default=8080, metavar="P", help="of the first agent (default 8080)")
    parser.add_argument("--http-keys-file", metavar="FILE", help="bearer keys, one a line, mode 0600")
    parser.add_argument(
        "--page",
        choices=["off", "figures", "texts"],
        help="what the live page at the coordinator's port shows (default: texts, but figures where users have keys)",
    )
    parser.add_argument("--page-keys-file", metavar="FILE", help="keys for the page, as in --http-keys-file")
    add_draft_flags(parser)
    add_policy_flags(parser)
    parser.add_argument("--concurrent-per-agent", type=int, default=1, metavar="N", help="requests at once (default 1)")
    parser.add_argument(
        "--concurrent-alone",
        type=positive,
        metavar="N",
        help="requests at once at the coordinator's own port (default: as --concurrent-per-agent)",
    )
    parser.add_argument("--pair", default=default.pair, metavar="PAIR", help="packaged pair, or a manifest (.toml)")
    parser.add_argument("--engine", metavar="ENGINE[:RECIPE]", default=default.engine, help="default %(default)s")
    parser.add_argument("--draft-engine", metavar="ENGINE[:RECIPE]", help="of the agents (default: as --engine)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of a forward pass, both ends (default 1)")
    parser.add_argument(
        "--max-context-tokens", type=int, default=2048, metavar="N", help="of one request (default 2048)"
    )
    parser.add_argument(
        "--json", action="store_true", help="print the addresses as one JSON object, when all are ready"
    )
    parser.add_argument("--logs", metavar="DIR", help="keep what the daemons say here (default: dropped at the end)")


def run(args: argparse.Namespace) -> int:
    """Run `multispin up`; return 0 when it was interrupted, which is how it ends."""
    settings = _settings(args)
    last = LAST_PORT - settings.num_agents
    if not 1 <= args.http_port <= last:
        raise ConfigError(
            f"--http-port is {args.http_port}, allowed are 1 to {last}: "
            f"{settings.num_agents} agents take one each from there on, and the coordinator the next"
        )
    prepare_side(settings.pair, "target", settings.engine, terminal_progress())
    prepare_draft(settings, terminal_progress())
    with ExitStack() as stack:
        # SIGTERM as SIGINT, also where a shell ignores that for what it starts in the background.
        for number in (signal.SIGINT, signal.SIGTERM):
            stack.callback(signal.signal, number, signal.signal(number, signal.default_int_handler))
        logs = Path(args.logs or stack.enter_context(tempfile.TemporaryDirectory(prefix="multispin-up-")))
        _make_folder(logs)
        page = args.page or ("texts" if args.http_keys_file is None or args.page_keys_file else "figures")
        up = _Up(settings, logs, args.http_port, args.http_keys_file, page, args.page_keys_file)
        try:
            urls = up.start()
            tell(urls, as_json=args.json, page=None if page == "off" else urls[-1].removesuffix("/v1") + "/page")
            up.watch()
        except KeyboardInterrupt:
            print("stopping", file=sys.stderr if args.json else sys.stdout, flush=True)
        finally:
            up.stop()
    return 0


class _Up:
    """The processes.

    Args:
        settings: of the run.
        logs: folder of what they say.
        http_port: of the first agent.
        keys_file: of the bearer keys, or null.
        page: what the live page shows.
        page_keys_file: of its keys, or null.
    """

    def __init__(
        self,
        settings: RunSettings,
        logs: Path,
        http_port: int,
        keys_file: str | None,
        page: str,
        page_keys_file: str | None,
    ) -> None:
        self._settings = settings
        self._http_port = http_port
        self._keys_file = keys_file
        self._page = page
        self._page_keys_file = page_keys_file
        self._endpoint = "tcp://127.0.0.1:*"
        self._toml = logs / "coordinator.toml"
        self._toml.write_text(coordinator_toml(settings), encoding="utf-8")
        self._coordinator = Supervised("coordinator", self._coordinator_command, logs / "coordinator.log")
        self._agents = [
            Supervised(
                f"agent {index}",
                lambda index=index: self._agent_command(index),  # type: ignore[misc]
                logs / f"agent-{index}.log",
            )
            for index in range(settings.num_agents)
        ]

    def start(self) -> list[str]:
        """Start all; return where the agents answer, once each is welcome, and last where the target does alone.

        Raises:
            DaemonFailed: one would not start; with the end of its log.
        """
        self._coordinator.start()
        self._endpoint = self._coordinator.wait_ready().split(" ", 1)[0]
        for agent in self._agents:
            agent.start()
        urls = [agent.wait_ready() for agent in self._agents]
        return [f"{url}/v1" for url in (*urls, f"http://127.0.0.1:{self._http_port + len(self._agents)}")]

    def watch(self) -> None:
        """Start again what dies, for as long as nobody interrupts.

        Raises:
            DaemonFailed: one died too often.
        """
        while True:
            time.sleep(POLL_S)
            for daemon in (self._coordinator, *self._agents):
                if daemon.has_ended() is not None:
                    daemon.restart()

    def stop(self) -> None:
        """End all: agents first, so that they can tell the coordinator."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # a second one must not leave half of them behind
        with ThreadPoolExecutor(len(self._agents)) as pool:
            list(pool.map(Supervised.stop, self._agents))
        self._coordinator.stop()

    def _coordinator_command(self) -> Sequence[str]:
        command = [*MULTISPIN, "coordinator", "--exit-with-parent", str(os.getpid())]
        command += ["--config", str(self._toml), "--bind", self._endpoint]
        command += ["--http-listen", f"127.0.0.1:{self._http_port + self._settings.num_agents}"]
        command += ["--page", self._page]
        command += [] if self._page_keys_file is None else ["--page-keys-file", self._page_keys_file]
        return command + ([] if self._keys_file is None else ["--http-keys-file", self._keys_file])

    def _agent_command(self, index: int) -> Sequence[str]:
        settings = self._settings
        flags = {
            "--agent-id": f"agent-{index}",
            "--coordinator": self._endpoint,
            "--pair": settings.pair,
            "--engine": settings.draft_engine,
            "--threads": settings.agent_threads,
            **draft_flags(settings),
            "--max-concurrent": settings.concurrent_per_agent,
            "--meter": "shared",
            "--http-listen": f"127.0.0.1:{self._http_port + index}",
        }
        if self._keys_file is not None:
            flags["--http-keys-file"] = self._keys_file
        command = [*MULTISPIN, "agent", "--exit-with-parent", str(os.getpid())]
        for flag, value in flags.items():
            command += [flag, str(value)]
        return command


def tell(urls: list[str], *, as_json: bool, page: str | None = None) -> None:
    """Print where all answer."""
    *agents, target = urls
    if as_json:
        told = {"agents": agents, "target": target} | ({} if page is None else {"page": page})
        print(msgspec.json.encode(told).decode(), flush=True)
        return
    for index, url in enumerate(agents):
        print(f"agent {index}  {url}")
    print(f"target   {target}  (alone, without drafts)")
    if page is not None:
        print(f"page     {page}")
    print("ready; end with Ctrl-C", flush=True)


def _settings(args: argparse.Namespace) -> RunSettings:
    values = {
        "num_agents": args.agents,
        "draft": args.draft,
        "lookup_min_ngram": args.lookup_min_ngram,
        **policy_of(args),
        "concurrent_per_agent": args.concurrent_per_agent,
        "concurrent_alone": args.concurrent_alone or args.concurrent_per_agent,
        "keep_sequences": True,
        "pair": args.pair,
        "engine": args.engine,
        "draft_engine": args.draft_engine or args.engine,
        "coordinator_threads": args.threads,
        "agent_threads": args.threads,
        "max_context_tokens": args.max_context_tokens,
    }
    try:
        return msgspec.convert(values, RunSettings)
    except msgspec.ValidationError as error:
        raise ConfigError(f"flags: {error}") from error


def _make_folder(logs: Path) -> None:
    try:
        logs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--logs {logs} cannot be a folder: {error.strerror}") from error
