"""Stories whose histories were told wrong once: steps in which a broker is killed or two reclaims change one file, and memory led elsewhere."""

import pytest

from emu.check.invariants import judge
from emu.check.model.setup import Setup
from emu.check.simulator.run import Subject, replay
from emu.check.simulator.script import Script
from emu.check.validate import validate
from emu.protocols import registry

PROTOCOLS = registry.load().protocols
ENDED = ("shell: unmap 2 (256,)", "engine: unmapped 2")


def played(name, setup, *steps):
    return replay(Subject(PROTOCOLS[name]), Script(name, setup, steps)).history


def broken(history):
    return {found.name for found in judge(history) if found.breaches}


@pytest.mark.parametrize("kind", ["zero", "migrate", "reflink", "collapse", "truncate"])
@pytest.mark.parametrize("name", ["ebusy", "mr-revoke", "wait"])
def test_a_change_whose_broker_is_killed_behind_its_commit_had_been_asked_for(name, kind):
    setup = Setup((kind,), blocks=5, crashes=1)
    history = played(name, setup, f"reclaimer1: {kind}", "crash: broker, and its start")
    assert history.of("Loaded")[-1]["delta"]
    assert broken(history) == set()


def test_what_a_killed_broker_committed_for_nobody_still_breaks_s10():
    setup = Setup(("zero",), blocks=5, crashes=1)
    history = played("ebusy", setup, "reclaimer1: zero", "crash: broker, and its start")
    asked = next(line for line in history.events if line.get("op", {}).get("type") == "FsFallocate")
    asked["op"] = {**asked["op"], "path": "/mnt/z"}
    assert "S10" in broken(history)


def test_a_collapse_and_the_punch_that_waited_for_it_take_each_its_own():
    setup = Setup(("collapse", "punch 2048 10240"), blocks=8, crashes=0)
    steps = ("holder1: reg_mr", "shell: install 256 (0, 1, 2, 3, 4, 5, 6) 7", "reclaimer1: collapse")
    more = ("shell: quiesce 1 (256,)", "reclaimer2: punch 2048 10240", "engine: quiesced 1", *ENDED)
    history = played("mr-revoke", setup, *steps, *more)
    assert len([line for line in history.of("Phase") if line["phase"] == "unmapped"]) == 2
    assert broken(history) == set()


def test_memory_that_a_refused_unmap_took_out_after_all_is_told_by_the_remap():
    setup = Setup(("self-truncate 24576",), blocks=8, crashes=0, refusals=1)
    steps = (
        *("holder1: reg_mr", "shell: install 256 (0, 1, 2, 3, 4, 5, 6) 7", "engine: installed 256"),
        *("holder1: dereg_mr 1", "shell: quiesce 1 (256,)", "engine: quiesced 1"),
        *("shell: unmap 2 (256,)", "fault: unmapped 2 is refused", "holder1: self-truncate 24576"),
        *("shell: invalidate 3 (256,)", "engine: quiesced 3"),
        *("shell: remap 1 256 (0, 1, 2, 3, 4, 5, 8) 0", "engine: answered 1"),
    )
    history = played("retarget", setup, *steps)
    assert history.of("Answered")[-1]["errno"]
    assert not broken(history) & set(PROTOCOLS["retarget"].promises)


def test_a_write_to_the_scratch_page_is_lost_before_the_change_is_applied():
    setup = Setup(("truncate",), crashes=0)
    steps = (
        *("holder1: reg_mr", "shell: install 256 (0, 1) 7", "engine: installed 256", "peer1: WRITE 1"),
        *("engine: peer1 enters 0", "engine: peer1 leaves 0", "reclaimer1: truncate"),
        *("shell: invalidate 1 (256,)", "engine: quiesced 1", "shell: remap 1 256 (0, 3) 0"),
        *("engine: peer1 enters 1", "engine: peer1 leaves 1"),
    )
    history = played("retarget", setup, *steps)
    assert "S4" in broken(history)
    assert validate(history, PROTOCOLS) == []


def test_when_the_device_goes_dma_is_led_to_the_page_of_the_nodes_own():
    setup = Setup(("surprise-unplug",), crashes=0)
    steps = (
        *("holder1: reg_mr", "shell: install 256 (0, 1) 7", "engine: installed 256", "peer1: WRITE 1"),
        *(
            "reclaimer1: surprise-unplug",
            "shell: offline 0",
            "shell: invalidate 1 (256,)",
            "engine: quiesced 1",
        ),
        *(
            "shell: remap 1 256 (1099511627776, 1099511627776) 0",
            "engine: peer1 enters 0",
            "engine: peer1 leaves 0",
        ),
    )
    history = played("retarget", setup, *steps)
    page, record = history.of("OpenScratch")[0]["aperture"], history.logs[0].records[-1]
    assert (record.dst_aperture, record.dst_offset) == (page, 0)
    assert validate(history, PROTOCOLS) == []
