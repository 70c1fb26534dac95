"""The model that judges a killed broker must itself be able to say no: a file system that forgets is found out."""

import errno

import pytest
from churn import Churn

from emu.verbs.pyverbs_error import PyverbsRDMAError


class Forgetful:
    """A file system in memory; `before` is what it was without the last acknowledged operation."""

    def __init__(self, dies_after: int, applied: bool = False) -> None:
        self.files: dict[str, bytes] = {}
        self.before: dict[str, bytes] = {}
        self.left, self.applied = dies_after, applied

    def _change(self, path: str, content: bytes | None) -> None:
        self.left -= 1
        if self.left >= 0 or self.applied:
            self.before = dict(self.files)
            self.files.pop(path, None)
            if content is not None:
                self.files[path] = content
        if self.left < 0:
            raise PyverbsRDMAError("the broker is gone", errno.EIO, definite=False)

    def create(self, path, size):
        self._change(path, bytes(size))

    def write(self, path, offset, data):
        padded = self.files[path].ljust(offset, b"\0")
        self._change(path, padded[:offset] + data + padded[offset + len(data) :])

    def truncate(self, path, size, timeout):  # noqa: ARG002 - as of Fs
        self._change(path, self.files[path][:size].ljust(size, b"\0"))

    def punch(self, path, offset, length, timeout):  # noqa: ARG002 - as of Fs
        old = self.files[path]
        self._change(path, old[:offset] + bytes(length) + old[offset + length :])

    def unlink(self, path, timeout):  # noqa: ARG002 - as of Fs
        self._change(path, None)

    def ls(self):
        return {"files": [{"path": path} for path in self.files]}

    def read(self, path, offset, length):
        return self.files[path][offset : offset + length]


@pytest.mark.parametrize("applied", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_what_was_under_way_may_or_may_not_have_happened(seed, applied):
    fs, churn = Forgetful(30 + seed, applied), Churn("t", seed)
    assert churn.run(fs) == 30 + seed
    assert churn.verify(fs) == []


class Torn(Forgetful):
    """Half of the last operation is there: the first half of the new bytes, the second of the old ones."""

    def _change(self, path: str, content: bytes | None) -> None:
        old = self.files.get(path)
        try:
            super()._change(path, content)
        except PyverbsRDMAError:
            if old is not None and content is not None:
                changed = [i for i in range(len(content)) if i >= len(old) or content[i] != old[i]]
                half = set(changed[: len(changed) // 2])
                padded = old.ljust(len(content), b"\0")
                self.files[path] = bytes(content[i] if i in half else padded[i] for i in range(len(content)))
            raise


@pytest.mark.parametrize("seed", range(40))
def test_half_a_write_is_a_crash_and_half_of_anything_else_is_a_fault(seed):
    fs, churn = Torn(30), Churn("t", seed)
    churn.run(fs)
    path, after, written = churn.doubt
    found = fs.files.get(path)
    whole = found in (churn.model.get(path), after)
    assert (churn.verify(fs) == []) == (whole or len(written) > 0)


def test_old_bytes_past_the_end_are_found():
    fs, churn = Forgetful(40, applied=True), Churn("t", 3)
    fs.files["/mnt/t-0"] = churn.model["/mnt/t-0"] = b"old" * 100
    fs.left = 0
    with pytest.raises(PyverbsRDMAError):
        churn._do("/mnt/t-0", b"old" + bytes(297), lambda: fs.punch("/mnt/t-0", 3, 297, 60))
    fs.files["/mnt/t-0"] = b"old" + bytes(200) + b"d" * 97
    assert len(churn.verify(fs)) == 1


def test_a_forgotten_acknowledged_operation_is_found():
    found = 0
    for seed in range(20):
        fs, churn = Forgetful(40), Churn("t", seed)
        churn.run(fs)
        fs.files = fs.before
        found += bool(churn.verify(fs))
    assert found >= 12  # the others concern the file that is in doubt anyway, or change nothing


def test_a_lost_file_and_a_changed_byte_are_found():
    fs, churn = Forgetful(60), Churn("t", 3)
    churn.run(fs)
    doubted = churn.doubt[0]
    path = next(path for path in fs.files if path != doubted and fs.files[path])
    fs.files[path] = bytes([fs.files[path][0] ^ 1]) + fs.files[path][1:]
    assert len(churn.verify(fs)) == 1
    del fs.files[path]
    assert len(churn.verify(fs)) == 1
