"""What the peers run on: a virtual environment of their own, and a Maven build. Never the project's.

Both are made under ``build/peers`` once, and again when what they are made from changes. One that
cannot be made says why, and its systems are left out.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import distributions
from pathlib import Path

from candlewick.guard import guarded

HERE = Path(__file__).resolve().parent
BUILD = HERE.parents[1] / "build" / "peers"
PROGRAMS = HERE / "programs"
REQUIREMENTS = HERE / "requirements.txt"
STREAMS = HERE / "streams"
VENV = BUILD / "venv"
PYTHON = VENV / "bin" / "python"
WITHIN_S = 600.0
"""How long installing or building may take."""


class Absent(Exception):
    """A part cannot be had; the text says why."""


async def make_python(step: Callable[[str], None]) -> None:
    """Make the Python peers' environment from the lock.

    Raises:
        Absent: no uv, no network, or no wheel for this Python.
    """
    uv = Path(sys.executable).with_name("uv")
    command = str(uv) if uv.exists() else shutil.which("uv")
    if command is None:
        raise Absent("there is no uv to install them with: make setup")
    made_from = _digest([REQUIREMENTS], sys.version, str(VENV))
    if _is_made(VENV, made_from) and PYTHON.exists():
        return
    step("installing the Python peers")
    await _run([command, "venv", "--quiet", "--clear", "--python", sys.executable, str(VENV)])
    await _run(
        [command, "pip", "sync", "--quiet", "--python", str(PYTHON), "--require-hashes", str(REQUIREMENTS)]
    )
    _say_made(VENV, made_from)


async def make_streams(step: Callable[[str], None]) -> None:
    """Build the Kafka Streams program with Maven.

    Raises:
        Absent: no Java or Maven on this machine, or the build fails.
    """
    for tool in ("java", "mvn"):
        if shutil.which(tool) is None:
            raise Absent(f"there is no `{tool}` on this machine")
    sources = [STREAMS / "pom.xml", *sorted(STREAMS.rglob("*.java"))]
    folder = BUILD / "streams"
    made_from = _digest(sources, str(folder))
    if _is_made(folder, made_from):
        return
    step("building the Kafka Streams program")
    await _run(["mvn", "-q", "-B", "-f", str(STREAMS / "pom.xml"), "clean", "process-classes"])
    _say_made(folder, made_from)


def installed(name: str) -> str:
    """Return the version of a peer's package."""
    folder = next(VENV.glob("lib/python*/site-packages"), None)
    found = distributions(name=name, path=[str(folder)]) if folder else ()
    return next((distribution.version for distribution in found), "")


async def java() -> str:
    """Return what this machine's Java calls itself."""
    if shutil.which("java") is None:
        return "none"
    try:
        return (await _run(["java", "-version"])).splitlines()[0].replace('"', "")
    except (Absent, IndexError):
        return "unknown"


async def _run(argv: Sequence[str]) -> str:
    """Run a command to its end; return what it printed.

    Raises:
        Absent: it failed, or took too long.
    """
    BUILD.mkdir(parents=True, exist_ok=True)
    process = await asyncio.create_subprocess_exec(
        *guarded(argv), stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        async with asyncio.timeout(WITHIN_S):
            told, _ = await process.communicate()
    except TimeoutError:
        raise Absent(f"`{Path(argv[0]).name}` was not done within {WITHIN_S:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    text = told.decode(errors="replace")
    if process.returncode:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        said = next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "nothing")
        raise Absent(f"`{Path(argv[0]).name}` failed: {said[:200]}")
    return text


def _digest(files: Sequence[Path], *words: str) -> str:
    digest = hashlib.sha256("\n".join(words).encode())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _is_made(folder: Path, made_from: str) -> bool:
    stamp = folder.with_suffix(".stamp")
    return folder.is_dir() and stamp.is_file() and stamp.read_text() == made_from


def _say_made(folder: Path, made_from: str) -> None:
    folder.with_suffix(".stamp").write_text(made_from)
