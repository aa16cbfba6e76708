"""The processes of a group: coordinator and agents on the null engine, and the users of an external server."""

import json
import socket
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from multispin.bench.cooperate_protocol import AgentPlace
from multispin.campaign.asking import Ask, ExternalStart, SiteStart
from multispin.campaign.groups import EXTERNAL, SITE
from multispin.campaign.processes import GroupProcess, StartFailed
from multispin.local_run import RunSettings
from multispin.supervised import DaemonFailed
from multispin_models.channel import Security
from multispin_models.prompts import Job
from multispin_models.sampling import Sampling

JOBS = tuple(Job(f"p{n}", f"prompt {n}", 8, Sampling(), ignore_end=True, task="t") for n in range(4))
WITHIN_S = 60.0


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GroupProcess]:
    folder = tmp_path_factory.mktemp("site")
    start = SiteStart(
        settings=RunSettings(num_agents=2, concurrent_per_agent=2, engine="null", draft_engine="null"),
        folder=str(folder),
        bind="tcp://127.0.0.1:*",
        reach=None,
        security=Security(),
        # The second one as if it were elsewhere: started by other words, known by its output alone.
        agents=(AgentPlace("here"), AgentPlace("there", ("env", "-u", "NOTHING", "sh", "-c", 'eval "$*"', "sh"))),
        cpus=None,
    )
    with GroupProcess(SITE, start, folder / "site.log") as process:
        yield process


def test_users_go_round_the_agents_and_every_arm_writes_the_same_text(site: GroupProcess) -> None:
    assert site.ready.target is not None
    texts = set()
    for policy, length in (("alone", 0), ("fixed", 3), ("price", 0), ("lookup", 0)):
        told = site.ask(
            Ask(run_id="r", kind="agents", policy=policy, length=length, jobs=JOBS, users=2, idle_s=0.05), WITHIN_S
        )
        by_agent = {answer.meter.end: sorted(record.id for record in answer.requests) for answer in told.answers}
        assert by_agent == {"agent:here": ["p0", "p1"], "agent:there": ["p2", "p3"]}
        records = sorted((each for answer in told.answers for each in answer.requests), key=lambda each: each.id)
        texts.add(tuple(record.token_ids for record in records))
        assert told.idle is not None
        assert (told.idle.ended_ns - told.idle.started_ns) == 50_000_000
        assert told.run.ended_ns > told.run.started_ns >= told.idle.ended_ns
        drafted = sum(record.num_drafted for record in records)
        assert (drafted > 0) == (policy == "fixed") or policy == "price"
    alone = site.ask(Ask(run_id="r", kind="single-node", policy="core", length=3, jobs=JOBS, users=2), WITHIN_S)
    records = sorted(alone.requests, key=lambda each: each.id)
    texts.add(tuple(record.token_ids for record in records))
    assert len(texts) == 1
    assert all(record.num_accepted > 0 and record.agent_id == "coordinator" for record in records)
    # The second request of each user comes when the first ones are done.
    by_id = {record.id: record for record in records}
    assert by_id["p1"].started_ns >= by_id["p0"].ended_ns - 1_000_000


def test_the_draft_model_alone_writes_another_text_and_its_quality_is_told(site: GroupProcess) -> None:
    told = site.ask(Ask(run_id="r", kind="local", jobs=JOBS, users=2), WITHIN_S)
    assert set(told.quality_nll) == {job.job_id for job in JOBS}
    # The null engine scores 1 at the token that follows, 0 at 49,151 others: ln(e + 49151) - 1 = 9.803 if it is that.
    assert all(nll is not None and 9.8 < nll < 10.81 for nll in told.quality_nll.values())
    assert {record.num_generated for answer in told.answers for record in answer.requests} == {8}
    assert all(answer.rounds == [] for answer in told.answers)


def test_an_agent_elsewhere_looks_at_its_box_and_one_here_does_not(site: GroupProcess) -> None:
    ask = Ask(run_id="r", kind="agents", policy="alone", jobs=JOBS, users=2, conditions_s=30.0)
    looked = {answer.meter.end: answer.conditions for answer in site.ask(ask, WITHIN_S).answers}
    assert looked["agent:here"] == []
    assert [record.conditions.when for record in looked["agent:there"]] == ["before", "after"]
    [there] = site.ask(Ask(run_id="", kind="look"), WITHIN_S).answers
    assert {record.end for record in there.conditions} == {"agent:there"}
    assert there.requests == []


def test_requests_come_when_they_are_due(site: GroupProcess) -> None:
    due = {"p0": 0.0, "p1": 0.9, "p2": 0.3, "p3": 0.6}
    told = site.ask(Ask(run_id="r", kind="agents", policy="alone", jobs=JOBS, users=2, due_s=due), WITHIN_S)
    for answer in told.answers:
        for record in answer.requests:
            assert record.started_ns >= answer.begun_ns + int(due[record.id] * 1e9)


