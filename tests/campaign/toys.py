"""A small plan, and processes of a group that answer at once, with records that a rule invents."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from multispin.bench.cooperate_protocol import Answer
from multispin.campaign.asking import Ask, Ready, Told, Window
from multispin.campaign.plan import Device, Plan
from multispin.campaign.processes import StartFailed
from multispin.campaign.schedule import SiteKey
from multispin.supervised import DaemonFailed
from multispin_models.language_model import ModelInfo
from multispin_models.records import MeteredEnd, RequestRecord, RoundRecord

PLAN = """
name = "toy"
blocks = 2
warm_up_tokens = 2
attempts = 2
retry_s = 0.0
passes = 1

[models]
engine = "null"
max_context_tokens = 512

[factors]
users = [1, 2]
max_tokens = [6]

[energy]
meter = "modelled:20,5"
idle_s = 0.0
conditions_s = 60.0

[[devices]]
name = "bench"
copies = 2

[[arms]]
name = "target alone"
kind = "centralised"

[[arms]]
name = "core"
kind = "single-node"
drafts = "model"

[[arms]]
name = "fixed"
kind = "cooperation"
policy = "fixed"

[[hypotheses]]
name = "faster"
arm = "fixed"
rival = "target alone"
"""

NULL = ModelInfo(
    name="toy",
    fingerprint="toy",
    vocabulary_hash="toy",
    engine="null",
    engine_version="1",
    recipe="null",
    n_vocab=10,
    n_ctx=512,
    max_sequences=1,
    max_rows=1,
    num_threads=1,
    exact=True,
    memory_bytes=0,
)


def request(ask: Ask, name: str, agent_id: str, tpot_s: float) -> RequestRecord:
    return RequestRecord(
        run_id=ask.run_id,
        id=name,
        wire_request_id=1 << 63,
        agent_id=agent_id,
        prompt_sha256="0",
        num_prompt_tokens=3,
        token_ids=(1, 2, 3),
        text="abc",
        finish="length",
        num_rounds=1,
        num_drafted=2,
        num_accepted=1,
        num_generated=3,
        started_ns=1_000_000_000,
        ended_ns=1_000_000_000 + int(2 * tpot_s * 1e9) + 100_000_000,
        ttft_s=0.1,
        tpot_s=tpot_s,
        e2e_s=0.1 + 2 * tpot_s,
        payload_up_bytes=30,
        payload_down_bytes=60,
        verification="coupled",
    )


def round_(ask: Ask, agent_id: str) -> RoundRecord:
    return RoundRecord(
        run_id=ask.run_id,
        wire_request_id=1 << 63,
        agent_id=agent_id,
        round=1,
        is_open=False,
        num_draft_tokens=2,
        num_accepted=1,
        next_token_id=3,
        sent_ns=1_000_000_000,
        draft_s=0.001,
        round_trip_s=0.01,
        residence_s=0.01,
        verify_s=0.01,
        network_s=0.0,
        batch_rows=3,
        ahead_hit=None,
        payload_up_bytes=30,
        payload_down_bytes=60,
        confidences=(0.5, None),
        clock_bound_s=0.002,
    )


class ToyProcess:
    """Answers at once; dies at the asks that it was told to.

    Args:
        deaths: numbers of asks, counted over all processes, at which it dies; taken out when it does.
        asked: grows by one an ask.
    """

    ready = Ready(target=NULL, draft=NULL)

    def __init__(self, deaths: set[int], asked: list[Ask]) -> None:
        self._deaths = deaths
        self._asked = asked

    def ask(self, ask: Ask, within_s: float) -> Told:
        self._asked.append(ask)
        if len(self._asked) in self._deaths:
            raise DaemonFailed("it died")
        tpot_s = {"alone": 0.02, "core": 0.015}.get(ask.policy, 0.01)
        run = Window(1_000_000_000, 2_000_000_000)
        records = [request(ask, job.job_id, "agent-0", tpot_s) for job in ask.jobs]
        if ask.kind == "single-node":
            return Told(idle=None, run=run, requests=tuple(records), begun_ns=1_000_000_000)
        answer = Answer(
            begun_ns=900_000_000,
            requests=records,
            rounds=[round_(ask, "agent-0")],
            conditions=[],
            meter=MeteredEnd("agent:agent-0", "machine:x", None, "shared"),
            idle=None,
            energy=None,
        )
        return Told(idle=None, run=run, answers=(answer,))


class Toys:
    """Opens toy processes.

    Attributes:
        deaths: as in ToyProcess.
        asked: all that was asked.
        keys: of the groups that were opened.
        no_starts: numbers of openings that fail, counted from 1.
    """

    def __init__(self) -> None:
        self.deaths: set[int] = set()
        self.asked: list[Ask] = []
        self.keys: list[SiteKey] = []
        self.no_starts: set[int] = set()

    @contextmanager
    def __call__(
        self, plan: Plan, key: SiteKey, device: Device, folder: Path, plan_folder: Path
    ) -> Iterator[ToyProcess]:
        self.keys.append(key)
        if len(self.keys) in self.no_starts:
            raise StartFailed("it did not start:\nlog\nwhy")
        yield ToyProcess(self.deaths, self.asked)
