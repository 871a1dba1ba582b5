"""A study on one page: table and figures, and what every arm was told."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ptycho.images import inlined
from ptycho.output.report import listed, save_page, table

LEFT_OUT = ("versions.", "folder", "hash", "ptycho", "backend", "seconds.training", "flat.amplitude_psnr")


def write_summary(
    folder: Path,
    title: str,
    rows: Sequence[dict[str, Any]],
    failures: Sequence[str],
    figures: Sequence[Path],
    settings: dict[str, Any],
) -> Path:
    """Write ``report.html``: rows are flat, failures sentences, figures PNG files, which are packed into the page."""
    columns = [key for key in dict.fromkeys(key for row in rows for key in row) if not key.startswith(LEFT_OUT)]
    arms = [[_shown(row.get(key, "")) for key in columns] for row in rows]
    pictures = "".join(f"<section>{inlined(path.read_bytes(), f'{path.stem}: {title}')}</section>" for path in figures)
    return save_page(
        folder / "report.html",
        title,
        {},
        above=listed("Arms that failed", failures) + pictures,
        end=(table("Arms", [key.replace(".", " ") for key in columns], arms) if arms else "")
        + "<p>All numbers: results.csv, results.json.</p>",
        settings=settings,
    )


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
