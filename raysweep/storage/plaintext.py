"""Checks of text files: their encoding, and invisible characters that programs fail on."""

from __future__ import annotations

import codecs
import re
import shlex
import unicodedata
from collections.abc import Iterator

_WIDE = {
    codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF32_BE: "UTF-32", codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}  # fmt: skip
"""Byte order marks at a file's start, the longer ones first."""
_NAMES = {"\ufeff": "byte order mark"}
_PLAIN = " \t\n\r"


class NotPlainText(ValueError):
    """A file that is not UTF-8 text; the message says what it is and what to type."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line
        """From 1; 0 for the file as a whole."""


def decoded(content: bytes, source: str) -> str:
    """Return the text of a file in UTF-8.

    Raises:
        NotPlainText: if it is in another encoding, or has NUL bytes.
    """
    for mark, encoding in _WIDE.items():
        if content.startswith(mark):
            raise NotPlainText(0, f"is not a text in UTF-8, but in {encoding}; {_converted(encoding, source)}")
    if b"\0" in content:
        if len(content) >= 4 and 0.4 < content.count(0) / len(content) < 0.6:
            encoding = "UTF-16LE" if content[1] == 0 else "UTF-16BE"
            raise NotPlainText(0, f"is not a text in UTF-8, but in {encoding}; {_converted(encoding, source)}")
        line = content[: content.index(0)].count(b"\n") + 1
        raise NotPlainText(line, "has a NUL byte, which no text has; the file is damaged, or no text: write it anew")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        found = f"byte {content[error.start]:#04x}"
        raise NotPlainText(line, f"is not a text in UTF-8 ({found}); {_converted('LATIN1', source)}") from None


def _converted(encoding: str, source: str) -> str:
    return f"save it as UTF-8, or type: iconv -f {encoding} -t UTF-8 {shlex.quote(source)} > NEW"


def unseen(text: str) -> Iterator[tuple[int, str]]:
    """Yield the position and name of each character that is invisible or only looks like a blank."""
    for match in re.finditer(r"[^\x20-\x7e\t\n\r]", text):
        character = match[0]
        if unicodedata.category(character) in ("Zs", "Zl", "Zp", "Cf", "Cc") and character not in _PLAIN:
            name = _NAMES.get(character) or unicodedata.name(character, "control character").lower()
            yield match.start(), f"{name} (U+{ord(character):04X})"
