"""The search spaces that come with the installation, by their names: `kld` is search_spaces/kld.yaml."""

from __future__ import annotations

import difflib
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
_PLACES = (_PACKAGE / "search_spaces", _PACKAGE.parent / "search_spaces")
"""The folders of the search spaces: in an installed package, and in a clone."""


def shipped_spaces() -> dict[str, Path]:
    """Return the files of the shipped search spaces by their names, sorted."""
    place = next((place for place in _PLACES if place.is_dir()), None)
    return {} if place is None else {path.stem: path for path in sorted(place.glob("*.yaml"))}


def find_shipped(source: str) -> Path | None:
    """Return the shipped search space that `source` names.

    A name has no directory and no ending, such as `kld`. Return None if (a) no shipped space has this name, or (b) the
    working directory has something of this name, which takes precedence.
    """
    if Path(source).exists() or Path(source).name != source:
        return None
    return shipped_spaces().get(source)


def shipped_hint(source: str) -> str:
    """Return the end of a message about a missing search space file: the shipped one that may be meant."""
    stem = Path(source).name.removesuffix(".yaml").removesuffix(".yml")
    names = list(shipped_spaces())
    if stem in names:
        return f"; the one that is shipped is named without an ending: {stem}"
    close = difflib.get_close_matches(stem, names, n=1)
    if close and close[0] != stem and Path(source).name == source:
        return f"; did you mean {close[0]}, which is shipped?"
    if Path(source).suffix:
        return ""
    return f"; these are shipped: {', '.join(names)}" if names else ""
