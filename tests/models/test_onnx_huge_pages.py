"""Weights in huge pages: what is worth moving, and that moving changes nothing but the pages."""

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from multispin_models.onnx.huge_pages import Mapping, move_to_huge_pages, worth_moving

MIB = 1 << 20
SETTINGS = Path("/sys/kernel/mm/transparent_hugepage")


def smaps(head: str, *, rss_mib: int, huge_mib: int = 0) -> list[str]:
    return [head, "Size: 1 kB", f"Rss: {rss_mib << 10} kB", f"AnonHugePages: {huge_mib << 10} kB", "VmFlags: rd wr"]


@pytest.mark.parametrize("name", ["", "[heap]"])
def test_filled_private_memory_is_cut_to_whole_pages(name: str) -> None:
    lines = smaps(f"7f0000100000-7f0000f00000 rw-p 00000000 00:00 0          {name}", rss_mib=13)
    assert worth_moving(lines, 2 * MIB) == [Mapping(0x7F0000200000, 0x7F0000E00000)]


@pytest.mark.parametrize(
    ("head", "rss_mib", "huge_mib"),
    [
        pytest.param("7f0000000000-7f0000800000 rw-p 00000000 00:00 0", 1, 0, id="a thread's stack, mostly empty"),
        pytest.param("7f0000000000-7f0000800000 r--p 00000000 fe:00 77  /weights", 8, 0, id="a file"),
        pytest.param("7f0000000000-7f0000800000 rw-s 00000000 00:01 9  /dev/zero", 8, 0, id="shared"),
        pytest.param("7f0000000000-7f0000800000 r-xp 00000000 00:00 0", 8, 0, id="code"),
        pytest.param("7ffe00000000-7ffe00800000 rw-p 00000000 00:00 0   [stack]", 8, 0, id="the stack"),
        pytest.param("7f0000000000-7f0000800000 rw-p 00000000 00:00 0", 8, 8, id="there already"),
        pytest.param("7f0000000000-7f0000200000 rw-p 00000000 00:00 0", 2, 0, id="small"),
        pytest.param("7f0000100000-7f0000700000 rw-p 00000000 00:00 0", 6, 0, id="no whole page of 32 MiB"),
    ],
)
def test_what_is_left_alone(head: str, rss_mib: int, huge_mib: int) -> None:
    page = 32 * MIB if rss_mib == 6 else 2 * MIB
    assert worth_moving(smaps(head, rss_mib=rss_mib, huge_mib=huge_mib), page) == []


def test_each_mapping_is_judged_by_its_own_lines() -> None:
    lines = [
        *smaps("7f0000000000-7f0000800000 rw-p 00000000 00:00 0", rss_mib=8),
        *smaps("7f0001000000-7f0001800000 r--p 00000000 fe:00 77  /weights", rss_mib=8),
        *smaps("7f0002000000-7f0002800000 rw-p 00000000 00:00 0", rss_mib=8),
    ]
    assert [mapping.start for mapping in worth_moving(lines, 2 * MIB)] == [0x7F0000000000, 0x7F0002000000]


FRESH = """
import json, mmap, sys
from pathlib import Path
from multispin_models.onnx.huge_pages import move_to_huge_pages

def kib(file, name):
    return next(int(line.split()[1]) for line in Path(file).read_text().splitlines() if line.startswith(name + ":"))

memory = mmap.mmap(-1, 32 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_NOHUGEPAGE)
for start in range(0, len(memory), 4096):
    memory[start : start + 4] = start.to_bytes(4, "little")
memory.madvise(mmap.MADV_HUGEPAGE)
counts = (("/proc/self/smaps_rollup", "AnonHugePages"), ("/proc/self/status", "VmRSS"))
before = [kib(*count) for count in counts]
move_to_huge_pages(Path(sys.argv[1]))
huge, grown = (kib(*count) - held for count, held in zip(counts, before))
same = all(int.from_bytes(memory[at : at + 4], "little") == at for at in range(0, len(memory), 4096))
print(json.dumps([huge, grown, same]))
"""


def moved(settings: Path) -> tuple[int, int, bool]:
    """Move 32 MiB of a fresh process, whose own memory is small; return what changed.

    Returns:
        KiB more in huge pages, KiB more resident, and whether every small page still holds its own place.
    """
    command = [sys.executable, "-c", FRESH, str(settings)]
    huge, grown, same = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return huge, grown, same


def settings(tmp_path: Path, enabled: str) -> Path:
    (tmp_path / "enabled").write_text(f"{enabled}\n")
    (tmp_path / "hpage_pmd_size").write_text(f"{2 * MIB}\n")
    return tmp_path


@pytest.mark.skipif(
    not SETTINGS.exists() or "[never]" in (SETTINGS / "enabled").read_text(), reason="this kernel has no huge pages"
)
@pytest.mark.skipif(tuple(map(int, platform.release().split(".")[:2])) < (6, 1), reason="MADV_COLLAPSE is of Linux 6.1")
def test_contents_stay_and_memory_does_not_grow() -> None:
    huge, grown, same = moved(SETTINGS)
    assert huge >= 16 << 10
    assert grown < 4 << 10
    assert same


def test_the_operators_never_is_respected(tmp_path: Path) -> None:
    huge, _, same = moved(settings(tmp_path, "always madvise [never]"))
    assert huge == 0
    assert same


@pytest.mark.parametrize("missing", ["enabled", "hpage_pmd_size"])
def test_a_kernel_without_them_is_no_error(tmp_path: Path, missing: str) -> None:
    (settings(tmp_path, "[always]") / missing).unlink()
    move_to_huge_pages(tmp_path)
