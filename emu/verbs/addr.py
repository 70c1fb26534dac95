"""Addresses: accepted, kept and given back as in pyverbs. On one node a queue pair is found by its number alone, so no field
of an address vector but `dlid` (which belongs to other nodes) means anything here.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from emu.verbs.base import PyverbsObject
from emu.verbs.pyverbs_error import PyverbsUserError


class GID(PyverbsObject):
    """A 128-bit port address, written as eight groups: fe80:0000:...:0001."""

    def __init__(self, val: str | None = None) -> None:
        self._raw = bytes(16)
        if val is not None:
            self.gid = val

    @property
    def gid(self) -> str:
        return str(self)

    @gid.setter
    def gid(self, val: str) -> None:
        try:
            self._raw = ipaddress.IPv6Address(val).packed
        except ValueError as error:
            raise PyverbsUserError(f"{val!r} is no GID: {error}") from error

    def __str__(self) -> str:
        return ipaddress.IPv6Address(self._raw).exploded

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GID) and other._raw == self._raw

    def __hash__(self) -> int:
        return hash(self._raw)


@dataclass
class GlobalRoute(PyverbsObject):
    """Where packets of an address handle go, beyond the subnet."""

    dgid: GID | None = None
    flow_label: int = 0
    sgid_index: int = 0
    hop_limit: int = 1
    traffic_class: int = 0


@dataclass
class AHAttr(PyverbsObject):
    """The path to a peer. is_global wants a GlobalRoute."""

    dlid: int = 0
    sl: int = 0
    src_path_bits: int = 0
    static_rate: int = 0
    is_global: int = 0
    port_num: int = 1
    gr: GlobalRoute | None = None

    def __post_init__(self) -> None:
        if self.is_global and self.gr is None:
            raise PyverbsUserError("a global AHAttr needs gr=GlobalRoute(...)")

    @property
    def dgid(self) -> str | None:
        return str(self.gr.dgid) if self.gr is not None and self.gr.dgid is not None else None
