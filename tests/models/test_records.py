"""Records: there and back, torn files, hand-worked figures, and joules that are counted once."""

import json
import logging
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multispin_models.energy import MeterInfo, PowerSample, Rail, energy_between
from multispin_models.energy.meter import Label
from multispin_models.errors import ConfigError
from multispin_models.language_model import ModelInfo
from multispin_models.records import (
    EnergyRecord,
    FieldNotes,
    JsonlWriter,
    MeteredEnd,
    RecordError,
    RequestRecord,
    RoundRecord,
    RunHeader,
    describe_machine,
    energy_domain,
    energy_record,
    machine,
    notes_from_flags,
    read_boot_id,
    read_governor,
    read_jsonl,
    reliability,
    run_energy,
    summarize,
    write_jsonl,
)

S = 1_000_000_000
MODEL = ModelInfo("m", "f" * 64, "v" * 64, "llamacpp", "0.3.36", "BF16", 49152, 2048, 8, 64, 1, True, 1 << 28)
RAPL = MeterInfo("rapl", "energy", "socket", "measured", (Rail("package-0", in_total=True),), 1000.0, "no memory")


def header(*ends: MeteredEnd, **changes: Any) -> RunHeader:
    return msgspec.structs.replace(
        RunHeader(
            run_id="r",
            started_at="2026-01-01T00:00:00.000+00:00",
            machine=describe_machine(),
            boot_id="b",
            governor=None,
            command_line=("multispin", "local"),
            configuration={"threads": 1},
            seed=2**64 - 1,
            temperature=0.8,
            num_draft_tokens=4,
            policy="fixed",
            schedule="continuous",
            verification="coupled",
            target=MODEL,
            draft=MODEL,
            exact=True,
            energy_meters=ends,
        ),
        **changes,
    )


def request(**changes: Any) -> RequestRecord:
    """10 tokens in 3 rounds of 4 drafted, 6 accepted, from 1 s to 3 s."""
    return msgspec.structs.replace(
        RequestRecord(
            run_id="r",
            id="q1",
            wire_request_id=2**64 - 1,
            agent_id="a",
            prompt_sha256="0" * 64,
            num_prompt_tokens=7,
            token_ids=tuple(range(10)),
            text="häuser\n",
            finish="length",
            num_rounds=3,
            num_drafted=12,
            num_accepted=6,
            num_generated=10,
            started_ns=S,
            ended_ns=3 * S,
            ttft_s=0.2,
            tpot_s=0.2,
            e2e_s=2.0,
            payload_up_bytes=300,
            payload_down_bytes=150,
        ),
        **changes,
    )


def a_round(**changes: Any) -> RoundRecord:
    return msgspec.structs.replace(
        RoundRecord(
            run_id="r",
            wire_request_id=2**64 - 1,
            agent_id="a",
            round=1,
            is_open=False,
            num_draft_tokens=4,
            num_accepted=2,
            next_token_id=5,
            sent_ns=S,
            draft_s=0.01,
            round_trip_s=0.03,
            residence_s=0.02,
            verify_s=0.018,
            network_s=0.01,
            batch_rows=5,
            ahead_hit=None,
            payload_up_bytes=30,
            payload_down_bytes=20,
        ),
        **changes,
    )


def energy(end: str, energy_j: float | None, length_s: int = 10, reason: str | None = None) -> EnergyRecord:
    return EnergyRecord(
        run_id="r",
        end=end,
        started_ns=0,
        ended_ns=length_s * S,
        energy_j=energy_j,
        reason=reason,
        achieved_hz=40.0,
        largest_gap_s=0.025,
        coverage=1.0,
        num_samples=400,
    )


def test_every_kind_of_record_comes_back_from_its_file(tmp_path: Path) -> None:
    for number, record in enumerate(
        [header(MeteredEnd("machine", "d", RAPL, None)), request(), a_round(), energy("a", 1.0)]
    ):
        path = tmp_path / f"{number}.jsonl"
        write_jsonl(path, [record, record])
        content = read_jsonl(path, type(record))
        assert content.records == [record, record]
        assert content.torn is None


