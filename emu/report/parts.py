"""Pieces that every section of the page is made of. What comes from outside is escaped here, or is said to be markup already."""

from __future__ import annotations

from html import escape

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
SHADE = {
    "CORRUPT": "bad", "FAULT": "bad", "KILL": "loss", "HANG": "loss", "LEAK": "loss", "LOST": "loss", "STALE": "loss",
    "DENY": "deny", "REFUSED": "deny", "OK+ERR": "good", "OK": "good", "UNKNOWN": "none", "N/A": "none",
}  # fmt: skip


def chip(outcome: str) -> str:
    return f'<span class="chip {SHADE.get(outcome, "none")}">{escape(outcome)}</span>'


def scroll(table: str, label: str) -> str:
    """A table that may be wider than the page. table: markup."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label, quote=True)}">{table}</div>'


def figure(picture: str, caption: str) -> str:
    """Both are markup."""
    return (
        f'<figure><div class="scroll" tabindex="0">{picture}</div><figcaption>{caption}</figcaption></figure>'
    )
