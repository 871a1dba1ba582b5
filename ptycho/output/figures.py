"""Figures, as files. Needs matplotlib, and no display."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ptycho.images import colours_of, contrast, levelled, parts, shown_region
from ptycho.io import replaced

if TYPE_CHECKING:  # a picture of arrays does not wait for the framework
    from ptycho.data.reconstruction import Reconstruction

PAPER_WIDTH_IN = 7.0
"""Width of a figure over two columns of a journal, inches."""

PAPER: Any = {"font.size": 8, "font.family": "sans-serif", "pdf.fonttype": 42}
"""Letters of 8 points, which stay letters in the PDF (Type 42)."""


def save_png(result: "Reconstruction", path: str | os.PathLike) -> Path:
    """The object as one picture: amplitude beside phase, in gray, one screen pixel for one of the object."""
    view = levelled(result.object[shown_region(result.coverage)])
    return save_gray(np.concatenate([_stretched(part) for part in parts(view).values()], axis=1), path, (0, 1))


def save_gray(image: np.ndarray, path: str | os.PathLike, ends: tuple[float, float], text: str = "") -> Path:
    """An image (H, W) as PNG of 8 bits, black and white at ``ends``, one screen pixel for one of it; with a text."""
    from PIL.Image import fromarray
    from PIL.PngImagePlugin import PngInfo

    low, high = ends
    told = PngInfo()
    if text:
        told.add_text("Description", text)
    with replaced(path) as partial:
        gray = np.clip((image - low) * (255 / (high - low)), 0, 255)
        fromarray(np.rint(gray).astype(np.uint8)).save(partial, format="PNG", pnginfo=told)
    return Path(path)


def save_figure(
    result: "Reconstruction", pattern: np.ndarray, history: list[dict], path: str | os.PathLike, title: str = ""
) -> Path:
    """Amplitude, phase, one measured pattern ``(N, N)`` and the loss curve, in one PNG."""
    from matplotlib.figure import Figure

    region = shown_region(result.coverage)
    view = levelled(result.object[region])
    figure = Figure(figsize=(11, 9), layout="constrained")
    axes = figure.subplots(2, 2)
    figure.suptitle(title)
    for ax, (name, part) in zip(axes[0], parts(view).items()):
        _panel(ax, part, name, "gray", *contrast(part))
    _panel(axes[1, 0], np.log10(pattern + 1.0), "one pattern, log10(counts + 1)", "magma", 0, None)
    _loss_curve(axes[1, 1], history)
    with replaced(path) as partial:
        figure.savefig(partial, dpi=110)
    return Path(path)


def save_paper_figure(view: np.ndarray, pixel_size_m: float | None, *paths: str | os.PathLike) -> None:
    """Amplitude and phase of a complex image (H, W), each with a scale bar and a colour bar, ready for a paper.

    Written to every path, PDF or PNG (300 dpi) by its suffix. The scale bar is in nm, µm or mm where the side of a
    pixel is known, else in pixels; pixels are drawn as they are.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    height, width = view.shape
    with rc_context(PAPER):
        # Two panels with a bar each leave about two fifths of the width to an image.
        size = (PAPER_WIDTH_IN, min(9.0, 0.4 * PAPER_WIDTH_IN * height / width + 0.35))
        figure = Figure(figsize=size, layout="constrained")
        for ax, letter, (name, part) in zip(figure.subplots(1, 2), "ab", parts(view).items()):
            low, high = contrast(part)
            shown = ax.imshow(part, cmap=colours_of(name, low, high), vmin=low, vmax=high, interpolation="none")
            ax.set_axis_off()
            ax.set_title(f"({letter})", loc="left", fontweight="bold", fontsize=8)
            figure.colorbar(shown, cax=ax.inset_axes((1.03, 0, 0.05, 1)), label=name)  # as high as the image
            _scale_bar(ax, width, pixel_size_m)
        for path in paths:
            with replaced(path) as partial:
                figure.savefig(partial, dpi=300)


def scale_bar(width_px: int, pixel_size_m: float | None) -> tuple[float, str]:
    """Length in pixels and label of a bar of 1, 2 or 5 times a power of ten, a tenth to a quarter of the width."""
    length, unit = width_px * (pixel_size_m or 1.0), "px"
    if pixel_size_m:
        factor, unit = next(((f, u) for f, u in METRES if length / 4 >= f), METRES[-1])
        length /= factor
    most = length / 4 * (1 + 1e-9)  # a bar of just a quarter, but for rounding
    power = 10.0 ** np.floor(np.log10(most))
    nice = max(step * power for step in (1, 2, 5) if step * power <= most)
    return float(nice / length * width_px), f"{nice:g} {unit}"


METRES = ((1e-3, "mm"), (1e-6, "µm"), (1e-9, "nm"), (1e-12, "pm"))
"""Units of scale bars, in metres."""


def _scale_bar(axes, width_px: int, pixel_size_m: float | None) -> None:
    """White on dark glass, so that it can be read on any image."""
    from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar

    length, label = scale_bar(width_px, pixel_size_m)
    bar = AnchoredSizeBar(
        axes.transData, length, label, "lower right", color="white", pad=0.4, sep=3, size_vertical=width_px / 120
    )
    bar.patch.set(facecolor="black", edgecolor="none", alpha=0.6)
    axes.add_artist(bar)


def _stretched(image: np.ndarray) -> np.ndarray:
    low, high = contrast(image)
    return np.clip((image - low) / (high - low), 0, 1)


def _panel(axes, image, title, cmap, low, high) -> None:
    shown = axes.imshow(image, cmap=cmap, vmin=low, vmax=high, interpolation="nearest")
    axes.set_title(title)
    axes.set_xlabel("x (px)")
    axes.set_ylabel("y (px)")
    axes.figure.colorbar(shown, ax=axes, shrink=0.85)


def _loss_curve(axes, history: list[dict]) -> None:
    epochs = [entry["epoch"] for entry in history]
    axes.set_title("loss" if history else "loss (the model was trained elsewhere)")
    axes.set_xlabel("epoch")
    axes.plot(epochs, [entry["loss"] for entry in history], label="training")
    if history and history[0]["validation_loss"] is not None:
        axes.plot(epochs, [entry["validation_loss"] for entry in history], label="held-out frames")
    if history:
        axes.legend()
