"""A part of a measurement in a process of its own: what it is told goes as JSON, and what it tells."""

from __future__ import annotations

import asyncio
import sys
from typing import TypeVar

import msgspec

from candlewick.guard import guarded
from models.errors import CandlewickError

T = TypeVar("T")


class PartEnded(CandlewickError):
    """The process ended with an error, which it has told on standard error."""


async def apart(module: str, plan: msgspec.Struct, told: type[T]) -> T:
    """Run ``python -m module plan`` and return what it wrote."""
    argv = [sys.executable, "-m", module, msgspec.json.encode(plan).decode()]
    process = await asyncio.create_subprocess_exec(*guarded(argv), stdout=asyncio.subprocess.PIPE)
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise PartEnded(f"{module} ended with code {process.returncode}")
    return msgspec.json.decode(output, type=told)
