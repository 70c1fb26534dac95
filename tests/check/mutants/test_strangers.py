"""Strangers' protocols: whatever they do is named, and nothing ends in a traceback; and wrong ones, as an engineer would write them, are caught.

`make test` runs one of each sort, `make mutants` the others too (marked long).
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from emu.check import stranger
from emu.check.stranger import Unusable, introduced, try_out
from emu.cli import main
from emu.core.decision import START, Facts
from emu.core.errors import ProtocolBroke

TABLE = """
import itertools, os, random, sys, time
from emu.core.decision import END, EVENTS, START, Action, Decision
from emu.protocols.contract import (
    Protocol, apply, arm, deny, disarm, free, gate, go, notify, quiesce, reply, unmap, when_pinned,
)

P = (*(f"S{n}" for n in range(1, 11)), "V1", "V3", "V4", "V9", "V10", "V11", "V12", "V13", "V15", "V17", "V19", "V20", "V22", "V24")
INTERRUPTED = go(disarm(), deny("EINTR"), to=END)
DONE = go(apply(), free(), reply(), to=END)
REVOKE = go(gate(), notify("MR_REVOKED"), quiesce(), to="fencing")
BASE = {
    (START, "requested"): REVOKE, (START, "surprise"): REVOKE,
    ("fencing", "quiesced"): go(unmap(), to="unmapping"), ("fencing", "quiesce_failed"): go(arm(0.1), to="refused"),
    ("refused", "deadline"): go(quiesce(), to="fencing"), ("refused", "cancelled"): INTERRUPTED,
    ("fencing", "cancelled"): INTERRUPTED, ("unmapping", "cancelled"): INTERRUPTED, ("unmapping", "unmapped"): DONE,
}

def make(changes=(), kind=Protocol, **more):
    settings = {"promises": P, "ignored": {"*": tuple(EVENTS)}, "importers": ("sync-revocable",), **more}
    return kind("stranger", "a stranger's", "a test", {**BASE, **dict(changes)}, **settings)

def deciding(answer):
    class Own(Protocol):
        def decide(self, phase, event, facts):
            return answer(self, phase, event, facts)
    return make(kind=Own)

def raising(error):
    def answer(*_):
        raise error
    return deciding(answer)
