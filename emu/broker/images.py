"""At a start: the devices of the books, the options and the images in the directory agree, are brought to agree, or the start is refused.

    the books know it, no --pmem      EINVAL: its files would be unreachable without a word
    it has files, no --mount has them EINVAL: likewise
    another size than in the books    EINVAL
    its image is gone, it has files   ENOENT: zeros are no substitute for somebody's files
    its image has another size        brought back to the books' size; what is lost is named on stderr
    the books do not know it          an image of that size is taken over, another refused

Whoever holds a dax MR holds the image's descriptor, and can cut it: that must not keep the node from coming back.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from emu.core.rows import BLOCK

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from emu.broker.options import MountPoint, Pmem
    from emu.core.books import Books
    from emu.core.rows import File

NAMED = 8  # files that lost something are named up to here, then counted


def agree(directory: Path, books: Books, pmem: Sequence[Pmem], mounts: Sequence[MountPoint]) -> list[str]:
    """Check all, then mend what can be mended. Returns warnings; raises OSError, with nothing changed."""
    _none_left_out(directory, books, pmem)
    _none_stranded(books, mounts)
    odd = [each for each in pmem if _odd(directory, books, each)]
    return [_bring_back(directory, books, each) for each in odd]


def _none_left_out(directory: Path, books: Books, pmem: Sequence[Pmem]) -> None:
    given = {each.name for each in pmem}
    for name, row in books.devices.items():
        if name not in given:
            count = sum(1 for _ in _files_on(books, name))
            raise OSError(
                errno.EINVAL,
                f"the books hold device {name} with {count} files, and no --pmem names it: add --pmem {name}={row.blocks * BLOCK}, "
                f"or use another directory than {directory}",
            )


def _none_stranded(books: Books, mounts: Sequence[MountPoint]) -> None:
    """Each file lies below the mount of its device: it is found by its path alone."""
    given = {mount.device: mount.path for mount in mounts}
    for name in books.devices:
        lost = [
            row.path for row in _files_on(books, name) if row.nlink and not _below(row.path, given.get(name))
        ]
        if lost:
            raise OSError(
                errno.EINVAL,
                f"device {name} holds {_listed(lost)}, which no --mount of this start reaches: add --mount "
                f"/{lost[0].split('/')[1]}={name}, as it was before, or use another directory",
            )


def _below(path: str, mount: str | None) -> bool:
    return mount is not None and path.startswith(f"{mount}/")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _odd(directory: Path, books: Books, pmem: Pmem) -> bool:
    """Its image has not the size that the books say. Raises OSError for what is refused."""
    image, known = _image(directory, pmem.name), books.devices.get(pmem.name)
    found = image.stat().st_size if image.exists() else None
    if known is None:
        if found not in {None, 0, pmem.size}:
            raise OSError(
                errno.EINVAL,
                f"--pmem {pmem.typed}: {image} has {found} bytes: give its size, or move the file away",
            )
        return False
    if known.blocks != pmem.blocks:
        raise OSError(
            errno.EINVAL,
            f"--pmem {pmem.typed}: device {pmem.name} has {known.blocks * BLOCK} bytes in the books: give its size, or use "
            "another directory",
        )
    owners = [row.path for row in _files_on(books, pmem.name) if row.extents]
    if found is None and owners:
        raise OSError(
            errno.ENOENT,
            f"--pmem {pmem.typed}: {image} is gone, and {len(owners)} files are on it ({owners[0]}): put it back, or use another "
            "directory",
        )
    return found not in {None, pmem.size} and bool(found or owners)


def _bring_back(directory: Path, books: Books, pmem: Pmem) -> str:
    image = _image(directory, pmem.name)
    found = image.stat().st_size
    os.truncate(image, pmem.size)
    said = f"{image} had {found} bytes and has {pmem.size} again, as in the books: "
    if found > pmem.size:
        return said + "what was behind its end was no file's"
    lost = [
        f"{row.path} ({bytes_} bytes)" for row in _files_on(books, pmem.name) if (bytes_ := _lost(row, found))
    ]
    return said + f"from {found} on all is zeros, lost of {_listed(lost) or 'no file'}"


def _lost(row: File, found: int) -> int:
    """How many bytes of a file were on blocks behind the image's end."""
    spans = (
        (at * BLOCK, max(0, found - device * BLOCK), count * BLOCK)
        for at, device, count, _since in row.extents
    )
    return sum(max(0, min(at + size, row.size) - (at + kept)) for at, kept, size in spans if kept < size)


def _files_on(books: Books, device: str) -> Iterator[File]:
    return (books.files[ino] for ino in books.files_on.of(device))


def _image(directory: Path, name: str) -> Path:
    return directory / f"{name}.img"
