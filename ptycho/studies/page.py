"""A study on one page: table, figures and the settings of every case."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ptycho.output.page import Bullets, Paragraph, Picture, Provenance, Table, save_page


def write_summary(
    folder: Path,
    title: str,
    rows: Sequence[Mapping[str, object]],
    failures: Sequence[str],
    figures: Sequence[Path],
    settings: Mapping[str, object],
    omitted: tuple[str, ...] = (
        "versions.",
        "folder",
        "hash",
        "ptycho",
        "backend",
        "seconds.training",
        "flat.amplitude_psnr",
    ),
) -> Path:
    """Write ``report.html``: rows are flat, failures sentences, figures PNG files, which the page includes.

    Columns that begin with an ``omitted`` name are left to ``results.csv``.
    """
    columns = [key for key in dict.fromkeys(key for row in rows for key in row) if not key.startswith(omitted)]
    cells = [[_cell(row.get(key, "")) for key in columns] for row in rows]
    return save_page(
        folder / "report.html",
        title,
        [
            Bullets("Arms that failed", failures),
            *(Picture(path, f"{path.stem}: {title}") for path in figures),
            Table("Arms", [key.replace(".", " ") for key in columns], cells),
            Paragraph("All numbers: results.csv, results.json."),
            Provenance(settings),
        ],
    )


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