"""


def sampled(table, *kept):
    """All of its names; those that are not kept are long."""
    assert set(kept) <= set(table)
    return [name if name in kept else pytest.param(name, marks=pytest.mark.long) for name in table]


def write(tmp_path, text, table=TABLE):
    path = tmp_path / "stranger.py"
    path.write_text(table + text + "\n")
    return str(path)


def explored(path, capsys, *more, event="truncate"):
    """(exit status, all that was said), where nobody crashes."""
    code = main(
        ["explore", "--protocol", path, "--event", event, "--jobs", "1", *(more or ("--crashes", "0"))]
    )
    told = capsys.readouterr()
    return code, told.out + told.err


def test_the_sound_one_holds(tmp_path, capsys):
    code, said = explored(write(tmp_path, "PROTOCOL = make()"), capsys)
    assert (code, "BREACH" in said) == (0, False), said


ODD = {
    "raises": ("PROTOCOL = raising(RuntimeError('boom'))", "contract:no-raise", "boom"),
    "exits": ("PROTOCOL = raising(SystemExit(0))", "contract:no-raise", "SystemExit"),
    "interrupts": ("PROTOCOL = raising(KeyboardInterrupt())", "contract:no-raise", "KeyboardInterrupt"),
    "stops": ("PROTOCOL = raising(StopIteration())", "contract:no-raise", "StopIteration"),
    "recurses": ("def f(*a): return f(*a)\nPROTOCOL = deciding(f)", "contract:no-raise", "RecursionError"),
    "says yes": ("PROTOCOL = deciding(lambda *_: 'yes')", "contract:known-answer", "str"),
    "nothing's phase": ("PROTOCOL = deciding(lambda *_: Decision((), 7))", "contract:known-answer", ""),
    "a list": ("PROTOCOL = deciding(lambda *_: Decision([gate()], END))", "contract:known-answer", ""),
    "no number": ("PROTOCOL = deciding(lambda *_: Decision((arm(float('nan')),), 'x'))", "contract:known-answer", ""),
    "for ever": ("PROTOCOL = deciding(lambda *_: Decision((arm(float('inf')),), 'x'))", "contract:known-answer", ""),
    "back in time": ("PROTOCOL = deciding(lambda *_: Decision((arm(-1.0),), 'x'))", "contract:one-timer", ""),
    "unhashable": ("PROTOCOL = deciding(lambda *_: Decision((Action([]),), END))", "contract:known-answer", ""),
    "a subclass": (
        "class D(Decision):\n    def __eq__(self, other): raise OSError\nPROTOCOL = deciding(lambda *_: D((reply(),), END))",
        "contract:known-answer", "",
    ),
    "random": (
        "PROTOCOL = deciding(lambda p, ph, ev, f: Decision((deny('EBUSY'),) if random.random() < 0.5 else (deny('EPERM'),), END))",
        "contract:deterministic", "",
    ),
    "counts": (
        "n = itertools.count()\nPROTOCOL = deciding(lambda *_: Decision((deny('EBUSY'),), END) if next(n) % 7 else None)",
        "contract:deterministic", "",
    ),
    "frees at once": ("PROTOCOL = make({(START, 'requested'): DONE})", "contract:free-after-unmap", "still pinned"),
    "chains": ("PROTOCOL = make({('fencing', 'quiesced'): go(quiesce(), to='fencing')})", "S7", ""),
}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    sampled(ODD, "raises", "exits", "says yes", "no number", "back in time", "unhashable", "random", "frees at once", "chains"),
)  # fmt: skip
def test_what_a_stranger_does_is_named(tmp_path, capsys, name):
    text, rule, words = ODD[name]
    code, said = explored(write(tmp_path, text), capsys)
    assert code == 1, said
    assert f"BREACH {rule}" in said
    assert words in said
    assert "Traceback" not in said


BROKEN = {
    "exits while loaded": ("sys.exit(0)", 1, "contract:no-raise"),
    "is interrupted while loaded": ("raise KeyboardInterrupt", 1, "contract:no-raise"),
    "raises while loaded": ("1 / 0", 1, "ZeroDivisionError"),
    "ends its process": ("PROTOCOL = deciding(lambda *_: os._exit(3))", 1, "deciding requested in phase start ended the process"),
    "has no table": ("PROTOCOL = make()\nobject.__setattr__(PROTOCOL, 'table', itertools.count())", 64, "table must be a dict"),
    "has no name": ("PROTOCOL = make()\nobject.__setattr__(PROTOCOL, 'name', 'a/../b')", 64, "cannot be a name"),
    "phases that are numbers": ("PROTOCOL = make({(7, 'requested'): REVOKE})", 64, "its key must be (phase, event)"),
    "goes nowhere": ("PROTOCOL = make({(START, 'requested'): go(gate(), to=None)})", 64, "must name a phase"),
    "mutable actions": (
        "from emu.protocols.runner import Rule\nPROTOCOL = make({(START, 'requested'): Rule([gate()], END)})", 64, "must be a tuple",
    ),
    "promises a word": ("PROTOCOL = make(promises='S1')", 64, "promises must be a tuple of strings"),
    "promises the moon": ("PROTOCOL = make(promises=('S99',))", 64, "'S99' is unknown"),
    "is huge": ("PROTOCOL = make({(f'p{n}', 'deadline'): DONE for n in range(20000)})", 64, "nobody's protocol"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("command", "name"),
    [
        *(("explore", name) for name in BROKEN),
        *((c, "exits while loaded") for c in ("simulate", "compare", "broker")),
    ],
)
def test_a_file_that_cannot_be_used_is_a_sentence_whoever_asks(tmp_path, capsys, name, command):
    text, code, words = BROKEN[name]
    more = {"simulate": ["--seeds", "1"], "broker": ["--dir", str(tmp_path / "node")]}.get(command, [])
    assert main([command, "--protocol", write(tmp_path, text), *more]) == code
    told = capsys.readouterr()
    assert words in told.err
    assert told.err.startswith(f"emu: {command} ")
    assert "Traceback" not in told.err


@pytest.mark.parametrize(
    "text",
    ["while True: pass", "PROTOCOL = deciding(lambda *_: sum(itertools.count()))"],
)
def test_one_that_never_ends_is_not_waited_for(tmp_path, monkeypatch, text):
    monkeypatch.setattr(stranger, "PROCESSOR", 1)
    with pytest.raises(
        Unusable, match=r"contract:bounded: .* did not end within 1 s of processor time"
    ) as told:
        try_out(write(tmp_path, text))
    assert told.value.code == 1


def test_one_that_has_no_processor_is_not_accused(tmp_path, monkeypatch):
    monkeypatch.setattr(stranger, "PATIENCE", 1.0)
    with pytest.raises(Unusable, match=r"could not be tried: .* did not end within 1 s") as told:
        try_out(write(tmp_path, "time.sleep(1000)"))
    assert (told.value.code, told.value.rule) == (64, "")


def test_one_that_hangs_only_later_is_stopped_where_it_serves(tmp_path):
    """It behaves while it is tried out."""
    later = f"LATER = {str(tmp_path / 'later')!r}\n"
    text = f"{later}def f(p, *a):\n    while os.path.exists(LATER): pass\n    return Protocol.decide(p, *a)\nPROTOCOL = deciding(f)"
    protocol = introduced(write(tmp_path, text)).protocol
    facts = Facts("truncate", 0, 0)
    assert protocol.decide(START, "requested", facts).phase == "fencing"
    (tmp_path / "later").touch()
    with pytest.raises(ProtocolBroke, match="was not decided within") as told:
        protocol.decide(START, "requested", facts)
    assert told.value.rule == "bounded"


def test_what_it_prints_does_not_get_into_the_result(tmp_path):
    path = write(tmp_path, "print('hello')\nPROTOCOL = make()")
    command = [
        sys.executable,
        "-m",
        "emu",
        "explore",
        "--protocol",
        path,
        "--event",
        "unlink",
        "--json",
        "-",
        "--jobs",
        "1",
        "--crashes",
        "0",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("{")
    assert "hello" in done.stderr


WRONG = {
    "no gate": ("PROTOCOL = make({(START, 'requested'): go(notify('MR_REVOKED'), quiesce(), to='fencing')})", "contract:free-after-unmap"),
    "frees before the unmap": ("PROTOCOL = make({('fencing', 'quiesced'): DONE}, disposal='now')", "V4"),
    "replies before the fence": (
        "PROTOCOL = make({(START, 'requested'): go(gate(), quiesce(), reply(), to='fencing'), "
        "('unmapping', 'unmapped'): go(apply(), free(), to=END)})", "S2",
    ),
    "waits for the deaf": (
        "PROTOCOL = make({(START, 'requested'): when_pinned(go(gate(), notify('MR_REVOKING'), to='asked'), REVOKE), "
        "('asked', 'acknowledged'): go(quiesce(), to='fencing')})", "S7",
    ),
    "arms no timer": ("PROTOCOL = make({('fencing', 'quiesce_failed'): go(to='refused')})", "S7"),
    "denies what it applied": (
        "PROTOCOL = make({('unmapping', 'unmapped'): go(apply(), deny('EBUSY'), to=END)})", "contract:deny-before-apply",
    ),
    "ignores a refusal": ("PROTOCOL = make({('fencing', 'quiesce_failed'): go(unmap(), to='unmapping')})", "contract:unmap-after-quiesce"),
    "does not hear of a refusal": ("t = make()\nPROTOCOL = make({('fencing', 'quiesce_failed'): go(to='fencing')})", "S7"),
    "takes a dead holder for all": ("PROTOCOL = make({('fencing', 'holder_lost'): DONE}, disposal='now')", "V4"),
    "takes an ack for the end": (
        "PROTOCOL = make({(START, 'requested'): when_pinned(go(gate(), notify('MR_REVOKING', 1.0), arm(1.0), to='asked'), REVOKE), "
        "('asked', 'acknowledged'): go(disarm(), apply(), free(), reply(), to=END), ('asked', 'deadline'): REVOKE}, disposal='now')", "S1",
    ),
    "says yes to a cancel": ("PROTOCOL = make({('fencing', 'cancelled'): go(reply(), to=END)})", "S2"),
    "never ends": ("PROTOCOL = make({('unmapping', 'unmapped'): go(apply(), free(), reply(), to='rests'), ('rests', 'deadline'): DONE})", "S7"),
    "succeeds at the deadline": (
        "PROTOCOL = make({(START, 'requested'): go(gate(), quiesce(), arm(5.0), to='fencing'), ('fencing', 'deadline'): go(reply(), to=END), "
        "('fencing', 'quiesced'): go(disarm(), unmap(), to='unmapping'), ('fencing', 'quiesce_failed'): go(quiesce(), to='fencing')})", "S2",
    ),
    "keeps the blocks and promises V20": ("PROTOCOL = make({(START, 'requested'): DONE}, disposal='keep')", "V20"),
    "thinks of one holder": (
        "def f(p, phase, event, facts):\n    if event == 'quiesced' and facts.holders > 1:\n"
        "        return Decision((apply(), free(), reply()), END)\n    return Protocol.decide(p, phase, event, facts)\n"
        "class Own(Protocol):\n    decide = f\nPROTOCOL = make(kind=Own, disposal='now')", "V4",
    ),
}  # fmt: skip


MORE = {
    "takes a dead holder for all": ("--crashes", "1", "--max-states", "3000"),
    "thinks of one holder": ("--holders", "2", "--crashes", "0"),
}


@pytest.mark.parametrize(
    "name",
    sampled(WRONG, "frees before the unmap", "replies before the fence", "denies what it applied", "never ends", "keeps the blocks and promises V20"),
)  # fmt: skip
def test_a_plausible_protocol_that_is_wrong_breaks_what_it_promises(tmp_path, capsys, name):
    text, invariant = WRONG[name]
    code, said = explored(write(tmp_path, text), capsys, *MORE.get(name, ()))
    assert (code, f"BREACH {invariant}:" in said) == (1, True), said


@pytest.mark.parametrize(
    ("text", "invariant"),
    [
        ("PROTOCOL = make({(START, 'surprise'): go(reply(), to=END)})", "S1"),
        ("PROTOCOL = make({(START, 'surprise'): go(deny('EBUSY'), to=END)})", "S3"),
    ],
)
def test_a_surprise_is_no_request(tmp_path, capsys, text, invariant):
    """Notified only when asked, or denied though the device is gone."""
    code, said = explored(write(tmp_path, text), capsys, event="surprise-unplug")
    assert (code, f"BREACH {invariant}:" in said) == (1, True), said


def test_a_wrong_one_is_caught_at_random_too(tmp_path, capsys):
    path = write(tmp_path, "PROTOCOL = make({('fencing', 'quiesced'): DONE}, disposal='now')")
    assert main(["simulate", "--protocol", path, "--seeds", "10", "--jobs", "1"]) == 1
    assert "BREACH V4" in capsys.readouterr().out
