"""The content of a folder of images: images that are read, their classes, and what is left out and why.

    root/0001.png                 no labels
    root/cat/0001.png             classes cat, dog, ...; subfolders of a class belong to it
    root/train/cat/0001.png       split folders: all top folders are named train, val or test, or a common variant
    root/test/cat/0001.png        of these, in any case; all of them have classes, or none has

In split folders, the images below test are the official test images. Those below train and val are pooled, and the
validation split, on which trials are compared, is drawn from both.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from raysweep.data.images import Note
from raysweep.errors import DataError, DataUnavailable
from raysweep.storage.layout import printable

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm",
                  ".pbm")  # fmt: skip
ARCHIVE_SUFFIXES = (".zip", ".tar", ".tgz", ".tbz2", ".txz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")
_UNREAD_IMAGE_SUFFIXES = frozenset({
    ".heic", ".heif", ".avif", ".jp2", ".jxl", ".svg", ".eps", ".pdf", ".psd", ".xcf", ".tga", ".exr", ".hdr", ".dng",
    ".nef", ".cr2", ".cr3", ".arw", ".raw", ".dcm", ".nii", ".npy", ".npz", ".mat", ".h5", ".hdf5", ".pt", ".pth",
    ".parquet", ".arrow", ".tfrecord", ".lmdb", ".mp4", ".mov", ".avi", ".mkv", ".webm",
})  # fmt: skip
"""Endings of files that hold images raysweep does not read. Other files (.txt, .csv, ...) are not images."""
_LITTER = frozenset({"thumbs.db", "desktop.ini", ".ds_store"})
_LITTER_FOLDERS = frozenset({"__MACOSX", "lost+found", "@eaDir", "$RECYCLE.BIN", "System Volume Information"})
"""Folders that operating systems make; they hold thumbnails or deleted files."""
_ROLES: dict[str, Literal["train", "val", "test"]] = {
    "train": "train", "training": "train", "train_set": "train", "trainset": "train",
    "val": "val", "valid": "val", "validation": "val", "val_set": "val", "valset": "val", "dev": "val",
    "test": "test", "testing": "test", "test_set": "test", "testset": "test",
}  # fmt: skip
"""The split that a folder of this name holds, in any case."""


@dataclass(frozen=True)
class Entry:
    """One image that is read."""

    path: str
    """Below the root, with slashes, as the file system has it: it need not be UTF-8."""
    label: int
    """-1 where there are no classes."""
    official_test: bool
    size: int
    modified_ns: int
    changed_ns: int
    """When the file or its status was changed last. Nobody can set this time, so it shows copying and `touch` too."""


@dataclass
class _Findings:
    """Paths below the root that a walk found and that are not images to read, by reason."""

    dangling: list[str] = field(default_factory=list)
    circular: list[str] = field(default_factory=list)
    read_already: list[str] = field(default_factory=list)
    forbidden: list[str] = field(default_factory=list)
    special: list[str] = field(default_factory=list)
    archives: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    folders: set[str] = field(default_factory=set)
    """All folders that were entered."""
    seen: dict[str, str] = field(default_factory=dict)
    """The folders that were entered, by their real path."""


@dataclass(frozen=True)
class Survey:
    """A folder, listed."""

    entries: tuple[Entry, ...]
    """Sorted by path, the official test images last."""
    classes: tuple[str, ...]
    """Names as the file system has them, sorted; empty where images have no labels."""
    notes: tuple[Note, ...]
    """How the folders were understood, and what is left out."""
    missing: str | None
    """Images that should be there but cannot be read (links without a target, folders without permission), or None."""


def survey(root: Path) -> Survey:
    """List the images below a folder, and what is left out.

    Raises:
        DataUnavailable: if there is no image, or the folder itself may not be read.
        DataError: if it is not clear which images have which class.
    """
    findings = _Findings()
    found = sorted(_walk(root, findings), key=lambda item: item[0])
    if not found:
        raise DataUnavailable(_nothing_found(root, findings))
    roles = _split_folders(root, [path for path, _ in found])
    depth = 1 if roles else 0
    families = [_family(path, depth) for path, _ in found]
    classes = tuple(sorted({family for family in families if family is not None}))
    loose = next((path for (path, _), family in zip(found, families, strict=True) if family is None), None)
    if loose is not None and classes:
        some = ", ".join([*(printable(name) for name in classes[:3]), *(["..."] if len(classes) > 3 else [])])
        raise DataError(
            f"{printable(root)}: {printable(loose)} lies beside the class folders ({some}); move it into one of them, "
            "or elsewhere"
        )
    is_split = set(roles.values()) != {"test"}  # if all are test folders, the test split is drawn as always
    numbers = {name: number for number, name in enumerate(classes)}
    entries = [
        Entry(
            path, -1 if family is None else numbers[family], is_split and roles.get(_top(path)) == "test",
            status.st_size, status.st_mtime_ns, status.st_ctime_ns,
        )
        for (path, status), family in zip(found, families, strict=True)
    ]  # fmt: skip
    entries.sort(key=lambda entry: (entry.official_test, entry.path))
    return Survey(
        entries=tuple(entries),
        classes=classes,
        notes=(
            *(Note("folders", text) for text in _split_facts(entries, roles)),
            *(Note("classes", text) for text in _class_facts(root, entries, classes, roles)),
            *(Note("left out", text, is_warning=True) for text in _left_out(findings, entries, depth)),
            *(Note("left out", text) for text in _litter(findings)),
        ),
        missing=_missing(findings),
    )


def image_files(root: Path) -> list[Path]:
    """Return the images below a folder, sorted by path, whatever their folders mean.

    Raises:
        DataUnavailable: if there are none.
    """
    findings = _Findings()
    found = sorted(path for path, _ in _walk(root, findings))
    if not found:
        raise DataUnavailable(_nothing_found(root, findings))
    return [root / path for path in found]


def _walk(root: Path, findings: _Findings) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the images below the folder: path, with slashes, and file status. Follow links, but not in circles."""

    def refused(error: OSError) -> None:
        where = Path(error.filename or root)
        if where == root:
            raise error
        findings.forbidden.append(where.relative_to(root).as_posix())

    for directory, folders, files in os.walk(root, followlinks=True, onerror=refused):
        here = Path(directory).relative_to(root)
        real = os.path.realpath(directory)
        if real in findings.seen:
            is_above = here.as_posix().startswith(f"{findings.seen[real]}/") or findings.seen[real] == "."
            (findings.circular if is_above else findings.read_already).append(here.as_posix())
            folders.clear()
            continue
        findings.seen[real] = here.as_posix()
        findings.folders.add(here.as_posix())
        for name in folders:
            if _is_hidden(name):
                findings.hidden.append(f"{(here / name).as_posix()}/")
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        for name in sorted(files):
            path = (here / name).as_posix()
            if not name.lower().endswith(IMAGE_SUFFIXES):
                _sort_away(root / path, path, findings)
            elif _is_hidden(name):
                findings.hidden.append(path)
            else:
                status = _status(root / path, path, findings)
                if status is not None:
                    yield path, status


