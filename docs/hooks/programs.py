"""The reference of commands, settings, metrics and errors, made of what the code declares."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator

import click
from shapes import cell

import models
import producers
from candlewick import config
from candlewick.cli import main
from candlewick.web import families
from models.errors import CandlewickError


def commands() -> str:
    """Return the help of every command, as ``--help`` prints it."""
    return "\n\n".join(f"## {name}\n\n```text\n{told}\n```" for name, told in _helps("candlewick", main))


def _helps(
    name: str, command: click.Command, parent: click.Context | None = None
) -> Iterator[tuple[str, str]]:
    # What stands in the context belongs to the group: its children inherit the width.
    context = click.Context(command, info_name=name.split()[-1], parent=parent, **command.context_settings)
    context.terminal_width = 100
    yield f"`{name}`", command.get_help(context)
    if isinstance(command, click.Group):
        for each in command.list_commands(context):
            child = command.get_command(context, each)
            assert child is not None
            yield from _helps(f"{name} {each}", child, context)


def settings() -> str:
    """Return the table of all settings."""
    return config.markdown()


def metrics() -> str:
    """Return the table of all metrics."""
    return families.markdown()


def errors() -> str:
    """Return every error that is raised on purpose, with its base and what it means."""
    for package in (models, producers):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    kinds = sorted(_kinds(CandlewickError), key=lambda kind: kind.__name__)
    return "\n".join(["| error | is a | what it means |", "|---|---|---|", *map(_error, kinds)])


def _error(kind: type) -> str:
    about = cell((inspect.getdoc(kind) or "").splitlines()[0])
    return f"| `{kind.__module__}.{kind.__name__}` | `{kind.__mro__[1].__name__}` | {about} |"


def _kinds(kind: type) -> set[type]:
    children = set(kind.__subclasses__())
    return {kind, *children, *(each for child in children for each in _kinds(child))}
