"""The rows of Linux hold to what was recorded on real kernels: 6.1, 6.12, 6.18 and 7.3 (xfs, ext4, tmpfs, device-dax; Soft-RoCE)."""

from __future__ import annotations

import errno

import pytest

from emu.core import effects as fx
from emu.core import events as ev
from emu.core import requests as rq
from emu.core.errors import errno_name
from emu.core.machine import Core
from emu.protocols import registry

BLOCK = 4096
KERNELS = ("linux-6.1", "linux-6.12", "linux-6.18", "linux-7.3")
READ, WRITE, ON_DEMAND = 4, 7, 7 | 1 << 6
# What reg_mr answered: rows of the record, columns as KERNELS.
REGISTRATION = {
    ("dax", WRITE): ("EOPNOTSUPP", "EOPNOTSUPP", "EOPNOTSUPP", "EOPNOTSUPP"),
    ("dax", READ): ("EOPNOTSUPP", "EOPNOTSUPP", "EOPNOTSUPP", "EOPNOTSUPP"),
    ("page-cache", WRITE): ("ok", "EFAULT", "EFAULT", "EFAULT"),
    ("page-cache", READ): ("ok", "ok", "ok", "ok"),
    ("tmpfs", WRITE): ("ok", "ok", "ok", "ok"),
    ("tmpfs", READ): ("ok", "ok", "ok", "ok"),
    ("devdax", WRITE): ("ok", "ok", "ok", "ok"),
    ("anon", WRITE): ("ok", "ok", "ok", "ok"),
    ("dax", ON_DEMAND): ("EINVAL", "EOPNOTSUPP", "ok", "ok"),
    ("page-cache", ON_DEMAND): ("EINVAL", "EOPNOTSUPP", "ok", "ok"),
    ("tmpfs", ON_DEMAND): ("EINVAL", "EOPNOTSUPP", "ok", "ok"),
}
PATHS = {"dax": "/dax/a", "page-cache": "/cache/a", "tmpfs": "/tmp/a", "devdax": "/dev/dax0", "anon": ""}
ROWS = [
    (kernel, backing, access, answers[at])
    for (backing, access), answers in REGISTRATION.items()
    for at, kernel in enumerate(KERNELS)
]


class Machine:
    """A node as such a kernel has it: four devices, everything answered at once."""

    def __init__(self, kernel):
        self.core = Core(registry.load().protocols, anon_protocol=kernel)
        self.effects, self.requests = [], 0
        for n, (path, how) in enumerate(
            (("/dax", {"dax": True}), ("/cache", {}), ("/tmp", {"tmpfs": True}), ("/dev/dax0", {"raw": True}))
        ):
            self.step(ev.DeviceAdded(f"pm{n}", 64))
            self.step(ev.MountAdded(path, f"pm{n}", **{"dax": False, **how}, protocol=kernel))
        self.step(ev.SessionOpened(1, "holder", door=True, wants=True))
        self.pd = self.ask(rq.AllocPd()).result["handle"]
        for path in ("/dax/a", "/cache/a", "/tmp/a"):
            self.ask(rq.FsCreate(path, 4 * BLOCK))

    def step(self, event):
        made = self.core.step(event)
        self.core.committed()
        self.effects += made
        for effect in made:
            answer = self.answer(effect)
            if answer is not None:
                self.step(answer)
        return made

    @staticmethod
    def answer(effect):
        if isinstance(effect, fx.InstallKey):
            return ev.KeyInstalled(effect.key)
        if isinstance(effect, fx.Quiesce | fx.Invalidate):
            return ev.Quiesced(effect.cookie)
        if isinstance(effect, fx.Unmap):
            return ev.Unmapped(effect.cookie)
        return ev.Answered(effect.token) if getattr(effect, "token", 0) else None

    def ask(self, op):
        """The answer, Reply or Fail."""
        self.requests += 1
        self.step(ev.Requested(1, self.requests, op))
        found = [e for e in self.effects if isinstance(e, fx.Reply | fx.Fail) and e.request == self.requests]
        assert len(found) == 1, op
        return found[0]

    def register(self, backing, access=WRITE):
        wire = "page-cache" if backing == "tmpfs" else backing
        return self.ask(rq.RegMr(self.pd, 4 * BLOCK, access, 0, wire, PATHS[backing]))

    def free(self, device):
        return self.ask(rq.QueryBooks()).result["devices"][device]["free"]

    def says(self, op):
        answer = self.ask(op)
        return "ok" if isinstance(answer, fx.Reply) else errno_name(answer.errno)


