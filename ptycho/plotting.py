"""Figures, as files. Needs matplotlib, and no display."""

import os
from pathlib import Path

import numpy as np

from ptycho.files import replaced
from ptycho.reconstruction.result import Reconstruction

LIT = 0.1
"""Part of the largest coverage from which on a pixel is worth showing."""


def shown_region(coverage: np.ndarray) -> tuple[slice, slice]:
    """The box around the well-lit part of an object ``(H, W)``."""
    lit = coverage > LIT * coverage.max()
    rows, columns = np.flatnonzero(lit.any(axis=1)), np.flatnonzero(lit.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def levelled(image: np.ndarray) -> np.ndarray:
    """A complex image without the linear phase ramp and global phase that ptychography cannot know.

    The ramp is where the spectrum of the image peaks, which for an object on an empty background is the
    background's; it is found to a sixteenth of a Fourier pixel by padding.
    """
    size = [min(4096, 16 * s) for s in image.shape]
    spectrum = np.abs(np.fft.fft2(image, size))
    peak = np.unravel_index(np.argmax(spectrum), spectrum.shape)
    ramps = [np.exp(-2j * np.pi * np.fft.fftfreq(n)[k] * np.arange(s)) for n, k, s in zip(size, peak, image.shape)]
    flat = image * ramps[0][:, None] * ramps[1]
    return flat * np.exp(-1j * np.angle(flat.sum()))


def save_png(result: Reconstruction, path: str | os.PathLike) -> Path:
    """The object as one picture: amplitude beside phase, in gray, one screen pixel for one of the object."""
    from matplotlib import image as files

    region = shown_region(result.coverage)
    view = levelled(result.object[region])
    both = [_stretched(np.abs(view)), _stretched(np.angle(view))]
    with replaced(path) as partial:
        files.imsave(partial, np.concatenate(both, axis=1), cmap="gray", vmin=0, vmax=1)
    return Path(path)


def save_figure(
    result: Reconstruction, pattern: np.ndarray, history: list[dict], path: str | os.PathLike, title: str = ""
) -> Path:
    """Amplitude, phase, one measured pattern ``(N, N)`` and the loss curve, in one PNG."""
    from matplotlib.figure import Figure

    region = shown_region(result.coverage)
    view = levelled(result.object[region])
    figure = Figure(figsize=(11, 9), layout="constrained")
    axes = figure.subplots(2, 2)
    figure.suptitle(title)
    amplitude, phase = np.abs(view), np.angle(view)
    _panel(axes[0, 0], amplitude, "amplitude", "gray", *np.percentile(amplitude, (0.5, 99.5)))
    _panel(axes[0, 1], phase, "phase (rad)", "gray", *np.percentile(phase, (0.5, 99.5)))
    _panel(axes[1, 0], np.log10(pattern + 1.0), "one pattern, log10(counts + 1)", "magma", 0, None)
    _loss_curve(axes[1, 1], history)
    with replaced(path) as partial:
        figure.savefig(partial, dpi=110)
    return Path(path)


def _stretched(image: np.ndarray) -> np.ndarray:
    low, high = np.percentile(image, (0.5, 99.5))
    return np.clip((image - low) / max(high - low, 1e-12), 0, 1)


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
        axes.plot(epochs, [entry["validation_loss"] for entry in history], label="withheld frames")
    if history:
        axes.legend()
