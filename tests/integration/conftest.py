"""The command line in processes of its own, waiting for what they do, and what the target writes alone."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from multispin.local_run import RunSettings
from multispin_models.cache import silent
from multispin_models.engines import Loaded, load_side, prepare_side
from multispin_models.manifest import load_pair, resolve
from multispin_models.prompts import Job, JobDefaults, encode_prompt, read_jobs
from multispin_models.target_alone import generate_alone

MULTISPIN = [sys.executable, "-m", "multispin"]
PATIENCE_S = 60.0  # a busy machine; what is waited for takes a second or a few

# A shell that starts the tests in the background has them ignore SIGINT, and what they start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass(frozen=True)
class Ran:
    """A command that has ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def summary(self) -> dict[str, Any]:
        """What --json printed: one object on one line, and nothing else."""
        [line] = self.stdout.splitlines()
        summary: dict[str, Any] = json.loads(line)
        return summary

    @property
    def token_ids(self) -> dict[str, list[int]]:
        return {request["id"]: request["token_ids"] for request in self.summary["per_request"]}


RunMultispin = Callable[..., Ran]


@pytest.fixture(scope="session")
def run_multispin() -> RunMultispin:
    """Return run(*arguments, stdin="", cwd=None): `multispin` to its end."""

    def run(*arguments: object, stdin: str = "", cwd: Path | None = None) -> Ran:
        done = subprocess.run(
            [*MULTISPIN, *map(str, arguments)],
            capture_output=True,
            text=True,
            input=stdin,
            cwd=cwd,
            timeout=4 * PATIENCE_S,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    return run


def wait_until(what: str, holds: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
    """Return when a condition holds; fail with its name when it never does."""
    deadline_s = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < deadline_s, f"waited {patience_s} s in vain: {what}"
        time.sleep(0.01)


@pytest.fixture(scope="session", name="wait_until")
def wait_until_fixture() -> Callable[..., None]:
    return wait_until


class Process:
    """A `multispin` that runs, with its output in files.

    Args:
        arguments: of the command line.
        folder: for stdout and stderr.
        stdin: text that it reads.
    """

    def __init__(self, arguments: list[str], folder: Path, stdin: str = "") -> None:
        self._stdout, self._stderr = folder / "stdout", folder / "stderr"
        self._seen: set[psutil.Process] = set()
        (folder / "stdin").write_text(stdin)
        with (folder / "stdin").open() as read, self._stdout.open("w") as out, self._stderr.open("w") as err:
            self.popen = subprocess.Popen([*MULTISPIN, *arguments], stdin=read, stdout=out, stderr=err)

    @property
    def stdout(self) -> str:
        return self._stdout.read_text()

    @property
    def stderr(self) -> str:
        return self._stderr.read_text()

    def wait(self, patience_s: float = PATIENCE_S) -> Ran:
        """Return what it left when it has ended by itself."""
        return Ran(self.popen.wait(patience_s), self.stdout, self.stderr)

    def wait_ready(self) -> str:
        """Return the endpoint of a coordinator once it serves."""
        wait_until("ready line", lambda: self.stdout.endswith("\n") or self.popen.poll() is not None)
        assert self.stdout.startswith("ready "), self.stderr
        return self.stdout.split(" ")[1]

    def daemons(self) -> dict[str, psutil.Process]:
        """Return the living children of a local run by name: "coordinator", "agent-0"..."""
        found = {}
        for child in psutil.Process(self.popen.pid).children():
            try:
                command = child.cmdline()
            except psutil.NoSuchProcess:
                continue
            if "coordinator" in command:
                found["coordinator"] = child
            elif "--agent-id" in command:
                found[command[command.index("--agent-id") + 1]] = child
        self._seen |= set(found.values())
        return found

    def kill(self) -> None:
        """End it and every daemon of it that was seen or is there, whatever still runs."""
        if self.popen.poll() is None:
            self._seen |= set(psutil.Process(self.popen.pid).children(recursive=True))
            self.popen.kill()
            self.popen.wait()
        for child in self._seen:
            if child.is_running():  # the very process: psutil compares its start
                child.kill()


StartMultispin = Callable[..., Process]


@pytest.fixture
def start_multispin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartMultispin]:
    """Return start(*arguments, stdin=""): `multispin` in the background; what still runs at the end is killed."""
    started: list[Process] = []

    def start(*arguments: object, stdin: str = "") -> Process:
        process = Process([str(argument) for argument in arguments], tmp_path_factory.mktemp("process"), stdin)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()


def is_alive(process: psutil.Process) -> bool:
    """Return whether a process still runs; one that has ended and was not waited for does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(scope="session", name="is_alive")
def is_alive_fixture() -> Callable[[psutil.Process], bool]:
    return is_alive


class TargetAlone:
    """The target, loaded once, generating one token a pass: what every run's text is compared with.

    Args:
        engine: of the runs.
    """

    def __init__(self, engine: str) -> None:
        self.loaded: Loaded = load_side(
            RunSettings().pair,
            "target",
            engine,
            n_ctx=512,
            max_sequences=1,
            max_rows=64,
            num_threads=1,  # two wait for each other by spinning, for long on a busy machine
            progress=silent,
        )
        self._known: dict[Job, list[int]] = {}

    def token_ids(self, job: Job) -> list[int]:
        """Return the whole text of a job; a stop string does not cut it."""
        if job not in self._known:
            tokenizer = self.loaded.tokenizer
            ends = frozenset[int]() if job.ignore_end else tokenizer.end_token_ids
            prompt_ids = encode_prompt(tokenizer, job.prompt)
            self._known[job] = generate_alone(self.loaded.model, prompt_ids, job.sampling, job.max_tokens, ends)
        return self._known[job]

    def of_file(self, path: Path, defaults: JobDefaults) -> dict[str, list[int]]:
        """Return the texts of a file of prompts by id."""
        return {job.job_id: self.token_ids(job) for job in read_jobs(str(path), defaults)}

    def text(self, token_ids: list[int]) -> str:
        return b"".join(map(self.loaded.tokenizer.token_bytes, token_ids)).decode("utf-8", "replace")


@pytest.fixture(scope="session")
def target_alone() -> Iterator[TargetAlone]:
    """The target on the engine that is the default of all commands; the draft is on this machine too from here on."""
    prepare_side(RunSettings().pair, "draft", RunSettings().draft_engine, silent)
    alone = TargetAlone(RunSettings().engine)
    yield alone
    alone.loaded.model.close()


@pytest.fixture(scope="session")
def llamacpp_target_alone() -> Iterator[TargetAlone]:
    alone = TargetAlone("llamacpp")
    yield alone
    alone.loaded.model.close()


@pytest.fixture(scope="session")
def default_pair_files() -> tuple[Path, Path]:
    """Return the default target as served and as shipped."""
    resolved = resolve(load_pair(), silent)
    return resolved.target.path, resolved.target.source_path
