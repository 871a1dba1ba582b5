"""A study on one page: table and figures in one HTML file that needs nothing else."""

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from ptycho.files import replace_text

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 15px/1.4 sans-serif; margin: 2em; }} img {{ max-width: 100%; }} .failed {{ color: #b00; }}
table {{ border-collapse: collapse; font-size: 13px; }} td, th {{ border-bottom: 1px solid #ccc; padding: .2em .6em; }}
td {{ text-align: right; white-space: nowrap; }} td:first-child {{ text-align: left; }}
</style></head><body><h1>{title}</h1>
{failures}{figures}
<h2>Arms</h2><div style="overflow-x: auto"><table><tr>{titles}</tr>
{rows}
</table></div><p>All numbers: results.csv, results.json.</p></body></html>
"""
LEFT_OUT = ("versions.", "folder", "hash", "ptycho", "backend", "seconds.training", "flat.amplitude_psnr")


def write_summary(
    folder: Path, title: str, rows: Sequence[dict[str, Any]], failures: Sequence[str], figures: Sequence[Path]
) -> Path:
    """Write ``summary.html``: rows are flat, failures sentences, figures PNG files, which are packed into the page."""
    columns = [key for key in dict.fromkeys(key for row in rows for key in row) if not key.startswith(LEFT_OUT)]
    replace_text(
        folder / "summary.html",
        PAGE.format(
            title=escape(title),
            failures="".join(f'<p class="failed">{escape(line)}</p>\n' for line in failures),
            figures="\n".join(_picture(path) for path in figures),
            titles="".join(f"<th>{escape(key.replace('.', ' '))}</th>" for key in columns),
            rows="\n".join(
                "<tr>" + "".join(f"<td>{escape(_shown(row.get(key, '')))}</td>" for key in columns) + "</tr>"
                for row in rows
            ),
        ),
    )
    return folder / "summary.html"


def _picture(path: Path) -> str:
    packed = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{escape(path.stem)}" src="data:image/png;base64,{packed}">'


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
