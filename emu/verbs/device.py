"""Contexts: an open device. A context is one session with one broker; it ends, with all that was made from it, at close(), at the
process's end, or when the broker dies. (Its door can be handed to another process: then it ends when the last who has it does.)

    Context()                        the node in $EMU_DIR, else an embedded one (emu.node()) shared by the whole process
    Context(name="emu0", dir=DIR)    the node in DIR

A context belongs to the process that opened it: a forked child is refused in words. When the broker dies, one event
DEVICE_FATAL is delivered, and every later call fails with EIO, as after the removal of a real NIC.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any
from weakref import WeakSet, WeakValueDictionary

from emu.engine.ring import ContextPage
from emu.verbs import enums as e
from emu.verbs.addr import GID
from emu.verbs.base import PyverbsCM, PyverbsObject, close_weakrefs, closed, lines
from emu.verbs.dmabuf import Dmabufs
from emu.verbs.fs import Fs
from emu.verbs.mr import MR
from emu.verbs.node import default as default_node
from emu.verbs.pyverbs_error import PyverbsRDMAError
from emu.verbs.session import Session

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.verbs.qp import QP
    from emu.wire.client import Answer

NAME = "emu0"
KINDS = ("qp", "cq", "mr")  # of elements, as the fields of events name them
LIMITS = (
    "fw_version", "node_guid", "sys_image_guid", "max_mr_size", "page_size_cap", "vendor_id", "vendor_part_id", "hw_ver", "max_qp",
    "max_qp_wr", "device_cap_flags", "max_sge", "max_sge_rd", "max_cq", "max_cqe", "max_mr", "max_pd", "max_qp_rd_atom",
    "max_res_rd_atom", "max_qp_init_rd_atom", "atomic_caps", "max_mw", "max_ah", "max_srq", "max_srq_wr", "max_srq_sge", "max_pkeys",
    "local_ca_ack_delay", "phys_port_cnt",
)  # fmt: skip
EVENTS = {
    **{
        kind.name.removeprefix("IBV_EVENT_"): kind
        for kind in e.ibv_event_type
        if kind < e.EMU_EVENT_MR_REVOKING
    },
    **{
        kind.name.removeprefix("EMU_EVENT_"): kind
        for kind in e.ibv_event_type
        if kind >= e.EMU_EVENT_MR_REVOKING
    },
}


class Device(PyverbsObject):
    """What can be opened. name is bytes, as in pyverbs."""

    def __init__(self, name: bytes, guid: int = 0) -> None:
        self.name, self.guid = name, guid
        self.node_type, self.transport_type = e.IBV_NODE_CA, e.IBV_TRANSPORT_IB

    def __str__(self) -> str:
        return f"Device {self.name.decode()}, node type {self.node_type.name}, transport type {self.transport_type.name}"


def get_device_list() -> list[Device]:
    """The devices of this host: emu0, the one NIC of a node. It is there even if no broker runs: Context() starts one."""
    return [Device(NAME.encode())]


class AsyncEvent(PyverbsObject):
    """Something that happened to `element` (a QP, CQ or MR of the context; None: the device). fields: what else emu tells."""

    def __init__(
        self,
        event_type: e.ibv_event_type,
        element: PyverbsCM | None = None,
        fields: dict[str, Any] | None = None,
    ) -> None:
        self.event_type, self.element, self.fields = event_type, element, fields or {}
        self.acknowledged = False
        if element is not None:
            element.unacknowledged += 1  # type: ignore[misc]  # those with events have no __slots__

    def ack(self) -> None:
        """Say that it was seen: its element cannot be closed before. Idempotent."""
        if self.element is not None and not self.acknowledged:
            self.element.unacknowledged -= 1  # type: ignore[misc]  # those with events have no __slots__
        self.acknowledged = True

    def __str__(self) -> str:
        return lines("", [("Event Type", self.event_type.name), ("Element", self.element)])


class DeviceAttr(PyverbsObject):
    """Limits of the device, as ibv_query_device gives them; of what the emulated NIC does not have there are 0."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = {**dict.fromkeys(LIMITS, 0), **values}

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["_values"][name]
        except KeyError:
            raise AttributeError(f"a device has no attribute {name}") from None

    def __str__(self) -> str:
        return lines("", sorted(self._values.items()))


class PortAttr(PyverbsObject):
    """The one port: up, with everybody on the node behind it."""

    state = e.IBV_PORT_ACTIVE
    max_mtu = active_mtu = e.IBV_MTU_4096
    lid = sm_lid = lmc = 0
    link_layer = 2  # Ethernet
    gid_tbl_len = pkey_tbl_len = 1
    max_msg_sz = 1 << 31

    def __str__(self) -> str:
        return lines(
            "", [("Port state", self.state.name), ("Max MTU", self.max_mtu.name), ("Port lid", self.lid)]
        )


