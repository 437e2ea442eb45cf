"""The README: short, with links that lead somewhere and commands that there are."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import click
import pytest

from raysweep.cli import main

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_it_fits_in_120_lines():
    assert README.count("\n") < 120


@pytest.mark.parametrize(
    "page", sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")]), ids=lambda path: path.name
)
def test_every_link_leads_to_a_file(page):
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    assert [target for target in targets if "://" not in target and not (page.parent / target).exists()] == []


def test_every_command_of_it_is_one_of_raysweep():
    typed = re.findall(r"^ {4}(?:.*&& )?raysweep (.*)$", README, re.MULTILINE)
    assert len(typed) > 8
    for line in typed:
        words = line.split("#")[0].split("&&")[0].split()
        command: click.Command = main
        while isinstance(command, click.Group):
            assert words[0] in command.commands, line
            command = command.commands[words.pop(0)]
        options = {name for parameter in command.params for name in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, line


def test_the_first_command_installs_and_runs_and_the_test_command_is_the_one_that_ci_copies():
    (first, *_) = re.findall(r"^ {4}(\S.*)$", README, re.MULTILINE)
    assert first.startswith("pip install -c constraints.txt . && raysweep run ")
    copied = re.findall(r"^command=\$\((.*)\)$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    said = subprocess.run(["bash", "-c", copied[0]], cwd=ROOT, capture_output=True, text=True, check=True)
    assert said.stdout == 'pip install -c constraints.txt ".[dev]" && tests/run\n'
