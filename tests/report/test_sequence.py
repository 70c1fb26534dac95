"""A story drawn as columns and rows: order downwards, each arrow from who did it to who heard, nothing unescaped."""

import re
from xml.etree import ElementTree as ET

from emu.report.sequence import Happening, columns, draw

STORY = [
    Happening("line 1", "holder", "broker", "asks: reg_mr", "ask"),
    Happening("line 2", "broker", "engine", "installs <key> & all", "order"),
    Happening("log 0:7", "engine", "", "writes where it must not", "bad"),
]


def test_clients_come_first_then_broker_and_engine():
    story = [*STORY[1:], STORY[0], Happening("line 9", "taker", "broker", "asks", "ask")]
    assert columns(story) == ["holder", "taker", "broker", "engine"]


def test_each_happening_has_a_dot_in_its_own_column_and_below_the_one_before():
    root = ET.fromstring(draw(STORY, "a story"))
    dots = [(float(dot.get("cx")), float(dot.get("cy"))) for dot in root.iter("circle")]
    assert len(dots) == len(STORY)
    assert [x for x, _ in dots] == sorted({x for x, _ in dots})
    assert [y for _, y in dots] == sorted({y for _, y in dots})


def test_words_stand_beside_and_are_escaped():
    text = draw(STORY, "a <story>")
    assert "installs &lt;key&gt; &amp; all" in text
    assert "<key>" not in text
    assert "Space-time diagram: a &lt;story&gt;" in text


def test_an_arrow_is_drawn_only_where_somebody_hears():
    arrows = len(re.findall(r'class="message head"', draw(STORY, "")))
    assert arrows == 3 * sum(bool(one.to) for one in STORY)


def test_a_story_of_nothing_is_a_figure_all_the_same():
    ET.fromstring(draw([], "nothing"))
