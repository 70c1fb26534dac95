"""A stranger's protocol file: what is wrong with it is said in a sentence that names the file, and nothing crashes."""

from __future__ import annotations

import pytest

from emu.check.stranger import Unusable, introduced, load_protocol
from emu.core.errors import ProtocolBroke

GOOD = """
from emu.core.decision import END, EVENTS, START
from emu.protocols.contract import Protocol, go, reply
PROTOCOL = Protocol(
    name="talker", summary="says yes", origin="a test",
    table={(START, "requested"): go(reply(), to=END), (START, "surprise"): go(reply(), to=END)},
    ignored={"*": tuple(EVENTS)},
)
"""


def write(tmp_path, text):
    path = tmp_path / "mine.py"
    path.write_text(text)
    return path


def test_a_good_one_is_given_back(tmp_path):
    assert load_protocol(write(tmp_path, GOOD)).name == "talker"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("PROTOCOL = (", "mine.py:1: "),
        ("x = 1", "no PROTOCOL"),
        ("PROTOCOL = 'none'", "is a str"),
        ("raise RuntimeError('boom')", "RuntimeError while it was loaded: boom"),
        ("raise SystemExit(3)", "SystemExit while it was loaded"),
        ("import nowhere_at_all", "ModuleNotFoundError"),
        ("x = '\0'", "mine.py"),
        (GOOD.replace('"requested"', '"rain"'), "event 'rain' in phase 'start' is unknown"),
        (GOOD.replace("{(START", "{7: 7, (START"), "row 7: its key must be (phase, event)"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, text, says):
    path = write(tmp_path, text)
    with pytest.raises(Unusable) as told:
        load_protocol(path)
    assert says in str(told.value)
    assert str(path) in str(told.value)


def test_a_file_that_is_not_there_or_is_no_text(tmp_path):
    with pytest.raises(Unusable, match="No such file"):
        load_protocol(tmp_path / "nowhere.py")
    with pytest.raises(Unusable, match="Is a directory"):
        load_protocol(tmp_path)
    (tmp_path / "bytes.py").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(Unusable, match="no UTF-8"):
        load_protocol(tmp_path / "bytes.py")


def test_what_a_stranger_raises_is_shown_without_its_control_characters(tmp_path):
    file = tmp_path / "loud.py"
    file.write_text('raise ValueError("a\\x1b[31mred\\x07\\nnext")')
    with pytest.raises(Unusable) as caught:
        introduced(str(file))
    assert r"a\x1b[31mred\x07\nnext" in str(caught.value)
    assert str(caught.value).isprintable()
    assert str(ProtocolBroke("loud", "no-raise", "a\x1b[2Jb\r\n")).endswith(r"a\x1b[2Jb\r\n")
