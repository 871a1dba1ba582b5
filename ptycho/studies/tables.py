"""The rows of a study as tables: for the terminal, ``results.json`` and ``results.csv``."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ptycho.io import replace_text
from ptycho.studies.cases import Row

TITLES = dict(snr_db="SNR (dB)", frc_half_nyquist="FRC 0.5", held_out_error="held-out error")
"""Scores in the table of a study; the files have all."""


def table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Titles and rows for a terminal: each score of the final image, and in brackets that of the network alone; the
    last row is the mean of flat objects."""
    names = [name for name in TITLES if any(name in row["final"] for row in rows)]

    def cell(row: Row, name: str) -> str:
        network, final = (row.get(stage, {}).get(name) for stage in ("network", "final"))
        text = "" if final is None else f"{final:.3g}"
        return text if network is None or network == final else f"{text} ({network:.3g})"

    cells = [
        [row["name"], f"{row['counts_per_frame']:.2g}", *(cell(row, name) for name in names)]
        + [f"{row['seconds']['arm']:.0f}"]
        for row in rows
    ]
    flat = [[row["flat"][name] for row in rows if name in row.get("flat", {})] for name in names]
    if any(flat):
        cells.append(["flat object", "", *(f"{np.mean(values):.3g}" if values else "" for values in flat), ""])
    return ["arm", "counts", *(TITLES[name] for name in names), "time (s)"], cells


def summary(row: Row) -> str:
    """A row as a sentence."""
    final = row.get("final", {})
    scores = ", ".join(f"{name} {final[name]:.4g}" for name in TITLES if name in final)
    return f"{row['counts_per_frame']:.3g} counts a frame, {scores}, {row['seconds']['arm']:.0f} s"


def flattened(row: Row, prefix: str = "") -> Row:
    """A row with the values of its nested records as columns; without lists and the config."""
    flat: Row = {}
    for key, value in row.items():
        if isinstance(value, dict) and key != "config":
            flat |= flattened(value, f"{prefix}{key}.")
        elif not isinstance(value, dict | list):
            flat[prefix + key] = value
    return flat


def write_rows(folder: Path, rows: Sequence[Row]) -> None:
    """``results.json`` with everything, ``results.csv`` with what fits into columns."""
    replace_text(folder / "results.json", json.dumps(list(rows), indent=1))
    records = [flattened(row) for row in rows]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(dict.fromkeys(key for record in records for key in record)))
    writer.writeheader()
    writer.writerows(records)
    replace_text(folder / "results.csv", text.getvalue())
