"""What a start chooses for whoever did not say."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from emu.broker.options import Options, parse_mount
from emu.broker.start import StartError, pseudo_protocol
from emu.protocols import registry


def chosen(*mounts, host=""):
    options = Options(Path("n"), mounts=tuple(map(parse_mount, mounts)), host_protocol=host)
    return pseudo_protocol(options, registry.load(), "host")


@pytest.mark.parametrize(
    ("mounts", "host", "protocol"),
    [
        ((), "", "mr-revoke"),
        (("/mnt=pm0,dax",), "", "mr-revoke"),
        (("/mnt=pm0,dax,protocol=ebusy",), "", "ebusy"),
        (("/a=pm0,protocol=ebusy", "/b=pm1,protocol=ebusy"), "", "ebusy"),
        (("/a=pm0,protocol=ebusy", "/b=pm1"), "", "mr-revoke"),
        (("/mnt=pm0,dax,protocol=none",), "", "mr-revoke"),
        (("/mnt=pm0,dax,protocol=revoke",), "", "mr-revoke"),
        (("/mnt=pm0,dax,protocol=none",), "ebusy", "ebusy"),
    ],
)
def test_host_files_have_the_protocol_of_all_mounts_if_it_can_serve_them(mounts, host, protocol):
    assert chosen(*mounts, host=host) == protocol


def test_a_protocol_that_cannot_serve_host_files_is_refused_for_them():
    with pytest.raises(StartError, match="cannot serve host memory") as caught:
        chosen(host="none")
    assert caught.value.errno == errno.EOPNOTSUPP