class Context(PyverbsCM):
    """An open device.

    name: emu0 or nothing. dir: the node's directory. label: how the session is called in the broker's books. emu_events: deliver
    MR_REVOKING, MR_REVOKED, MR_RESTORED too. MEMORY_FAULT is delivered always: its bytes would be lost in silence otherwise.
    Raises PyverbsRDMAError: ENODEV (no such device), ENOENT or ECONNREFUSED (nobody serves dir).
    """

    def __init__(
        self,
        name: str | None = None,
        dir: str | os.PathLike[str] | None = None,  # noqa: A002 - the word users know from --dir and EMU_DIR
        *,
        emu_events: bool = False,
        label: str = "",
    ) -> None:
        self._pid = os.getpid()
        self.pds: WeakSet[PyverbsCM] = WeakSet()
        self.cqs: WeakSet[PyverbsCM] = WeakSet()
        self.qps: WeakSet[PyverbsCM] = WeakSet()
        self._elements: dict[str, WeakValueDictionary[int, PyverbsCM]] = {
            kind: WeakValueDictionary() for kind in KINDS
        }
        self.numbered: WeakValueDictionary[int, QP] = WeakValueDictionary()  # open queue pairs by qp_num
        self._session: Session | None = None
        self._embedded = False
        given = os.fspath(dir) if dir is not None else os.environ.get("EMU_DIR", "")
        if not given:
            given, self._embedded = default_node.take(), True
        try:
            self._open(given, name, label or f"pid {os.getpid()}", emu_events)
        except BaseException:
            self._give_back_node()
            raise

    def _open(self, directory: str, name: str | None, label: str, emu_events: bool) -> None:
        session = Session(directory, label, emu_events)
        if name is not None and name != session.device:
            session.close()
            raise PyverbsRDMAError(
                f"there is no device {name}: the node in {directory} has {session.device}", errno.ENODEV
            )
        self.name = session.device
        self.page = ContextPage(*session.descriptors)
        self._session = session
        self.fs = Fs(session)
        self.dmabuf = Dmabufs(session)

    # ---- for the objects made from it

    @property
    def session(self) -> Session:
        if self._session is None:
            raise closed("context")
        return self._session

    def call(self, op: str, descriptors: Sequence[int] = (), **values: Any) -> Answer:
        return self.session.call(op, descriptors, **values)

    def destroy(self, op: str, handle: int) -> None:
        """End an object. Of a dead device nothing is left to end."""
        if not self.dead and not self.foreign:
            self.call(op, handle=handle)

    def kept(self, handle: int) -> int | None:
        """What stays of an object whose end failed: it can be closed again, unless it ended with the device."""
        return None if self.dead else handle

    def put_off(self, op: str, handle: int) -> None:
        """End an object that was let go, with the next call."""
        if not self.dead:
            self.session.put_off(op, handle=handle)

    def register(self, kind: str, handle: int, element: PyverbsCM) -> None:
        """Events that name this handle are about this element."""
        self._elements[kind][handle] = element

    @property
    def foreign(self) -> bool:
        """A forked child's copy: the rings and the node are the parent's, and are left alone."""
        return os.getpid() != self._pid

    @property
    def dead(self) -> bool:
        """Closed, or the broker is gone."""
        return self._session is None or self._session.lost

    # ---- what programs use

    @property
    def door(self) -> int:
        """Emu's own: the descriptor that is this context, its owner's to close. Handed to another process (SCM_RIGHTS), it keeps the session and
        all its MRs alive behind this process's end; signals go to this one all the same, which opened it.
        """
        return self.session.door

    @property
    def dir(self) -> str:
        return self.session.directory

    @property
    def num_comp_vectors(self) -> int:
        return 1

    def query_device(self) -> DeviceAttr:
        return DeviceAttr(self.call("query_device").result)

    def query_port(self, port_num: int) -> PortAttr:
        self._check_port("query_port", port_num)
        return PortAttr()

    def query_gid(self, port_num: int, index: int) -> GID:
        """The port's one address, which means nothing: on a node a queue pair is found by its number."""
        self._check_port("query_gid", port_num)
        if index != 0:
            raise PyverbsRDMAError(f"query_gid: port 1 has GID 0, not {index}", errno.EINVAL)
        return GID("fe80::1")

    def _check_port(self, what: str, port_num: int) -> None:
        if port_num != 1:
            raise PyverbsRDMAError(f"{what}: {self.name} has port 1, not {port_num}", errno.EINVAL)

    def books(self) -> dict[str, Any]:
        """Emu's own: the broker's counts of sessions, objects and blocks."""
        return self.call("query_books").result

    def get_async_event(self, timeout: float | None = None) -> AsyncEvent | None:
        """The next asynchronous event; waits for it. timeout (emu's own) in seconds: None when it has passed.

        EIO at once when DEVICE_FATAL was taken. A context that another thread closes meanwhile ends the waiting with an error.
        """
        try:
            message = self.session.next_event(timeout)
        except PyverbsRDMAError:
            if self._session is None:
                raise closed("context") from None
            raise
        return None if message is None else self._event_of(message)

    def _event_of(self, message: dict[str, Any]) -> AsyncEvent:
        fields = dict(message.get("fields", {}))
        found = (self._elements[kind].get(fields[kind]) for kind in KINDS if kind in fields)
        element = next(found, None)
        if message["event"] == "UNGUARDED" and isinstance(element, MR):
            element.guard_ended(taken=bool(fields.get("taken")))
        return AsyncEvent(EVENTS[message["event"]], element, fields)

    def close(self) -> None:
        """Close all that was made from it, then the device. Events that nobody acknowledged do not stand in the way."""
        session, self._session = self._session, None
        if session is None:
            return
        for element in (*self.qps, *self.cqs, *self._elements["mr"].values()):
            element.unacknowledged = 0  # type: ignore[misc]  # those with events have no __slots__
        try:
            close_weakrefs([self.qps, self.cqs, self.pds])
        finally:
            self.page.close()
            session.close()
            self._give_back_node()

    def _give_back_node(self) -> None:
        if self._embedded:
            self._embedded = False
            default_node.give()

    def __del__(self) -> None:
        if getattr(self, "_session", None) is not None:
            self.close()

    def __str__(self) -> str:
        return f"Context {self.name}, node {self.session.directory}"
