"""What the driver says to the processes of a group, and what it hears: a line of JSON each, on their input and output.

    driver --SiteStart or ExternalStart--> process        "ready" Ready
    driver --Ask-------------------------> process        "done" Told

A process ends when its input does, or with the driver.
"""

from typing import Literal

from msgspec import Struct

from multispin.bench.cooperate_protocol import AgentPlace, Answer
from multispin.local_run import RunSettings
from multispin_models.channel import Security
from multispin_models.language_model import ModelInfo
from multispin_models.prompts import Job
from multispin_models.records import RequestRecord

__all__ = ["Ask", "ExternalStart", "Ready", "SiteStart", "Told", "Window"]


class SiteStart(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A coordinator with its agents.

    Attributes:
        settings: `concurrent_per_agent` is the most users of one agent.
        folder: for the agents' logs.
        bind, reach, security, agents: as in `cooperate_site.Where`.
        cpus: of the coordinator; null for all.
    """

    settings: RunSettings
    folder: str
    bind: str
    reach: str | None
    security: Security
    agents: tuple[AgentPlace, ...]
    cpus: tuple[int, ...] | None


class ExternalStart(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Users of an external server.

    Attributes:
        url: where it is asked.
        command: that starts it; null if it runs.
        cpus: of the command; null for all.
        log: file for what the command says.
        model, key_file, ready_s, body, ignores_end: as in the arm.
    """

    url: str
    command: tuple[str, ...] | None
    cpus: tuple[int, ...] | None
    log: str
    model: str | None
    key_file: str | None
    ready_s: float
    body: dict[str, bool | int | float | str]
    ignores_end: bool


class Ready(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All is loaded.

    Attributes:
        target, draft: as served; null of an external server.
        model: as an external server calls it.
    """

    target: ModelInfo | None = None
    draft: ModelInfo | None = None
    model: str = ""


class Ask(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A cell.

    Attributes:
        run_id: in its records.
        kind: "agents" serve; the coordinator alone writes ("single-node"); drafts are the text ("local"); "external";
            or nothing is asked, and boxes elsewhere are looked at ("look").
        policy, length: of the control; "core" with L of single-node.
        jobs: user after user, `requests_per_user` each.
        users: served at once.
        due_s: when each job comes, by id; empty for a user's next when its last is done.
        idle_s: asked nothing for so long before.
        conditions_s: how often agents elsewhere look at their boxes.
    """

    run_id: str
    kind: Literal["agents", "single-node", "local", "external", "look"]
    policy: str = "price"
    length: int = 0
    jobs: tuple[Job, ...] = ()
    users: int = 0
    due_s: dict[str, float] = {}
    idle_s: float = 0.0
    conditions_s: float = 10.0


class Window(Struct, frozen=True, forbid_unknown_fields=True):
    """A stretch of the monotonic time of the driver's machine."""

    started_ns: int
    ended_ns: int


class Told(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What became of it.

    Attributes:
        idle: when nothing was asked; null if that was not asked for.
        run: from the first request's start to the last one's end.
        answers: of the agents.
        requests: written without agents.
        begun_ns: when the first of these could come.
        quality_nll: of texts that are not the target's, by job; null of one that has no token.
    """

    idle: Window | None
    run: Window
    answers: tuple[Answer, ...] = ()
    requests: tuple[RequestRecord, ...] = ()
    begun_ns: int = 0
    quality_nll: dict[str, float | None] = {}