@pytest.mark.parametrize(("kernel", "backing", "access", "answer"), ROWS)
def test_registration_answers_as_the_kernel_did(kernel, backing, access, answer):
    found = Machine(kernel).register(backing, access)
    assert ("ok" if isinstance(found, fx.Reply) else errno_name(found.errno)) == answer


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    "op", [rq.FsTruncate("/tmp/a", 0), rq.FsPunch("/tmp/a", 0, 2 * BLOCK)], ids=["truncate", "punch"]
)
def test_under_a_pin_of_tmpfs_it_never_waits_and_never_refuses_and_the_pages_are_nobodys(kernel, op):
    node = Machine(kernel)
    key = node.register("tmpfs").result["handle"]
    before = node.free("pm2")
    assert node.says(op) == "ok"
    assert node.free("pm2") > before, "free space returns at once"
    assert node.core.books.mrs[key].state == "live", "the peer writes on"
    assert not [e for e in node.effects if isinstance(e, fx.Quiesce | fx.Invalidate | fx.Notify)]
    kept = [run for _key, run in node.core.books.quarantine.items()]
    assert sum(run.blocks for run in kept) == (4 if isinstance(op, rq.FsTruncate) else 2)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_file_that_is_extended_again_has_pages_of_its_own(kernel):
    """Silent split brain: the file has the mapper's bytes, the MR the peer's."""
    node = Machine(kernel)
    key = node.register("tmpfs").result["handle"]
    pinned = node.core.books.mrs[key].runs
    assert node.says(rq.FsTruncate("/tmp/a", 0)) == "ok"
    assert node.says(rq.FsTruncate("/tmp/a", 4 * BLOCK)) == "ok"
    again = node.register("tmpfs").result["handle"]
    new = node.core.books.mrs[again].runs
    assert not {at for at, _size in pinned} & {at for at, _size in new}


def test_on_6_1_alone_so_do_pages_of_a_disks_filesystem():
    node = Machine("linux-6.1")
    assert isinstance(node.register("page-cache"), fx.Reply)
    assert node.says(rq.FsTruncate("/cache/a", 0)) == "ok"
    assert not [e for e in node.effects if isinstance(e, fx.Quiesce)]


@pytest.mark.parametrize("kernel", KERNELS[2:])
@pytest.mark.parametrize("backing", ["dax", "page-cache", "tmpfs"])
def test_on_demand_the_hardware_is_drained_and_the_next_access_finds_the_end_of_file(kernel, backing):
    node = Machine(kernel)
    key = node.register(backing, ON_DEMAND).result["handle"]
    assert node.says(rq.FsTruncate(PATHS[backing], 0)) == "ok"
    assert [e for e in node.effects if isinstance(e, fx.Invalidate)]
    node.step(ev.Missed(key, 1, 0, 64, write=True))
    (remap,) = [e for e in node.effects if isinstance(e, fx.Remap)]
    assert {at for at, _size in remap.extents} == {-1}, "past the end: REM_ACCESS_ERR"
    assert node.says(rq.FsTruncate(PATHS[backing], 4 * BLOCK)) == "ok"
    node.step(ev.Missed(key, 1, 0, 64, write=True))
    last = [e for e in node.effects if isinstance(e, fx.Remap)][-1]
    assert last.extents[0][0] >= 0, "extended again, the same MR works again"


@pytest.mark.parametrize("kernel", KERNELS)
def test_orderly_removal_under_a_filesystem_is_ebusy_pinned_or_not(kernel):
    node = Machine(kernel)
    for device in ("pm0", "pm1"):
        assert node.says(rq.FsUnplug(device)) == "EBUSY"


@pytest.mark.parametrize("kernel", KERNELS)
def test_device_dax_is_unbound_without_a_look_at_the_pin(kernel):
    node = Machine(kernel)
    key = node.register("devdax").result["handle"]
    assert node.says(rq.FsUnplug("pm3")) == "ok"
    assert node.core.books.mrs[key].state == "live", "the next WRITE meets memory that is not there"


@pytest.mark.parametrize("kernel", KERNELS)
def test_pmem_that_is_gone_by_surprise_asks_nobody(kernel):
    node = Machine(kernel)
    assert node.says(rq.FsUnplug("pm0", surprise=True)) == "ok"


@pytest.mark.parametrize("kernel", KERNELS)
def test_pinned_pages_cannot_be_taken_when_memory_is_short(kernel):
    node = Machine(kernel)
    assert isinstance(node.register("page-cache", READ), fx.Reply)
    assert node.says(rq.FsPressure("/cache/a")) == "EBUSY"


def test_every_errno_here_is_one():
    names = {name for answers in REGISTRATION.values() for name in answers} - {"ok"}
    assert all(hasattr(errno, name) for name in names)