def _sort_away(file: Path, path: str, findings: _Findings) -> None:
    """Record a file whose ending is not that of an image that is read."""
    low = file.name.lower()
    suffix = PurePosixPath(low).suffix
    if low in _LITTER or _is_hidden(file.name):
        findings.hidden.append(path)
    elif not suffix and not os.path.exists(file):  # a link to a folder that is not there: a class is missing
        findings.dangling.append(path)
    elif low.endswith(ARCHIVE_SUFFIXES):
        findings.archives.append(path)
    elif suffix in _UNREAD_IMAGE_SUFFIXES:
        findings.unread.append(path)
    else:
        findings.others.append(path)


def _status(file: Path, path: str, findings: _Findings) -> os.stat_result | None:
    """Return the status of an image file.

    If it cannot be read, or is not a regular file, record it and return None.
    """
    try:
        status = file.stat()
    except OSError as error:
        kinds = {errno.ENOENT: findings.dangling, errno.ENOTDIR: findings.dangling, errno.ELOOP: findings.circular}
        kinds.get(error.errno or 0, findings.forbidden).append(path)
        return None
    if not stat.S_ISREG(status.st_mode):
        findings.special.append(path)
        return None
    return status


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in _LITTER_FOLDERS


def _top(path: str) -> str:
    return path.partition("/")[0] if "/" in path else ""


