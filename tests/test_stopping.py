"""How commands are asked to end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]

COMMAND = """
import asyncio
from candlewick.stopping import stop_event

async def main():
    stop = stop_event()
    print("ready", flush=True)
    await stop.wait()

asyncio.run(main())
"""


def test_more_signals_change_nothing_up_to_the_last_moment() -> None:
    # The loop lets go of its signals when it closes; Python needs some milliseconds more to end.
    program = [sys.executable, "-c", COMMAND]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(program, env=environ, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        while process.poll() is None:
            process.terminate()
            time.sleep(0.0001)
    assert process.returncode == 0
