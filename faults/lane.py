"""A lane: a process that does scenarios one after the other. Several lie side by side.

`faults.__main__` holds one end, `Lane`; ``python -m faults.lane`` is the other. Numbers of scenarios
go to its standard input, a line each; what happens, and what came of it, comes from its standard
output as JSON, a line each.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import structlog

from candlewick.guard import guarded
from faults import rig
from faults.scenario import Outcome, Plan, Scenario, scenarios

LIMIT_S = 2_700.0
"""A scenario that takes longer is given up; its bar is not met."""
END_S = 30.0
"""Then, or when all is ended early, its processes may take this long to end."""


class Lane:
    """The parent's end: ``async with Lane(root, seed, quick) as lane``. Its process ends with the block.

    Arguments:
        root: where each scenario gets a folder.
    """

    def __init__(self, root: Path, seed: int, quick: bool) -> None:
        self._argv = [sys.executable, "-m", "faults.lane", str(root), str(seed), "quick" if quick else "full"]
        self._process: asyncio.subprocess.Process | None = None
        self._works = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._end()

    async def run(self, number: str, say: Callable[[str], None]) -> Outcome:
        """Do a scenario; whatever goes wrong is a bar that was not met.

        The next one has a new process, if this one was given up or its process ended.
        """
        try:
            async with asyncio.timeout(LIMIT_S):
                outcome = await self._ask(number, say)
        except TimeoutError:
            outcome = Outcome(False, f"given up after {LIMIT_S:.0f} s")
        except (OSError, ValueError) as error:
            outcome = Outcome(False, f"nothing to be heard of it: {error!r}")
        if self._works:
            await self._end()
        return outcome

    async def _ask(self, number: str, say: Callable[[str], None]) -> Outcome:
        process = self._process = self._process or await asyncio.create_subprocess_exec(
            *guarded(self._argv),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=1 << 20,
            start_new_session=True,  # Ctrl-C at a terminal is for the parent, which ends the lanes
        )
        assert process.stdin
        assert process.stdout
        self._works = True
        process.stdin.write(f"{number}\n".encode())
        while line := await process.stdout.readline():
            told = json.loads(line)
            if "says" in told:
                say(told["says"])
            else:
                self._works = False
                return Outcome(**told)
        return Outcome(False, f"its process ended, code {await process.wait()}")

    async def _end(self) -> None:
        """End the process in order: it ends its own, and leaves the folders."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin
        process.stdin.close()
        if self._works and process.returncode is None:
            process.terminate()
        self._works = False
        try:
            await asyncio.wait_for(process.wait(), END_S)
        except TimeoutError:
            process.kill()  # its own processes end with it
            await process.wait()


def main(root: Path, seed: int, quick: bool) -> None:
    """Do the scenarios that are asked for, until the input ends, or SIGTERM comes."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # brokers are killed here, and it would say so
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    tell, sys.stdout = sys.stdout, sys.stderr  # what anybody prints is not for the parent

    def told(what: dict[str, Any]) -> None:
        print(json.dumps(what), file=tell, flush=True)

    known = {scenario.number: scenario for scenario in scenarios()}
    with asyncio.Runner() as runner, contextlib.suppress(asyncio.CancelledError):
        try:
            for line in sys.stdin:
                scenario = known[line.strip()]
                folder = root / scenario.number
                folder.mkdir()
                plan = Plan(seed, quick, folder, lambda what: told({"says": what}))
                outcome = runner.run(_run(scenario, plan))
                told(dataclasses.asdict(outcome))
        finally:
            runner.run(rig.end_shared())


async def _run(scenario: Scenario, plan: Plan) -> Outcome:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        return await scenario.run(plan)
    except Exception as error:
        return Outcome(False, f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "quick")
