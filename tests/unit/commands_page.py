"""docs/commands.md, made from the commands' own help: python -m tests.unit.commands_page > docs/commands.md"""

from __future__ import annotations

from collections.abc import Iterator

import click
from click.testing import CliRunner

from raysweep.cli import main


def commands(
    group: click.Command, path: tuple[str, ...] = ("raysweep",)
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command with the words that call it, groups before what is in them."""
    yield path, group
    if isinstance(group, click.Group):
        for name, command in group.commands.items():
            yield from commands(command, (*path, name))


def page() -> str:
    """The whole page."""
    parts = ["# Commands\n"]
    for path, _ in commands(main):
        result = CliRunner().invoke(main, [*path[1:], "--help"], prog_name="raysweep", terminal_width=100)
        help_text = "".join(f"    {line}".rstrip() + "\n" for line in result.output.splitlines())
        parts.append(f"## {' '.join(path)}\n\n{help_text}")
    return "\n".join(parts)


if __name__ == "__main__":
    print(page(), end="")
