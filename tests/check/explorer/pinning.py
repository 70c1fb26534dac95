"""Pins: what a search of the explorer comes to, to the last state, and of which protocol and core that was.

tests/check/explorer/pins.json has one part for each world (World.key); a part has one pin for each "PROTOCOL EVENT":

    states, transitions, depth, verdict     of a search that was whole; breaches and costs by invariant
    verdict "unknown", bound                of one that was not: the bound that it hit
    of                                      {"protocol": digest of its table and declarations, "core": digest of emu/core}

A pin whose digests are not today's is not wrong: nobody has looked since. `stale` names them. The core's digest is of its code without
comments and docstrings; the protocol's is of the object that runs, without its prose.

Writers merge: what a proof of some protocols does not explore stays as it is, also beside another proof at the same time.
"""

from __future__ import annotations

import ast
import fcntl
import hashlib
import io
import json
import os
import tokenize
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import emu.core
from emu.protocols import registry

PINNED = ("states", "transitions", "depth", "verdict")
FOUND = ("breaches", "costs")


class World(NamedTuple):
    """Two reclaims and one crash in each."""

    holders: int
    mrs: int

    @property
    def key(self):
        return f"{self.mrs} MR" if self.holders == 2 else f"{self.holders} holder, {self.mrs} MR"


TWO, ONE = World(2, 1), World(1, 1)


def pin_of(row, of=None):
    """Of a row of a result, or of figures."""
    lists = {word: sorted(f if isinstance(f, str) else f["invariant"] for f in row[word]) for word in FOUND}
    of = of or row.get("of")
    if row.get("bound_hit"):
        return {"verdict": "unknown", "bound": row["bound_hit"], "of": of}
    return {**{name: row[name] for name in PINNED}, **lists, "of": of}


def same(pin, other):
    """Whether they say the same, whatever it was said of."""
    return pin is not None and other is not None and {**pin, "of": None} == {**other, "of": None}


def better(known, new):
    """A search that hit its bound takes the place of no other that was whole, of the same protocol and core."""
    whole = known is not None and known["verdict"] != "unknown"
    return known if whole and new["verdict"] == "unknown" and known.get("of") == new["of"] else new


def digests(protocol):
    return {"protocol": protocol_digest(protocol), "core": core_digest(Path(emu.core.__file__).parent)}


def protocol_digest(name):
    protocol = registry.load().get(name)
    return _digest(repr(replace(protocol, name="", summary="", origin="", aliases=())))


def core_digest(folder):
    parts = [
        f"{path.relative_to(folder)}\n{code_of(path.read_text())}" for path in sorted(folder.rglob("*.py"))
    ]
    return _digest("\n".join(parts))


def code_of(source):
    """Its lines, without comments, docstrings and what is empty."""
    lines = source.split("\n")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for first in map(_docstring, ast.walk(ast.parse(source))):
        if first is not None:
            lines[first.lineno - 1 : first.end_lineno] = [""] * (first.end_lineno - first.lineno + 1)
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _docstring(node):
    documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
    return node.body[0] if documented and ast.get_docstring(node, clean=False) is not None else None


def _digest(text):
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def stale(part):
    """name -> the digests of its pin that are not today's."""
    found = {}
    for name, pin in part.items():
        today = digests(name.split()[0])
        others = [word for word in today if (pin.get("of") or {}).get(word) != today[word]]
        if others:
            found[name] = others
    return found


def part_of(path, key):
    return json.loads(path.read_text()).get(key, {}) if path.exists() else {}


def merge(path, key, change):
    """The part `key` of the file as `change` makes it from what it is; the other parts as they are. Whole or not at all."""
    path.parent.mkdir(exist_ok=True)
    with _alone(path.parent):
        whole = json.loads(path.read_text()) if path.exists() else {"schema": 1}
        whole[key] = change(whole.get(key, {}))
        new = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            new.write_text(_laid_out(whole) + "\n")
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)
    return whole[key]


def _laid_out(value, indent="\n"):
    """JSON with a line for each pin, each row of figures."""
    if not isinstance(value, dict) or "verdict" in value:
        return json.dumps(value)
    inner = f"{indent} "
    entries = (f"{inner}{json.dumps(name)}: {_laid_out(part, inner)}" for name, part in value.items())
    return f"{{{','.join(entries)}{indent}}}" if value else "{}"


@contextmanager
def _alone(folder):
    """Of all writers of files here."""
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)
