"""A reader who does what a page says: in a folder like a clone, in one shell, beside a market that runs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

from docs.fences import Step, is_like

from candlewick.guard import guarded
from candlewick.kafka.broker import free_ports

ROOT = Path(__file__).parents[2]
PORTS = (6066, 6067, 6068, 6070, 6071, 8000, 9092, 9100)
"""Ports that pages name; each is another one here."""
GOES_ON = (".git", ".venv", "build", "candlewick-data")
"""What a clone has of its own."""
ENDED = (0, 130, -signal.SIGINT)
"""Exit codes of what was ended with Ctrl-C."""
AGAIN_S = 60.0
"""How long a reader asks again for what is not there yet."""
LONGEST_S = 150.0
"""What one step may take: on a quiet machine the longest, a second Kafka with all around it, takes 12 s."""


def until(find: Callable[[], object], told: Callable[[], str]) -> None:
    """Ask until the answer is true.

    Raises:
        AssertionError: it did not come true in `LONGEST_S`; ``told`` says more.
    """
    end = time.monotonic() + LONGEST_S
    while not find():
        assert time.monotonic() < end, told()
        time.sleep(0.05)


class Places:
    """Where everything is: free ports for those that pages name, and what the environment says of them."""

    def __init__(self, folder: Path) -> None:
        self._ports = dict(zip(map(str, PORTS), map(str, free_ports(len(PORTS))), strict=True))
        self._named = re.compile(r"\b(" + "|".join(self._ports) + r")\b")
        self.folder = folder
        programs = folder / "bin"
        programs.mkdir()
        # .venv is the one that the tests run in: nothing is to be installed into it.
        (programs / "make").write_text(
            '#!/bin/sh\nexec /usr/bin/env -u MAKEFLAGS "$MAKE_ITSELF" -o .venv/.stamp "$@"\n'
        )
        (programs / "make").chmod(0o755)
        # What `make test` was given is not for the `make` of a page, nor what tests tell their JVMs.
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("CANDLEWICK_") and name not in ("ARGS", "JAVA_TOOL_OPTIONS")
        }
        path = f"{programs}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{clean['PATH']}"
        make = next(
            each
            for each in (f"{part}/make" for part in clean["PATH"].split(os.pathsep))
            if Path(each).exists()
        )
        self.env = {
            **clean,
            "CANDLEWICK_PORT": self._ports["6066"],
            "CANDLEWICK_SPEED": "10",  # a minute of the market is over in six seconds
            "COLUMNS": "120",
            "MAKE_ITSELF": make,
            "PATH": path,
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "TERM": "dumb",
        }

    @property
    def base(self) -> str:
        """The address of the market that all pages share."""
        return f"http://127.0.0.1:{self._ports['6066']}"

    def moved(self, text: str) -> str:
        """Return text with our ports for those that it names."""
        return self._named.sub(lambda found: self._ports[found[1]], text)

    def clone(self, name: str) -> Path:
        """Return a new folder that looks like a clone of the repository."""
        folder = self.folder / name
        folder.mkdir()
        for path in ROOT.iterdir():
            if path.name not in GOES_ON:
                (folder / path.name).symlink_to(path)
        (folder / ".venv").symlink_to(sys.prefix)
        return folder


class Running:
    """Something that goes on until Ctrl-C."""

    def __init__(self, command: str, folder: Path, env: Mapping[str, str], log: Path) -> None:
        self.command = command
        self._log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                guarded(["bash", "-c", command]), cwd=folder, env=env, stdin=subprocess.DEVNULL,
                stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip

    def said(self) -> str:
        return self._log.read_text(errors="replace")

    def shows(self, shown: str) -> None:
        """Wait until it has said what is shown, or anything if nothing is."""

        def does() -> bool:
            said = self.said()
            there = is_like(shown, said, beginning=True) if shown else bool(said)
            assert there or self.process.poll() is None, f"{self.command!r} has ended, and said:\n{said}"
            return there

        until(does, lambda: f"{self.command!r} does not show\n{shown}\nbut\n{self.said()[-3000:]}")

    def end(self) -> None:
        """Press Ctrl-C."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGINT)
        code = self.process.wait(LONGEST_S)
        assert code in ENDED, f"{self.command!r} ended with {code}, and said:\n{self.said()[-3000:]}"

    def kill(self) -> None:
        """End it without a word, if it goes on."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


class Shell:
    """One shell for all commands of a page."""

    def __init__(self, folder: Path, env: Mapping[str, str], scratch: Path) -> None:
        self._script, self._log = scratch / "block.sh", scratch / "shell.log"
        with self._log.open("wb") as out:
            self._process = subprocess.Popen(
                guarded(["bash", "--noprofile", "--norc"]), cwd=folder, env=env, stdin=subprocess.PIPE,
                stdout=out, stderr=out, start_new_session=True, text=True,
            )  # fmt: skip
        self._send("set -eE; trap 'echo \"exit code $?: $BASH_COMMAND\"' ERR")

    def run(self, text: str) -> str:
        """Run lines; return what they print."""
        end = f"end-of-{uuid.uuid4().hex}"
        before = self._log.stat().st_size
        self._script.write_text(text + "\n")
        # From a file, so that nothing in it reads what we send to the shell.
        self._send(f". {self._script} </dev/null; echo {end}")

        def said() -> str:
            return self._log.read_bytes()[before:].decode(errors="replace")

        def is_over() -> bool:
            over = end in said()
            assert over or self._process.poll() is None, f"failed:\n{text}\n\n{said()[-3000:]}"
            return over

        until(is_over, lambda: f"not over in {LONGEST_S:.0f} s:\n{text}\n\n{said()[-3000:]}")
        return said().partition(end)[0]

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def close(self) -> None:
        """End the shell, and what was left in it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class Reader:
    """Takes the steps of one page."""

    def __init__(self, places: Places, name: str, market: Running) -> None:
        self._places, self._market = places, market
        self.folder = places.clone(name)
        (self.folder / "candlewick-data").symlink_to(places.folder / "market" / "candlewick-data")
        if (ROOT / "build" / "clients").is_dir():
            (self.folder / "with-ccxt").symlink_to(ROOT / "build" / "clients")
        self._scratch = places.folder / f"{name}-scratch"
        self._scratch.mkdir()
        self._shell = Shell(self.folder, places.env, self._scratch)
        self._running: list[Running] = []

    def take(self, step: Step) -> None:
        """Take one step, and compare what is seen with what is shown."""
        text = self._places.moved(step.text)
        if step.kind == "save":
            (self.folder / step.title).write_text(text + "\n")
        elif step.kind == "stay":
            self._start(text).shows(step.shown or "")
        elif step.kind in ("run", "python"):
            if step.kind == "python":
                program = self._scratch / f"line-{step.line}.py"
                program.write_text(text + "\n")
                text = f"python {program}"
            self._run(step, text)

    def _run(self, step: Step, text: str) -> None:
        """Run commands; ask again for what is not as it is shown yet, as a reader would."""
        is_asked = step.shown is not None and text.startswith("curl")
        if is_asked:
            text += " || true"  # nobody may answer yet
        seen = self._shell.run(text)
        where = f"line {step.line}: {step.text}"
        if step.shown is None:
            assert "/problems/" not in seen, f"{where}\n{seen}"
            assert "Traceback" not in seen, f"{where}\n{seen}"
            return
        end = time.monotonic() + AGAIN_S
        while is_asked and not is_like(step.shown, seen) and time.monotonic() < end:
            seen = self._shell.run(text)
        assert is_like(step.shown, seen), f"{where}\nshows\n{step.shown}\n\nand we see\n{seen}"

    def _start(self, text: str) -> Running:
        if text == self._market.command:
            return self._market
        log = self._scratch / f"{len(self._running)}.log"
        self._running.append(Running(text, self.folder, self._places.env, log))
        return self._running[-1]

    def close(self) -> None:
        """Press Ctrl-C wherever something goes on, the last first."""
        self._shell.close()
        try:
            for running in reversed(self._running):
                running.end()
        finally:
            for running in self._running:
                running.kill()
