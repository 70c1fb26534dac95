"""What was asked for behind the answer, went well, and has no place in the file: by journals and the file map."""

import pytest

from emu.check.history import History
from emu.check.nowhere import nowhere

BLOCK, VICTIM, QP = 4096, 7, 11


@pytest.fixture
def asked(world):
    """A run whose peer posted one request of the whole victim behind the answer; it ended with `status`."""

    def made(status=0, opcode=0, time=5000, **changes):
        world.row["victim"] = {"path": "/mnt/victim", "ino": VICTIM}
        world.row["reclaim"] |= changes
        world.completions = [(QP, 1, status)]
        folder = world.write()
        rewrite(folder, opcode, time)
        return nowhere(History.read(folder))

    return made


def rewrite(folder, opcode, time):
    from emu.history.journal import Journal, Kind, Record

    path = folder / "journals" / "peer.jrnl"
    status = next(iter(History.read(folder).journals["peer"].of(Kind.POLLED))).code
    path.unlink()
    with Journal(path, "peer", 16) as journal:
        journal.append(Record(Kind.POSTED, opcode, 0, QP, 1, time, 0x101, 4 * BLOCK, 0, 0, VICTIM, 1))
        journal.polled(QP, 1, status)


def test_a_write_that_went_well_is_lost_where_the_file_ends_before_it(asked):
    assert asked() == (3 * BLOCK, 0)


def test_a_read_is_stale_there(asked):
    assert asked(opcode=4) == (0, 3 * BLOCK)


@pytest.mark.parametrize(("status", "time", "errno"), [(10, 5000, None), (0, 1, None), (0, 5000, "EBUSY")])
def test_errors_earlier_requests_and_refused_reclaims_lose_nothing(asked, status, time, errno):
    assert asked(status=status, time=time, errno=errno) == (0, 0)