def test_the_death_of_an_agent_ends_the_site_and_all_that_it_started(tmp_path: Path) -> None:
    start = SiteStart(
        settings=RunSettings(engine="null", draft_engine="null"),
        folder=str(tmp_path),
        bind="tcp://127.0.0.1:*",
        reach=None,
        security=Security(),
        agents=(AgentPlace("a"),),
        cpus=None,
    )
    with GroupProcess(SITE, start, tmp_path / "site.log") as process:
        agents = psutil.Process(process.pid).children()
        assert len(agents) == 1
        agents[0].kill()
        with pytest.raises(DaemonFailed, match="agent a said b''"):
            process.ask(Ask(run_id="r", kind="agents", policy="alone", jobs=JOBS[:1], users=1), WITHIN_S)
    assert psutil.wait_procs(agents, timeout=10)[1] == []
    assert "Fatal" not in (tmp_path / "site.log").read_text()  # a thread waited for more input


def test_a_site_that_cannot_start_says_why(tmp_path: Path) -> None:
    start = SiteStart(
        settings=RunSettings(engine="nul", draft_engine="null"),
        folder=str(tmp_path),
        bind="tcp://127.0.0.1:*",
        reach=None,
        security=Security(),
        agents=(AgentPlace("a"),),
        cpus=None,
    )
    with pytest.raises(StartFailed, match=r"ended before it was ready:(.|\n)*nul"):
        GroupProcess(SITE, start, tmp_path / "site.log")


class Toy(BaseHTTPRequestHandler):
    """A server that says "ab" twice, as llama.cpp's does; it is asked for whatever it is given."""

    asked: list[dict[str, Any]]
    fails = False

    def log_message(self, *args: object) -> None: ...

    def do_GET(self) -> None:
        self._send(json.dumps({"data": [{"id": "toy-model"}]}).encode())

    def do_POST(self) -> None:
        self.asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        if self.fails:
            self.send_error(503)
            return
        piece = {"choices": [{"delta": {"content": "ab"}, "finish_reason": None}]}
        last = {
            "choices": [{"delta": {}, "finish_reason": "length"}],
            "usage": {"completion_tokens": 4, "prompt_tokens": 9},
            "timings": {"draft_n": 3, "draft_n_accepted": 2},
        }
        events = [b"data: " + json.dumps(each).encode() + b"\n\n" for each in (piece, piece, last)]
        self._send(b"".join(events) + b"data: [DONE]\n\n")

    def _send(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def toy_server() -> Iterator[tuple[type[Toy], str]]:
    kind = type("OwnToy", (Toy,), {"asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield kind, f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    server.server_close()
    thread.join()


def external(url: str, log: Path, **changes: Any) -> ExternalStart:
    plain: dict[str, Any] = {
        "command": None,
        "cpus": None,
        "model": None,
        "key_file": None,
        "body": {"cache_prompt": False},
    }
    return ExternalStart(url=url, log=str(log), **{**plain, "ready_s": 20.0, "ignores_end": True, **changes})


def test_an_external_server_is_asked_the_same_prompts_and_a_refusal_is_an_error(
    toy_server: tuple[type[Toy], str], tmp_path: Path
) -> None:
    kind, url = toy_server
    with GroupProcess(EXTERNAL, external(url, tmp_path / "server.log"), tmp_path / "users.log") as process:
        assert process.ready.model == "toy-model"
        told = process.ask(Ask(run_id="r", kind="external", jobs=JOBS, users=2, idle_s=0.01), WITHIN_S)
        kind.fails = True
        failed = process.ask(Ask(run_id="r", kind="external", jobs=JOBS[:1], users=1), WITHIN_S)
    assert sorted(record.id for record in told.requests) == ["p0", "p1", "p2", "p3"]
    for record in told.requests:
        assert (record.text, record.num_generated, record.num_prompt_tokens, record.finish) == ("abab", 4, 9, "length")
        assert (record.num_drafted, record.num_accepted, record.token_ids) == (3, 2, ())
        assert record.ttft_s is not None
        assert record.ttft_s <= record.e2e_s
    prompts = sorted(each["messages"][0]["content"] for each in kind.asked[:4])
    assert prompts == [job.prompt for job in JOBS]
    assert {(each["max_tokens"], each["ignore_eos"], each["model"]) for each in kind.asked} == {(8, True, "toy-model")}
    assert {each["cache_prompt"] for each in kind.asked} == {False}
    [refused] = failed.requests
    assert refused.finish == "error"
    assert "503" in str(refused.error)


def test_a_server_that_the_plan_starts_ends_with_its_users(tmp_path: Path) -> None:
    script = tmp_path / "serve.py"
    script.write_text(
        "import json, sys\n"
        "from http.server import BaseHTTPRequestHandler, HTTPServer\n"
        "class H(BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        body = json.dumps({'data': [{'id': 'started'}]}).encode()\n"
        "        self.send_response(200); self.send_header('content-length', str(len(body))); self.end_headers()\n"
        "        self.wfile.write(body)\n"
        "HTTPServer(('127.0.0.1', int(sys.argv[1])), H).serve_forever()\n"
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}/v1"
    start = external(url, tmp_path / "server.log", command=(sys.executable, str(script), str(port)))
    with GroupProcess(EXTERNAL, start, tmp_path / "users.log") as process:
        assert process.ready.model == "started"
        [server] = psutil.Process(process.pid).children()
        psutil.Process(process.pid).kill()
        assert psutil.wait_procs([server], timeout=10)[1] == []