@given(st.text(), st.lists(st.text(), max_size=5))
def test_any_text_stays_on_one_line_of_json(text: str, command_line: list[str]) -> None:
    encodable = text.encode("utf-8", "replace").decode()
    record = request(text=encodable, error=encodable)
    line = msgspec.json.encode(record)
    assert b"\n" not in line
    assert json.loads(line)["text"] == encodable


def test_a_torn_last_line_is_reported_and_left_out(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    whole = msgspec.json.encode(request()) + b"\n"
    for kept in range(1, len(whole)):
        path.write_bytes(whole + whole[:kept])
        content = read_jsonl(path, RequestRecord)
        assert content.records == [request()]
        assert content.torn is not None
        assert f"requests.jsonl line 2 was cut off after {kept} bytes" in content.torn


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{}", "missing required field `run_id`"),
        (b"not json", "malformed"),
        (b"", "truncated"),
        (b'\xff"', "malformed"),
        (msgspec.json.encode(a_round()).replace(b'"round":1', b'"round":-1'), r"`int` >= 0 - at `\$.round`"),
        (msgspec.json.encode(a_round()).replace(b'"round":1', b'"sound":1'), "unknown field `sound`"),
    ],
)
def test_a_bad_line_is_an_error_that_names_file_and_line(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "rounds.jsonl"
    path.write_bytes(msgspec.json.encode(a_round()) + b"\n" + line + b"\n")
    with pytest.raises(RecordError, match=rf"rounds\.jsonl line 2 is no RoundRecord: .*{message}"):
        read_jsonl(path, RoundRecord)


def test_a_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"x\.jsonl cannot be read: No such file"):
        read_jsonl(tmp_path / "x.jsonl", RoundRecord)


