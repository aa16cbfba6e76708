"""The limit of open files: raised as far as it may be, and said when that is little."""

import subprocess
import sys

import pytest

RAISE = (
    "import logging, resource, sys; logging.basicConfig(); from multispin_models.open_files import raise_file_limit; "
    "resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2]))); "
    "print(raise_file_limit(int(sys.argv[3])), *resource.getrlimit(resource.RLIMIT_NOFILE))"
)


@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "limit", "is_said"),
    [
        (256, 8000, 6000, 6000, False),
        (256, 8000, 60_000, 8000, False),
        (7000, 8000, 6000, 7000, False),
        (256, 900, 6000, 900, True),
    ],
)
def test_the_limit_is_raised_up_to_the_hard_one(soft: int, hard: int, wanted: int, limit: int, is_said: bool) -> None:
    command = [sys.executable, "-c", RAISE, *map(str, (soft, hard, wanted))]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == [str(limit), str(max(limit, soft)), str(hard)]
    assert ("at most 900 files" in ran.stderr) == is_said
