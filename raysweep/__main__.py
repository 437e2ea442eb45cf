"""`python -m raysweep`, which is `raysweep`."""

from __future__ import annotations

from raysweep.cli import command

command()
