"""`multispin bench records`, at a two-hundredth of its full size: processes, sockets and a disk as they are."""

import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

UNSHARE = shutil.which("unshare")
CAN_MOUNT = (
    UNSHARE is not None
    and subprocess.run(
        [UNSHARE, "--mount", "--map-root-user", "mount", "-t", "tmpfs", "tmpfs", "/mnt"],
        capture_output=True,
        check=False,
    ).returncode
    == 0
)


@pytest.mark.skipif(not CAN_MOUNT, reason="needs unshare(1) and the right to make a mount namespace")
def test_no_record_is_lost_or_doubled_by_kills_a_cut_link_and_a_full_disk(run_multispin: Callable[..., Any]) -> None:
    done = run_multispin(
        *("bench", "records", "--records", 5000, "--kill-s", 1.2, "--cut-s", 0.8, "--fill-s", 0.8, "--json")
    )
    assert done.status == 0, done.stderr
    result = done.summary["result"]
    assert result["num_acknowledged"] >= 5000
    assert (result["num_missing"], result["num_twice"], result["num_left"]) == (0, 0, 0)
    assert result["num_stored"] == result["num_acknowledged"] + result["num_untold"]
    assert result["num_kills"] + result["num_cuts"] + result["num_fills"] > 0
