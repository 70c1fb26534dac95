"""Rows looked at closely: the heat map leads to them, and nothing that a name may hold leads elsewhere."""

from __future__ import annotations

import re

from markup import HOSTILE, hostile, parsed

from emu.report import drill
from emu.report.html import page


def many_events(result):
    """As many events as make a heat map."""
    first = result["rows"][0]
    return {**result, "rows": [{**first, "event": f"event{n}"} for n in range(12)]}


def test_each_cell_of_the_matrix_leads_to_its_rows_page(result):
    text = page(result, "report.html.rows")
    links = set(re.findall(r'href="report\.html\.rows/([^"]+)"', text))
    assert links == {drill.name(row) for row in result["rows"] if row["evidence"]}


def test_a_wide_matrix_is_a_heat_map_with_a_word_and_a_sentence_in_each_cell(result):
    text = page(many_events(result))
    cells = re.findall(r'<td class="bad" title="([^"]*)">CORRUPT</td>', text)
    assert len(cells) == 12
    assert all("786,432 bytes" in tip for tip in cells)
    parsed(text)


def test_without_pages_beside_it_nothing_is_linked(result):
    assert "href" not in page(result)


def test_a_rows_page_names_what_was_measured_claimed_and_broken(result):
    for row in (row for row in result["rows"] if row["evidence"]):
        text = drill.page(row, "../report.html")
        parsed(text)
        assert all(f">{outcome}<" in text for outcome in row["outcomes"])
        assert 'href="../report.html"' in text
        assert row["claimed"] is None or row["claimed"] in text


def test_names_of_pages_are_plain_and_hostile_names_stay_text(result):
    row = {**hostile(result)["rows"][0], "evidence": "nowhere"}
    assert re.fullmatch(r"[A-Za-z0-9._-]+\.html", drill.name(row))
    checker = parsed(drill.page(row, "../r.html"))
    assert not {"script", "svg"} & set(checker.tags)
    assert not [a for a in checker.attributes if a[1].startswith("on")]
    assert HOSTILE not in drill.page(row, HOSTILE)
