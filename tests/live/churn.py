"""Random file operations with a model of what they must have done: who may forget nothing that was acknowledged.

The operation that was under way when the broker died may or may not have happened, as a whole; all others have. Only the bytes of
a write are stored one by one: of those any part may be there, and nothing else.
"""

from __future__ import annotations

import errno
import random

from emu.verbs.pyverbs_error import PyverbsRDMAError

NAMES = 6
LARGEST = 96 << 10


class Churn:
    """One client's files, `/mnt/NAME-0` ... , and their contents as they must be."""

    def __init__(self, name: str, seed: int) -> None:
        self.paths = [f"/mnt/{name}-{i}" for i in range(NAMES)]
        self.random = random.Random(seed)
        self.model: dict[str, bytes] = {}
        # path, what it is if the last operation did happen, and where that was written
        self.doubt: tuple[str, bytes | None, range] | None = None
        self.acknowledged = 0

    def run(self, fs) -> int:
        """Until the broker is gone. Returns how many operations it acknowledged."""
        before = self.acknowledged
        try:
            while True:
                self.step(fs)
        except PyverbsRDMAError as error:
            if error.errno != errno.EIO:
                raise
        return self.acknowledged - before

    def step(self, fs) -> None:
        path = self.random.choice(self.paths)
        if path not in self.model:
            size = self.random.randrange(LARGEST)
            self._do(path, bytes(size), lambda: fs.create(path, size))
            return
        self.random.choice((self.write, self.write, self.truncate, self.punch, self.unlink))(fs, path)

    def write(self, fs, path: str) -> None:
        old = self.model[path]
        offset = self.random.randrange(len(old) + 5000)
        data = self.random.randbytes(self.random.randrange(1, 9000))
        padded = old.ljust(offset, b"\0")
        after = padded[:offset] + data + padded[offset + len(data) :]
        written = range(offset, offset + len(data))
        self._do(path, after, lambda: fs.write(path, offset, data), written)

    def truncate(self, fs, path: str) -> None:
        size = self.random.randrange(LARGEST)
        self._do(
            path, self.model[path][:size].ljust(size, b"\0"), lambda: fs.truncate(path, size, timeout=60)
        )

    def punch(self, fs, path: str) -> None:
        old = self.model[path]
        if not old:
            return
        start = self.random.randrange(len(old))
        length = self.random.randrange(1, len(old) - start + 1)
        new = old[:start] + bytes(length) + old[start + length :]
        self._do(path, new, lambda: fs.punch(path, start, length, timeout=60))

    def unlink(self, fs, path: str) -> None:
        self._do(path, None, lambda: fs.unlink(path, timeout=60))

    def _do(self, path: str, after: bytes | None, operation, written: range = range(0)) -> None:
        self.doubt = (path, after, written)
        operation()
        self._settle(path, after)
        self.acknowledged += 1

    def _settle(self, path: str, content: bytes | None) -> None:
        self.doubt = None
        if content is None:
            self.model.pop(path, None)
        else:
            self.model[path] = content

    def verify(self, fs) -> list[str]:
        """What is not as it must be; the doubtful operation is settled by what is found."""
        wrong = []
        listed = {file["path"] for file in fs.ls()["files"]}
        for path in self.paths:
            found = self._content(fs, path) if path in listed else None
            if self.doubt is not None and path == self.doubt[0] and self._may_be(found):
                self._settle(path, found)
            elif found != self.model.get(path):
                wrong.append(f"{path}: {_told(found)}, must be {_told(self.model.get(path))}")
        self.doubt = None
        return wrong

    def _may_be(self, found: bytes | None) -> bool:
        """All or nothing; but of a write that was cut off, whose size came at once, any part."""
        path, after, written = self.doubt
        before = self.model.get(path)
        if found in (before, after):
            return True
        if found is None or before is None or after is None or len(found) != len(after):
            return False
        old = before.ljust(len(after), b"\0")
        return all(found[i] == after[i] or (i in written and found[i] == old[i]) for i in range(len(after)))

    def _content(self, fs, path: str) -> bytes:
        return fs.read(path, 0, LARGEST + 16000)


def _told(content: bytes | None) -> str:
    return "no file" if content is None else f"{len(content)} bytes, checksum {sum(content)}"
