"""Writes the two tables of columns into docs/schema.md: python -m tests.unit.schema_tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from raysweep.report.tables import EPOCH_COLUMNS, TRIAL_COLUMNS, Column

PAGE = Path(__file__).parents[2] / "docs" / "schema.md"
TABLES = {"trials.parquet": TRIAL_COLUMNS, "epochs.parquet": EPOCH_COLUMNS}


def rows(columns: Sequence[Column]) -> list[str]:
    """The rows of a table of columns in Markdown."""
    return [
        f"| `{c.name}` | {_type(c.type)} | {c.unit} | {'yes' if c.nullable else 'no'} | {c.meaning} |" for c in columns
    ]


def section(text: str, heading: str) -> str:
    """What the page has under a heading."""
    return text.split(f"## {heading}\n")[1].split("\n## ")[0]


def written(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("| `")]


def _type(type_: pa.DataType) -> str:
    if pa.types.is_list(type_):
        return f"list<{type_.value_type}>"
    return str(type_).replace("tz=", "")


def main() -> None:
    text = PAGE.read_text()
    for heading, columns in TABLES.items():
        before = section(text, heading)
        text = text.replace(before, before.replace("\n".join(written(before)), "\n".join(rows(columns))))
    PAGE.write_text(text)


if __name__ == "__main__":
    main()
