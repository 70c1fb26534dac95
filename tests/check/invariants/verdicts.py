"""One invariant asked about one history, as judge() would ask it."""

from emu.check.invariants import INVARIANTS

BY_NAME = {invariant.name: invariant for invariant in INVARIANTS}


def breaches(history, name):
    """Sentences, and every breach names lines that are there."""
    seen = history.blind
    numbers = {line["n"] for line in seen.events}
    found = list(BY_NAME[name].breaches(seen))
    for breach in found:
        assert breach.invariant == name
        assert set(breach.lines) <= numbers, breach
        assert list(breach.lines) == sorted(breach.lines), breach
    return [breach.sentence for breach in found]


def verdict(history, name):
    """broken, kept, or untested."""
    if breaches(history, name):
        return "broken"
    return "untested" if BY_NAME[name].untested(history.blind) else "kept"


def broken(history):
    """Names of all V that this history breaks."""
    return {name for name in BY_NAME if name[0] == "V" and breaches(history, name)}
