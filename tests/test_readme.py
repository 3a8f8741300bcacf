"""The README says what the code says. ``python tests/test_readme.py`` writes its table of settings again."""

from __future__ import annotations

import re
from pathlib import Path

from candlewick import config
from candlewick.cli import main

README = Path(__file__).parent.parent / "README.md"
BEGIN = "<!-- settings: made by `make readme` from candlewick/config.py -->\n"
END = "<!-- end of settings -->"


def with_settings(text: str) -> str:
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{config.markdown()}\n{END}{after}"


def test_the_table_of_settings_is_that_of_the_code():
    text = README.read_text()
    assert BEGIN in text
    assert with_settings(text) == text, "make readme writes it again"


def test_every_command_is_named_and_every_named_command_exists():
    text = README.read_text()
    commands = set(re.findall(r"candlewick ([a-z][a-z-]+)", text))
    assert commands <= set(main.commands) | {"is"}, commands - set(main.commands)
    listed = text.partition("## Commands")[2].partition("## HTTP")[0]
    for name in main.commands:
        assert f"`{name}" in listed, name


def test_options_that_are_shown_are_options_of_their_command():
    ours = "|".join(main.commands.keys() - {"kafka"})  # whose options are Kafka's own
    for line in README.read_text().splitlines():
        for name, rest in re.findall(rf"candlewick ({ours})\b([^`#|>]*)", line):
            known = {option for parameter in main.commands[name].params for option in parameter.opts}
            assert set(re.findall(r"--[a-z-]+", rest)) <= known, line


if __name__ == "__main__":
    README.write_text(with_settings(README.read_text()))
