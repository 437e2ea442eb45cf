"""Damaged files from sound ones: bits flipped, ends cut off, pieces moved, numbers changed; the same for a seed."""

from __future__ import annotations

import gzip
import random
import re
import struct
import zlib
from collections.abc import Callable, Sequence

Mutator = Callable[[bytes, random.Random], bytes]

NUMBERS = (0, 1, -1, 2, 7, 127, 128, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**63 - 1, 2**64 - 1)
WORDS = (
    "null", "true", "-1", "0", "1", "1e999", "-1e999", ".nan", "NaN", "Infinity", "-Infinity", "1" * 400, "9" * 5000,
    "[]", "{}", "[[[[]]]]", "[" * 400, "{a: " * 300, '""', "''", '"\\ud800"', "\x00", "\ufeff", "&a [*a]", "*a",
    "<<: *a", "!!python/object/apply:os.system [ls]", "!!timestamp x", "!!bool x", "!!binary x", "%YAML 1.1",
    "---", "...",
    "? [a]\n: b", "1000000000000", "3.5", "../../etc/passwd", "é", "-", ":", "#", ",", "}", "]", '"', "\n", "\t",
)  # fmt: skip


def mutate_bytes(content: bytes, rng: random.Random) -> bytes:
    """One to four changes of a binary file."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if not data:
            return bytes(data)
        place = rng.randrange(len(data))
        kind = rng.randrange(9)
        if kind == 0:
            data[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[place] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif kind == 2:
            width = rng.choice((2, 4, 8))
            number = rng.choice(NUMBERS) % (1 << 8 * width)
            data[place : place + width] = number.to_bytes(width, rng.choice(("little", "big")))
        elif kind == 3:
            del data[place:]
        elif kind == 4:
            del data[place : place + rng.choice((1, 2, 8, 64, 1024))]
        elif kind == 5:
            other = rng.randrange(len(data))
            data[place:place] = data[other : other + rng.choice((1, 4, 16, 256))]
        elif kind == 6:
            other = rng.randrange(len(data))
            piece = data[other : other + rng.choice((4, 8, 64))]
            data[place : place + len(piece)] = piece
        elif kind == 7:
            data[place:place] = rng.randbytes(rng.choice((1, 4, 32)))
        else:
            # Headers and footers are small beside what they describe, and decide everything.
            edge = min(len(data), 64)
            place = rng.choice((rng.randrange(edge), len(data) - 1 - rng.randrange(edge)))
            data[place] ^= 1 << rng.randrange(8)
    return bytes(data)


def mutate_text(content: bytes, rng: random.Random) -> bytes:
    """One to four changes of a text file, most of which leave it a text of its kind."""
    text = content.decode("utf-8", "replace")
    for _ in range(rng.choice((1, 1, 2, 4))):
        kind = rng.randrange(8)
        lines = text.split("\n")
        if kind == 0:
            text = _with_number(text, rng)
        elif kind == 1:
            text = _with_word(text, rng)
        elif kind == 2:
            lines.insert(rng.randrange(len(lines) + 1), rng.choice(lines))
        elif kind == 3:
            del lines[rng.randrange(len(lines))]
        elif kind == 4 and len(lines) > 1:
            one, other = rng.randrange(len(lines)), rng.randrange(len(lines))
            lines[one], lines[other] = lines[other], lines[one]
        elif kind == 5:
            place = rng.randrange(len(text) + 1)
            text = text[:place] + rng.choice(WORDS) + text[place:]
        elif kind == 6:
            place = rng.randrange(len(lines))
            lines[place] = " " * rng.randrange(8) + lines[place].strip()
        else:
            return mutate_bytes(text.encode("utf-8", "replace"), rng)
        if kind in (2, 3, 4, 6):
            text = "\n".join(lines)
    return text.encode("utf-8", "replace")


def _with_number(text: str, rng: random.Random) -> str:
    found = list(re.finditer(r"[-+]?[0-9]+(\.[0-9]+)?(e[-+]?[0-9]+)?", text))
    if not found:
        return text
    at = rng.choice(found)
    new = rng.choice((str(rng.choice(NUMBERS)), f"{rng.random():.3g}", f"1e{rng.randrange(400)}", rng.choice(WORDS)))
    return text[: at.start()] + new + text[at.end() :]


def _with_word(text: str, rng: random.Random) -> str:
    found = list(re.finditer(r"[A-Za-z_]+|\"[^\"]*\"", text))
    if not found:
        return text
    at = rng.choice(found)
    new = rng.choice((rng.choice(found).group(), rng.choice(WORDS)))
    return text[: at.start()] + new + text[at.end() :]


def mutate_tensors(content: bytes, rng: random.Random) -> bytes:
    """A safetensors file, whose header mostly keeps the length that stands before it."""
    if rng.random() < 0.3:
        return mutate_bytes(content, rng)
    length = struct.unpack_from("<Q", content)[0]
    header = mutate_text(content[8 : 8 + length], rng)
    if rng.random() < 0.3:
        # The header's own JSON within the JSON.
        header = content[8 : 8 + length].replace(b'\\"', b"\x01")
        header = _with_number(header.decode(), rng).encode().replace(b"\x01", b'\\"')
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


def mutate_png(content: bytes, rng: random.Random) -> bytes:
    """A PNG, the checksums of whose pieces are mostly right again."""
    changed = mutate_bytes(content, rng)
    if rng.random() < 0.2:
        return changed
    mended, place = bytearray(changed[:8]), 8
    while place + 12 <= len(changed):
        length = struct.unpack_from(">I", changed, place)[0]
        if place + 12 + length > len(changed):
            break
        piece = changed[place + 4 : place + 8 + length]
        if piece[:4] == b"IDAT" and rng.random() < 0.1:
            piece = b"IDAT" + zlib.compress(rng.randbytes(rng.choice((0, 10, 5000))))
        mended += struct.pack(">I", len(piece) - 4) + piece + struct.pack(">I", zlib.crc32(piece))
        place += 12 + length
    return bytes(mended + changed[place:])


def mutate_gzip(content: bytes, rng: random.Random) -> bytes:
    """A gzipped file, mostly changed before it is packed."""
    if rng.random() < 0.3:
        return mutate_bytes(content, rng)
    return gzip.compress(mutate_bytes(gzip.decompress(content), rng), compresslevel=1, mtime=0)


def spliced(seeds: Sequence[bytes], rng: random.Random) -> bytes:
    """The beginning of one file and the end of another."""
    one, other = rng.choice(seeds), rng.choice(seeds)
    return one[: rng.randrange(len(one) + 1)] + other[rng.randrange(len(other) + 1) :]
