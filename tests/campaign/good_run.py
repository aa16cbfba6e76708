"""A run that counts, written by the writers of real ones from invented records.

Times are those of a box whose blocks drift together. Arms differ by `SPEED` (tokens take that share of the target's own
time on the box's link) and by nothing else, so the truth of every comparison is known.
"""

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from multispin.bench.cooperate_protocol import Answer
from multispin.campaign.asking import Told
from multispin.campaign.cell_files import EnergyWindow, ExternalHeader
from multispin.campaign.cell_folder import CellContent, write_cell
from multispin.campaign.folder import CAMPAIGN, CELLS, PLAN, SCHEDULE, Campaign, Cell, read_schedule
from multispin.campaign.hashing import seal
from multispin.campaign.journal import RunJournal
from multispin.campaign.plan import Cooperation
from multispin.campaign.plan_file import PlanFile, read_plan
from multispin.campaign.schedule import make_schedule, settings_of_cell
from multispin.campaign.tables import conditions_row
from multispin_models.energy.conditions import Conditions
from multispin_models.language_model import ModelInfo
from multispin_models.records import Machine, MeteredEnd, RequestRecord, RoundRecord, RunHeader

S: Final = 1_000_000_000
MACHINE: Final = Machine("box", "invented", 4, 1 << 33, "Linux 6", "3.11", "0.1.0")
TARGET_S: Final = 0.04
SPEED: Final = {"target alone": 1.0, "single node": 0.8, "draft alone": 0.3, "price": 0.6, "fixed": 1.1}
TOKENS: Final = 12
PLAN_TEXT: Final = """\
name = "good"
blocks = {blocks}
seed = 3

[factors]
users = {users}
link = {links}

[energy]
hz = 10.0
idle_s = 2.0

[limits]
max_temperature_c = 80.0

{devices}
[[arms]]
name = "target alone"
kind = "centralised"

[[arms]]
name = "single node"
kind = "single-node"
drafts = "model"

[[arms]]
name = "draft alone"
kind = "local"

[[arms]]
name = "price"
kind = "cooperation"
policy = "price"

[[arms]]
name = "fixed"
kind = "cooperation"
policy = "fixed"

[[hypotheses]]
name = "cooperation is faster"
arm = "price"
rival = "target alone"
"""


def model(name: str) -> ModelInfo:
    digest = f"{sum(name.encode()):04x}" * 16
    return ModelInfo(name, digest, "v" * 64, "onnx", "1", "w8a8", 100, 512, 8, 64, 1, True, 1 << 20)


def make_run(
    path: Path,
    *,
    blocks: int = 5,
    users: tuple[int, ...] = (1,),
    links: tuple[str, ...] = ("none",),
    devices: tuple[str, ...] = ("bench",),
    label: str = "measured",
    speed: Mapping[str, float] = SPEED,
) -> Path:
    """Write a whole run, sealed; return its folder."""
    path.mkdir(parents=True)
    (path / CELLS).mkdir()
    (path / PLAN).write_text(_plan_text(blocks, users, links, devices), encoding="utf-8")
    file = read_plan(path / PLAN)
    schedule = make_schedule(file.plan, file.sha256, {"all": [f"p{number}" for number in range(40)]})
    (path / SCHEDULE).write_bytes(msgspec.json.encode(schedule))
    (path / CAMPAIGN).write_bytes(msgspec.json.encode(_campaign(file)))
    journal = RunJournal(path)
    journal.note("campaign-started")
    rng = np.random.default_rng(5)
    drift = {block: math.exp(value) for block, value in enumerate(np.cumsum(rng.normal(0.0, 0.1, size=blocks)))}
    for cell in schedule.cells:
        journal.note("cell-started", cell.cell_id, attempt=1)
        token_s = TARGET_S * drift[cell.block] * speed[cell.arm] * math.exp(rng.normal(0.0, 0.02))
        token_s *= 1.0 + 0.2 * (int(cell.factors["users"]) - 1)
        digest = write_cell(path, file.campaign_id, cell, content(file, cell, token_s, label))
        journal.note("cell-completed", cell.cell_id, attempt=1, seconds=1.0, sha256=digest)
    journal.note("ended", reason="all is done")
    journal.close()
    reseal(path)
    return path


