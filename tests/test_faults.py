"""The quick gate of the fault suite: one fault of each kind, on real processes (see faults/README.md)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.broker

ROOT = Path(__file__).parents[1]
LIMIT_S = 1200
"""Some minutes are enough; on a machine that is busy with other things it takes longer."""


@pytest.mark.timeout(LIMIT_S + 60)
def test_every_bar_of_the_quick_faults_is_met() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "faults", "--quick", "--seed", "1", "--jobs", "2"],
        cwd=ROOT, env={**os.environ, "COLUMNS": "140"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as faults:  # fmt: skip
        try:
            told, _ = faults.communicate(timeout=LIMIT_S)
        except BaseException:
            faults.send_signal(signal.SIGTERM)  # it ends its processes, and removes its folder
            raise
    assert faults.returncode == 0, told