def _family(path: str, depth: int) -> str | None:
    """Return the class of an image below `depth` folders of splits; None if it lies in no class folder."""
    parts = PurePosixPath(path).parts
    return parts[depth] if len(parts) > depth + 1 else None


def _split_folders(root: Path, paths: list[str]) -> dict[str, Literal["train", "val", "test"]]:
    """Return the split of each top folder, by its name; empty if they are classes, or there are none.

    Raises:
        DataError: if there are images beside split folders.
    """
    tops = sorted({_top(path) for path in paths})
    roles = {name: _ROLES[name.lower()] for name in tops if name.lower() in _ROLES}
    others = [name for name in tops if name not in roles]
    if not others:
        return roles
    if "train" not in roles.values() or len(set(roles.values())) < 2:
        return {}
    stray = others[0] or next(path for path in paths if "/" not in path)
    raise DataError(
        f"{printable(root)}: has {' and '.join(roles)}, and images in {printable(stray)} too; "
        f"move them into {' or '.join(roles)}, or elsewhere"
    )


def _split_facts(entries: list[Entry], roles: dict[str, Literal["train", "val", "test"]]) -> Iterator[str]:
    """Yield sentences on how the split folders are used."""
    if not roles:
        return
    counts = Counter(_top(entry.path) for entry in entries)
    has_tests = any(entry.official_test for entry in entries)
    tests = [f"{name}/ ({counts[name]:,})" for name, role in roles.items() if has_tests and role == "test"]
    pooled = [f"{name}/ ({count:,})" for name, count in sorted(counts.items()) if f"{name}/ ({count:,})" not in tests]
    fractions = "data.validation_fraction" if tests else "data.validation_fraction and data.test_fraction"
    if len(pooled) > 1:
        yield f"{' and '.join(pooled)} are pooled, and split anew by {fractions}"
    else:
        yield f"{pooled[0]} is split by {fractions}"
    if tests:
        yield f"{' and '.join(tests)} {'is' if len(tests) == 1 else 'are'} the test split"


def _class_facts(
    root: Path, entries: list[Entry], classes: tuple[str, ...], roles: dict[str, Literal["train", "val", "test"]]
) -> Iterator[str]:
    """Yield sentences on classes that may not be what the user meant."""
    depth = 1 if roles else 0
    below: dict[str, set[str]] = {}
    for entry in entries:
        parts = PurePosixPath(entry.path).parts
        if len(parts) > depth + 2:
            below.setdefault(parts[depth], set()).add(parts[depth + 1])
    if len(classes) == 1:
        inside = sorted(below.get(classes[0], ()))
        place = printable(root / _only_split(roles) / classes[0])
        hint = f"; if its folders ({_some(inside)}) are the classes, set data.root: {place}" if inside else ""
        yield f"all images are of one class, {printable(classes[0])}{hint}"
        return
    nested = [name for name in classes if len(below.get(name, ())) > 1]
    if nested:
        inside = sorted(below[nested[0]])
        yield f"folders inside a class are part of it: {printable(nested[0])} holds {_some(inside)}" + (
            f", and {len(nested) - 1} more classes hold folders" if len(nested) > 1 else ""
        )
    named = [name for name in classes if name.lower() in _ROLES]
    if named and not roles:
        yield f"{_some(named)}: taken for a class, because not all folders beside it are named train, val or test"
    if roles and classes:
        for split in ("train", "test"):
            held = {classes[entry.label] for entry in entries if entry.official_test == (split == "test")}
            lacking = [name for name in classes if name not in held]
            if held and lacking:
                where = "the test split" if split == "test" else "what trials learn from"
                yield f"no image in {where} is of {_some(lacking)}"


