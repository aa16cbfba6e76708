"""The Debian packages: what they hold, and that the same wheels give the same bytes. Built here from one tiny wheel."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DPKG = shutil.which("dpkg-deb")
pytestmark = pytest.mark.skipif(DPKG is None, reason="dpkg-deb is not here: no package was built")


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a wheel that has a script, which pip would give this machine's interpreter."""
    folder = tmp_path_factory.mktemp("wheels")
    with zipfile.ZipFile(folder / "tiny-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny.py", "def main(): ...\n")
        wheel.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        wheel.writestr(
            "tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr("tiny-1.0.dist-info/entry_points.txt", "[console_scripts]\ntiny = tiny:main\n")
        wheel.writestr("tiny-1.0.dist-info/RECORD", "".join(f"{name},,\n" for name in wheel.namelist()))
    return folder


def build(part: str, arch: str, wheels: Path, out: Path, *more: str) -> Path:
    command = [sys.executable, ROOT / "scripts/debian/build.py", part, "--arch", arch]
    subprocess.run([*command, *more, "--wheels", wheels, "--out", out], check=True, capture_output=True, cwd=out.parent)
    [package] = out.glob("*.deb")
    return package


def dpkg(*arguments: object) -> str:
    return subprocess.run([str(DPKG), *map(str, arguments)], check=True, capture_output=True, text=True).stdout


def test_two_builds_are_the_same_bytes_wherever_they_are_made(wheels: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere/deep").mkdir(parents=True)
    first = build("agent", "arm64", wheels, tmp_path / "out")
    moved = tmp_path / "elsewhere/deep/wheels"
    shutil.copytree(wheels, moved)
    second = build("agent", "arm64", moved, tmp_path / "elsewhere/deep/out")
    assert first.name == second.name
    assert first.read_bytes() == second.read_bytes()
    assert dpkg("--field", first, "Architecture").strip() == "arm64"
    dpkg("--extract", first, tmp_path / "root")
    text = b"".join(path.read_bytes() for path in (tmp_path / "root").rglob("*") if path.is_file())
    assert str(tmp_path).encode() not in text
    assert sys.prefix.encode() not in text


@pytest.mark.parametrize("part", ["agent", "coordinator"])
def test_what_a_package_holds(part: str, wheels: Path, tmp_path: Path) -> None:
    package = build(part, "amd64", wheels, tmp_path / "out")
    modes = {line.split()[5].removeprefix("."): line.split()[0] for line in dpkg("--contents", package).splitlines()}
    home = f"/opt/multispin-{part}"
    assert modes[f"{home}/bin/multispin"] == "-rwxr-xr-x"
    assert modes[f"{home}/lib/python3.11/site-packages/tiny.py"] == "-rw-r--r--"
    assert modes[f"{home}/bin/python3"].startswith("l")
    assert modes["/etc/multispin/keys/"] == "drwx------"
    assert not any("tiny" in name and "/bin/" in name for name in modes)
    dpkg("--extract", package, tmp_path / "root")
    dpkg("--control", package, tmp_path / "control")
    unit = f"lib/systemd/system/multispin-{part}.service"
    assert (tmp_path / "root" / unit).read_text() == (ROOT / part / f"multispin-{part}.service").read_text()
    assert (tmp_path / "control/conffiles").read_text() == f"/etc/multispin/{part}.toml\n"
    for script in ("postinst", "prerm", "postrm"):
        text = (tmp_path / "control" / script).read_text()
        assert "@" not in text
        subprocess.run(["/bin/sh", "-n", tmp_path / "control" / script], check=True)
    assert ("/lib/udev/rules.d/60-multispin-rapl.rules" in modes) == (part == "coordinator")
    enrols = f"/lib/systemd/system/multispin-{part}-enrol.service" in modes
    assert enrols == (part == "agent")
    assert (modes.get(f"{home}/bin/take-enrolment-token") == "-rwxr-xr-x") == enrols


def test_a_card_with_a_newer_python_gets_a_package_for_it(wheels: Path, tmp_path: Path) -> None:
    """Its modules lie where that Python looks, and no other can be installed beside it by mistake."""
    package = build("agent", "arm64", wheels, tmp_path / "out", "--distribution", "trixie")
    assert package.name.endswith("+deb13_arm64.deb")
    depends = dpkg("--field", package, "Depends")
    assert "python3.13" in depends
    assert "3.11" not in depends
    dpkg("--extract", package, tmp_path / "root")
    home = tmp_path / "root/opt/multispin-agent"
    assert (home / "lib/python3.13/site-packages/tiny.py").exists()
    assert (home / "bin/python3").readlink() == Path("/usr/bin/python3.13")
    # /lib is a link there, through which a package may not ship files.
    assert (tmp_path / "root/usr/lib/systemd/system/multispin-agent.service").exists()
    assert not (tmp_path / "root/lib").exists()
