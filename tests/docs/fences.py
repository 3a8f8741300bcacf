"""The fences of a page, as steps that a reader would take: programs to save, commands to run, output to see.

::

    ```bash              commands, run line by line in the order of the page, in one shell
    ```                  the same where its first line begins with "$ ": commands, and their output
    ```python            a program, run at once; with title="name.py" it is saved, and a later command runs it
    ```javascript        saved, and run by a later command
    ```text  ```json     output, if it is right beneath a command; "…" stands for anything

A comment above a fence says what is special: ``<!-- until Ctrl-C -->`` goes on beside the commands that follow,
``<!-- not run: WHY -->`` needs what is not here. ``<!-- slow -->`` anywhere makes the whole page a slow test.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

COMMANDS = {"bash"}
PROGRAMS = {"python", "javascript"}
OUTPUT = {"text", "json"}
OTHER_SHELLS = {"sh", "shell", "zsh", "console", "shell-session", "pycon"}

_open = re.compile(r"(\s*)(`{3,})\s*([\w-]*)(.*)\Z").match
_title = re.compile(r'title="([^"]+)"').search
_mark = re.compile(r"\s*<!-- (.*) -->\s*\Z").match
_escape = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Fence(NamedTuple):
    """A fence as it stands in a page."""

    line: int
    language: str
    title: str
    marks: tuple[str, ...]
    text: str
    end: int
    """The line of its end."""


class Step(NamedTuple):
    """What a reader does."""

    line: int
    kind: str
    """``run``, ``stay``, ``save``, ``python`` or ``skip``."""
    text: str
    title: str = ""
    """Of a program that is saved, its file; of a step that is skipped, why."""
    shown: str | None = None
    """The output beneath it."""


def fences(text: str) -> list[Fence]:
    """Return the fences of a page; one that is indented is read as if it were not."""
    found = []
    lines = text.splitlines()
    marks: list[str] = []
    at = 0
    while at < len(lines):
        opened = _open(lines[at])
        if mark := _mark(lines[at]):
            marks.append(mark[1])
        elif opened:
            indent, ticks = len(opened[1]), opened[2]
            end = next(number for number in range(at + 1, len(lines)) if lines[number].strip() == ticks)
            body = "\n".join(line[indent:] for line in lines[at + 1 : end])
            title = _title(opened[4])
            found.append(Fence(at + 1, opened[3], title[1] if title else "", tuple(marks), body, end + 1))
            marks, at = [], end
        elif lines[at].strip():
            marks = []
        at += 1
    return found


def steps(text: str) -> list[Step]:
    """Return what a page asks its reader to do, in order."""
    return list(_steps(text, fences(text)))


def _steps(text: str, found: list[Fence]) -> Iterator[Step]:
    lines = text.splitlines()
    for number, fence in enumerate(found):
        below = found[number + 1] if number + 1 < len(found) else None
        between = lines[fence.end : below.line - 1] if below else []
        is_output = below is not None and below.language in OUTPUT and not any(map(str.strip, between))
        shown = below.text if below is not None and is_output else None
        why = next(
            (mark.removeprefix("not run: ") for mark in fence.marks if mark.startswith("not run: ")), ""
        )
        kind = "skip" if why else "stay" if "until Ctrl-C" in fence.marks else "run"
        if fence.language in COMMANDS:
            yield Step(fence.line, kind, fence.text, why, shown)
        elif fence.language in PROGRAMS and fence.title:
            yield Step(fence.line, "save", fence.text, fence.title)
        elif fence.language in PROGRAMS:
            assert why or fence.language == "python", f"line {fence.line}: a program that nobody runs"
            yield Step(fence.line, "skip" if why else "python", fence.text, why, shown)
        elif not fence.language and fence.text.startswith("$ "):
            yield from (step._replace(kind=kind, title=why) for step in _session(fence))


def _session(fence: Fence) -> Iterator[Step]:
    """Split commands behind ``$`` from what they print."""
    command, printed = "", []
    for number, line in enumerate(fence.text.splitlines()):
        if line.startswith("$ "):
            if command:
                yield Step(fence.line + number, "run", command, shown="\n".join(printed) or None)
            command, printed = line[2:], []
        else:
            printed.append(line)
    yield Step(fence.line, "run", command, shown="\n".join(printed) or None)


def is_like(shown: str, seen: str, beginning: bool = False) -> bool:
    """Say whether an output has the shape that a page shows; with ``beginning``, whether it begins so.

    Numbers and times are equal to any others, and ``…`` to anything; JSON may be broken into lines elsewhere.
    """
    is_json = shown.lstrip()[:1] in ("{", "[")
    parts = (re.escape(_shape(part, is_json)) for part in shown.split("…"))
    pattern = re.compile(".*".join(parts), re.DOTALL)
    found = _shape(seen, is_json)
    return bool(pattern.match(found) if beginning else pattern.fullmatch(found))


def _shape(text: str, is_json: bool) -> str:
    text = _escape.sub("", text).replace("\r", "\n")
    if is_json:
        return re.sub(r"-?\d+(?:[.:T-]\d+)*Z?", "#", "".join(text.split()))
    lines = (" ".join(line.split()) for line in text.splitlines())
    return re.sub(r"-?\d+(?:[.,:T-]\d+)*Z?", "#", "\n".join(line for line in lines if line))
