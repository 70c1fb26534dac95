"""What holds of a core's books behind every step of any script, and when everything has come to rest.

Each law is a function (script) -> the sentence that says how it is broken, or None. `broken(script)` is the first of LAWS that is; `unrest(script)`
what is left when nobody is there any more. Laws of translations (a live key reaches no block that is free, or another file's) are those of
protocols that promise S1 of whatever is asked, and end with the first device that is unplugged.
"""

from __future__ import annotations

from emu.core import events as ev
from emu.core.books import Books
from emu.core.decision import KINDS
from emu.core.machine import Core

BLOCK = 4096
RAW = "pm3"  # a raw device has no owners of blocks
LEFT = {
    "devices",
    "mounts",
    "files",
    "free",
    "bad",
    "keys",
    "counters",
    "caches",
    "pages",
    "nics",
}  # for who comes next


def rebuilt(books):
    """All indexes of all books, made anew from the rows."""
    fresh = Books(books.protocols, books.policy)
    for book, other in zip(books.all, fresh.all, strict=True):
        other.refill(dict(book.rows))
    return [index.snapshot() for book in fresh.all for index in book.indexes]


def indexes(books):
    return [index.snapshot() for book in books.all for index in book.indexes]


def blocks_in(runs):
    return [block for _at, start, count, *_since in runs for block in range(start, start + count)]


def blocks_of(layout):
    return {at + n for at, _device, count, _since in layout for n in range(count)}


def unowned(books, aperture):
    return [
        block
        for book in (books.free, books.limbo, books.quarantine)
        for _key, run in book.items()
        if run.aperture == aperture
        for block in range(run.start, run.start + run.blocks)
    ]


def places(books, device):
    """Every block of a device, as often as somebody has it: what files share counts once, what has failed is nobody's."""
    owned = {block for ino in books.files_on.of(device) for block in blocks_in(books.files[ino].extents)}
    bad = [row.block for _number, row in books.bad.items() if row.device == device]
    return sorted([*owned, *unowned(books, books.devices[device].aperture), *bad])


def page_places(books, device):
    """Every page of a device's cache, as often as somebody has it."""
    owned = [page for ino in books.pages_on.of(device) for page in blocks_in(books.pages[ino].extents)]
    return sorted(owned + unowned(books, books.caches[device].aperture))


def blocks_add_up(script):
    """S6."""
    books = script.core.books
    for device, row in books.devices.items():
        if device != RAW and places(books, device) != list(range(row.blocks)):
            return f"blocks of {device}: {places(books, device)}"
    for device, row in books.caches.items():
        if page_places(books, device) != list(range(row.blocks)):
            return f"pages of {device}: {page_places(books, device)}"
    return None


def pages_lie_over_blocks(script):
    books = script.core.books
    for ino, held in books.pages.items():
        pages, file = blocks_of(held.extents), books.files[ino]
        if not blocks_of(held.dirty) <= pages <= blocks_of(file.extents):
            return f"file {file.path}: pages {held}, blocks {file.extents}"
    return None


def lost_is_no_block(script):
    """A hole whose memory has failed is a hole."""
    for ino in script.core.books.files:
        file = script.core.books.files[ino]
        if blocks_of(file.lost) & blocks_of(file.extents):
            return f"file {file.path}: lost {file.lost}, blocks {file.extents}"
    return None


def live_keys_reach_their_own(script):
    """S1, as the books tell it."""
    books = script.core.books
    if not safe(script):
        return None
    free = {(run.aperture, block) for book in (books.free, books.limbo) for _key, run in book.items()
            for block in range(run.start, run.start + run.blocks)}  # fmt: skip
    owners = {}
    for ino, file in books.files.items():
        for block in blocks_in(file.extents):
            owners.setdefault((books.devices[file.device].aperture, block), set()).add(ino)
    for ino, held in books.pages.items():
        for page in blocks_in(held.extents):
            owners.setdefault((books.caches[held.device].aperture, page), set()).add(ino)
    for key, mr in books.mrs.items():
        if mr.state == "live" and not mr.revoked and mr.ino:
            for at, size in mr.runs:
                for block in range(at // BLOCK, -(-(at + size) // BLOCK)):
                    place = mr.aperture, block
                    if place in free or mr.ino not in owners.get(place, {mr.ino}):
                        return f"MR {key} reaches {place}, which is {owners.get(place, 'free')}: {mr}"
    return None


def safe(script):
    promised = [script.core.books.protocols[name] for name in script.names]
    kinds = [kind for kind in KINDS if kind not in {"surprise", "unplug"}]
    return not script.unplugged and all("S1" in each.promised(kind) for each in promised for kind in kinds)


def no_rule_is_broken(script):
    """Installed protocols keep the contract."""
    return script.broken


LAWS = (blocks_add_up, pages_lie_over_blocks, lost_is_no_block, live_keys_reach_their_own, no_rule_is_broken)


def broken(script):
    for law in LAWS:
        sentence = law(script)
        if sentence:
            return f"{law.__name__}: {sentence}"
    return None


def unrest(script):
    """Everybody hangs up: what is left that nobody will ever take."""
    if not script.rest():
        return f"no rest: {script.waiting[:3]}"
    books = script.core.books
    left = {book.name: list(book.items())[:3] for book in books.all if len(book) and book.name not in LEFT}
    if left:
        return f"left: {left}"
    if sorted(script.given) != sorted(script.closed):
        return f"descriptors given {script.given}, given back {script.closed}"
    if script.open:
        return f"never answered: {script.open}"
    return broken(script) or _another_life(script)


def _another_life(script):
    """What is durable is a sound node, with the same files."""
    old = script.core
    new = Core(old.books.protocols, policy=old.books.policy)
    new.load(old.durable())
    for device, row in old.books.devices.items():
        new.step(ev.DeviceAdded(device, row.blocks))
    for path, mount in old.books.mounts.items():
        if path.startswith("/"):
            new.step(ev.MountAdded(path, *mount))
    new.step(ev.BuffersLost())
    new.committed()
    script.core = new
    kept = {
        ino: (file.path, file.extents, file.lost)
        for ino, file in old.books.files.items()
        if file.device != "dmabuf"
    }
    found = {ino: (file.path, file.extents, file.lost) for ino, file in new.books.files.items()}
    return broken(script) or (None if found == kept else f"files {found}, and there were {kept}")
