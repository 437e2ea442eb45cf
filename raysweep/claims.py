"""Claims: statements about a sweep's results, each with the test that decides it.

A search space file declares them under `claims:`; `raysweep findings` decides them from the sweep's tables. Conditions
are expressions over the columns of trials.parquet (docs/schema.md); raysweep/expressions.py says what may stand in one.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]{0,59}$")]


class _Test(BaseModel):
    """What all claims have."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    """Short, unique in the file."""
    statement: str
    """What is claimed, in a sentence."""
    source: str | None = None
    """Where the claim comes from."""
    where: str | None = None
    """Condition that a trial meets to be looked at."""
    across: str | None = None
    """Column by whose values the test is made apart; where verdicts differ, the claim depends on the convention."""


class Always(_Test):
    """The condition is met by every epoch, or by every trial."""

    test: Literal["always"]
    condition: str
    each: Literal["trial", "epoch"] = "trial"


Claim = Always
