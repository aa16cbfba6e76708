"""`multispin doctor` on this machine: what it finds, what it says to do, and its exit status."""

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from multispin import doctor
from multispin.doctor import examine
from multispin_models.energy.meter import MeterStatus


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MULTISPIN_CACHE", str(tmp_path))
    return tmp_path


def found(name: str, *, pair: str = "smollm2-135m", port: int = 0) -> doctor.Finding:
    findings = examine(pair, port, engine="llamacpp", probe=False)
    [finding] = [finding for finding in findings if finding.name == name]
    return finding


def run(*flags: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "multispin", "doctor", *flags], capture_output=True, text=True, check=False
    )
    assert all(line.startswith("loading the target") for line in done.stderr.splitlines()), done.stderr
    return done.returncode, done.stdout


@pytest.mark.usefixtures("empty_cache")
def test_missing_models_are_faults_with_the_command_that_brings_them() -> None:
    status, text = run("--json", "--no-probe", "--engine", "llamacpp")
    report: dict[str, Any] = json.loads(text)
    assert status == 1
    assert report["ok"] is False
    faults = {finding["name"]: finding["todo"] for finding in report["findings"] if finding["status"] == "fault"}
    assert set(faults) == {"target as-shipped", "target BF16", "draft as-shipped", "draft Q8_0"}
    assert set(faults.values()) == {"multispin models fetch --engine llamacpp smollm2-135m"}


@pytest.mark.usefixtures("empty_cache")
def test_for_onnx_the_exports_are_looked_for() -> None:
    status, text = run("--json", "--no-probe")
    faults = {finding["name"] for finding in json.loads(text)["findings"] if finding["status"] == "fault"}
    assert status == 1
    assert faults == {"target as-shipped", "target w8a8-rotated", "draft as-shipped", "draft int4-block32"}


@pytest.mark.usefixtures("empty_cache")
def test_the_text_says_the_same_as_the_json() -> None:
    status, text = run("--no-probe")
    assert status == 1
    assert "fault    target w8a8-rotated" in text
    assert "-> multispin models fetch --engine onnx smollm2-135m" in text
    assert text.endswith("4 faults\n")


@pytest.mark.model
@pytest.mark.parametrize("engine", ["onnx", "llamacpp"])
def test_with_the_default_models_nothing_is_missing_and_the_probe_is_told(engine: str) -> None:
    subprocess.run([sys.executable, "-m", "multispin", "models", "fetch", "--engine", engine], check=True)
    status, text = run("--json", "--engine", engine)
    report = json.loads(text)
    findings = {finding["name"]: finding for finding in report["findings"]}
    assert status == 0, [finding for finding in report["findings"] if finding["status"] == "fault"]
    assert report["ok"] is True
    assert "rows differ between batch shapes" in findings["exactness"]["found"]
    exactly_built = engine == "onnx" or "LLAMAFILE=0 REPACK=0" in findings["llama.cpp"]["found"]
    assert findings["exactness"]["status"] == ("ok" if exactly_built else "warning")


@pytest.mark.usefixtures("empty_cache")
def test_a_taken_port_is_told_and_a_free_one_too() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        finding = found(f"port {port}", port=port)
        assert finding.status == "warning"
        assert "Address already in use" in finding.found
        assert f":{port}" in finding.todo
    assert found(f"port {port}", port=port).status == "ok"


@pytest.mark.usefixtures("empty_cache")
def test_a_missing_package_is_a_fault_and_a_missing_engine_only_when_there_is_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed = {"multispin": "1", "numpy": "2", "msgspec": "3", "psutil": "5", "onnxruntime": "6"}
    monkeypatch.setattr(doctor, "_version", lambda name: installed.get(name, ""))
    assert found("pyzmq").status == "fault"
    assert found("pyzmq").todo == "scripts/setup"
    assert found("llama-cpp-python").status == "warning"
    del installed["onnxruntime"]
    assert found("llama-cpp-python").status == "fault"
    assert found("onnxruntime").status == "fault"


@pytest.mark.usefixtures("empty_cache")
def test_a_damaged_model_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "target.gguf").write_bytes(b"damaged")
    (tmp_path / "draft.gguf").write_bytes(b"whole")
    manifest = tmp_path / "mine.toml"
    manifest.write_text(
        f'name = "mine"\n[target]\nfile = "target.gguf"\nsha256 = "{"0" * 64}"\n[draft]\nfile = "draft.gguf"\n'
    )
    finding = found("target as-shipped", pair=str(manifest))
    assert finding.status == "fault"
    assert f"expected {'0' * 64}" in finding.found
    assert found("draft as-shipped", pair=str(manifest)).status == "ok"


@pytest.mark.usefixtures("empty_cache")
def test_one_sensor_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = MeterStatus("rapl", usable=False, reason="not there: do this", covers="socket", rails=())
    present = MeterStatus("meter", usable=True, reason="", covers="socket", rails=("package-0",))
    monkeypatch.setattr(doctor, "discover_meters", lambda: [absent])
    assert found("sensor rapl").status == "warning"
    assert found("sensor rapl").todo == "not there: do this"
    monkeypatch.setattr(doctor, "discover_meters", lambda: [absent, present])
    assert found("sensor rapl").status == "ok"
    assert found("sensor meter").found == "socket: package-0"


def test_a_cache_without_a_place_is_a_fault_and_the_rest_is_still_examined(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("MULTISPIN_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(variable, raising=False)
    findings = examine(port=0, probe=False)
    faults = [finding for finding in findings if finding.status == "fault"]
    assert faults
    assert all("MULTISPIN_CACHE" in finding.found for finding in faults)
    assert "python" in [finding.name for finding in findings]
    assert "port 0" in [finding.name for finding in findings]


def test_an_unknown_pair_is_a_fault_that_names_the_packaged_ones(empty_cache: Path) -> None:
    faults = [finding for finding in examine("nonesuch", 0, probe=False) if finding.status == "fault"]
    assert empty_cache.is_dir()
    assert any("the packaged ones are smollm2-135m" in finding.found for finding in faults)
