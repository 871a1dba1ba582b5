"""One HTML file that needs no other: sections as records, in the order in which they are given.

Bokeh draws the plots and includes its script; ``page.js`` makes them accessible and legible on a dark page.
"""

import html
import json
import math
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from ptycho.images import inline_png
from ptycho.io import replace_text

if TYPE_CHECKING:
    from bokeh.model import Model


class Plots(NamedTuple):
    """Bokeh's plots under a heading."""

    heading: str
    model: "Model"

    def html(self, element: str) -> str:
        """The section, with the element that Bokeh's script fills."""
        return _section(self.heading, element)


class Table(NamedTuple):
    """Rows of cells, the first of which names the row; without rows there is no section."""

    heading: str
    columns: Sequence[str]
    """Titles; none for a table of names and values."""
    rows: Sequence[Sequence[str]]
    folded: str = ""
    """What stands in its place until a reader opens it; empty: the table."""

    def html(self, element: str = "") -> str:
        if not self.rows:
            return ""
        titles = "".join(f"<th scope='col'>{html.escape(name)}</th>" for name in self.columns)
        rows = "".join(
            f"<tr><th scope='row'>{html.escape(name)}</th>{''.join(map(_cell, cells))}</tr>"
            for name, *cells in self.rows
        )
        table = f"<table>{f'<tr>{titles}</tr>' if titles else ''}{rows}</table>"
        if self.folded:
            table = f"<details><summary>{html.escape(self.folded)}</summary>{table}</details>"
        return _section(self.heading, table)


class Bullets(NamedTuple):
    """Sentences under a heading; without any there is no section."""

    heading: str
    sentences: Sequence[str]

    def html(self, element: str = "") -> str:
        items = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in self.sentences)
        return _section(self.heading, f"<ul>{items}</ul>") if self.sentences else ""


Tone = Literal["good", "fair", "bad"]


class Headline(NamedTuple):
    """The sentence that a reader should take away, and how good the news is."""

    sentence: str
    tone: Tone

    def html(self, element: str = "") -> str:
        sign = dict(good="&#10003;", fair="!", bad="&#10007;")[self.tone]
        return (
            f"<p class='headline {self.tone}'><span aria-hidden='true'>{sign}</span> {html.escape(self.sentence)}</p>"
        )


class Gauge(NamedTuple):
    """A value on a logarithmic line between two others, each with its name; the left one is the best."""

    heading: str
    value: tuple[str, float]
    ends: tuple[tuple[str, float], tuple[str, float]]
    tone: Tone

    def html(self, element: str = "") -> str:
        (left, low), (right, high) = self.ends
        name, value = self.value
        # Without noise an error may round to a little below zero.
        low, value, high = (max(number, 1e-12) for number in (low, value, high))
        smallest, largest = min(low, value), max(high, value)
        width, margin = 300, 12

        def x_of(x: float) -> float:
            """Where a value lies, in pixels of the drawing."""
            if largest <= smallest:
                return width / 2
            return margin + (width - 2 * margin) * math.log(x / smallest) / math.log(largest / smallest)

        def label(x: float, y: int, title: str, number: float) -> str:
            """Above or below its mark, within the drawing."""
            side, shift = ("start", -6) if x < width / 3 else ("end", 6) if x > 2 * width / 3 else ("middle", 0)
            text = f"{html.escape(title)} {number:.3g}"
            return f"<text x='{x + shift:.1f}' y='{y}' text-anchor='{side}'>{text}</text>"

        at, a, b = x_of(value), x_of(low), x_of(high)
        drawing = (
            f"<line x1='{a:.1f}' x2='{b:.1f}' y1='32' y2='32'/>"
            f"<path d='M{a:.1f} 26v12M{b:.1f} 26v12'/><circle cx='{at:.1f}' cy='32' r='6'/>"
            + label(at, 16, name, value)
            + label(a, 54, left, low)
            + label(b, 54, right, high)
        )
        caption = f"{name} {value:.3g}; {left} {low:.3g}, {right} {high:.3g}"
        picture = (
            f"<svg class='gauge {self.tone}' viewBox='0 0 {width} 62' role='img' aria-label='{html.escape(caption)}'>"
            f"{drawing}</svg>"
        )
        return _section(self.heading, picture)


