"""A page as tests look at it: well formed or not, its tags and attributes; and a result whose every name is hostile."""

from html.parser import HTMLParser

VOID = {"meta", "br", "input", "hr", "img", "link"}
HOSTILE = "\"><script>alert(1)</script><svg onload=x>&amp;' \u202e"


class Checker(HTMLParser):
    """Every element closed in order; collects tags and attributes."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.attributes = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, key, value) for key, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, key, value) for key, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parsed(text):
    checker = Checker()
    checker.feed(text)
    assert checker.open == []
    return checker


def hostile(result):
    for row in result["rows"]:
        row.update(
            protocol=HOSTILE,
            event=HOSTILE,
            holder=HOSTILE,
            backing=HOSTILE,
            claimed=HOSTILE,
            claimed_by=HOSTILE,
        )
        row.update(errno=HOSTILE, reason=HOSTILE, evidence=HOSTILE, controls={HOSTILE: HOSTILE})
        row.update(error_completions={HOSTILE: 1}, breaches=[["S1", HOSTILE]], agrees=False)
    result["machine"].update(system=HOSTILE, kernel=HOSTILE)
    return result
