"""The page: self-contained, well-formed, safe against what a file or a protocol may be called."""

import re

from markup import hostile, parsed

from emu.report import scene
from emu.report.html import page
from emu.report.scene import Scene


def test_the_page_is_well_formed_and_names_every_row(result):
    text = page(result)
    parsed(text)
    for row in result["rows"]:
        assert row["protocol"] in text
        assert row["outcome"] in text


def test_nothing_is_fetched_from_elsewhere(result):
    checker = parsed(page(result))
    assert not {"link", "img", "iframe", "object"} & set(checker.tags)
    assert not [a for a in checker.attributes if a[1] in {"src", "href", "srcset", "onload", "onclick"}]
    assert "url(" not in page(result)
    assert "@import" not in page(result)


def test_hostile_names_stay_text(result):
    before = set(parsed(page(result)).tags)
    checker = parsed(page(hostile(result)))
    assert set(checker.tags) <= before
    assert not [a for a in checker.attributes if a[1].startswith("on")]


def test_outcomes_are_words_not_only_colours(result):
    assert re.search(r'class="chip bad">CORRUPT<', page(result))


def test_figures_have_a_text_alternative(result):
    checker = parsed(page(result))
    labels = [value for tag, key, value in checker.attributes if tag == "svg" and key == "aria-label"]
    assert labels
    assert all(labels)


def test_a_comparison_without_a_timed_reclaim_says_so(result):
    assert "nothing to plot" in page({**result, "rows": []})


def test_every_figure_of_a_row_is_labelled_for_narrow_screens(result):
    checker = parsed(page(result))
    labels = {value for tag, key, value in checker.attributes if key == "data-label"}
    assert labels == {"claimed", "foreign bytes", "freed bytes", "lost bytes", "in flight"}


def test_errors_and_controls_are_told_once_in_the_measured_cell(make, seen):
    text = page(
        make(
            seen("CORRUPT", foreign_bytes=64, error_completions={"REM_ACCESS_ERR": 2}),
            controls={"fifo": "LOST"},
        )
    )
    assert text.count("errors seen: 2 x REM_ACCESS_ERR") == 1
    assert "controls: fifo ended in LOST" in text
    clean = page(make(seen("OK+ERR", error_completions={"REM_ACCESS_ERR": 2})))
    assert "<small>errors seen" not in clean


def test_a_corrupting_and_a_protecting_run_of_one_event_are_drawn(result, monkeypatch):
    begun = Scene(0, 1000, "a run")
    monkeypatch.setattr(
        scene, "read", lambda folder: begun if "truncate" in folder or "punch" in folder else None
    )
    drawn = re.findall(r"<h3>([^<]*) <span", page(result))
    assert drawn == ["none, truncate on dax, deaf holder", "mr-revoke, truncate on dax, prompt holder"]


def test_a_run_that_may_not_be_believed_is_not_shown_for_harm(make, seen, monkeypatch):
    monkeypatch.setattr(scene, "read", lambda _folder: Scene(0, 1000, "a run"))
    corrupt = make(
        seen("CORRUPT", foreign_bytes=64, notified=0.0), protocol="none", controls={"fifo": "UNKNOWN"}
    )
    clean = make(seen("OK+ERR", notified=1.0))
    assert corrupt["rows"][0]["outcome"] == "UNKNOWN"
    text = page({**clean, "rows": [*corrupt["rows"], *clean["rows"]]})
    assert re.findall(r"<h3>([^<]*) <span", text) == ["mr-revoke, truncate on dax, deaf holder"]


def test_where_nothing_was_harmed_or_saved_one_run_is_drawn(make, seen, monkeypatch):
    monkeypatch.setattr(scene, "read", lambda _folder: Scene(0, 1000, "a run"))
    text = page(make(seen("DENY", notified=0.0), protocol="ebusy"))
    assert re.findall(r"<h3>([^<]*) <span", text) == ["ebusy, truncate on dax, deaf holder"]


def test_a_breach_is_told_at_the_top(make, seen):
    bad = seen("CORRUPT", foreign_bytes=64, violated=[["S1", "x"]])
    assert "A protocol broke what it promises" in page(make(bad, promises=["S1"]))
    assert "A protocol broke what it promises" not in page(make(bad))
