"""The exporter: has a buffer, and nothing else to do but to end."""

from __future__ import annotations

from emu.clients.observer import Observer


class Exporter(Observer):
    """`export` makes the buffer; it lives as long as this process."""

    name = "exporter"


if __name__ == "__main__":
    Exporter().main()
