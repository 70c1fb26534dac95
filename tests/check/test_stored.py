"""An image that lost what the log says was stored in it is refused; where anybody else may have stored, nothing is said."""

import dataclasses

import pytest

from emu.check.simulator.run import Subject, simulate
from emu.check.validate import validate
from emu.check.validate.stored import stored
from emu.history.stamp import CELL, decode, encode
from emu.protocols import registry

PROTOCOLS = registry.load().protocols


@pytest.fixture(scope="module", params=["none", "ebusy", "mr-revoke"])
def history(request):
    """The first seed's that says of some block who stored there last."""
    made = (simulate(Subject(PROTOCOLS[request.param]), seed).history for seed in range(1, 40))
    return next(found for found in made if any(stored(zeroed(found))))


def zeroed(history):
    return dataclasses.replace(history, image=bytes(len(history.image)))


def strangers(history):
    """Every cell says that it was meant for another file."""
    image = bytearray(history.image)
    for at in range(0, len(image), CELL):
        cell = decode(image[at : at + CELL])
        if cell:
            image[at : at + CELL] = encode(cell._replace(ino=cell.ino + 7))
    return dataclasses.replace(history, image=bytes(image))


def test_what_was_stored_and_is_there_is_allowed(history):
    assert validate(history, PROTOCOLS) == []


@pytest.mark.parametrize("change", [zeroed, strangers])
def test_an_image_without_what_was_stored_is_refused(history, change):
    found = validate(change(history), PROTOCOLS)
    assert {refusal.where for refusal in found} == {"pm0.img"}
    assert "hold nothing of what was stored there" in found[0].sentence


def test_what_a_cpu_stored_to_is_not_asked_for(history):
    opened = next(line for line in history.events if line["type"] == "OpenDevice")
    runs = [[0, len(history.image)]]
    own = {"n": len(history.events), "t": 0, "epoch": 0, "kind": "effect"}
    store = {**own, "type": "Store", "token": 1, "aperture": opened["aperture"], "runs": runs, "data": 1}
    changed = dataclasses.replace(zeroed(history), events=[*history.events, store])
    assert list(stored(changed)) == []


def test_a_client_of_which_no_journal_tells_may_have_stored_anything(history):
    assert list(stored(dataclasses.replace(zeroed(history), journals={}))) == []
    live = {**history.meta, "source": "live"}
    assert list(stored(dataclasses.replace(zeroed(history), meta=live))) == []