def _plan_text(blocks: int, users: tuple[int, ...], links: tuple[str, ...], devices: tuple[str, ...]) -> str:
    boxes = "".join(f'[[devices]]\nname = "{name}"\ncopies = 2\n' for name in devices)
    return PLAN_TEXT.format(blocks=blocks, users=list(users), links=json.dumps(links), devices=boxes)


def reseal(path: Path) -> None:
    seal(path, path.parent / "campaign.key")


def _campaign(file: PlanFile) -> Campaign:
    return Campaign(
        campaign_id=file.campaign_id,
        plan_sha256=file.sha256,
        prompts_sha256="0" * 64,
        started_at="2026-11-27T00:00:00Z",
        machine=MACHINE,
        boot_id="boot",
        governor="performance",
        clock_sync=None,
        versions={"multispin": "0.1.0"},
        model_files={"target: t.gguf": "a" * 64},
        target=model("target"),
        draft=model("draft"),
        configuration=msgspec.to_builtins(file.plan),
        devices=tuple(device.name for device in file.plan.devices),
    )


def content(file: PlanFile, cell: Cell, token_s: float, label: str) -> CellContent:
    """Return what a cell left that took so long for a token."""
    arm = next(arm for arm in file.plan.arms if arm.name == cell.arm)
    start_ns = (cell.order + 1) * 1000 * S
    pairs = [_request(cell, name, start_ns, token_s, rounds=isinstance(arm, Cooperation)) for name in cell.prompt_ids]
    requests = [request for request, _ in pairs]
    rounds = [each for _, own in pairs for each in own]
    ended_ns = max(request.ended_ns for request in requests)
    by_agent = {request.agent_id for request in requests}
    answers = tuple(
        Answer(
            begun_ns=start_ns,
            requests=[request for request in requests if request.agent_id == agent],
            rounds=[each for each in rounds if each.agent_id == agent],
            conditions=[],
            meter=MeteredEnd(f"agent:{agent}", "machine:boot", None, "the driver's machine is metered"),
            idle=None,
            energy=None,
        )
        for agent in sorted(by_agent)
    )
    quality = dict.fromkeys(cell.prompt_ids, 1.5) if cell.arm == "draft alone" else {}
    return CellContent(
        header=_header(file, cell),
        told=Told(idle=None, run=None, answers=answers, quality_nll=quality),  # type: ignore[arg-type]
        tasks={name: "chat" if int(name[1:]) % 2 else "code" for name in cell.prompt_ids},
        due_s={},
        requests_per_user=1,
        is_queued=False,
        elsewhere=frozenset(),
        conditions=[_conditions(start_ns - 2 * S, "before"), _conditions(ended_ns, "after")],
        energy=[
            _window("idle", start_ns - 2 * S, start_ns, 2.0, label),
            _window("run", start_ns, ended_ns, 5.0, label),
        ],
        log=b"nothing to say\n",
    )


def _request(
    cell: Cell, name: str, start_ns: int, token_s: float, *, rounds: bool
) -> tuple[RequestRecord, list[RoundRecord]]:
    number = int(name[1:])
    agent, run_id = f"agent-{number % 2}", f"run-{cell.cell_id}"
    link_s = 0.02 if cell.factors.get("link") == "20ms" else 0.001
    ttft_s = 0.1 + link_s + token_s
    text = tuple((7 * number + 3 * position + (cell.arm == "draft alone")) % 100 for position in range(TOKENS))
    found: list[RoundRecord] = []
    if rounds:
        found = [_round(cell, name, index, start_ns, token_s, link_s) for index in range(4)]
    e2e_s = ttft_s + (TOKENS - 1) * (token_s + (0.0 if cell.arm == "draft alone" else 0.1 * link_s))
    span_ns = round(e2e_s * S)
    record = RequestRecord(
        run_id=run_id,
        id=name,
        wire_request_id=number + 1,
        agent_id=agent,
        prompt_sha256="p" * 64,
        num_prompt_tokens=9,
        token_ids=text,
        text="text",
        finish="length",
        num_rounds=sum(not each.is_open for each in found),
        num_drafted=sum(each.num_draft_tokens for each in found),
        num_accepted=sum(each.num_accepted for each in found),
        num_generated=TOKENS,
        started_ns=start_ns,
        ended_ns=start_ns + span_ns,
        ttft_s=ttft_s,
        tpot_s=(span_ns / S - ttft_s) / (TOKENS - 1),
        e2e_s=span_ns / S,
        payload_up_bytes=0 if cell.arm == "draft alone" else 40 * TOKENS,
        payload_down_bytes=0 if cell.arm == "draft alone" else 30 * TOKENS,
        energy_reason="its joules are those of the window",
        verification="coupled",
    )
    return record, found


