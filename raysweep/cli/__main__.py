"""`python -m raysweep.cli`, the same as `raysweep`."""

from __future__ import annotations

from raysweep.cli import command

command()
