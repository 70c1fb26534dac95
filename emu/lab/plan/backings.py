"""The backings: where the victim's bytes live, how the broker is started for them, and what memory is looked at afterwards.

`properties` are those of the node's two mounts. `protocol_of` is the option that names the protocol of a pseudo-mount, where the victim is on
none of the mounts. `memory`: what is kept and mapped after a run: the device itself, the pages over it, the host's file, or nothing,
where no second owner can come to the memory and the engine's log alone tells.
"""

from __future__ import annotations

from dataclasses import dataclass

from emu.lab import names


@dataclass(frozen=True)
class Backing:
    name: str
    words: str
    properties: str = "dax"
    protocol_of: str = ""
    memory: str = "device"  # device, pages, host, none
    on_mount: bool = True
    files: bool = (
        True  # the victim is a file; else memory that belongs to a registration, a device or an exporter
    )
    options: tuple[str, ...] = ()
    not_served: str = "{protocol} declares that it cannot take this memory back"

    def broker_options(self, protocol: str) -> list[str]:
        return [*([f"--{self.protocol_of}={protocol}"] if self.protocol_of else []), *self.options]


BACKINGS = {
    backing.name: backing
    for backing in (
        Backing("dax", "a file whose very blocks the NIC reaches"),
        Backing("page-cache", "a file whose pages in memory the NIC reaches", properties="", memory="pages"),
        Backing("anon", "anonymous memory, which can be swapped", protocol_of="anon-protocol", memory="none",
                on_mount=False, files=False),
        Backing(
            "host", "an ordinary file of this host", protocol_of="host-protocol", memory="host", on_mount=False,
            not_served="{protocol} keeps blocks, or frees them, under the DMA: on a host file the real filesystem owns the blocks and keeps its own count",
        ),
        Backing("devdax", "a raw device, without a filesystem", properties="devdax", files=False),
        Backing("dmabuf", "a buffer with an exporter, who may move, revoke and restore it", protocol_of="dmabuf-protocol",
                memory="none", on_mount=False, files=False, options=("--dmabuf=4M",)),
    )
}  # fmt: skip

assert tuple(BACKINGS) == names.BACKINGS