def _only_split(roles: dict[str, Literal["train", "val", "test"]]) -> str:
    """Return the only split folder; an empty text if there are none or several."""
    return next(iter(roles)) if len(roles) == 1 else ""


def _missing(findings: _Findings) -> str | None:
    parts = []
    if findings.dangling:
        parts.append(
            f"{_count(findings.dangling, 'link')} to images that are not there, {_first(findings.dangling)}: fetch the "
            "files (git annex get, dvc pull, git lfs pull) or mount the disk that they are on"
        )
    if findings.forbidden:
        parts.append(
            f"{_count(findings.forbidden, 'file or folder', 'files or folders')} that may not be read by this user, "
            f"{_first(findings.forbidden)}"
        )
    return "; ".join(parts) or None


def _left_out(findings: _Findings, entries: list[Entry], depth: int) -> tuple[str, ...]:
    lines = []
    if findings.circular:
        lines.append(f"{_count(findings.circular, 'link')} that lead in a circle, {_first(findings.circular)}")
    if findings.read_already:
        lines.append(
            f"{_count(findings.read_already, 'link')} to folders that are read already, {_first(findings.read_already)}"
        )
    if findings.special:
        lines.append(f"{_count(findings.special, 'pipe, socket or device', 'pipes, sockets or devices')}, "
                     f"{_first(findings.special)}")  # fmt: skip
    if findings.archives:
        lines.append(f"{_count(findings.archives, 'archive')}, {_first(findings.archives)}: unpack what is to be used")
    if findings.unread:
        endings = Counter(PurePosixPath(path).suffix.lower() for path in findings.unread)
        kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in endings.most_common(5))
        lines.append(
            f"{_count(findings.unread, 'file')} in formats that are not read ({kinds}), {_first(findings.unread)}: "
            "convert them to .png or .jpg"
        )
    empty = _empty_folders(findings, entries, depth)
    if empty:
        lines.append(f"{_count(empty, 'folder')} without an image, {_first(empty)}")
    return tuple(lines)


def _empty_folders(findings: _Findings, entries: list[Entry], depth: int) -> list[str]:
    """Return the folders that are at the level of class folders or above and hold no image."""
    used = {"/".join(PurePosixPath(entry.path).parts[: depth + 1]) for entry in entries}
    used |= {_top(entry.path) for entry in entries}
    levels = {path for path in findings.folders if path != "." and path.count("/") <= depth}
    return sorted(path for path in levels if path not in used)


def _litter(findings: _Findings) -> tuple[str, ...]:
    lines = []
    if findings.hidden:
        noun = "hidden file or folder", "hidden files or folders"
        lines.append(f"{_count(findings.hidden, *noun)}, {_first(findings.hidden)}")
    if findings.others:
        endings = Counter(PurePosixPath(path).suffix.lower() or "without an ending" for path in findings.others)
        kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in endings.most_common(5))
        lines.append(f"{_count(findings.others, 'file')} of other kinds ({kinds}), {_first(findings.others)}")
    return tuple(lines)


def _nothing_found(root: Path, findings: _Findings) -> str:
    """Say why a folder has no image to read, and what lies there instead."""
    instead = [*filter(None, [_missing(findings)]), *_left_out(findings, [], 0), *_litter(findings)]
    there = f"; it holds {'; '.join(instead)}" if instead else ""
    return f"{printable(root)}: holds no image; looked for {', '.join(IMAGE_SUFFIXES)}, in subfolders too{there}"


def _count(paths: list[str], noun: str, plural: str | None = None) -> str:
    return f"1 {noun}" if len(paths) == 1 else f"{len(paths):,} {plural or noun + 's'}"


def _first(paths: list[str]) -> str:
    return printable(paths[0]) if len(paths) == 1 else f"such as {printable(paths[0])}"


def _some(names: list[str]) -> str:
    shown = [printable(name) for name in names[:3]]
    return ", ".join([*shown, *([f"and {len(names) - 3:,} more"] if len(names) > 3 else [])])
