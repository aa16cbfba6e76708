"""Folders that are cut short, changed, or of several boxes."""

import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from multispin.campaign.collect import collect, merge, part_faults
from multispin.campaign.folder import (
    CELLS,
    HASHES,
    JOURNAL,
    FolderError,
    completed_cells,
    read_campaign,
    read_events,
    read_schedule,
)
from multispin.campaign.hashing import open_key, read_hashes, seal
from multispin.campaign.headers import campaign_of
from multispin.campaign.meter import MachineMeter
from multispin.campaign.plan_command import schedule_of
from multispin.campaign.plan_file import PlanFile, read_plan
from multispin.campaign.run import Driver
from multispin.campaign.run_folder import RunFolder
from multispin_models.cache import silent
from multispin_models.errors import ConfigError
from tests.campaign.toys import PLAN, Toys

TWO = '\n[[devices]]\nname = "other"\ncopies = 1\n'


class Quiet:
    def say(self, *_: object) -> None: ...

    begin = done = say


def run(file: PlanFile, out: Path, toys: Any, *devices: str) -> Path:
    schedule, prompts = schedule_of(file)
    folder = RunFolder(out, file, schedule, campaign_of(file, prompts.sha256, devices, silent))
    with MachineMeter("none", 10.0) as meter:
        driver = Driver(file, folder, prompts, devices, meter, Quiet(), toys)
        driver.seal(driver.run())
    folder.close()
    return out


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PlanFile, list[Path]]]:
    """A plan of two devices, and what each has run; not to be changed."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "two.toml").write_text(PLAN.replace("users = [1, 2]", "users = [1]") + TWO)
    file = read_plan(folder / "two.toml")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MULTISPIN_CAMPAIGN_KEY", str(folder / "campaign.key"))
        yield file, [run(file, folder / name, Toys(), name) for name in ("bench", "other")]


@pytest.fixture
def two_devices(made: tuple[PlanFile, list[Path]]) -> PlanFile:
    return made[0]


@pytest.fixture
def parts(made: tuple[PlanFile, list[Path]], tmp_path: Path, signing_key: Path) -> list[Path]:
    return [shutil.copytree(part, tmp_path / part.name) for part in made[1]]


def test_the_key_is_made_once_for_its_owner_alone(signing_key: Path) -> None:
    key = open_key(signing_key)
    assert stat.S_IMODE(signing_key.stat().st_mode) == 0o600
    assert open_key(signing_key).private_bytes_raw() == key.private_bytes_raw()
    public = signing_key.with_name("campaign.key.pub").read_text().strip()
    assert public == key.public_key().public_bytes_raw().hex()
    signing_key.chmod(0o644)
    with pytest.raises(ConfigError, match="may be read by others; allowed is mode 0600"):
        open_key(signing_key)


def test_the_list_of_hashes_is_that_of_sha256sum(parts: list[Path]) -> None:
    done = subprocess.run(["sha256sum", "-c", "--quiet", HASHES], cwd=parts[0], check=False, capture_output=True)
    assert done.returncode == 0
    listed = set(read_hashes(parts[0]))
    there = {path.relative_to(parts[0]).as_posix() for path in parts[0].rglob("*") if path.is_file()}
    assert there - listed == {"hashes.txt", "hashes.sig", ".lock"}


def test_parts_of_boxes_become_one_folder(parts: list[Path], tmp_path: Path) -> None:
    one = tmp_path / "all"
    found = merge(parts, one)
    assert (found.completed, found.planned, found.missing, found.faults) == (12, 12, (), ())
    assert completed_cells(one) == sorted(cell.cell_id for cell in read_schedule(one).cells)
    campaign = read_campaign(one)
    assert campaign.devices == ("bench", "other")
    assert [part.devices for part in campaign.merged_from] == [("bench",), ("other",)]
    assert len(read_events(one)) == sum(len(read_events(part)) for part in parts)
    assert part_faults(one) == []
    # Once more, with a part that is in it already.
    again = merge([one, parts[1]], tmp_path / "again")
    assert (again.completed, again.faults) == (12, ())


def test_a_merge_refuses_what_was_changed_and_what_does_not_belong(
    parts: list[Path], plan_file: PlanFile, tmp_path: Path, toys: Any
) -> None:
    foreign = run(plan_file, tmp_path / "foreign", toys, "bench")
    with pytest.raises(FolderError, match="another plan"):
        merge([parts[0], foreign], tmp_path / "all")
    with pytest.raises(ConfigError, match="not empty"):
        merge([parts[0]], parts[1])
    twin = tmp_path / "twin"
    shutil.copytree(parts[0], twin)
    cell = twin / CELLS / completed_cells(twin)[0]
    (cell / "log.txt").write_text("another")
    with pytest.raises(FolderError, match=r"twin is not merged: .*log.txt was changed"):
        merge([parts[0], twin], tmp_path / "all")
    seal(twin)  # by somebody who has the key: the journal knows better
    with pytest.raises(FolderError, match=r"was changed since it was completed"):
        merge([parts[0], twin], tmp_path / "all")
    assert not (tmp_path / "all").exists()


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda run: _cut(run / CELLS / completed_cells(run)[0] / "requests.parquet"), "requests.parquet was changed"),
        (lambda run: (run / CELLS / completed_cells(run)[0] / "energy.json").unlink(), "energy.json is missing"),
        (lambda run: (run / CELLS / completed_cells(run)[0] / "more.txt").write_text(""), "more.txt is not in hashes"),
        (lambda run: (run / "plan.toml").write_text("name = 1"), "plan.toml was changed"),
        (lambda run: shutil.rmtree(run / CELLS / completed_cells(run)[0]), "is missing: hashes.txt lists it"),
        (lambda run: (run / HASHES).write_text((run / HASHES).read_text().upper()), "no signature of hashes.txt"),
        (lambda run: (run / HASHES).write_text("x"), "line 1 is 'x', allowed is"),
        (lambda run: (run / "hashes.sig").unlink(), "hashes.sig cannot be read"),
        (lambda run: (run / "link").symlink_to("/etc/passwd"), "is a link or a device"),
    ],
)
def test_a_change_after_the_signature_is_found(parts: list[Path], change: Callable[[Path], object], said: str) -> None:
    assert part_faults(parts[0]) == []
    change(parts[0])
    assert said in " ".join(part_faults(parts[0]))


def test_a_folder_that_was_cut_short_is_collected_and_merged_with_the_rest_later(
    parts: list[Path], two_devices: PlanFile, tmp_path: Path, toys: Any
) -> None:
    part = parts[0]
    lost = completed_cells(part)[3:]
    for cell_id in lost:
        shutil.rmtree(part / CELLS / cell_id)
    text = (part / JOURNAL).read_bytes().splitlines(keepends=True)
    kept = [line for line in text if not any(cell_id.encode() in line for cell_id in lost)]
    (part / JOURNAL).write_bytes(b"".join(kept) + b'{"event":"cell-st')  # killed in mid-line
    for name in (HASHES, "hashes.sig"):
        (part / name).unlink()
    (part / CELLS / ".b000-005-x.new").mkdir()
    found = collect(part)
    assert (found.completed, found.planned, len(found.missing), found.faults) == (3, 6, 3, ())
    merged = merge(parts, tmp_path / "all")
    assert (merged.completed, merged.planned, set(merged.missing)) == (9, 12, set(lost))
    run(two_devices, part, toys, "bench")
    assert merge([tmp_path / "all", part], tmp_path / "whole").missing == ()


def test_what_was_changed_before_it_was_collected_is_not_signed(parts: list[Path]) -> None:
    part = parts[0]
    for name in (HASHES, "hashes.sig"):
        (part / name).unlink()
    _cut(part / CELLS / completed_cells(part)[0] / "requests.parquet")
    shutil.rmtree(part / CELLS / completed_cells(part)[1])
    found = collect(part)
    assert len(found.faults) == 2
    assert "was changed since it was completed" in found.faults[0]
    assert "is not there, and the journal says" in found.faults[1]
    assert not (part / HASHES).exists()
