"""emu.verbs: pyverbs' names and behaviour over a broker, and what emu adds to them. See docs/verbs.md.

A pyverbs program changes its imports: `from pyverbs.qp import QP` to `from emu.verbs.qp import QP`; everything is also here, flat.
"""

from emu.verbs.addr import GID, AHAttr, GlobalRoute
from emu.verbs.cq import CQ, WC, cqe_status_to_str
from emu.verbs.device import AsyncEvent, Context, Device, DeviceAttr, PortAttr, get_device_list
from emu.verbs.enums import *  # noqa: F403 - the numbers of the specification, each defined there by name
from emu.verbs.fs import Fs, Reclaim
from emu.verbs.mr import MR
from emu.verbs.node import Node
from emu.verbs.pd import PD
from emu.verbs.pyverbs_error import PyverbsError, PyverbsRDMAError, PyverbsUserError
from emu.verbs.qp import QP, QPAttr, QPCap, QPInitAttr
from emu.verbs.wr import SGE, RecvWR, SendWR

__all__ = [  # noqa: PLE0604 - and the numbers, by their names
    "AHAttr",
    "AsyncEvent",
    "CQ",
    "Context",
    "Device",
    "DeviceAttr",
    "Fs",
    "GID",
    "GlobalRoute",
    "MR",
    "Node",
    "PD",
    "PortAttr",
    "PyverbsError",
    "PyverbsRDMAError",
    "PyverbsUserError",
    "QP",
    "QPAttr",
    "QPCap",
    "QPInitAttr",
    "Reclaim",
    "RecvWR",
    "SGE",
    "SendWR",
    "WC",
    "cqe_status_to_str",
    "get_device_list",
    *(name for name in dir() if name.startswith(("IBV_", "EMU_"))),
]
