"""Lock files of the data directory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from candlewick import datadir
from models.errors import StateError


def test_a_lock_file_says_which_process_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "tables" / "worker.lock"
    for _ in range(2):
        with datadir.locked(path, "worker", "take another"):
            assert path.read_text() == f"{os.getpid()}\n"
            with (
                pytest.raises(StateError, match="take another"),
                datadir.locked(path, "worker", "take another"),
            ):
                pass


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a file of a full disk is Linux's")
def test_a_full_disk_holds_a_lock_as_well() -> None:
    with datadir.locked(Path("/dev/full"), "worker", ""):
        pass