def _round(cell: Cell, name: str, index: int, start_ns: int, token_s: float, link_s: float) -> RoundRecord:
    number = int(name[1:])
    drafted = 0 if index == 0 else 4
    accepted = 0 if index == 0 else (number + index) % 5
    parts = {
        "draft_wait_s": token_s,
        "rewind_s": 0.001,
        "agent_queue_s": 0.002,
        "uplink_s": link_s / 2,
        "coordinator_queue_s": 0.003,
        "verify_s": token_s / 2,
        "downlink_s": link_s / 2,
    }
    return RoundRecord(
        run_id=f"run-{cell.cell_id}",
        wire_request_id=number + 1,
        agent_id=f"agent-{number % 2}",
        round=index,
        is_open=index == 0,
        num_draft_tokens=drafted,
        num_accepted=accepted,
        next_token_id=1,
        sent_ns=start_ns + index * S // 100,
        draft_s=token_s,
        round_trip_s=link_s + token_s / 2 + 0.003,
        residence_s=token_s / 2 + 0.003,
        network_s=link_s,
        batch_rows=5,
        ahead_hit=None,
        payload_up_bytes=120,
        payload_down_bytes=90,
        confidences=(0.5,) * drafted,
        round_s=math.fsum(parts.values()),
        clock_offset_ns=0,
        clock_bound_s=0.0005,
        num_sends=1,
        **parts,
    )


def _header(file: PlanFile, cell: Cell) -> RunHeader | ExternalHeader:
    arm = next(arm for arm in file.plan.arms if arm.name == cell.arm)
    settings: Mapping[str, Any] = settings_of_cell(arm, cell.factors)
    return RunHeader(
        run_id=f"run-{cell.cell_id}",
        started_at="2026-11-27T00:00:00Z",
        machine=MACHINE,
        boot_id="boot",
        governor="performance",
        command_line=("multispin", "campaign", "run"),
        configuration={},
        seed=cell.seed,
        temperature=float(cell.factors["temperature"]),
        num_draft_tokens=int(settings["num_draft_tokens"]),
        policy=str(settings["policy"]) if isinstance(arm, Cooperation) else "alone",
        schedule=str(settings["schedule"]),
        verification=str(settings["verification"]),
        target=model("target"),
        draft=model("draft"),
        exact=True,
        energy_meters=(),
    )


def _window(kind: Any, started_ns: int, ended_ns: int, power_w: float, label: Any) -> EnergyWindow:
    return EnergyWindow(
        end="machine",
        domain="machine:boot",
        kind=kind,
        started_ns=started_ns,
        ended_ns=ended_ns,
        energy_j=power_w * (ended_ns - started_ns) / S,
        reason=None,
        label=label,
        meter="replay:power.csv" if label == "replayed" else "invented",
        covers="module",
        native_hz=10.0,
        achieved_hz=9.9,
        largest_gap_s=0.11,
        coverage=1.0,
        num_samples=20,
    )


def _conditions(t_ns: int, when: Any) -> Any:
    found = Conditions(
        when=when,
        t_ns=t_ns,
        wall=(datetime(2026, 11, 27, tzinfo=UTC) + timedelta(microseconds=t_ns // 1000)).isoformat(),
        governors=("performance",),
        frequencies_hz=(2.4e9,),
        max_frequencies_hz=(2.4e9,),
        temperatures_c={"cpu": 50.0 + (when == "after") + (t_ns // S % 7)},
        fans_rpm={},
        fans_pwm={},
        cooling={},
        throttled=(),
        throttle_events={"core": 3},
        power_mode=None,
        links=(),
        load_1min=1.0,
        machine_busy_s=1.0,
        own_busy_s=1.0,
        available_memory_bytes=1 << 32,
        faults=(),
    )
    return conditions_row("machine", found)


def change_json(path: Path, **changes: Any) -> None:
    """Change fields of a file of JSON."""
    values = msgspec.json.decode(path.read_bytes())
    path.write_bytes(msgspec.json.encode(values | changes))


def some_cell(path: Path, arm: str, place: int = 0) -> Cell:
    """Return a cell of an arm, the first by default."""
    return [cell for cell in read_schedule(path).cells if cell.arm == arm][place]
