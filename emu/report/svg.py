"""Just enough SVG: elements as strings, every text and attribute escaped. Colours are CSS classes, so that light and dark both fit."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

Value = str | float


def number(value: float) -> str:
    """One decimal is finer than a pixel."""
    return f"{value:.1f}".rstrip("0").rstrip(".")


def element(tag: str, content: str = "", /, **attributes: Value) -> str:
    """<tag ...>content</tag>. Content is markup already; a trailing underscore in a name is dropped, others become dashes."""
    pairs = []
    for key, value in attributes.items():
        text = number(value) if isinstance(value, int | float) else escape(value, quote=True)
        pairs.append(f' {key.rstrip("_").replace("_", "-")}="{text}"')
    return f"<{tag}{''.join(pairs)}>{content}</{tag}>" if content else f"<{tag}{''.join(pairs)}/>"


def text(x: float, y: float, words: str, cls: str = "", anchor: str = "start") -> str:
    return element("text", escape(words), x=x, y=y, class_=cls, text_anchor=anchor)


def line(x1: float, y1: float, x2: float, y2: float, cls: str) -> str:
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=cls)


def box(x: float, y: float, width: float, height: float, cls: str, tip: str = "") -> str:
    return element("rect", title(tip), x=x, y=y, width=width, height=height, class_=cls)


def dot(x: float, y: float, radius: float, cls: str, tip: str = "") -> str:
    return element("circle", title(tip), cx=x, cy=y, r=radius, class_=cls)


def title(words: str) -> str:
    """What a pointer that rests there, or a screen reader, is told."""
    return f"<title>{escape(words)}</title>" if words else ""


def picture(width: float, height: float, label: str, parts: Iterable[str]) -> str:
    """A whole figure, scaled to the page's width."""
    return element(
        "svg", title(label) + "".join(parts), viewBox=f"0 0 {number(width)} {number(height)}", role="img",
        aria_label=label, class_="figure", style=f"min-width:{number(width * 0.7)}px",
    )  # fmt: skip
