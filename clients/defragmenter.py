"""The defragmenter: works in the background, moves a file's blocks or a buffer to another place, and does not mind being refused: it comes again."""

from __future__ import annotations

from emu.clients.reclaimer import Reclaimer


class Defragmenter(Reclaimer):
    """A reclaimer of places, not of contents."""

    name = "defragmenter"


if __name__ == "__main__":
    Defragmenter().main()
