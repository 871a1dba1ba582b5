"""One HTML file that needs no other: sections as records, in the order in which they are given.

Bokeh draws the plots and includes its script; ``page.js`` makes them accessible and legible on a dark page.
"""

import html
import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

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

    def html(self) -> str:
        if not self.rows:
            return ""
        titles = "".join(f"<th scope='col'>{html.escape(name)}</th>" for name in self.columns)
        rows = "".join(
            f"<tr><th scope='row'>{html.escape(name)}</th>{''.join(map(_cell, cells))}</tr>"
            for name, *cells in self.rows
        )
        return _section(self.heading, f"<table>{f'<tr>{titles}</tr>' if titles else ''}{rows}</table>")


class Bullets(NamedTuple):
    """Sentences under a heading; without any there is no section."""

    heading: str
    sentences: Sequence[str]

    def html(self) -> str:
        items = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in self.sentences)
        return _section(self.heading, f"<ul>{items}</ul>") if self.sentences else ""


class Picture(NamedTuple):
    """A PNG file, included in the page."""

    path: Path
    alt: str

    def html(self) -> str:
        return f"<section>{inline_png(self.path.read_bytes(), self.alt)}</section>"


class Paragraph(NamedTuple):
    """A sentence without a heading."""

    text: str

    def html(self) -> str:
        return f"<p>{html.escape(self.text)}</p>"


class Provenance(NamedTuple):
    """The command line of this process, and the settings; without settings there is no section."""

    settings: Mapping[str, object] | None

    def html(self) -> str:
        if not self.settings:
            return ""
        text = html.escape(json.dumps(self.settings, indent=1, default=str))
        command = html.escape(shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]))
        return _section(
            "How it was made",
            f"<p><code>{command}</code></p>"
            f"<details><summary>Settings and versions</summary><pre tabindex='0'>{text}</pre></details>",
        )


Section = Plots | Table | Bullets | Picture | Paragraph | Provenance


def save_page(path: str | os.PathLike, title: str, sections: Sequence[Section]) -> Path:
    """Write the sections as one HTML file."""
    models = {str(k): section.model for k, section in enumerate(sections) if isinstance(section, Plots)}
    scripts, elements = "", dict[str, str]()
    if models:
        from bokeh.embed import components
        from bokeh.resources import Resources

        script, elements = components(models, wrap_script=True)
        library = Resources(mode="inline", components=["bokeh", "bokeh-widgets"]).render_js()
        scripts = f"{library}\n{script}\n"
    body = "".join(
        section.html(elements[str(k)]) if isinstance(section, Plots) else section.html()
        for k, section in enumerate(sections)
    )
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


def _section(heading: str, content: str) -> str:
    return f"<section><h2>{html.escape(heading)}</h2>{content}</section>"


def _cell(text: str) -> str:
    return f"<td class='{'number' if text[-1:].isdecimal() else 'text'}'>{html.escape(text)}</td>"
