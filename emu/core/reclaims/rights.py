"""The table of rights: who may work on which file, under a protocol that fences clients (pNFS layouts over a SCSI device).

    an MR goes live --GrantRight--> held --its last MR is gone--> ReturnRight --RightReturned--> DropRight
                                    held --FenceRight (fencing.py)--> RightFenced, confirmed --> DropRight
                                                                      RightFenced, failed -----> held, asked for again

While a fence is on its way its client registers nothing on that space (EBUSY). That ends when the fence is confirmed, and where it has failed
and no reclaim is there that would ask for it again: then the client keeps its right, and what was taken from it stays taken.

A right is a session's, on one file of one space; all MRs that it registers there are under it. It leaves the table only behind the
storage's answer (V21). Whoever came in under another protocol has none, and gets one when it is to be fenced. Rights die with the broker, as
MRs do.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from emu.core.asking import refuse
from emu.core.effects import DropRight, GrantRight, ReturnRight
from emu.core.rows import Mr, Right

if TYPE_CHECKING:
    from emu.core.books import Books
    from emu.core.events import RightReturned


def admit(b: Books, session: int, space: int) -> None:
    """A client whose fence is on its way registers nothing there: the fence would not know of it. Raises Refused."""
    if b.fencing_at.has((session, space)):
        refuse(
            errno.EBUSY,
            "reg_mr: this client is being fenced at the storage: register again when that is done",
        )


def granted(b: Books, key: int) -> None:
    """An MR under such a protocol has gone live, or is to be fenced."""
    mr = b.mrs[key]
    if not mr.right:
        b.mrs.put(key, mr._replace(right=_right_for(b, mr)))


def _right_for(b: Books, mr: Mr) -> int:
    """The one that its session has on that file, or a new one. One that is on its way out serves nobody any more."""
    for number in b.rights_of.of((mr.session, mr.space, mr.ino)):
        if not (b.rights[number].fencing or b.rights[number].returning):
            return number
    number = b.number("token")
    b.rights.put(number, Right(mr.session, mr.space, mr.ino))
    b.emit(GrantRight(number, mr.session))
    return number


def left(b: Books, right: int) -> None:
    """An MR under this right is gone, or is under it no more. Behind the last one the client gives the right back."""
    row = b.rights.get(right)
    if row is not None and not row.returning and not b.mrs_under.has(right):
        b.rights.put(right, row._replace(returning=True))
        b.emit(ReturnRight(right))


def returned(b: Books, event: RightReturned) -> None:
    if event.right in b.rights and b.rights[event.right].returning:
        drop(b, event.right)


def drop(b: Books, right: int) -> None:
    """The storage has said so. What was under it keeps its number, by which it is known to be fenced; fences of it that failed are done with."""
    b.rights.drop(right)
    for fence, row in b.fences.items():
        if row.right == right and row.failed:
            b.fences.drop(fence)
    b.emit(DropRight(right))
