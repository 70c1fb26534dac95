"""The apertures behind the core's numbers: device images with their tables of generations, clients' memory, host files.

    DIR/NAME.img          the device's bytes; .img.gone-K: namespaces that were unplugged, the last two, as evidence
    DIR/NAME.*.new-N      namespace N, prepared: appears when N is committed, at the next start at the latest; any other is removed
    DIR/NAME.cache.pages  the page cache of a device whose mount is not dax (and .gen): made anew at each start
    DIR/NAME.gen          u32 a block: even while the block is allocated, odd while it is free, one more at each change, two where other
                          files have it than before, 0xffffffff for good when its memory has failed

The allocator's side of the engine keeps the table (Allocate, Release); at a start the parity of each block is brought to what
the books say, since a broker may have been killed between an effect and its commit. A namespace that is plugged in gets a new
table: every block free, and two or more generations past what any old translation has seen, so that DMA under one shows as
DMA into memory that has changed hands.
"""

from __future__ import annotations

import array
import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from emu.engine.broker import memfd
from emu.host.files import open_sized, write_zeros, zero_range

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from emu.broker.spares import Spares
    from emu.core.effects import Piece, Run
    from emu.engine.broker import Engine

BLOCK = 4096
EVIDENCE = 2  # unplugged namespaces whose images are kept
LARGE = 1 << 20  # from here on the filesystem is asked for zeros
PIECE = 1 << 20  # bytes of preparation between two looks at who else waits
_GENERATION = 4


@dataclass(slots=True)
class Aperture:
    """number: the engine's. fd: the memory, to be handed out; -1 when it is not ours to keep."""

    number: int
    bytes: int
    fd: int = -1