class Facts(NamedTuple):
    """Values, each under its name, as large as they matter."""

    heading: str
    rows: Sequence[tuple[str, str]]

    def html(self, element: str = "") -> str:
        items = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>" for name, value in self.rows)
        return _section(self.heading, f"<dl>{items}</dl>") if self.rows else ""


class Picture(NamedTuple):
    """A PNG file, included in the page."""

    path: Path
    alt: str

    def html(self, element: str = "") -> str:
        return f"<section>{inline_png(self.path.read_bytes(), self.alt)}</section>"


class Paragraph(NamedTuple):
    """A sentence without a heading."""

    text: str

    def html(self, element: str = "") -> str:
        return f"<p>{html.escape(self.text)}</p>"


class Provenance(NamedTuple):
    """The command line of this process, and the settings; without settings there is no section."""

    settings: Mapping[str, object] | None

    def html(self, element: str = "") -> str:
        if not self.settings:
            return ""
        text = html.escape(json.dumps(self.settings, indent=1, default=str))
        command = html.escape(shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]))
        return _section(
            "How it was made",
            f"<p><code>{command}</code></p>"
            f"<details><summary>Settings and versions</summary><pre tabindex='0'>{text}</pre></details>",
        )


Leaf = Plots | Table | Bullets | Headline | Gauge | Facts | Picture | Paragraph | Provenance


class Beside(NamedTuple):
    """Sections beside each other where the window is wide enough, below each other where it is not."""

    sections: Sequence[Leaf]
    kind: Literal["first", "details"]
    """``first``: the first wide, the others one below the other at its side. ``details``: as many columns as fit."""


Section = Leaf | Beside


def save_page(path: str | os.PathLike, title: str, sections: Sequence[Section]) -> Path:
    """Write the sections as one HTML file."""
    leaves = [leaf for section in sections for leaf in (section.sections if isinstance(section, Beside) else [section])]
    models = {str(k): leaf.model for k, leaf in enumerate(leaves) if isinstance(leaf, Plots)}
    scripts, elements = "", dict[str, str]()
    if models:
        from bokeh.embed import components
        from bokeh.resources import Resources

        script, elements = components(models, wrap_script=True)
        library = Resources(mode="inline", components=["bokeh", "bokeh-widgets"]).render_js()
        scripts = f"{library}\n{script}\n"
    written = iter([leaf.html(elements.get(str(k), "")) for k, leaf in enumerate(leaves)])
    body = "".join(_beside(section, written) if isinstance(section, Beside) else next(written) for section in sections)
    title = html.escape(title)
    replace_text(
        path,
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title} - ptycho</title>\n{scripts}{style_and_script()}\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n"
        f"{body}\n</main>\n</body>\n</html>\n",
    )
    return Path(path)


def style_and_script() -> str:
    """The HTML of ``page.css`` and ``page.js``, for the head of a page."""
    style, script = (Path(__file__).with_name(name).read_text() for name in ("page.css", "page.js"))
    return f"<style>\n{style}</style>\n<script>{script}</script>"


def _beside(group: Beside, written: Iterator[str]) -> str:
    first, *others = [next(written) for _ in group.sections]
    if group.kind == "first":
        return f"<div class='first'><div>{first}</div><div>{''.join(others)}</div></div>"
    return f"<div class='{group.kind}'>{''.join([first, *others])}</div>"


def _section(heading: str, content: str) -> str:
    return f"<section><h2>{html.escape(heading)}</h2>{content}</section>"


def _cell(text: str) -> str:
    return f"<td class='{'number' if text[-1:].isdecimal() else 'text'}'>{html.escape(text)}</td>"
