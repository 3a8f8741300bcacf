"""``candlewick doctor``: what is wrong with a set-up, and the next thing to do.

Exit code 0: nothing is wrong (there may be warnings); 1: something is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from rich.text import Text

from candlewick import config
from candlewick.terminal.checks import CHECKS, Case, Check, Finding, packages, python
from candlewick.terminal.tables import console
from models.errors import ConfigError

COLOURS = {"ok": "green", "warning": "yellow", "wrong": "bold red"}


def run(environ: Mapping[str, str], options: Mapping[str, Any], as_json: bool) -> int:
    """Check everything, and print it; return the exit code."""
    findings = [python(), packages()]
    try:
        settings = config.load(environ, **options)
    except ConfigError as error:
        findings.append(Finding("settings", "wrong", str(error), f"set {error.setting} anew, or unset it"))
    else:
        case = Case(settings)
        findings += [_checked(check, case) for check in CHECKS]
    counts = {level: sum(finding.level == level for finding in findings) for level in COLOURS}
    if as_json:
        print(msgspec.json.encode({"well": not counts["wrong"], "findings": findings}).decode(), flush=True)
    else:
        out = console()
        for finding in findings:
            out.print(as_text(finding), soft_wrap=True)
        told = ", ".join(f"{count} {level}" for level, count in counts.items() if count)
        out.print(f"{len(findings)} checks: {told}")
    return 1 if counts["wrong"] else 0


def _checked(check: Check, case: Case) -> Finding:
    try:
        return check(case)
    except Exception as error:  # one check that fails must not hide what the others see
        return Finding(check.__name__.replace("_", " "), "warning", f"could not be checked: {error!r}")


def as_text(finding: Finding) -> Text:
    """Write a finding as a line, and what to do below it."""
    text = Text(f"{finding.level:<8} ", COLOURS[finding.level])
    text.append(f"{finding.name:<13} ", "bold")
    text.append(finding.seen, "none")
    if finding.do:
        text.append(f"\n{'':<23}→ {finding.do}", "none")
    return text
