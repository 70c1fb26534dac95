"""The numbers: flat names are the members of their classes, and agree with the C headers and the specification."""

import re
from enum import IntEnum, IntFlag
from pathlib import Path

import emu.verbs.enums as e
from emu import verbs

HEADERS = Path(__file__).parents[2] / "csrc" / "include" / "emu"
CLASSES = [c for c in vars(e).values() if isinstance(c, type) and c.__module__ == e.__name__]


def test_every_member_is_a_name_of_the_module_and_of_the_package():
    assert len(CLASSES) > 10
    for kind in CLASSES:
        assert issubclass(kind, IntEnum | IntFlag)
        for member in kind:
            assert getattr(e, member.name) is member
            assert getattr(verbs, member.name) is member


def test_the_c_side_has_the_same_numbers():
    pairs = []
    for text in (HEADERS.joinpath(name).read_text() for name in ("ring.h", "rules.h", "engine.h")):
        pairs += re.findall(r"\bEMU_((?:WC|WR|SEND|QPS|QP|EVENT|ACCESS)_\w+) = (\d+)(?: << (\d+))?,", text)
    compared = 0
    for name, number, shift in pairs:
        if hasattr(e, f"IBV_{name}"):
            assert getattr(e, f"IBV_{name}") == int(number) << int(shift or 0), name
            compared += 1
    assert compared > 80


def test_numbers_of_the_specification():
    assert [e.IBV_WC_REM_ACCESS_ERR, e.IBV_WC_RETRY_EXC_ERR, e.IBV_WC_GENERAL_ERR] == [10, 12, 21]
    assert [e.IBV_QPT_RC, e.IBV_QPS_ERR, e.IBV_WR_RDMA_READ, e.IBV_WC_RECV] == [2, 6, 4, 128]
    assert [e.IBV_EVENT_DEVICE_FATAL, e.EMU_EVENT_MR_REVOKING, e.EMU_EVENT_MR_RESTORED] == [8, 1000, 1002]
    assert e.IBV_QP_DEST_QPN == 1 << 20
