"""The prepared images on every machine: made by the driver, fetched once a machine, verified, and mapped.

The driver's machine has them already. Any other machine fetches them before its first trial: from the sweep's bucket if
it has one, otherwise through Ray from the driver's machine. The first process holds a lock, and the others wait for it.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock

from raysweep.data.cachefile import open_cache
from raysweep.data.places import cache_directories, writable_cache_directory
from raysweep.errors import CacheError, StorageError
from raysweep.messages import ImageFile
from raysweep.storage.layout import replacing, storage_errors
from raysweep.storage.remote import RemoteDirectory

BLOCK_BYTES = 8 << 20
AHEAD = 2
"""Blocks that are on their way through Ray while one is written."""

_verified: set[tuple[Path, str]] = set()
"""Files that this process has read to the end, with their checksums."""
_log = logging.getLogger("raysweep")


def local_images(images: ImageFile) -> Path:
    """Return the file of the images on this machine. Fetch it if it is missing or damaged.

    Raises:
        StorageError: if it cannot be fetched or written.
        CacheError: if what was fetched is not what the driver has.
    """
    if images.node is None or images.node == _node():
        return images.path
    for directory in cache_directories():  # an existing file is read even if the directory is read-only
        path = directory / images.path.name
        if (path, images.checksum) in _verified:
            return path
        if path.exists() and _fault(path, images) is None:
            _verified.add((path, images.checksum))
            return path
    path = writable_cache_directory() / images.path.name
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f"{path.name}.lock")):
            if _fault(path, images) is not None:
                begun = time.monotonic()
                whence = _fetch(images, path)
                fault = _fault(path, images)
                if fault is not None:
                    raise CacheError(f"{path}: fetched from {whence}, and still {fault}")
                _log.warning(
                    "%s: fetched from %s, %.1f MB in %.1f s", path, whence, images.size / 1e6, time.monotonic() - begun
                )
    _verified.add((path, images.checksum))
    return path


def share_images(remote: RemoteDirectory, images: ImageFile) -> None:
    """Upload the images to the sweep's bucket, unless they are there.

    Raises:
        StorageError: if the bucket does not answer.
    """
    there = remote.find(images.name)
    if there is None or there.size != images.path.stat().st_size:
        remote.upload(images.path, images.name)


def images_from(remote: RemoteDirectory, dataset: str, checksum: str) -> Path | None:
    """Fetch the images of a sweep from its bucket to this machine; return None if the bucket has none.

    This is for a driver whose machine has no raw images to prepare them from.

    Raises:
        StorageError: if the bucket does not answer, or they cannot be written.
        CacheError: if they are damaged.
    """
    name = ImageFile.name_of(dataset, checksum)
    path = writable_cache_directory() / Path(name).name
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not remote.fetch(name, path):
            return None
    if open_cache(path, verify=True).info.checksum != checksum:
        raise CacheError(f"{remote.uri}/{name}: holds other images than the sweep was run on")
    return path


def image_file(cache: Path, origin: str | None = None) -> ImageFile:
    """Describe the driver's prepared images for other machines. The driver must be connected to Ray."""
    info = open_cache(cache).info
    return ImageFile(cache, info.dataset, info.checksum, cache.stat().st_size, _node(), origin)


def _node() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())


def _fault(path: Path, images: ImageFile) -> str | None:
    """Return why a file cannot be used; None if it can."""
    if not path.exists():
        return "missing"
    try:
        found = open_cache(path, verify=True).info.checksum
    except CacheError as error:
        _log.warning("%s; it is fetched again", error)
        return str(error)
    return None if found == images.checksum else "of other images"


def _fetch(images: ImageFile, path: Path) -> str:
    """Replace the file; return where it came from."""
    if images.origin is not None and RemoteDirectory.at(images.origin).fetch(images.name, path):
        return f"{images.origin}/{images.name}"
    with replacing(path) as temporary, open(temporary, "wb") as file:
        for block in _blocks(images):
            file.write(block)
    return "the driver's machine"


def _blocks(images: ImageFile) -> Iterator[bytes]:
    """Yield the file of the driver's machine, block by block.

    Raises:
        StorageError: if that machine is gone.
    """
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(images.node, soft=False)
    read = ray.remote(_read).options(num_cpus=0, max_retries=2, scheduling_strategy=there)
    path = str(images.path)
    size = images.size
    starts = deque(range(0, size, BLOCK_BYTES))
    waiting: deque[Any] = deque()
    try:
        while starts or waiting:
            while starts and len(waiting) <= AHEAD:
                start = starts.popleft()
                waiting.append(read.remote(path, start, min(BLOCK_BYTES, size - start)))
            yield ray.get(waiting.popleft())
    except RayError as error:
        raise StorageError(f"{images.path}: cannot be fetched from the driver's machine: {error}") from error


def _read(path: str, start: int, count: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(count)