class Memory:
    """Apertures by the core's number."""

    def __init__(self, engine: Engine, directory: Path, spares: Spares) -> None:
        self._engine, self._directory, self._spares = engine, directory, spares
        self._apertures: dict[int, Aperture] = {}
        self._core_numbers: dict[int, int] = {}
        self.breathe: Callable[[], None] = (
            _nobody_waits  # set by the loop: serve whom the core need not answer
        )

    def number(self, aperture: int) -> int:
        """The engine's number of it."""
        return self._apertures[aperture].number

    def core_number(self, number: int) -> int | None:
        """The core's number of the engine's; None: it is gone."""
        return self._core_numbers.get(number)

    def descriptor(self, aperture: int) -> int:
        return self._apertures[aperture].fd

    # ---- devices

    def open_device(
        self, aperture: int, name: str, blocks: int, owned: Sequence[Run], namespace: int = 1
    ) -> None:
        """Map image and table, both made when they are missing, and bring the table to what the books say.

        `namespace`: the committed one; if its broker was killed before it appeared, it appears now.
        """
        _spare(self._files(name)[0]).unlink(missing_ok=True)
        self.discard_prepared(name, but=namespace)
        self._show(name, namespace)
        size = blocks * BLOCK
        fd = open_sized(self._directory / f"{name}.img", size)
        gens_fd = open_sized(self._directory / f"{name}.gen", blocks * _GENERATION)
        try:
            number = self._engine.aperture_add(fd, size, block=BLOCK, gens_fd=gens_fd, scratch=True)
        except BaseException:
            os.close(fd)
            raise
        finally:
            os.close(gens_fd)
        self._note(aperture, Aperture(number, size, fd))
        for offset, length in owned:
            self._engine.blocks_allocate(number, offset, length, recover=True)
        for offset, length in gaps(owned, size):
            self._engine.blocks_release(number, offset, length, recover=True)

    def open_cache(self, aperture: int, name: str, blocks: int) -> None:
        """Memory that begins empty, whatever an earlier life left, all of it free."""
        size = blocks * BLOCK
        paths = [self._directory / f"{name}.{kind}" for kind in ("pages", "gen")]
        for path in paths:
            path.unlink(missing_ok=True)
        fd = open_sized(paths[0], size)
        gens_fd = -1
        try:
            gens_fd = open_sized(paths[1], blocks * _GENERATION)
            number = self._engine.aperture_add(fd, size, block=BLOCK, gens_fd=gens_fd, scratch=True)
        except BaseException:
            os.close(fd)
            raise
        finally:
            if gens_fd >= 0:
                os.close(gens_fd)
        self._note(aperture, Aperture(number, size, fd))
        self._engine.blocks_release(number, 0, size, recover=True)

    def copy_across(self, source: int, target: int, copies: Sequence[Piece]) -> None:
        """The CPU copies (from, to, bytes) from one aperture to another, or within one. Raises OSError."""
        for piece in copies:
            for start, to, size in cut(piece):
                self.copy_piece(source, target, (start, to, size))
                self.breathe()

    def copy_piece(self, source: int, target: int, piece: Piece) -> None:
        """At once. Raises OSError."""
        start, to, length = piece
        self._engine.cpu_copy(self.number(source), start, self.number(target), to, length)

    def zero(self, aperture: int, runs: Sequence[Run]) -> None:
        """The CPU stores zeros. Raises OSError."""
        number = self.number(aperture)
        for offset, length in runs:
            for at, size in pieces(offset, length, PIECE):
                self._engine.cpu_zero(number, at, size)
                self.breathe()

    def allocate(self, aperture: int, runs: Sequence[Run]) -> None:
        """Blocks of a new owner: their next generation first, zeros then. Raises OSError.

        The order tells DMA that comes late: bytes that land after the generation has changed are overwritten, or known as late.
        """
        held = self._apertures[aperture]
        for offset, length in runs:
            large = (
                length >= LARGE
            )  # a free block is odd: `recover` brings it to its next generation, and stores no zeros
            self._engine.blocks_allocate(held.number, offset, length, recover=large)
            if large:
                self._blank(held, offset, length)

    def _blank(self, held: Aperture, offset: int, length: int) -> None:
        for at, size in pieces(offset, length, PIECE):
            if not zero_range(held.fd, at, size) and not write_zeros(held.fd, at, size):
                self._engine.cpu_zero(held.number, at, size)
            self.breathe()

    def copy(self, aperture: int, pieces_: Sequence[Piece]) -> None:
        """Within the aperture: (from, to, bytes). Raises OSError."""
        self.copy_across(aperture, aperture, pieces_)

    def offline(self, aperture: int) -> None:
        """The namespace is gone; its image stays until another one comes."""
        self._engine.aperture_swap(self.number(aperture))

    def prepare_online(self, aperture: int, name: str, namespace: int) -> None:
        """Have the next namespace, canary everywhere, and its table; nobody sees them yet. Raises OSError, as ENOSPC, with nothing left
        behind, and Later while it is made.
        """
        image, table = self._files(name)
        held, spare = self._apertures[aperture], _spare(image)
        self._spares.demand(spare, held.bytes)
        self._spares.used(spare)
        try:
            spare.rename(_prepared(image, namespace))
            _write_table(_prepared(table, namespace), _next_generations(table, held.bytes // BLOCK))
        except BaseException:
            self.discard_prepared(name)
            spare.unlink(missing_ok=True)
            raise

    def discard_prepared(self, name: str, but: int = 0) -> None:
        """Namespaces that were prepared and never committed. `but`: keep this one."""
        for base in self._files(name):
            for path in _beside(base, "new"):
                if path != _prepared(base, but):
                    path.unlink()

    def online(self, aperture: int, name: str, namespace: int) -> None:
        """What was prepared appears at the same addresses, all blocks free. Raises OSError; what was prepared is gone then."""
        held = self._apertures[aperture]
        try:
            self._show(name, namespace)
            fd, gens_fd = (os.open(path, os.O_RDWR | os.O_CLOEXEC) for path in self._files(name))
        except BaseException:
            self.discard_prepared(name)
            raise
        try:
            self._engine.aperture_swap(held.number, fd, gens_fd)
        except BaseException:
            os.close(fd)
            raise
        finally:
            os.close(gens_fd)
        os.close(held.fd)
        held.fd = fd

    def _show(self, name: str, namespace: int) -> None:
        """Under the names by which a broker finds them. Also what is left of it, when an earlier broker was killed in here."""
        image, table = self._files(name)
        if _prepared(image, namespace).exists():
            _put_aside(image)
            _prepared(image, namespace).rename(image)
        if _prepared(table, namespace).exists():
            _prepared(table, namespace).rename(table)

    def _files(self, name: str) -> tuple[Path, Path]:
        return self._directory / f"{name}.img", self._directory / f"{name}.gen"

    # ---- memory of clients, host files

    def open_anon(self, aperture: int, size: int) -> int:
        """Sealed memory of a client, no more than the host has. Returns its descriptor, the caller's. Raises OSError."""
        if size > physical_memory():
            raise OSError(errno.ENOMEM, f"{size} bytes are more memory than this host has")
        fd = memfd(f"emu-mr-{aperture}", size)
        try:
            number = self._engine.aperture_add(fd, size)
        except BaseException:
            os.close(fd)
            raise
        self._note(aperture, Aperture(number, size))
        return fd

    def open_scratch(self, aperture: int, size: int) -> None:
        """Memory of the node's own, that nobody reads. Raises OSError."""
        os.close(self.open_anon(aperture, size))

    def open_host(self, aperture: int, fd: int, size: int) -> None:
        """Map a file of the host; the descriptor stays the caller's."""
        self._note(aperture, Aperture(self._engine.aperture_add(fd, size, host=True), size))

    def page_out(self, aperture: int) -> None:
        """Raises OSError where the kernel does not take the advice."""
        self._engine.aperture_page_out(self.number(aperture))

    def drop(self, aperture: int) -> None:
        held = self._apertures.pop(aperture)
        del self._core_numbers[held.number]
        if held.fd >= 0:
            os.close(held.fd)
        self._engine.aperture_drop(held.number)

    def _note(self, aperture: int, held: Aperture) -> None:
        self._apertures[aperture] = held
        self._core_numbers[held.number] = aperture


def physical_memory() -> int:
    """Bytes of the host's."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def pieces(offset: int, length: int, size: int) -> list[Run]:
    """The run, cut into runs of at most `size` bytes."""
    end = offset + length
    return [(at, min(size, end - at)) for at in range(offset, end, size)]


def cut(piece: Piece) -> list[Piece]:
    """The copy, cut into copies of at most PIECE bytes."""
    start, to, length = piece
    return [(at, to + at - start, size) for at, size in pieces(start, length, PIECE)]


def _nobody_waits() -> None:
    """Before the loop is there."""


def gaps(owned: Sequence[Run], size: int) -> list[Run]:
    """What is between the runs, from 0 to size."""
    found: list[Run] = []
    at = 0
    for offset, length in [*sorted(owned), (size, 0)]:
        if offset > at:
            found.append((at, offset - at))
        at = max(at, offset + length)
    return found


def _spare(image: Path) -> Path:
    """Where the worker makes a namespace that has no number yet."""
    return image.with_name(f"{image.name}.new")


def _prepared(base: Path, namespace: int) -> Path:
    return base.with_name(f"{base.name}.new-{namespace}")


def _beside(base: Path, kind: str) -> list[Path]:
    """BASE.KIND-NUMBER, in order of their numbers. What else lies there is not ours."""
    start = f"{base.name}.{kind}-"
    named = [path for path in base.parent.iterdir() if path.name.startswith(start)]
    return sorted((path for path in named if path.name.removeprefix(start).isdecimal()), key=_number)


def _number(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def _put_aside(image: Path) -> None:
    """The namespace that was: evidence, the last two of them."""
    aside = _beside(image, "gone")
    if not image.exists():
        return
    image.rename(image.with_name(f"{image.name}.gone-{_number(aside[-1]) + 1 if aside else 1}"))
    for old in aside[: max(0, len(aside) + 1 - EVIDENCE)]:
        old.unlink()


def _next_generations(table: Path, blocks: int) -> array.array[int]:
    """Of a new namespace: odd, and past everything that a translation of the old one may call its own. Of a table that was
    truncated meanwhile only the length is known; the engine tells namespaces apart by themselves, too.
    """
    size = blocks * _GENERATION
    generations = array.array("I", table.read_bytes()[:size].ljust(size, b"\0"))
    return array.array("I", ((g + 2 + (g % 2 == 0)) & 0xFFFFFFFF for g in generations))


def _write_table(path: Path, generations: array.array[int]) -> None:
    fd = open_sized(path, len(generations) * _GENERATION)
    try:
        os.pwrite(fd, generations.tobytes(), 0)
    finally:
        os.close(fd)
