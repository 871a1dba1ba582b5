"""Figures by matplotlib, as files. Needs no display."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ptycho.images import (
    amplitude_and_phase,
    colour_map,
    contrast_limits,
    displayed_images,
    length_unit,
)
from ptycho.io import replaced

if TYPE_CHECKING:  # figures of arrays need no framework
    from matplotlib.axes import Axes

    from ptycho.data.reconstruction import Reconstruction
    from ptycho.output.panels import History


def save_figure(
    result: "Reconstruction",
    pattern: np.ndarray,
    history: "History",
    path: str | os.PathLike,
    title: str = "",
) -> Path:
    """Amplitude, phase, one measured pattern ``(N, N)`` and the loss curve, in one PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 9), layout="constrained")
    axes = figure.subplots(2, 2)
    figure.suptitle(title)
    pair = displayed_images(result.object, result.coverage, result.slices)
    for ax, (name, image) in zip(axes[0], pair.items()):
        _image_panel(ax, image, name, "gray", contrast_limits(image), result.pixel_size_m)
    _image_panel(axes[1, 0], np.log10(pattern + 1.0), "one pattern, log10(counts + 1)", "magma", (0, None))
    _loss_curve(axes[1, 1], history)
    with replaced(path) as partial:
        figure.savefig(partial, dpi=110)
    return Path(path)


def save_paper_figure(
    image: np.ndarray,
    pixel_size_m: float | None,
    *paths: str | os.PathLike,
    slices: np.ndarray | None = None,
    width_in: float = 7.0,
) -> None:
    """Amplitude and phase of a complex image (H, W), each with a scale bar and a colour bar, ready for a paper.

    Written to every path, PDF or PNG (300 dpi) by its suffix; 7 inches are two columns of a journal. The scale bar is
    in nm, µm or mm where the pixel size is known, else in pixels. Pixels are not interpolated. The phase of a thick
    sample is that of its ``slices`` (S, H, W) together.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    height, width = image.shape
    style: Any = {"font.size": 8, "font.family": "sans-serif", "pdf.fonttype": 42}  # Type 42: text stays text
    with rc_context(style):
        # Two panels with a colour bar each leave about two fifths of the width to an image.
        size = (width_in, min(9.0, 0.4 * width_in * height / width + 0.35))
        figure = Figure(figsize=size, layout="constrained")
        for ax, letter, (name, values) in zip(figure.subplots(1, 2), "ab", amplitude_and_phase(image, slices).items()):
            low, high = contrast_limits(values)
            artist = ax.imshow(values, cmap=colour_map(name, low, high), vmin=low, vmax=high, interpolation="none")
            ax.set_axis_off()
            ax.set_title(f"({letter})", loc="left", fontweight="bold", fontsize=8)
            figure.colorbar(artist, cax=ax.inset_axes((1.03, 0, 0.05, 1)), label=name)  # as high as the image
            _add_scale_bar(ax, width, pixel_size_m)
        for path in paths:
            with replaced(path) as partial:
                figure.savefig(partial, dpi=300)


def scale_bar(width_px: int, pixel_size_m: float | None) -> tuple[float, str]:
    """Length in pixels and label of a bar of 1, 2 or 5 times a power of ten, a tenth to a quarter of the width."""
    length, unit = width_px * (pixel_size_m or 1.0), "px"
    if pixel_size_m:
        units = ((1e-3, "mm"), (1e-6, "µm"), (1e-9, "nm"), (1e-10, "Å"), (1e-12, "pm"))
        factor, unit = next(((f, u) for f, u in units if length / 4 >= f * (1 - 1e-9)), units[-1])
        length /= factor
    longest = length / 4 * (1 + 1e-9)  # a bar of exactly a quarter, but for rounding
    power = 10.0 ** np.floor(np.log10(longest))
    bar = max(step * power for step in (1, 2, 5) if step * power <= longest)
    return float(bar / length * width_px), f"{bar:g} {unit}"


def _add_scale_bar(axes: "Axes", width_px: int, pixel_size_m: float | None) -> None:
    """White on a translucent black background, which is legible on any image."""
    from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar

    length, label = scale_bar(width_px, pixel_size_m)
    bar = AnchoredSizeBar(
        axes.transData, length, label, "lower right", color="white", pad=0.4, sep=3, size_vertical=width_px / 120
    )
    bar.patch.set(facecolor="black", edgecolor="none", alpha=0.6)
    axes.add_artist(bar)


def _image_panel(
    axes: "Axes",
    image: np.ndarray,
    title: str,
    colours: str,
    limits: tuple[float, float | None],
    pixel_size_m: float | None = None,
) -> None:
    """An image with its colours; the axes are in pixels unless the size of one is known."""
    length, unit = 1.0, "px"
    if pixel_size_m:
        per_metre, unit = length_unit(pixel_size_m * max(image.shape))
        length = pixel_size_m * per_metre
    height, width = (length * side for side in image.shape)
    half = length / 2  # the first pixel's middle is 0
    extent = (-half, width - half, height - half, -half)
    artist = axes.imshow(image, cmap=colours, vmin=limits[0], vmax=limits[1], interpolation="nearest", extent=extent)
    axes.set_title(title)
    axes.set_xlabel(f"x ({unit})")
    axes.set_ylabel(f"y ({unit})")
    axes.figure.colorbar(artist, ax=axes, shrink=0.85)


def _loss_curve(axes: "Axes", history: "History") -> None:
    epochs = [entry["epoch"] for entry in history]
    axes.set_title("loss" if history else "loss (the model was trained elsewhere)")
    axes.set_xlabel("epoch")
    axes.plot(epochs, [entry["loss"] for entry in history], label="training")
    if history and history[0]["validation_loss"] is not None:
        axes.plot(epochs, [entry["validation_loss"] for entry in history], label="held-out frames")
    if history:
        axes.legend()