@pytest.mark.parametrize("torn", [b"", b'{"run_id"', b"x" * 200_000])
def test_a_writer_goes_on_behind_the_last_whole_line(
    tmp_path: Path, torn: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "rounds.jsonl"
    with JsonlWriter(path) as writer:
        writer.append(a_round(round=1))
    with path.open("ab") as file:
        file.write(torn)
    with caplog.at_level(logging.WARNING), JsonlWriter(path) as writer:
        writer.append(a_round(round=2))
    assert [record.round for record in read_jsonl(path, RoundRecord).records] == [1, 2]
    assert ("torn last line" in caplog.text) == bool(torn)


def test_a_record_is_in_the_kernels_hands_when_append_returns(tmp_path: Path) -> None:
    path = tmp_path / "rounds.jsonl"
    (tmp_path / "record.json").write_bytes(msgspec.json.encode(a_round()))
    code = (
        "import os, pathlib, msgspec; from multispin_models.records import JsonlWriter, RoundRecord; "
        "record = msgspec.json.decode(pathlib.Path('record.json').read_bytes(), type=RoundRecord); "
        "JsonlWriter(pathlib.Path('rounds.jsonl')).append(record); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False).returncode == -9
    assert read_jsonl(path, RoundRecord).records == [a_round()]


def test_records_of_another_schema_are_refused(tmp_path: Path) -> None:
    line = msgspec.json.encode(header()).replace(b'"schema_version":1', b'"schema_version":2')
    path = tmp_path / "run.jsonl"
    path.write_bytes(line + b"\n")
    with pytest.raises(RecordError, match="schema 2, this version of multispin reads 1"):
        read_jsonl(path, RunHeader)


def test_the_figures_are_the_hand_worked_ones() -> None:
    second = request(
        id="q2", wire_request_id=5, num_rounds=2, num_drafted=8, num_accepted=1, num_generated=4, started_ns=2 * S,
        ended_ns=5 * S, ttft_s=0.4, tpot_s=0.3, e2e_s=3.0, payload_up_bytes=120, payload_down_bytes=88,
    )  # fmt: skip
    failed = request(
        id="q3", wire_request_id=6, num_rounds=0, num_drafted=0, num_accepted=0, num_generated=0, started_ns=S,
        token_ids=(), ended_ns=S, ttft_s=None, tpot_s=None, e2e_s=0.0, payload_up_bytes=0, payload_down_bytes=0,
        finish="error", error="no",
    )  # fmt: skip
    rounds = [a_round(round=n) for n in range(4)] + [a_round(round=n, wire_request_id=5) for n in range(3)]
    summary = summarize(
        header(MeteredEnd("machine", "d", RAPL, None)), [request(), second, failed], rounds, 0, [energy("machine", 7.0)]
    )
    assert (summary.requests, summary.completed, summary.tokens, summary.text_differences) == (3, 2, 14, 0)
    assert summary.acceptance_rate == 7 / 20
    assert summary.mean_acceptance_length == 1 + 7 / 5
    assert summary.goodput_tokens_per_s == 14 / 4.0  # from 1 s to 5 s
    assert summary.ttft_s_median == pytest.approx(0.3)
    assert summary.tpot_s_median == pytest.approx(0.25)
    assert summary.payload_up_bytes_per_token == 30.0
    assert summary.payload_down_bytes_per_token == 17.0
    assert summary.energy_j_per_token == 0.5
    assert summary.energy_label == "measured"
    assert summary.exact is True
    first, _, last = summary.per_request
    assert (first.id, first.tokens, first.acceptance_rate, first.mean_acceptance_length) == ("q1", 10, 0.5, 3.0)
    assert (first.goodput_tokens_per_s, first.payload_up_bytes_per_token) == (5.0, 30.0)
    assert (last.goodput_tokens_per_s, last.acceptance_rate, last.ttft_s, last.error) == (None, None, None, "no")


def test_the_json_has_the_keys_that_programs_count_on() -> None:
    summary = json.loads(msgspec.json.encode(summarize(header(), [request()], [], None)))
    assert list(summary) == [
        "requests", "completed", "tokens", "text_differences", "acceptance_rate", "mean_acceptance_length",
        "goodput_tokens_per_s", "ttft_s_median", "tpot_s_median", "payload_up_bytes_per_token",
        "payload_down_bytes_per_token", "energy_j_per_token", "energy_label", "energy_reason",
        "energy_agent_j_per_token", "energy_agent_label", "energy_agent_reason",
        "energy_coordinator_j_per_token", "energy_coordinator_label", "energy_coordinator_reason",
        "energy_network_j_per_token", "energy_network_label", "energy_network_reason",
        "exact", "per_request",
    ]  # fmt: skip
    assert {"id", "token_ids", "text"} < set(summary["per_request"][0])
    assert (summary["text_differences"], summary["energy_j_per_token"]) == (None, None)
    assert summary["energy_reason"] == "the run names no energy meter"


def test_a_run_without_requests_has_no_figures_and_no_fault() -> None:
    summary = summarize(header(MeteredEnd("machine", "d", RAPL, None)), [], [], None, [energy("machine", 7.0)])
    assert (summary.tokens, summary.goodput_tokens_per_s, summary.mean_acceptance_length) == (0, None, None)
    assert (summary.energy_j_per_token, summary.energy_label, summary.energy_reason) == (
        None,
        None,
        "no token was generated",
    )


def test_rounds_that_are_missing_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        summarize(header(), [request()], [a_round(round=n, is_open=n == 0) for n in (0, 1, 2, 3)], None)
        assert not caplog.records
        summarize(header(), [request()], [a_round(round=n, is_open=n == 0) for n in (0, 1, 3)], None)
    assert "request q1 counts 3 rounds, 2 are recorded" in caplog.text


def test_energy_of_a_request_needs_both_ends() -> None:
    both = request(energy_agent_j=2.0, energy_coordinator_j=3.0, energy_label="measured")
    one = request(energy_agent_j=2.0, energy_label="measured", energy_reason="one meter covers both ends")
    figures = summarize(header(), [both, one], [], None).per_request
    assert (figures[0].energy_j_per_token, figures[0].energy_label) == (0.5, "measured")
    assert (figures[1].energy_j_per_token, figures[1].energy_label) == (None, None)
    assert figures[1].energy_reason == "one meter covers both ends"


def test_the_network_is_a_model_that_says_so_and_is_added_to_nothing() -> None:
    asked = request(energy_agent_j=2.0, energy_coordinator_j=3.0, energy_label="measured")
    notes = FieldNotes(network_nj_per_byte=50.0, network_source="a paper")
    plain, modelled = (summarize(header(notes=each), [asked], [], None) for each in (None, notes))
    num_bytes = asked.payload_up_bytes + asked.payload_down_bytes
    assert modelled.energy_network_j_per_token == pytest.approx(50e-9 * num_bytes / asked.num_generated)
    assert modelled.energy_network_label == "modelled"
    assert "a paper" in (modelled.energy_network_reason or "")
    assert (plain.energy_network_j_per_token, plain.energy_network_label) == (None, None)
    assert modelled.energy_j_per_token == plain.energy_j_per_token
    assert modelled.per_request == plain.per_request
    with pytest.raises(ConfigError, match="say where it is from"):
        notes_from_flags(["network_nj_per_byte=50"])


def test_one_meter_over_both_ends_counts_once_with_its_widest_window() -> None:
    domain = energy_domain(RAPL, "boot-1")
    ends = [MeteredEnd(end, domain, RAPL, None) for end in ("coordinator", "agent:a", "agent:b")]
    records = [energy("coordinator", 50.0, length_s=12), energy("agent:a", 40.0), energy("agent:b", None, 14, "late")]
    total = run_energy(header(*ends), records)
    assert (total.joules, total.label) == (50.0, "measured")
    assert "one meter covers both ends, counted once: coordinator, agent:a, agent:b" in total.reason


def test_an_end_that_reads_no_meter_is_covered_by_its_machines() -> None:
    domain = energy_domain(RAPL, "boot-1")
    assert energy_domain(None, "boot-1") == domain
    ends = [
        MeteredEnd("coordinator", domain, RAPL, None),
        MeteredEnd("agent:a", domain, None, "read by the coordinator"),
    ]
    assert run_energy(header(*ends), [energy("coordinator", 50.0)]).joules == 50.0


def _replay(name: str, label: Label = "measured") -> MeterInfo:
    return MeterInfo(f"replay:{name}", "power", "module", label, (Rail("recorded", in_total=True),), note="replayed")


def _ends(*meters: MeterInfo) -> list[MeteredEnd]:
    names = ("coordinator", "agent:a")
    return [MeteredEnd(end, energy_domain(m, "boot-1"), m, None) for end, m in zip(names, meters, strict=True)]


def test_two_recordings_stand_for_two_machines_and_are_added() -> None:
    total = run_energy(
        header(*_ends(_replay("x"), _replay("y"))), [energy("coordinator", 50.0), energy("agent:a", 4.0)]
    )
    assert (total.joules, total.label) == (54.0, "measured")
    assert "replayed" in total.reason


def test_measured_and_modelled_are_not_added() -> None:
    ends = _ends(_replay("x"), _replay("y", "modelled"))
    total = run_energy(header(*ends), [energy("coordinator", 50.0), energy("agent:a", 4.0)])
    assert (total.joules, total.label) == (None, None)
    assert "different labels, not added" in total.reason


def test_two_meters_on_one_machine_are_not_added() -> None:
    wall = msgspec.structs.replace(RAPL, name="plug", covers="wall")
    total = run_energy(header(*_ends(RAPL, wall)), [energy("coordinator", 50.0), energy("agent:a", 70.0)])
    assert total.joules is None
    assert "choose one" in total.reason


def test_an_end_without_joules_makes_the_run_null_and_says_why() -> None:
    ends = _ends(_replay("x"), _replay("y"))
    assert "joules were not recorded" in run_energy(header(*ends), [energy("coordinator", 50.0)]).reason
    records = [energy("coordinator", 50.0), energy("agent:a", None, reason="the sensor did not answer")]
    total = run_energy(header(*ends), records)
    assert (total.joules, total.label) == (None, None)
    assert total.reason == "agent:a: meter replay:y: the sensor did not answer"
    bare = MeteredEnd("agent:z", "machine:2", None, "no powercap")
    assert run_energy(header(*ends, bare), records[:1]).reason.endswith("agent:z: no powercap")


def test_a_window_becomes_a_record() -> None:
    window = energy_between([PowerSample(0, 2.0), PowerSample(S, 2.0)], 0, S)
    record = energy_record("r", "machine", 0, S, window)
    assert (record.energy_j, record.reason, record.num_samples, record.achieved_hz) == (2.0, None, 2, 1.0)


def test_a_machine_describes_itself_from_a_recorded_tree(tmp_path: Path) -> None:
    (tmp_path / "proc/sys/kernel/random").mkdir(parents=True)
    (tmp_path / "proc/sys/kernel/random/boot_id").write_text("b-1\n")
    (tmp_path / "proc/cpuinfo").write_text("processor : 0\nmodel name\t: First\nprocessor : 1\nmodel name\t: Second\n")
    for core, governor in enumerate(["schedutil", "performance", "schedutil"]):
        folder = tmp_path / f"sys/devices/system/cpu/cpu{core}/cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text(governor + "\n")
    here = describe_machine(tmp_path)
    assert here.cpu_model == "First"
    assert len(here.node) == 12
    assert read_boot_id(tmp_path) == "b-1"
    assert read_governor(tmp_path) == "performance+schedutil"


JETSON = {
    "sys/firmware/devicetree/base/model": "NVIDIA Jetson Orin NX Engineering Reference Developer Kit\0",
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n",
    "sys/class/dmi/id/bios_version": "36.4.3-gcid-38968081\n",
    "etc/os-release": 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 22.04.5 LTS"\n',
    "etc/machine-id": "0123456789abcdef0123456789abcdef\n",
}
RASPBERRY_PI = {
    "sys/firmware/devicetree/base/model": "Raspberry Pi 5 Model B Rev 1.0\0",
    "sys/firmware/devicetree/base/chosen/bootloader/version": "086b83e3f4f5a6c7\0",
    "proc/cpuinfo": "processor\t: 0\nRevision\t: c04170\nModel\t: Raspberry Pi 5 Model B Rev 1.0\n",
    "etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\n',
}
SERVER = {
    "sys/class/dmi/id/sys_vendor": "Maker\n",
    "sys/class/dmi/id/product_name": "Model 7\n",
    "sys/class/dmi/id/board_version": "A03\n",
    "sys/class/dmi/id/bios_version": "2.19\n",
}
TOLD = {  # board, revision, firmware, l4t, operating system
    "jetson": (
        JETSON,
        ("NVIDIA Jetson Orin NX Engineering Reference Developer Kit", None, "36.4.3-gcid-38968081"),
        "R36.4.3",
    ),
    "pi": (RASPBERRY_PI, ("Raspberry Pi 5 Model B Rev 1.0", "c04170", "086b83e3f4f5a6c7"), None),
    "server": (SERVER, ("Maker Model 7", "A03", "2.19"), None),
}


@pytest.mark.parametrize("name", TOLD)
def test_board_firmware_and_l4t_are_what_the_machine_says(name: str, tmp_path: Path) -> None:
    files, told, l4t = TOLD[name]
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    here = describe_machine(tmp_path)
    assert (here.board, here.board_revision, here.firmware) == told
    assert here.l4t == l4t
    assert here.operating_system == {"jetson": "Ubuntu 22.04.5 LTS", "pi": "Debian GNU/Linux 13 (trixie)"}.get(name)
    assert (here.device_id is not None) == (name == "jetson")
    assert here.device_id != "0123456789ab"  # hashed: records are published


def test_the_commit_is_that_of_the_source_and_not_of_a_checkout_around_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        return subprocess.run(
            ["git", "-C", str(tmp_path), *who, *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    source = tmp_path / "machine.py"
    source.write_text("1")
    monkeypatch.setattr(machine, "__file__", str(source))
    git("init", "--quiet")
    git("commit", "--quiet", "--allow-empty", "--message", "somebody's own")
    assert machine.source_commit.__wrapped__() is None
    git("add", "machine.py")
    git("commit", "--quiet", "--message", "ours")
    commit = machine.source_commit.__wrapped__()
    assert commit
    assert git("rev-parse", "HEAD").startswith(commit)
    source.write_text("2")
    assert machine.source_commit.__wrapped__() == f"{commit}-dirty"


def test_notes_come_from_flags_and_what_is_none_is_refused() -> None:
    flags = ["supply=27 W USB-C", "ambient_c=21.5", "order=3", "exclusions=fan failed", "exclusions=door open = hot"]
    notes = notes_from_flags(flags)
    assert notes == FieldNotes(
        supply="27 W USB-C", ambient_c=21.5, order=3, exclusions=("fan failed", "door open = hot")
    )
    for flag, message in {
        "colour=red": "allowed is KEY=VALUE with one of supply, cable, ambient_c",
        "supply": "allowed is KEY=VALUE",
        "ambient_c=warm": "ambient_c",
        "ambient_c=400": "ambient_c",
        "order=-1": "order",
    }.items():
        with pytest.raises(ConfigError, match=re.escape(message)):
            notes_from_flags([flag])
    with pytest.raises(ConfigError, match="given twice"):
        notes_from_flags(["arm=a", "arm=b"])


def test_what_a_machine_does_not_say_is_null(tmp_path: Path) -> None:
    assert read_boot_id(tmp_path) is None
    here = describe_machine(tmp_path)
    assert (here.board, here.firmware, here.device_id, here.operating_system) == (None,) * 4
    assert read_governor(tmp_path) is None
    assert describe_machine(tmp_path, plain_name=True).node == os.uname().nodename


def test_the_parts_of_a_run_sum_to_it() -> None:
    parts = [0.1] * 10
    ends = [MeteredEnd(f"agent:{n}", f"machine:{n}", RAPL, None) for n in range(10)]
    total = run_energy(header(*ends), [energy(f"agent:{n}", part) for n, part in enumerate(parts)])
    assert total.joules == math.fsum(parts)


def test_the_reliability_of_confidences_worked_by_hand() -> None:
    rounds = [
        a_round(num_accepted=2, confidences=(0.9, 0.9, 0.8, 0.1)),  # the fourth was not judged
        a_round(num_accepted=0, num_draft_tokens=2, confidences=(0.92, 0.5)),
        a_round(num_accepted=1, num_draft_tokens=2, confidences=(None, 0.85)),
        a_round(num_draft_tokens=0, num_accepted=0),
    ]
    found = reliability(rounds)
    assert found is not None
    assert found.tokens == 5
    below, above = found.bins
    assert (below.tokens, below.predicted, below.accepted) == (2, pytest.approx(0.825), 0.0)
    assert (above.tokens, above.predicted, above.accepted) == (3, pytest.approx(2.72 / 3), pytest.approx(2 / 3))
    assert found.calibration_error == pytest.approx((2 * 0.825 + 2.72 - 2) / 5)
    assert reliability(rounds[3:]) is None
    assert reliability([a_round(num_accepted=1, num_draft_tokens=1, confidences=(1.0,))]).bins[0].accepted == 1.0  # type: ignore[union-attr]
