"""Wrong options are refused before anything is opened, with what would be right."""

from pathlib import Path

import pytest

from emu.broker.options import (
    MountPoint,
    OptionError,
    Options,
    Pmem,
    check,
    parse_mount,
    parse_pmem,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        ("64K", 65536),
        ("8M", 8 << 20),
        ("8MiB", 8 << 20),
        ("1g", 1 << 30),
        ("2T", 2 << 40),
        ("0", 0),
    ],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "8X", "1.5M", "-1", "0x10", "8 M", "\u0661"])
def test_no_sizes(text):
    with pytest.raises(OptionError, match="no size"):
        parse_size(text)


def test_a_device():
    assert parse_pmem("pm0=8M") == Pmem("pm0", 8 << 20)
    assert parse_pmem("pm0=8M").blocks == 2048


@pytest.mark.parametrize(
    "text", ["pm0", "=8M", "pm/0=8M", "../x=8M", "pm0=0", "pm0=100", "books=8M", "pm0=x", ".=8M"]
)
def test_no_devices(text):
    with pytest.raises(OptionError):
        parse_pmem(text)


def test_what_was_typed_is_what_is_said():
    assert parse_pmem("pm0=8192K").typed == "pm0=8192K"
    with pytest.raises(OptionError, match="--pmem pm0=8X: '8X' is no size"):
        parse_pmem("pm0=8X")


def test_mounts():
    assert parse_mount("/mnt=pm0") == MountPoint("/mnt", "pm0")
    assert parse_mount("/mnt=pm0,dax,protocol=ebusy") == MountPoint("/mnt", "pm0", dax=True, protocol="ebusy")


@pytest.mark.parametrize(
    "text", ["/mnt", "mnt=pm0", "/=pm0", "/mnt=", "/mnt=pm0,dux", "/mnt=pm0,protocol=", "/a//b=pm0"]
)
def test_no_mounts(text):
    with pytest.raises(OptionError):
        parse_mount(text)


def options(**changes):
    values = {"directory": Path("x"), "pmem": (Pmem("pm0", 8192),), "mounts": (MountPoint("/mnt", "pm0"),)}
    return Options(**(values | changes))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"pmem": (Pmem("pm0", 4096), Pmem("pm0", 4096))}, "pm0 is given twice"),
        ({"mounts": (MountPoint("/mnt", "pm1"),)}, "no --pmem pm1"),
        ({"mounts": (MountPoint("/a", "pm0"), MountPoint("/b", "pm0"))}, "mounted twice"),
        ({"mounts": (MountPoint("/a", "pm0"), MountPoint("/a", "pm0"))}, "/a is given twice"),
        ({"threads": 0}, "1 to 8"),
        ({"quantum": 100}, "multiple of 64"),
    ],
)
def test_combinations_that_cannot_be(changes, says):
    with pytest.raises(OptionError, match=says):
        check(options(**changes))


def test_good_options_pass():
    assert check(options()) == options()


def test_a_mount_is_dax_or_devdax_or_neither():
    assert parse_mount("/dev/dax0=pm0,devdax") == MountPoint("/dev/dax0", "pm0", raw=True)
    assert parse_mount("/dev/dax0=pm0,dax") == MountPoint("/dev/dax0", "pm0", dax=True)
    with pytest.raises(OptionError, match="choose one"):
        parse_mount("/dax0=pm0,dax,devdax")
