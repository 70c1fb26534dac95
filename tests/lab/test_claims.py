"""The claims: complete, in the fixed names, and compared as they were meant."""

import pytest

from emu.lab import names
from emu.lab.claims import CLAIMS, COLUMNS, THREAD, Claim, agrees, claim_for, source_of

KINDS = {"any", "all", "cannot", "open"}
EVERY = [(column, claim) for row in CLAIMS.values() for column, claim in row.items()]


def test_every_option_of_the_thread_has_claims():
    ours = {"wait-fair"}  # nobody else has proposed it
    assert set(CLAIMS) | ours == {name for name in names.PROTOCOLS if not name.startswith("linux")}


def test_every_column_speaks_of_known_events():
    spoken = [event for events in COLUMNS.values() for event in events]
    assert set(spoken) <= set(names.EVENTS)
    assert len(spoken) == len(set(spoken))


@pytest.mark.parametrize(("column", "claim"), EVERY)
def test_a_claim_is_well_formed(column, claim):
    assert column in COLUMNS
    assert claim.kind in KINDS
    assert claim.text
    assert claim.by
    assert set(claim.outcomes) <= set(names.OUTCOMES)
    assert bool(claim.outcomes) == (claim.kind in {"any", "all"})


@pytest.mark.parametrize(
    ("protocol", "event", "text", "by"),
    [
        ("none", "truncate", "CORRUPT", "Wilcox"),
        ("none", "surprise-unplug", "FAULT, CORRUPT", "inferred"),
        ("ebusy", "punch", "DENY", "Ledford, Wilcox"),
        ("mr-revoke", "truncate", "OK+ERR", "Moroni"),
        ("wait", "surprise-unplug", "HANG", "Ruan"),
    ],
)
def test_some_claims_to_the_letter(protocol, event, text, by):
    claim = claim_for(protocol, event)
    assert (claim.text, claim.by) == (text, by)


def test_every_option_has_a_word_for_every_column():
    assert [(name, set(COLUMNS) - set(row)) for name, row in CLAIMS.items() if set(COLUMNS) - set(row)] == []


def test_what_holds_at_exit_says_nothing_of_a_descriptor_that_was_passed():
    assert claim_for("wait", "exit").outcomes == ("OK", "OK+ERR")
    assert claim_for("wait", "fd-pass") is None
    assert claim_for("kill-process", "fd-pass").by == "Gunthorpe"


@pytest.mark.parametrize("holder", ["slow", "reregister", "dying"])
def test_claims_are_about_holders_that_hold(holder):
    assert agrees(Claim("HANG", "x", ("HANG",)), ["OK+ERR"], holder) is None
    assert agrees(Claim("HANG", "x", ("HANG",)), ["OK+ERR"], "blocker") is False


@pytest.mark.parametrize("event", ["unlink", "reflink", "poison", "umount"])
def test_nobody_claims_anything_of_these(event):
    assert claim_for("mr-revoke", event) is None


@pytest.mark.parametrize(
    ("claim", "outcomes", "expected"),
    [
        (Claim("DENY", "x", ("DENY",)), ["DENY"], True),
        (Claim("DENY", "x", ("DENY",)), ["CORRUPT", "DENY"], False),
        (Claim("OK, else KILL", "x", ("OK", "KILL")), ["KILL"], True),
        (Claim("FAULT, CORRUPT", "x", ("FAULT", "CORRUPT"), "all"), ["CORRUPT", "FAULT", "LOST"], True),
        (Claim("FAULT, CORRUPT", "x", ("FAULT", "CORRUPT"), "all"), ["CORRUPT"], False),
        (Claim("no answer", "x", (), "cannot"), ["CORRUPT", "FAULT"], True),
        (Claim("no answer", "x", (), "cannot"), ["OK+ERR"], False),
        (Claim("?", "x", (), "open"), ["OK"], None),
        (None, ["OK"], None),
        (Claim("DENY", "x", ("DENY",)), ["UNKNOWN"], None),
    ],
)
def test_agreement(claim, outcomes, expected):
    assert agrees(claim, outcomes) is expected


def test_what_somebody_wrote_has_a_source():
    assert source_of(claim_for("none", "truncate")) == THREAD
    assert "pinned-revocable" in source_of(claim_for("mr-revoke", "truncate"))
    assert source_of(claim_for("layout-lease", "punch")).count(";") == 1
    assert source_of(claim_for("none", "collapse")) is source_of(None) is None


def test_the_peer_of_somebody_who_is_gone_is_nobodys_objection():
    for protocol in ("odp", "retarget", "mr-revoke", "wait"):
        assert agrees(claim_for(protocol, "exit"), ["OK+ERR"]) is True
    assert agrees(claim_for("odp", "fd-pass"), ["OK+ERR"]) is False
    assert agrees(claim_for("mr-revoke", "fd-pass"), ["OK+ERR"]) is True


def test_a_refusal_is_claimed_where_it_is_what_makes_it_safe():
    assert agrees(claim_for("refuse", "truncate"), ["REFUSED"]) is True
    assert agrees(claim_for("refuse", "truncate"), ["OK"]) is False


def test_a_fence_is_claimed_alike_in_need_and_without():
    assert claim_for("recall-fence", "enospc").outcomes == claim_for("recall-fence", "truncate").outcomes
    assert claim_for("wait-fair", "truncate") is None


@pytest.mark.parametrize(
    ("protocol", "event", "claimed"),
    [
        ("none", "truncate", {"dax"}),
        ("odp", "migrate", {"dax"}),
        ("none", "surprise-unplug", {"dax", "devdax"}),
        ("ebusy", "unplug", {"dax", "devdax"}),
        ("wait", "exit", set(names.BACKINGS)),
        ("mr-revoke", "fd-pass", {"dax"}),
    ],
)
def test_a_claim_speaks_of_its_backings_only(protocol, event, claimed):
    assert {backing for backing in names.BACKINGS if claim_for(protocol, event, backing)} == claimed


def test_what_nobody_wrote_is_laid_at_nobodys_door():
    for protocol, event in (("odp", "migrate"), ("lease-signal", "unplug")):
        assert claim_for(protocol, event).by == "inferred"
        assert source_of(claim_for(protocol, event)) is None
