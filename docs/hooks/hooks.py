"""What mkdocs calls while it builds the site: parts of pages are made of the code, and links are mended.

A page says ``<!-- made: NAME WORD ... -->`` where a part belongs; `PARTS` has a function for each name, which
takes the words. Nothing that is made so is kept in the repository, so it cannot differ from the code.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import worker
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

worker.load()

import api  # noqa: E402
import programs  # noqa: E402
import records  # noqa: E402

ROOT = Path(__file__).parents[2]

PARTS: dict[str, Callable[..., str]] = {
    "changelogs": records.changelogs,
    "commands": programs.commands,
    "errors": programs.errors,
    "http": api.paths,
    "limits": api.limits,
    "metrics": programs.metrics,
    "push": api.push,
    "schemas": api.schemas,
    "settings": programs.settings,
    "topic": records.topic,
}

OUTSIDE = {
    "ARCHITECTURE.md": "explanation/architecture.md",
    "CHANGELOG.md": "changelog.md",
    "bench/README.md": "how-to/bench.md",
    "faults/README.md": "how-to/faults.md",
}
"""Pages that lie elsewhere in the repository, and where the site has them."""

_part = re.compile(r"<!-- made: ([a-z]+)((?: [a-z-]+)*) -->")
_link = re.compile(r"(?<!!)\[((?:`[^`]*`|[^\]`])*)\]\(([^)\s#:]+)(#[^)]*)?\)")
_item = re.compile(r"\s*([-*]|[0-9]+\.) ")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that lie elsewhere in the repository."""
    for path, page in OUTSIDE.items():
        files.append(File.generated(config, page, content=(ROOT / path).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Return a page with its made parts, its lists apart from what is above them, and its links mended."""
    source = next((path for path, made in OUTSIDE.items() if made == page.file.src_uri), None)
    folder = Path(source or f"docs/{page.file.src_uri}").parent
    text = _part.sub(lambda found: _made(found[1], found[2].split()), markdown)
    return _link.sub(lambda found: _mended(found, folder, page.file.src_uri), _apart(text))


def _made(name: str, words: list[str]) -> str:
    if name not in PARTS:
        raise PluginError(f"there is no part {name!r}: docs/hooks/hooks.py has {', '.join(sorted(PARTS))}")
    return PARTS[name](*words)


def _mended(found: re.Match[str], folder: Path, page: str) -> str:
    """Return a link as it must be in the site; what the site does not have is named, and not linked."""
    words, target, anchor = found[1], found[2], found[3] or ""
    place = os.path.normpath(folder / target)
    if place in OUTSIDE:
        there = OUTSIDE[place]
    elif place.startswith("docs/") and (ROOT / place).exists():
        there = place.removeprefix("docs/")
    elif (ROOT / place).exists():
        return words if words.startswith("`") else f"`{words}`"
    else:
        return found[0]  # mkdocs says what is wrong with it
    return f"[{words}]({os.path.relpath(there, Path(page).parent)}{anchor})"


def _apart(text: str) -> str:
    """Put an empty line before each list that follows a line of text: GitHub needs none, Markdown does."""
    lines: list[str] = []
    fence = ""
    for line in text.splitlines():
        mark = re.match(r"\s*(`{3,})", line)
        if mark and not fence:
            fence = mark[1]
        elif mark and line.strip() == fence:
            fence = ""
        above = lines[-1] if lines else ""
        if not fence and _item.match(line) and above.strip() and not _item.match(above) and above[0] != " ":
            lines.append("")
        lines.append(line)
    return "\n".join(lines)
